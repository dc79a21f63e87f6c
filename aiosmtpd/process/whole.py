"""What a server process needs besides the server: certificates, signals, users, its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shlex
import signal
import socket
import ssl
import stat
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from aiosmtpd._version import __version__
from aiosmtpd.cli.options import DEFAULT_SIZE, DEFAULT_USER
from aiosmtpd.listen import sockets as listening
from aiosmtpd.listen.sockets import Listen
from aiosmtpd.server import DEFAULT_PORT

SETTLE = 1.0
"""Seconds that tasks and worker threads have to end after the last connection has."""

CHARSETS = (
    "big5 cp1250 cp1251 cp1252 euc_jp euc_kr gb18030 gb2312 gbk iso2022_jp iso8859_2 latin_1 "
    "iso8859_15 koi8_r shift_jis utf_16 utf_7"
)
"""What mail is written in, by the names of their modules."""

LOADED_LATE = (
    *(f"encodings.{name}" for name in CHARSETS.split()),
    "aiosmtpd.delivery.maildir",
    "aiosmtpd.delivery.nexthop",
    "aiosmtpd.lmtp",
    "concurrent.futures.thread",
    "email.generator",
    "email.header",
    "email.parser",
    "email.policy",
    "encodings.idna",
    "mailbox",
    "smtplib",
)
"""What the package and the event loop import only when it is needed."""

log = logging.getLogger("mail.log")


class Failure(Exception):
    """The server cannot run; says why in one line, and the exit code."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


def one_line(error: BaseException) -> str:
    """Name an exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


class Certificate:
    """A certificate in its files and the TLS context that shows it to clients."""

    def __init__(self, cert: str, key: str) -> None:
        self._cert = cert
        self._key = key
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self.context.load_cert_chain(cert, key)
        except OSError as error:
            raise Failure(self._explain(error)) from error

    def reload(self) -> None:
        """Read the files again; new connections get what they hold, if that is in order."""
        try:
            # What fails halfway would leave the new certificate with the old key.
            trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            trial.load_cert_chain(self._cert, self._key, self._refuse_to_ask)
            self.context.load_cert_chain(self._cert, self._key, self._refuse_to_ask)
        except (OSError, ValueError) as error:
            log.error("%s; the old certificate stays", self._explain(error))
        else:
            log.info("Certificate %s loaded again", self._cert)

    def _refuse_to_ask(self) -> NoReturn:
        raise ValueError("the pass phrase of the key can only be asked for at the start")

    def _explain(self, error: Exception) -> str:
        files = f"{self._cert} with key {self._key}"
        if isinstance(error, ssl.SSLError):
            if error.reason == "KEY_VALUES_MISMATCH":
                return f"Certificate {files}: they do not belong together"
            return f"Certificate {files}: one is no PEM file of its kind ({one_line(error)})"
        return f"Certificate {files}: {getattr(error, 'strerror', None) or error}"


def run_to_the_end(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], end: Callable[[], None]
) -> None:
    """Run the loop until the task is done; whoever stops or interrupts the loop asks it to end."""

    def stop(_: object) -> None:
        loop.stop()

    task.add_done_callback(stop)
    with suppress(KeyboardInterrupt):
        loop.run_forever()
    task.remove_done_callback(stop)
    while not task.done() and not loop.is_closed():
        end()
        with suppress(KeyboardInterrupt, asyncio.CancelledError, Exception):
            loop.run_until_complete(task)
    if task.done() and not task.cancelled():
        task.result()


@contextmanager
def signals_handled(
    loop: asyncio.AbstractEventLoop, reactions: dict[int, Callable[[], None]]
) -> Iterator[None]:
    """Call these in the loop when signals come, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        reactions = {}
    before = {number: signal.getsignal(number) for number in reactions}
    for number, reaction in reactions.items():
        try:
            loop.add_signal_handler(number, reaction)
        except NotImplementedError:
            # `reaction` as a default, or all would be the last one.
            signal.signal(number, lambda *_, call=reaction: loop.call_soon_threadsafe(call))
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            if handler is not None:
                signal.signal(number, handler)


def pipe_of(stream: Any) -> int | None:
    """Return the descriptor of a stream that is a pipe, whose reader may go; None for others."""
    try:
        number: int = stream.fileno()
        return number if os.name == "posix" and stat.S_ISFIFO(os.fstat(number).st_mode) else None
    except (AttributeError, OSError, ValueError):
        return None


def forget_what_cannot_be_written() -> None:
    """Let Python find nothing at its exit that it would complain of and change the code for."""
    for stream in sys.stdout, sys.stderr:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def leave_threads_behind(before: set[threading.Thread], code: int) -> None:
    """End the process if a thread that came since `before` does not end by itself."""
    # At its exit Python waits for worker threads, for ever if a handler blocks in one; whoever
    # sent the signal wants the process to end.
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(SETTLE)
            if thread.is_alive():
                logging.shutdown()
                for stream in sys.stdout, sys.stderr:
                    with suppress(OSError, ValueError):
                        stream.flush()
                os._exit(code)


