"""The server's program, from parsed options to the end of the last connection."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import ssl
import sys
import threading
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from attrs import evolve

from aiosmtpd.cli.banner import banner, is_local, why_not_listening
from aiosmtpd.cli.options import DEFAULT_SIZE, DEFAULT_USER, LIMITS
from aiosmtpd.engine import loops
from aiosmtpd.listen.addresses import spell
from aiosmtpd.process.activation import write_ready_file
from aiosmtpd.process.certificates import Certificate
from aiosmtpd.process.exit import SETTLE, exit_despite_threads, flush_standard_streams, pipe_of
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.process.rights import CannotSwitch, Identity, check_writable, identity_to_assume
from aiosmtpd.process.signals import run_until_done, signals_handled
from aiosmtpd.protocol.settings import Settings
from aiosmtpd.server import Server, close_loop
from aiosmtpd.smtp import SMTP

LOADED_LATE = (
    "aiosmtpd.delivery.maildir",
    "aiosmtpd.delivery.nexthop",
    "aiosmtpd.engine.spill",
    "aiosmtpd.engine.tls",
    "aiosmtpd.lmtp",
    "aiosmtpd.proxy_protocol",
)
"""Modules of the package that are imported only when they are needed."""

OF_NATS = "nats.aio.client", "nats.errors", "nats.js.api", "nats.js.errors"
"""Modules that a route to NATS imports when it connects."""

CLEAR_PASSWORDS = "Passwords are sent in the clear: add a certificate (--tlscert, --tls)"

OPEN_RELAY = (
    "Every client can send mail to any address through this server: write PATTERN= in front of the "
    "URL of --deliver, or add --require-auth"
)

STOPPING = "Stopping after the open transactions; a second signal stops at once"

CHECK_RIGHTS = "check --user, --group and -n"

LOGIN_PROMPTS = "Username:", "Password:"
"""The prompts of AUTH LOGIN that many devices look for. Those of the classes are 1.4's."""

SPOOL_FAILED = 74
"""Exit code (EX_IOERR) after an error of the spool's disk."""

PROXY_TIMEOUT = 5.0
"""Seconds for the PROXY header."""

log = logging.getLogger("mail.log")


def serve(
    parser: ArgumentParser, settings: Namespace, make: Any = partial, pwd: Any = None
) -> None:
    """Serve as the options say until a signal arrives or the event loop is stopped.

    *make* is :func:`functools.partial` and *pwd* the module, None on a system without it; programs
    replace both in :mod:`aiosmtpd.main`. If the server cannot run, print one line to the standard
    error and raise SystemExit.
    """
    set_up_logging(settings)
    threads = set(threading.enumerate())
    try:
        program = Program(settings, make, pwd)
        program.run()
    except Failure as failure:
        if failure.code == 2:
            parser.error(str(failure))
        parser.exit(failure.code, f"{failure}\n")
    flush_standard_streams()
    if program.signalled:
        # The sender of the signal wants the process to end.
        exit_despite_threads(threads, program.code)
    if program.code:
        parser.exit(program.code)


