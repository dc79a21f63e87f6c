"""Compare a configuration with the machine: ports, certificates, folders, users and engines."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TypeAlias

import attrs

from aiosmtpd.listen.addresses import Listen, parse_listen, spell
from aiosmtpd.process.failure import one_line
from aiosmtpd.process.rights import identity_to_assume
from aiosmtpd.runner import outlets
from aiosmtpd.runner.config import Config, Place
from aiosmtpd.runner.environment import PREFIX
from aiosmtpd.runner.faults import Fault, in_order
from aiosmtpd.runner.keys import facts_of_files
from aiosmtpd.runner.lines import Path
from aiosmtpd.runner.load import Loaded
from aiosmtpd.runner.running import holds_port, servers_of
from aiosmtpd.runner.tables import Pair, RouteTable

Say: TypeAlias = Callable[[Path, str], None]

READABLE = "every user of this machine can read this secret: chmod o-r, or write file:PATH"

SOON = 14
"""Days before its end from which a certificate has a warning."""

OF_WORK = frozenset({"", "route", "spool", "handler", "relay_networks"})
"""Keys without which the handler of a worker cannot be made."""

LOOPBACK = ("127.0.0.1", "::1")
"""The addresses of a place without a host."""

LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a Unix socket may have."""

TRYOUT = 60.0
"""Seconds for the process that tries the handler and the engines."""

DEFAULT_USER = "nobody"
"""The user of the workers if the server is started as root and the file names none."""

ROOT_ONLY = (
    "only root can read it. A server started as root reads it again at each HUP; a service with "
    "User= needs LoadCredential=, and a restart after each renewal"
)
UNSEEN = "systemd gives this and maybe other values by LoadCredential=: they were not looked at"
CREDENTIAL = "systemd copies it at the start: after a renewal, restart instead of a HUP"


def check(
    loaded: Loaded, wrong: Sequence[Fault] = (), *, online: bool = False
) -> tuple[list[Fault], list[Fault]]:
    """Return all faults and all warnings; *online* reaches the next hops too.

    *wrong* are faults of the file: their tables are not compared with this machine.
    """
    faults = list(wrong)
    warnings = list(loaded.warnings)

    def say(path: Path, text: str) -> None:
        faults.append(loaded.fault(path, text))

    def warn(path: Path, text: str) -> None:
        warnings.append(loaded.fault(path, text))

    unseen = loaded.sources.unseen
    if unseen:
        warn(min(unseen, key=str)[:1], UNSEEN)
    _check_secrets(loaded, warn)
    check_machine(
        loaded.config,
        say,
        warn,
        unseen=frozenset(unseen.values()),
        skipped=frozenset(map(_table_of, wrong)),
        online=online,
    )
    return in_order(faults), in_order(warnings)


def _table_of(fault: Fault) -> str:
    """Return the table of a fault, or its key above the first table; ``""`` for no key."""
    if fault.place.startswith(PREFIX):
        return fault.place.removeprefix(PREFIX).partition("__")[0].lower()
    return fault.key.partition(".")[0]


def check_machine(
    config: Config,
    say: Say,
    warn: Say,
    *,
    unseen: frozenset[str] = frozenset(),
    skipped: frozenset[str] = frozenset(),
    online: bool = False,
) -> None:
    """Report faults by *say* and weakenings by *warn*.

    Files in *unseen* are not looked at, and the keys in *skipped* not compared.
    """
    mine = servers_of(config.source) if config.source else []
    if "listen" not in skipped:
        for number, place in enumerate(config.listen):
            _check_place(place, ("listen", number), mine, say, warn)
    if "admin" not in skipped:
        _check_admin(config, mine, say, warn)
    if config.tls is not None and "tls" not in skipped:
        for number, pair in enumerate(config.tls.pairs):
            path: Path = ("tls", "sni", number - 1) if number else ("tls",)
            if not {pair.cert, pair.key} & unseen:
                _check_pair(pair, path, say, warn)
    if not {"user", "group"} & skipped and _check_user(config, say, warn) and not skipped & OF_WORK:
        _try_as_worker(config, online, say, warn)