def passed_sockets() -> list[tuple[int, str]]:
    """Return the descriptors that systemd passes to this process, with their names.

    Raises ValueError if it says so in a way that cannot be.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or len(count) > 4:
        raise ValueError(f"LISTEN_FDS is no number: {count!r}")
    # There may be fewer names, or none.
    names = [*os.environ.get("LISTEN_FDNAMES", "").split(":"), *([""] * int(count))]
    return list(zip(range(3, 3 + int(count)), names, strict=False))


async def bind(place: Listen) -> list[socket.socket]:
    """Bind what this place stands for, and accept nothing yet; raises OSError."""
    if place.path is not None:
        return listening.bind_unix(place.path)
    if place.fd is not None:
        return listening.adopt_fd(place.fd)
    hosts = listening.LOOPBACKS if place.host is None else [place.host]
    return await listening.bind_tcp(hosts, DEFAULT_PORT if place.port is None else place.port)


def why_not_listening(error: OSError) -> str:
    """Say where and why binding failed, and what to do."""
    text = (error.strerror or str(error)).removeprefix("error while attempting to bind on address ")
    if isinstance(error, socket.gaierror):
        return f"Cannot listen: {text}; name a host or an address of this machine with -l"
    hints = {
        errno.EADDRINUSE: "stop the program that listens there or choose another place with -l",
        errno.EACCES: "ports below 1024 are root's: choose another with -l",
        errno.EADDRNOTAVAIL: "name an address of this machine with -l",
    }
    hint = hints.get(error.errno or 0, "choose another place with -l")
    return f"Cannot listen on {text}; {hint}"


def identity(settings: Namespace, users: Any) -> Callable[[], None] | None:
    """Return what makes this process the user of the settings, or None; raises Failure.

    *users* is the module ``pwd``, or None where there is none.
    """
    if not settings.setuid:
        return None
    if not hasattr(os, "setuid"):
        log.info("No user to become on this system: staying who this is")
        return None
    if users is None:
        raise Failure('Cannot import module "pwd"; try running with -n option.', 1)
    name = settings.user or DEFAULT_USER
    try:
        user = users.getpwnam(name)
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


def write_ready_file(path: str, addresses: Sequence[listening.Address]) -> None:
    """Write where the server listens, so that a reader finds all of it or no file."""
    text = "".join(f"{listening.spell(address)}\n" for address in addresses)
    new = f"{path}.{os.getpid()}"
    try:
        Path(new).write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(new, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(new)
        text = f"Cannot write {path}: {error.strerror or error}"
        raise Failure(f"{text}; name another file with --ready-file") from error


def become(user: str, uid: int, gid: int) -> None:
    """Become this user of this group, and of the user's other groups; raises Failure."""
    # Python itself may lie in a folder that only root can read.
    for name in LOADED_LATE:
        import_module(name)
    try:
        # The last of these takes away the right to do the others.
        os.setgroups(os.getgrouplist(user, gid))
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        raise Failure(f'Cannot setuid "{user}"; try running with -n option.', 1) from error
    log.info("Running as user %s, group %d", user, gid)


def group_id(name: str) -> int:
    """Return a group's number; raises Failure."""
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Failure(f"No group {name} here: name another with --group") from None


def stay(settings: Namespace, uid: int, gid: int) -> None:
    """Go on without root's rights, which were never there; raises Failure."""
    if (settings.user or settings.group) and (uid, gid) != (os.geteuid(), os.getegid()):
        raise Failure("Only root can become somebody else: leave out --user and --group")
    try:
        # Without root's rights it may still have this one.
        os.setuid(uid)
    except PermissionError:
        log.info("Not root: no rights to drop, going on as user %d", os.geteuid())


def check_mailbox(handler: Any, user: str) -> None:
    """Raise Failure if the handler's mailbox was made while this was still root's process."""
    folder = getattr(handler, "mail_dir", None)
    if isinstance(folder, str | os.PathLike) and not os.access(folder, os.W_OK | os.X_OK):
        raise Failure(
            f"{os.fspath(folder)} cannot be written by {user}: give it to {user} (chown -R), "
            "name its owner with --user, or run with -n"
        )


def is_local(address: listening.Address) -> bool:
    """Tell whether only this machine can reach an address."""
    return isinstance(address, str) or address[0] == "::1" or address[0].startswith("127.")


def banner(
    settings: Namespace,
    where: str,
    addresses: Sequence[listening.Address],
    authority: Path | None = None,
) -> str:
    """Return what a person at a terminal wants to know of a server that has just started."""
    size = DEFAULT_SIZE if settings.size is None else settings.size
    smtps = settings.tls and any(place.scheme == "smtps" for place in settings.places)
    tls = ["from the first octet"] if settings.smtpscert or smtps else []
    if settings.tlscert or settings.tls:
        tls.append("STARTTLS required" if settings.requiretls else "STARTTLS offered")
    lines = [
        f"aiosmtpd {__version__} is listening on {where}",
        f"  size limit {f'{size:,} octets' if size else 'none'}, "
        f"TLS: {', '.join(tls) or 'off'}, AUTH: {_about_auth(settings, bool(tls))}",
    ]
    if authority is not None:
        lines.append(f"  CA certificate: {authority}")
    lines += [f"  fails on purpose: {fault}" for fault in settings.fault or ()]
    lines.append(f"  send a test: {_test_command(settings, addresses[0], authority)}")
    return "\n".join([*lines, "  Ctrl-C stops it"])


def _about_auth(settings: Namespace, tls: bool) -> str:
    if settings.users is None:
        return "off"
    need = "required" if settings.require_auth else "offered"
    return f"{need}, {settings.users.about}{'' if tls else ', in the clear'}"


def _test_command(settings: Namespace, address: listening.Address, authority: Path | None) -> str:
    """Return the command that sends a message to the first place."""
    if isinstance(address, str):
        where = f"unix:{address}"
    else:
        host, port = address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        where = listening.spell((host, port))
    scheme = settings.places[0].scheme
    if scheme == "smtps" or (settings.smtpscert and scheme is None):
        where = f"smtps://{where}"
    elif scheme == "lmtp":
        where = f"lmtp://{where}"
    words = ["aiosmtpd", "send", where]
    if authority is not None:
        words += ["--cafile", str(authority)]
    if settings.require_auth and settings.users is not None:
        words += ["--auth", f"{settings.users.example}:PASSWORD"]
    return shlex.join(words)
