"""The command line: ``aiosmtpd`` and ``python -m aiosmtpd``.

Read from top to bottom: what the options say together, then the life of the process.
"""

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
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from public import public

import aiosmtpd
from aiosmtpd._options import (
    DEFAULT_CLASS as DEFAULT_CLASS,
    DEFAULT_HOST as DEFAULT_HOST,
    DEFAULT_PORT as DEFAULT_PORT,
    DEFAULT_USER,
    make_parser,
)
from aiosmtpd._process import (
    SETTLE,
    Certificate,
    Failure,
    banner,
    become,
    bind,
    check_mailbox,
    group_id,
    leave_threads_behind,
    one_line,
    run_to_the_end,
    signals_handled,
    stay,
    why_not_listening,
)
from aiosmtpd.controller import Server
from aiosmtpd.engine.listening import Listen, close_all, parse_listen, spell
from aiosmtpd.server import close_loop
from aiosmtpd.smtp import DATA_SIZE_DEFAULT, SMTP

try:
    import pwd
except ImportError:  # pragma: no cover
    pwd = None  # type: ignore[assignment]

PROGRAM = os.path.basename(sys.argv[0])
if PROGRAM == "__main__.py":
    PROGRAM = "aiosmtpd"

log = logging.getLogger("mail.log")


def _parser() -> ArgumentParser:
    return make_parser(PROGRAM)


# What the options say together.


def parseargs(args: Sequence[str] | None = None) -> tuple[ArgumentParser, Namespace]:
    """Parse a command line, the process's own if None; make the handler.

    :return: the parser and the settings: the options by their long names, and ``setuid``,
        ``classpath``, ``requiretls``, ``classargs``, ``handler``, ``host`` and ``port`` (of the
        first place to listen at) and ``places``.
    :raises SystemExit: with code 2 after one line on the standard error, for a wrong option.
    :raises Exception: whatever making the handler raises.
    """
    parser = _parser()
    settings = parser.parse_args(args)
    _check_places(parser, settings)
    for name in "smtps", "tls":
        _check_certificate(parser, settings, name)
    if not settings.setuid and (settings.user or settings.group):
        parser.error("--user and --group have no meaning with -n: leave one or the other out")
    settings.handler = _make_handler(parser, settings)
    return parser, settings


def _check_places(parser: ArgumentParser, settings: Namespace) -> None:
    texts = settings.listen or [""]
    try:
        settings.places = [parse_listen(text) for text in texts]
    except ValueError as error:
        parser.error(str(error))
    if not settings.smtpscert and any(place.scheme == "smtps" for place in settings.places):
        parser.error("smtps:// needs --smtpscert and --smtpskey")
    first = settings.places[0]
    settings.host, settings.port = first.host, first.port
    if first.path is None and first.fd is None:
        settings.host = DEFAULT_HOST if first.host is None else first.host
        settings.port = DEFAULT_PORT if first.port is None else first.port
    settings.listen = texts[0] if settings.listen else None


def _check_certificate(parser: ArgumentParser, settings: Namespace, name: str) -> None:
    cert, key = getattr(settings, f"{name}cert"), getattr(settings, f"{name}key")
    if bool(cert) != bool(key):
        parser.error(f"--{name}cert and --{name}key must be specified together")
    for kind, path in ("Cert", cert), ("Key", key):
        if path and not Path(path).exists():
            parser.error(f"{kind} file {path} not found")


def _find_class(parser: ArgumentParser, classpath: str) -> Any:
    module_name, _, name = classpath.rpartition(".")
    if not module_name:
        module_name = "aiosmtpd.handlers"
    elif "" not in sys.path and os.getcwd() not in sys.path and not sys.flags.safe_path:
        # At the end, so that nothing in the folder hides an installed module.
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except Exception as error:
        parser.error(f"Cannot import {module_name} for -c {classpath}: {one_line(error)}")
    if not callable(found := getattr(module, name, None)):
        known = "Debugging, Mailbox, Sink or MODULE.CLASS"
        parser.error(f"No class {name} in {module_name}: -c takes {known}")
    return found


def _make_handler(parser: ArgumentParser, settings: Namespace) -> Any:
    handler_class = _find_class(parser, settings.classpath)
    if hasattr(handler_class, "from_cli"):
        return handler_class.from_cli(parser, *settings.classargs)
    if settings.classargs:
        parser.error(f"Handler class {handler_class.__module__} takes no arguments")
    return handler_class()


# The life of the process.


@public
def main(args: Sequence[str] | None = None) -> None:
    """Run the server until Ctrl-C, SIGTERM or the end of its event loop.

    It runs in the event loop set by :func:`asyncio.set_event_loop`, and closes it. The first
    signal ends it gracefully, the second one at once; SIGHUP loads the certificates again.

    :param args: the command line without the program's name; the process's own if None.
    :raises SystemExit: with code 2, or 1 where privileges cannot be dropped, after one line on
        the standard error.
    """
    try:
        parser, settings = parseargs(args)
    except Exception as error:
        _parser().error(f"The handler class cannot be used so: {one_line(error)}")
    _set_up_logging(settings)
    threads = set(threading.enumerate())
    try:
        program = _Program(settings)
        program.run()
    except Failure as failure:
        if failure.code == 2:
            parser.error(str(failure))
        parser.exit(failure.code, f"{failure}\n")
    if program.signalled:
        leave_threads_behind(threads)