def _check_admin(config: Config, mine: list[int], say: Say, warn: Say) -> None:
    if config.admin.http is not None:
        _check_port(parse_listen(config.admin.http), ("admin", "http"), mine, say, warn)
    if config.admin.socket is not None:
        _check_socket(config.admin.socket, ("admin", "socket"), mine, say)


def _check_place(place: Place, path: Path, mine: list[int], say: Say, warn: Say) -> None:
    if place.fd is not None or place.systemd is not None:
        return
    if place.path is None:
        _check_port(place, path, mine, say, warn)
        return
    _check_socket(place.path, path, mine, say)


def _check_socket(file: str, path: Path, mine: list[int], say: Say) -> None:
    folder = os.path.dirname(file) or "."
    if not hasattr(socket, "AF_UNIX"):
        say(path, "this system has no Unix sockets")
    elif len(os.fsencode(file)) > LONGEST_PATH:
        say(path, f"the path of a Unix socket has at most {LONGEST_PATH} bytes: {file}")
    elif not os.path.isdir(folder):
        say(path, f"there is no folder {folder}")
    elif os.path.exists(file) and not stat.S_ISSOCK(os.stat(file).st_mode):
        say(path, f"{file} is there, and is not a socket")
    elif os.path.exists(file) and not mine and _answers(file):
        say(path, f"{file} is used by another program")


