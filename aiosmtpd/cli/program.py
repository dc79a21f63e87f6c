"""The life of the process: from what the command line says to the last connection's end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
import threading
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve

from aiosmtpd.cli.options import DEFAULT_SIZE, LIMITS
from aiosmtpd.controller import Server
from aiosmtpd.engine import loops
from aiosmtpd.listen.sockets import Listen, close_all, spell
from aiosmtpd.process.whole import (
    SETTLE,
    Certificate,
    Failure,
    banner,
    bind,
    forget_what_cannot_be_written,
    identity,
    is_local,
    leave_threads_behind,
    pipe_of,
    run_to_the_end,
    signals_handled,
    why_not_listening,
    write_ready_file,
)
from aiosmtpd.server import close_loop
from aiosmtpd.smtp import SMTP

CLEAR_PASSWORDS = "Passwords come in the clear: a certificate changes that (--tlscert, --tls)"

PROXY_TIMEOUT = 5.0
"""Seconds for the PROXY header."""

log = logging.getLogger("mail.log")


def serve(
    parser: ArgumentParser, settings: Namespace, make: Any = partial, users: Any = None
) -> None:
    """Serve as the settings say until a signal comes or the event loop ends.

    *make* and *users* are :func:`functools.partial` and the module ``pwd``, or what stands in for
    them. Raises SystemExit after one line on the standard error where that cannot be.
    """
    set_up_logging(settings)
    threads = set(threading.enumerate())
    try:
        program = Program(settings, make, users)
        program.run()
    except Failure as failure:
        if failure.code == 2:
            parser.error(str(failure))
        parser.exit(failure.code, f"{failure}\n")
    forget_what_cannot_be_written()
    if program.signalled:
        leave_threads_behind(threads, program.code)
    if program.code:
        parser.exit(program.code)


def set_up_logging(settings: Namespace) -> None:
    """Let the log say as much as ``-d`` and ``-q`` want."""
    logging.basicConfig(
        level=logging.ERROR if settings.quiet else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if settings.debug:
        level = logging.INFO if settings.debug == 1 else logging.DEBUG
        for name in "mail.log", "mail.debug":
            logging.getLogger(name).setLevel(level)


class _Places(Server):
    """A server for all places, so that its limits are those of the process."""

    def __init__(self, make: Callable[[Listen], SMTP], *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._make_for = make

    def _make(self, place: Listen) -> SMTP:
        return self._make_for(place)


class Program:
    """The server that one command line asks for, from binding to the last connection's end."""

    def __init__(self, settings: Namespace, make: Any = partial, users: Any = None) -> None:
        self._settings = settings
        self._make_partial = make
        self._users = users
        self._certificates: list[Certificate] = []
        self._ssl_context = self._load(settings.smtpscert, settings.smtpskey)
        self._tls_context = self._load(settings.tlscert, settings.tlskey)
        self._authority: Path | None = None
        if settings.tls:
            from aiosmtpd.process.devtls import self_signed

            self._tls_context, self._authority = self_signed(settings)
            self._ssl_context = self._tls_context
        self._parameters: dict[str, Any] = {
            "bare_newline": "normalize",
            "max_auth_failures": settings.max_auth_failures,
            **{name: getattr(settings, name) for name in LIMITS},
        }
        for name in "hostname", "timeout":
            if getattr(settings, name) is not None:
                self._parameters[name] = getattr(settings, name)
        if settings.proxy_protocol:
            self._parameters["proxy_protocol_timeout"] = PROXY_TIMEOUT
            self._parameters["proxy_trusted"] = settings.proxy_protocol
        self._variants = self._make_variants()
        self._factory = self._make_factory(SMTP)
        self._lmtp_factory: Callable[[], SMTP] | None = None
        self._server: Server | None = None
        self._stopping = asyncio.Event()
        self._patience: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ready = False
        self.signalled = False
        self.code = 0

    def _load(self, cert: str | None, key: str | None) -> ssl.SSLContext | None:
        if not cert or not key:
            return None
        self._certificates.append(Certificate(cert, key))
        return self._certificates[-1].context

    def _make_variants(self) -> list[Callable[[type[SMTP]], type[SMTP]]]:
        """Return what makes a subclass of a server class for each option that asks for one."""
        settings = self._settings
        variants: list[Callable[[type[SMTP]], type[SMTP]]] = []
        if settings.proxy_protocol:
            from aiosmtpd.observers.proxied import proxied

            variants.append(proxied)
        if settings.fault:
            from aiosmtpd.observers.faults import Faults, faulty

            variants.append(partial(faulty, faults=Faults(settings.fault)))
        if settings.exit_after is not None:
            from aiosmtpd.observers.countdown import Countdown, counted

            countdown = Countdown(settings.exit_after, self.finish)
            variants.append(partial(counted, countdown=countdown))
        if settings.show_dialogue:
            from aiosmtpd.observers.transcript import Dialogue, shown

            variants.append(partial(shown, dialogue=Dialogue()))
        return variants

    def _make_factory(self, protocol: type[SMTP]) -> Callable[[], SMTP]:
        settings = self._settings
        for variant in self._variants:
            protocol = variant(protocol)
        make: Callable[[], SMTP] = self._make_partial(
            protocol,
            settings.handler,
            data_size_limit=DEFAULT_SIZE if settings.size is None else settings.size,
            enable_SMTPUTF8=settings.smtputf8,
            tls_context=self._tls_context,
            require_starttls=settings.requiretls,
            extensions=settings.extensions,
            **self._parameters,
        )
        return make if settings.users is None else partial(self._make_guarded, make)

    def _make_guarded(self, make: Callable[[], SMTP]) -> SMTP:
        server = make()
        self._settings.users.guard(server, tls=self._has_tls)
        return server

    @property
    def _has_tls(self) -> bool:
        return self._tls_context is not None or self._ssl_context is not None

    def run(self) -> None:
        """Serve until a signal comes or the loop is stopped; raises Failure."""
        become = identity(self._settings, self._users)
        loop = loops.current_or_new_loop()
        loop.set_debug(self._settings.debug > 2 or loop.get_debug())
        self._task = loop.create_task(self._serve(become))
        try:
            with signals_handled(loop, self._reactions()):
                run_to_the_end(loop, self._task, self.end)
        finally:
            with warnings.catch_warnings(), suppress(KeyboardInterrupt):
                # That a worker thread goes on is dealt with later, if need be.
                warnings.simplefilter("ignore", RuntimeWarning)
                close_loop(loop, SETTLE)

    def _reactions(self) -> dict[int, Callable[[], None]]:
        names = ["SIGINT", "SIGTERM", "SIGBREAK"]
        reactions = {
            getattr(signal, name): self._on_signal for name in names if hasattr(signal, name)
        }
        if self._certificates and hasattr(signal, "SIGHUP"):
            reactions[signal.SIGHUP] = self._reload
        return reactions

    def _reload(self) -> None:
        for certificate in self._certificates:
            certificate.reload()

    def _on_signal(self) -> None:
        self.signalled = True
        self.end()

    def end(self) -> None:
        """End gracefully; asked again, at once."""
        if not self._stopping.is_set():
            log.info("Stopping; transactions may end, a second signal ends them")
            self._stopping.set()
        elif self._task is not None:
            self._patience = 0
            self._task.cancel()

    def finish(self) -> None:
        """End gracefully, and leave an end that has begun alone."""
        if not self._stopping.is_set():
            self.end()

    async def _serve(self, become: Callable[[], None] | None) -> None:
        try:
            await self._start(become)
            self._announce()
            self._watch_output()
            await self._stopping.wait()
        finally:
            if self._is_ready and self._settings.ready_file:
                with suppress(OSError):
                    os.unlink(self._settings.ready_file)
            if self._server is not None:
                await self._server.stop(self._patience)

    def _watch_output(self) -> None:
        """End when nobody reads any more what the handler prints."""
        output = pipe_of(getattr(self._settings.handler, "stream", None))
        if output is not None:
            # The writing end of a pipe is ready to be read when its reader has gone.
            asyncio.get_running_loop().add_reader(output, self._output_lost, output)

    def _output_lost(self, output: int) -> None:
        asyncio.get_running_loop().remove_reader(output)
        log.error("Nobody reads any more what is printed: stopping")
        self.signalled, self.code = True, 1
        self.finish()

    async def _start(self, become: Callable[[], None] | None) -> None:
        places, bound = self._settings.places, []
        try:
            if become:
                # No client is served by root: bind all, drop the rights, and only then accept.
                bound = [await bind(place) for place in places]
                become()
                places = [
                    Listen(place.scheme, fd=sock.fileno())
                    for place, sockets in zip(places, bound, strict=True)
                    for sock in sockets
                ]
            self._server = self._make_server(places)
            await self._server.start()
        except OSError as error:
            raise Failure(why_not_listening(error)) from error
        finally:
            for sockets in bound:
                close_all(sockets)

    def _make_server(self, places: list[Listen]) -> Server:
        if self._settings.tls:
            # What `--tls` makes is for STARTTLS where no scheme says otherwise.
            places = [evolve(place, scheme=place.scheme or "smtp") for place in places]
        return _Places(
            self._make_connection,
            self._settings.handler,
            listen=places,
            ssl_context=self._ssl_context,
            **self._parameters,
        )

    def _make_connection(self, place: Listen) -> SMTP:
        if place.scheme != "lmtp":
            return self._factory()
        if self._lmtp_factory is None:
            from aiosmtpd.lmtp import LMTP

            self._lmtp_factory = self._make_factory(LMTP)
        return self._lmtp_factory()

    def _announce(self) -> None:
        addresses = [] if self._server is None else self._server.addresses
        where = " and ".join(spell(address) for address in addresses)
        log.info("Server is listening on %s", where)
        if self._settings.ready_file:
            write_ready_file(self._settings.ready_file, addresses)
            self._is_ready = True
        if self._settings.users is not None and not self._has_tls:
            at_home = all(is_local(address) for address in addresses)
            log.log(logging.INFO if at_home else logging.WARNING, CLEAR_PASSWORDS)
        if self._settings.quiet or sys.stderr is None:
            return
        if sys.stderr.isatty():
            text = banner(self._settings, where, addresses, self._authority)
            print(text, file=sys.stderr, flush=True)
            return
        if self._authority is not None:
            print(f"CA certificate: {self._authority}", file=sys.stderr, flush=True)
        if any(place.port == 0 for place in self._settings.places) and not self._settings.debug:
            # Nothing else tells a script which ports these are.
            print(f"Server is listening on {where}", file=sys.stderr, flush=True)