def _set_up_logging(settings: Namespace) -> None:
    logging.basicConfig(
        level=logging.ERROR if settings.quiet else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if settings.debug:
        level = logging.INFO if settings.debug == 1 else logging.DEBUG
        for name in "mail.log", "mail.debug":
            logging.getLogger(name).setLevel(level)


class _Program:
    """The servers that one command line asks for, from binding to the last connection's end."""

    def __init__(self, settings: Namespace) -> None:
        self._settings = settings
        self._certificates: list[Certificate] = []
        self._ssl_context = self._load(settings.smtpscert, settings.smtpskey)
        self._tls_context = self._load(settings.tlscert, settings.tlskey)
        self._parameters: dict[str, Any] = {"bare_newline": "normalize"}
        for name in "hostname", "timeout":
            if getattr(settings, name) is not None:
                self._parameters[name] = getattr(settings, name)
        self._factory = self._make_factory(SMTP)
        self._servers: list[Server] = []
        self._stopping = asyncio.Event()
        self._patience: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.signalled = False

    def _load(self, cert: str | None, key: str | None) -> ssl.SSLContext | None:
        if not cert or not key:
            return None
        self._certificates.append(Certificate(cert, key))
        return self._certificates[-1].context

    def _make_factory(self, protocol: type[SMTP]) -> Callable[[], SMTP]:
        settings = self._settings
        return partial(
            protocol,
            settings.handler,
            data_size_limit=DATA_SIZE_DEFAULT if settings.size is None else settings.size,
            enable_SMTPUTF8=settings.smtputf8,
            tls_context=self._tls_context,
            require_starttls=settings.requiretls,
            extensions=settings.extensions,
            **self._parameters,
        )

    def run(self) -> None:
        """Serve until a signal comes or the loop is stopped; raises Failure."""
        become = _identity(self._settings)
        loop = aiosmtpd._get_or_new_eventloop()
        loop.set_debug(self._settings.debug > 2 or loop.get_debug())
        self._task = loop.create_task(self._serve(become))
        try:
            with signals_handled(loop, self._reactions()):
                run_to_the_end(loop, self._task, self._end)
        finally:
            with warnings.catch_warnings():
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
        self._end()

    def _end(self) -> None:
        """End gracefully; asked again, at once."""
        if not self._stopping.is_set():
            log.info("Stopping; transactions may end, a second signal ends them")
            self._stopping.set()
        elif self._task is not None:
            self._patience = 0
            self._task.cancel()

    async def _serve(self, become: Callable[[], None] | None) -> None:
        try:
            await self._start(become)
            self._announce()
            await self._stopping.wait()
        finally:
            await asyncio.gather(*(server.stop(self._patience) for server in self._servers))

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
            self._servers = [self._make_server(place) for place in places]
            for server in self._servers:
                await server.start()
        except OSError as error:
            raise Failure(why_not_listening(error)) from error
        finally:
            for sockets in bound:
                close_all(sockets)

    def _make_server(self, place: Listen) -> Server:
        factory = self._factory
        if place.scheme == "lmtp":
            from aiosmtpd.lmtp import LMTP

            factory = self._make_factory(LMTP)
        return Server(
            self._settings.handler,
            listen=place,
            ssl_context=self._ssl_context,
            factory=factory,
            **self._parameters,
        )

    def _announce(self) -> None:
        addresses = [address for server in self._servers for address in server.addresses]
        where = " and ".join(spell(address) for address in addresses)
        log.info("Server is listening on %s", where)
        if self._settings.quiet or sys.stderr is None:
            return
        if sys.stderr.isatty():
            print(banner(self._settings, where, addresses), file=sys.stderr, flush=True)
        elif any(place.port == 0 for place in self._settings.places) and not self._settings.debug:
            # Nothing else tells a script which ports these are.
            print(f"Server is listening on {where}", file=sys.stderr, flush=True)


def _identity(settings: Namespace) -> Callable[[], None] | None:
    """Return what makes this process the user of the settings, or None; raises Failure."""
    if not settings.setuid:
        return None
    if not hasattr(os, "setuid"):
        log.info("No user to become on this system: staying who this is")
        return None
    if pwd is None:
        raise Failure('Cannot import module "pwd"; try running with -n option.', 1)
    name = settings.user or DEFAULT_USER
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise Failure(f"No user {name} here: name one with --user or run with -n") from None
    gid = group_id(settings.group) if settings.group else user.pw_gid
    if os.geteuid() != 0:
        stay(settings, user.pw_uid, gid)
        return None

    def drop_rights() -> None:
        become(name, user.pw_uid, gid)
        check_mailbox(settings.handler, name)

    return drop_rights