def _answers(file: str) -> bool:
    """Return True if a server has this Unix socket; a dead one's is removed at the start."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(file)
        except OSError:
            return False
    return True


def _check_port(place: Listen, path: Path, mine: list[int], say: Say, warn: Say) -> None:
    host, port = place.host, place.port or 0
    try:
        found = [
            one
            for name in ([host] if host else LOOPBACK)
            for one in socket.getaddrinfo(
                name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ]
    except OSError as error:
        say(path, f"{host}: {error.strerror or error}")
        return
    except UnicodeError:
        say(path, f"{host} is not a host name")
        return
    for family, kind, number, _, address in found:
        where = spell((str(address[0]), port))
        try:
            with socket.socket(family, kind, number) as trial:
                if os.name == "posix":
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(address)
                trial.listen(1)
        except PermissionError:
            warn(path, f"{where} was not tried: ports below 1024 need root or a capability")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                if host is None and family == socket.AF_INET6:
                    continue  # a machine without IPv6: the server uses IPv4 alone
                say(path, f"{where}: {error.strerror}")
            elif not any(holds_port(pid, port) is not False for pid in mine):
                say(path, f"{where} is used by another program")


def _check_pair(pair: Pair, path: Path, say: Say, warn: Say) -> None:
    for name, file in ("cert", pair.cert), ("key", pair.key):
        if not _check_readable(file, (*path, name), say, warn):
            return
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and pair.key.startswith(credentials):
        warn((*path, "key"), CREDENTIAL)
    try:
        facts = facts_of_files(pair)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            say((*path, "key"), "the key is not that of the certificate")
        else:
            say((*path, "key"), f"not a PEM file with a key ({one_line(error)})")
        return
    except OSError as error:
        say((*path, "cert"), f"the two files cannot be read: {error.strerror or error}")
        return
    except ValueError as error:
        say((*path, "key"), str(error))
        return
    _check_end(datetime.fromtimestamp(facts.not_after, UTC), (*path, "cert"), say, warn)


def _check_end(end: datetime, path: Path, say: Say, warn: Say) -> None:
    days = (end - datetime.now(UTC)) / timedelta(days=1)
    if days < 0:
        say(path, f"the certificate expired on {end:%Y-%m-%d}")
    elif days < SOON:
        warn(path, f"the certificate expires on {end:%Y-%m-%d}, in {days:.0f} days")


def _check_readable(file: str, path: Path, say: Say, warn: Say) -> bool:
    """Return True if this process can read a file of TLS; report what is wrong with it."""
    try:
        with open(file, "rb"):
            status = os.stat(file)
    except PermissionError:
        if _is_roots_alone(file):
            warn(path, ROOT_ONLY)
        else:
            say(path, f"{file}: Permission denied")
        return False
    except OSError as error:
        say(path, f"{file}: {error.strerror}")
        return False
    if path[-1] == "key" and os.name == "posix":
        if status.st_mode & stat.S_IROTH:
            warn(path, "every user of this machine can read the key: chmod o-r")
        elif status.st_uid == 0 and not status.st_mode & stat.S_IRGRP:
            warn(path, ROOT_ONLY)
    return True


def _is_roots_alone(file: str) -> bool:
    try:
        status = os.stat(file)
    except PermissionError:
        # As Let's Encrypt does it: its folders are root's.
        return True
    return status.st_uid == 0


def _check_secrets(loaded: Loaded, warn: Say) -> None:
    """Warn of secrets that other users of the machine can read."""
    config = loaded.config
    if os.name != "posix":
        return
    users = config.auth.users
    if users is not None and _others_read(users):
        warn(("auth", "users"), "every user of this machine can read the passwords: chmod o-r")
    if config.source is None or not _others_read(config.source):
        return
    for number, route in enumerate(config.routes):
        path = ("route", number)
        for name in [*outlets.SECRET & route.options.keys(), *_secret_urls(route)]:
            # A value from a variable or from another file is not in this one.
            if not any(one[:3] == (*path, name) for one in loaded.sources.secrets):
                warn((*path, name), READABLE)


def _secret_urls(route: RouteTable) -> Iterator[str]:
    from aiosmtpd.delivery.outlets import has_secret

    for name in "to", "bounce":
        url = getattr(route, name)
        if url is not None and has_secret(url):
            yield name


def _others_read(file: str) -> bool:
    try:
        return bool(os.stat(file).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _check_user(config: Config, say: Say, warn: Say) -> bool:
    """Return True if the user of the workers is known on this machine."""
    if os.name != "posix":
        return True
    import grp
    import pwd

    known = True
    if config.group is not None:
        try:
            grp.getgrnam(config.group)
        except KeyError:
            say(("group",), f"there is no group {config.group} on this machine")
            known = False
    if config.user is not None:
        try:
            user = pwd.getpwnam(config.user)
        except KeyError:
            say(("user",), f"there is no user {config.user} on this machine")
            return False
        if os.geteuid() not in (0, user.pw_uid):
            warn(("user",), f"only root can start the server: it becomes {config.user}")
    elif os.geteuid() == 0:
        warn(("user",), f"missing: started as root, workers become {DEFAULT_USER}")
    return known


def _try_as_worker(config: Config, online: bool, say: Say, warn: Say) -> None:
    """Try the spool and the handler as the user of the workers."""
    identity = None
    if os.name == "posix" and os.geteuid() == 0:
        user = config.user or DEFAULT_USER
        identity = identity_to_assume(user, config.group, default=user, pwd=import_module("pwd"))
    order = json.dumps(
        {
            "config": config.to_json(),
            "online": online,
            "identity": None if identity is None else attrs.asdict(identity),
        }
    )
    # -P: as in workers, nothing in the current folder takes the place of a module. Here that would
    # run with the rights of root.
    command = [sys.executable, "-P", "-m", "aiosmtpd.runner.tryout"]
    if sys.flags.isolated:
        command.insert(1, "-I")
    try:
        done = subprocess.run(  # noqa: S603 - this Python
            command,
            input=order,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=TRYOUT,
            check=False,
        )
        said = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        say(("handler",) if config.handler else ("route",), f"not made after {TRYOUT:.0f} s")
        return
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        say(("handler",) if config.handler else ("route",), f"cannot be tried: {last}")
        return
    for path, text, is_fault in said:
        (say if is_fault else warn)(tuple(path), text)