def set_up_logging(settings: Namespace) -> None:
    """Set the levels of the logs by ``-d`` and ``-q``."""
    logging.basicConfig(
        level=logging.ERROR if settings.quiet else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if settings.debug:
        level = logging.INFO if settings.debug == 1 else logging.DEBUG
        for name in "mail.log", "mail.debug":
            logging.getLogger(name).setLevel(level)


@contextmanager
def _hint(text: str) -> Iterator[None]:
    """Add the options that help to the text of a Failure."""
    try:
        yield
    except CannotSwitch as failure:
        raise Failure(f"{failure}; try running with -n option.", failure.code) from failure
    except Failure as failure:
        raise Failure(f"{failure}; {text}", failure.code) from failure


@contextmanager
def _refusing_handler() -> Iterator[None]:
    """Make a Failure of an OSError, which is not one of the places to listen at here."""
    try:
        yield
    except OSError as error:
        raise Failure(f"The handler cannot start (its open()): {one_line(error)}") from error


def _errors_of_delivery() -> tuple[type[Exception], ...]:
    """Return the exceptions whose text is one line that says what to do."""
    database = sys.modules.get("aiosmtpd.delivery.database")
    if database is None:
        return ()
    from aiosmtpd.delivery.item import Misconfigured

    return Misconfigured, database.SpoolError


def _has_terminal() -> bool:
    """Return True if a terminal is the standard input, and the program ends when it is closed."""
    hangup = getattr(signal, "SIGHUP", None)
    return hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN and os.isatty(0)


class Program:
    """The server of one command line: binds, serves, and ends. :meth:`run` does it all."""

    def __init__(self, settings: Namespace, make: Any = partial, pwd: Any = None) -> None:
        self._settings = settings
        self._pwd = pwd
        self._certificates: list[Certificate] = []
        self._ssl_context = self._load(settings.smtpscert, settings.smtpskey)
        self._tls_context = self._load(settings.tlscert, settings.tlskey)
        self._ca_file: Path | None = None
        if settings.tls:
            self._sign_certificate()
        self._server = self._make_server(make)
        self._stopping = asyncio.Event()
        self._patience: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ready = False
        self._has_terminal = _has_terminal()
        self.signalled = False
        self.code = 0

    def _load(self, cert: str | None, key: str | None) -> ssl.SSLContext | None:
        if not cert or not key:
            return None
        self._certificates.append(Certificate(cert, key))
        return self._certificates[-1].context

    def _sign_certificate(self) -> None:
        from aiosmtpd.process.authority import cache_folder, kept_authority

        authority = kept_authority(cache_folder())
        hosts = [place.host for place in self._settings.places]
        self._tls_context = authority.issue([self._settings.hostname, *hosts])
        self._ssl_context = self._tls_context
        self._ca_file = authority.ca_file

    def _make_observers(self) -> list[Any]:
        """Return the observers that the options ask for."""
        settings = self._settings
        observers: list[Any] = []
        if settings.fault:
            from aiosmtpd.observers.faults import Faults

            observers.append(Faults(settings.fault))
        if settings.exit_after is not None:
            from aiosmtpd.observers.countdown import Countdown

            observers.append(Countdown(settings.exit_after, self.finish))
        if settings.show_dialogue:
            from aiosmtpd.observers.transcript import Dialogue

            observers.append(Dialogue())
        return observers

    def _keywords(self) -> dict[str, Any]:
        """Return the keywords of the server class that the options ask for."""
        settings = self._settings
        keywords: dict[str, Any] = {
            "data_size_limit": DEFAULT_SIZE if settings.size is None else settings.size,
            "enable_SMTPUTF8": settings.smtputf8,
            "tls_context": self._tls_context,
            "require_starttls": settings.requiretls,
            "extensions": settings.extensions,
            "bare_newline": "normalize",
            "line_length_limit": settings.line_length,
            "login_prompts": LOGIN_PROMPTS,
            "max_auth_failures": settings.max_auth_failures,
            **{name: getattr(settings, name) for name in LIMITS},
            "observers": self._make_observers(),
        }
        for name in "hostname", "timeout":
            if getattr(settings, name) is not None:
                keywords[name] = getattr(settings, name)
        if settings.proxy_protocol:
            keywords["proxy_protocol_timeout"] = PROXY_TIMEOUT
            keywords["proxy_trusted"] = settings.proxy_protocol
        return keywords

    def _make_server(self, make: Any) -> Server:
        """Return one server for all places: its limits count all connections of the process."""
        settings, keywords, factory = self._settings, self._keywords(), None
        if make is not partial:
            # Tests of programs put a function of their own in its place.
            factory = make(SMTP, settings.handler, **keywords)
        shared = Settings.of(keywords)
        if settings.users is not None:
            # Not by keywords: their warnings are for programs.
            shared = evolve(
                shared,
                authenticator=settings.users,
                auth_required=settings.require_auth,
                auth_require_tls=self._has_tls,
            )
        places = settings.places
        if settings.tls:
            # A place without a scheme gets STARTTLS, not TLS from the start.
            places = [evolve(place, scheme=place.scheme or "smtp") for place in places]
        return Server(
            settings.handler,
            listen=places,
            ssl_context=self._ssl_context,
            factory=factory,
            settings=shared,
        )

    @property
    def _has_tls(self) -> bool:
        return self._tls_context is not None or self._ssl_context is not None

    def run(self) -> None:
        """Serve until a signal arrives or the loop is stopped; raises Failure."""
        identity = self._identity()
        loop = loops.current_or_new_loop()
        loop.set_debug(self._settings.debug > 2 or loop.get_debug())
        self._task = loop.create_task(self._serve(identity))
        try:
            with signals_handled(loop, self._reactions()):
                run_until_done(loop, self._task, self.end)
        finally:
            with warnings.catch_warnings(), suppress(KeyboardInterrupt):
                # exit_despite_threads() deals with worker threads that go on.
                warnings.simplefilter("ignore", RuntimeWarning)
                close_loop(loop, SETTLE)

    def _identity(self) -> Identity | None:
        """Return the user to become once the ports are bound, None to stay; raises Failure."""
        settings = self._settings
        if not settings.setuid:
            return None
        with _hint(CHECK_RIGHTS):
            return identity_to_assume(
                settings.user, settings.group, default=DEFAULT_USER, pwd=self._pwd
            )

    def _drop_rights(self, identity: Identity) -> None:
        with _hint(CHECK_RIGHTS):
            has_nats = "aiosmtpd.delivery.outlets.nats" in sys.modules
            identity.assume((*LOADED_LATE, *(OF_NATS if has_nats else ())))
            folder = getattr(self._settings.handler, "mail_dir", None)
            if isinstance(folder, str | PathLike):
                # The handler made it while this was still root's process.
                check_writable(folder, identity.user)

    def _reactions(self) -> dict[int, Callable[[], None]]:
        names = ["SIGINT", "SIGTERM", "SIGBREAK"]
        reactions = {
            getattr(signal, name): self._on_signal for name in names if hasattr(signal, name)
        }
        if hasattr(signal, "SIGHUP") and (self._certificates or self._has_terminal):
            reactions[signal.SIGHUP] = self._on_hangup
        return reactions

    def _on_hangup(self) -> None:
        """Load the certificates again; end if there are none, or if the terminal is closed."""
        if not self._certificates or (self._has_terminal and not os.isatty(0)):
            self._on_signal()
            return
        for certificate in self._certificates:
            certificate.reload()

    def _on_signal(self) -> None:
        self.signalled = True
        self.end()

    def end(self) -> None:
        """End gracefully; a second call ends at once."""
        if not self._stopping.is_set():
            log.info(STOPPING)
            self._tell_terminal()
            self._stopping.set()
        elif self._task is not None:
            self._patience = 0
            self._task.cancel()

    def _tell_terminal(self) -> None:
        """Say on a terminal that the end takes a while after a signal, unless the log says so."""
        if not self.signalled or not self._server.is_busy:
            return
        if self._settings.quiet or self._settings.debug:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            print(STOPPING, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """End gracefully, if the end has not begun yet."""
        if not self._stopping.is_set():
            self.end()

    async def _serve(self, identity: Identity | None) -> None:
        try:
            self._watch_spool()
            await self._start(identity)
            self._announce()
            self._watch_output()
            await self._stopping.wait()
        finally:
            if self._is_ready and self._settings.ready_file:
                with suppress(OSError):
                    os.unlink(self._settings.ready_file)
            await self._server.stop(self._patience)

    def _watch_output(self) -> None:
        """End when the reader of the pipe to which the handler prints has gone."""
        output = pipe_of(getattr(self._settings.handler, "stream", None))
        if output is not None:
            # The writing end of a pipe becomes readable when its reader has gone.
            asyncio.get_running_loop().add_reader(output, self._output_lost, output)

    def _watch_spool(self) -> None:
        """End when the disk of the handler's spool cannot be trusted."""
        delivery = sys.modules.get("aiosmtpd.delivery.handler")
        handler = self._settings.handler
        if delivery is not None and isinstance(handler, delivery.Delivery):
            loop = asyncio.get_running_loop()
            handler.on_failure = partial(self._hear_of_spool, loop)

    def _hear_of_spool(self, loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
        # Called in another thread; the loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._spool_lost, error)

    def _spool_lost(self, error: BaseException) -> None:
        log.critical("The disk of the spool has failed: stopping: %s", error)
        self.signalled, self.code = True, SPOOL_FAILED
        self.finish()

    def _output_lost(self, output: int) -> None:
        asyncio.get_running_loop().remove_reader(output)
        log.error("The reader of the standard output has gone: stopping")
        self.signalled, self.code = True, 1
        self.finish()

    async def _start(self, identity: Identity | None) -> None:
        try:
            # Root serves no client: bind all places, drop the rights, and only then accept.
            await self._server.bind()
            if identity is not None:
                self._drop_rights(identity)
            with _refusing_handler():
                await self._server.open_handler()
            await self._server.start()
        except OSError as error:
            raise Failure(why_not_listening(error)) from error
        except _errors_of_delivery() as error:
            if identity is None or os.strerror(errno.EACCES) not in str(error):
                raise Failure(str(error)) from error
            raise Failure(f"{error}: without -n, the server becomes {identity.user}") from error

    def _announce(self) -> None:
        addresses = self._server.addresses
        where = " and ".join(spell(address) for address in addresses)
        log.info("Server is listening on %s", where)
        if self._settings.ready_file:
            with _hint("name another file with --ready-file"):
                write_ready_file(self._settings.ready_file, map(spell, addresses))
            self._is_ready = True
        if self._settings.users is not None and not self._has_tls:
            local = all(is_local(address) for address in addresses)
            log.log(logging.INFO if local else logging.WARNING, CLEAR_PASSWORDS)
        is_relay = getattr(self._settings.handler, "is_relay", False) is True
        if is_relay and not self._settings.require_auth and not all(map(is_local, addresses)):
            log.warning(OPEN_RELAY)
        if self._settings.quiet or sys.stderr is None:
            return
        if sys.stderr.isatty():
            text = banner(self._settings, where, addresses, self._ca_file)
            print(text, file=sys.stderr, flush=True)
            return
        if self._ca_file is not None:
            print(f"CA certificate: {self._ca_file}", file=sys.stderr, flush=True)
        if any(place.port == 0 for place in self._settings.places) and not self._settings.debug:
            # Scripts have no other way to learn the ports.
            print(f"Server is listening on {where}", file=sys.stderr, flush=True)
