"""Where a server listens: how an address is spelt, bound, served and named again."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from ssl import SSLContext
from typing import Literal, TypeAlias, cast

from attrs import frozen

from aiosmtpd.engine.registry import Registry
from aiosmtpd.listen.listener import Listener
from aiosmtpd.protocol.limits import Limits

Address: TypeAlias = tuple[str, int] | str
Socket: TypeAlias = socket.socket
Protocols: TypeAlias = Callable[[], asyncio.BaseProtocol]
_SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

LOOPBACKS = ("::1", "127.0.0.1")
SCHEMES = ("smtp", "smtps", "lmtp")
MISSING_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
LONGEST_NUMBER = 9
"""Digits of a port or descriptor; int() refuses thousands of them with an error of its own."""

PORT_ROUNDS = 16
"""How often a port is looked for that is free on every address."""


@frozen
class Listen:
    """One parsed place to listen at; what the text left out is None.

    Exactly one of `path`, `fd` and the pair of `host` and `port` counts. A `host` of None stands
    for the loopback addresses, a `port` of None for the default port, a `scheme` of None for what
    the server usually speaks.
    """

    scheme: Literal["smtp", "smtps", "lmtp"] | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    fd: int | None = None


def parse_listen(text: str) -> Listen:
    """Parse `[SCHEME://]PLACE`, the scheme being smtp, smtps or lmtp.

    PLACE is `HOST:PORT`, `HOST`, `:PORT`, `PORT`, an IPv6 address with or without brackets,
    `unix:PATH` or `fd:NUMBER`. Without brackets a last group of digits is the port where what is
    before it is an address too. Raises ValueError with a text of one line.
    """
    text = text.strip()
    if not text.isprintable():
        raise ValueError(f"Invalid address {text!r}")
    scheme, place = _split_scheme(text)
    if place.startswith("unix:"):
        path = place.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError(f"No socket path in {text!r}: write unix:/path/to/socket")
        return Listen(scheme, path=path)
    if place.startswith("fd:"):
        number = place.removeprefix("fd:")
        if not _is_number(number) or len(number) > LONGEST_NUMBER:
            raise ValueError(f"Invalid file descriptor: {number}")
        return Listen(scheme, fd=int(number))
    if "/" in place:
        raise ValueError(f"Invalid address {text!r}: a socket path is written unix:/path/to/socket")
    host, port = _split_port(place)
    return Listen(scheme, host=host or None, port=_port_number(port))


def _split_scheme(text: str) -> tuple[Literal["smtp", "smtps", "lmtp"] | None, str]:
    name, mark, place = text.partition("://")
    if not mark or name == "unix":
        return None, text
    scheme = name.lower()
    if scheme not in SCHEMES:
        raise ValueError(f"Unknown scheme {name!r} in {text!r}: write {', '.join(SCHEMES)}")
    return cast(Literal["smtp", "smtps", "lmtp"], scheme), place.removesuffix("/")


def _split_port(place: str) -> tuple[str, str | None]:
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or not _is_ipv6(host) or (rest and not rest.startswith(":")):
            raise ValueError(f"Invalid address {place!r}: write [IPV6-ADDRESS]:PORT")
        return host, rest[1:] or None
    if _is_number(place):
        return "", place
    host, colon, port = place.rpartition(":")
    if not colon:
        return place, None
    if _is_number(port) and _is_ipv6(host):
        return host, port
    if _is_ipv6(place):
        return place, None
    if _is_number(port) and ":" in host:
        raise ValueError(f"Invalid address {place!r}: write [IPV6-ADDRESS]:PORT")
    return host, port or None


def _port_number(port: str | None) -> int | None:
    if port is None:
        return None
    if not _is_number(port) or len(port) > LONGEST_NUMBER or int(port) > 65535:
        raise ValueError(f"Invalid port number: {port}")
    return int(port)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_ipv6(text: str) -> bool:
    address, _, _zone = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return True


def spell(address: Address) -> str:
    """Give an address as people write it: `host:port`, `[ipv6]:port` or the path."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses_of(server: asyncio.AbstractServer | None) -> list[Address]:
    """Tell where any event loop's server listens: `(host, port)` or the path of a Unix socket."""
    return [_name_of(sock) for sock in getattr(server, "sockets", ())]


async def serve(
    sockets: Sequence[socket.socket],
    protocols: Protocols,
    *,
    ssl_context: SSLContext | None = None,
    handshake_timeout: float = 30.0,
    limits: Limits | None = None,
    registry: Registry | None = None,
    remove_files: bool = True,
) -> Listener:
    """Accept connections on bound sockets, which are closed when this fails.

    `handshake_timeout` (seconds) bounds the TLS handshake when there is an `ssl_context`, `limits`
    how many go on at a time beside the connections of `registry`;
    `remove_files` says whether closing removes the files of Unix sockets.
    """
    files = [file for sock in sockets if (file := _file_of(sock)) is not None and remove_files]
    listener = Listener(
        sockets,
        protocols,
        ssl_context=ssl_context,
        handshake_timeout=handshake_timeout,
        limits=limits,
        registry=registry,
        files=files,
    )
    await listener.open()
    return listener


async def bind_tcp(hosts: Iterable[str], port: int) -> list[socket.socket]:
    """Bind every address of the hosts to one port, in their order; `""` is every interface.

    With port 0 a port is looked for that is free on all. Addresses that this machine does not have
    are left out as long as one remains. Raises OSError (gaierror for a name) with the address in
    its text, OverflowError for a port that is none.
    """
    if not 0 <= port <= 65535:
        # getaddrinfo() would cut it to 16 bits and bind some other port.
        raise OverflowError(f"port must be 0-65535: {port}")
    found = [address for host in hosts for address in await _resolve(host, port)]
    addresses = list(dict.fromkeys(found))
    rounds = PORT_ROUNDS if port == 0 and len(addresses) > 1 else 1
    for last in reversed(range(rounds)):
        try:
            return _bind_all(addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not last:
                raise
    raise AssertionError("unreachable")  # pragma: no cover


async def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, _SockAddr]]:
    # A number is no business of the loop's thread pool, which would outlive the lookup.
    passive, numeric = socket.AI_PASSIVE, socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=passive | numeric
        )
    except (socket.gaierror, UnicodeError):
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=passive)
        except socket.gaierror as error:
            raise socket.gaierror(error.errno, f"{error.strerror}: {host}") from None
        except UnicodeError:
            raise socket.gaierror(socket.EAI_NONAME, f"Not a host name: {host}") from None
    return [(family, cast(_SockAddr, address)) for family, _, _, _, address in found]


def _bind_all(addresses: Sequence[tuple[socket.AddressFamily, _SockAddr]]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    port = addresses[0][1][1]
    try:
        for family, (host, _, *scope) in addresses:
            try:
                sockets.append(_bind(family, (host, port, *scope)))
            except OSError as error:
                if error.errno not in MISSING_ADDRESS:
                    raise
                missing = error
            else:
                port = sockets[-1].getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def _bind(family: int, address: tuple[str | int, ...] | str) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if family != getattr(socket, "AF_UNIX", None) and os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        text = f"error while attempting to bind on address {address!r}: {reason}"
        raise OSError(error.errno or errno.EINVAL, text) from None
    return sock


def bind_unix(path: str) -> list[socket.socket]:
    """Bind a Unix socket in place of one that nobody listens on any more.

    Raises OSError with the path in it: EADDRINUSE if a server answers there or it is no socket.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, f"this system has no Unix sockets: {path}")
    try:
        return [_bind(socket.AF_UNIX, path)]
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
            raise
    os.unlink(path)
    return [_bind(socket.AF_UNIX, path)]


def _is_abandoned(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def adopt_fd(number: int) -> list[socket.socket]:
    """Take a copy of a bound stream socket inherited from the parent process.

    Raises OSError with the number in it when the descriptor is no such socket.
    """
    try:
        copy = os.dup(number)
        try:
            sock = socket.socket(fileno=copy)
        except BaseException:
            os.close(copy)
            raise
    except OSError as error:
        raise OSError(error.errno, f"fd:{number} is no socket: {error.strerror}") from None
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise OSError(errno.EPROTOTYPE, f"fd:{number} is no stream socket")
    if _is_connected(sock):
        sock.close()
        raise OSError(errno.EISCONN, f"fd:{number} is a connection, nothing can be accepted on it")
    sock.setblocking(False)
    return [sock]


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close sockets; those closed before do no harm."""
    for sock in sockets:
        sock.close()


def _is_inet(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def _name_of(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if _is_inet(sock):
        return (name[0], name[1])
    return os.fsdecode(name)


def _file_of(sock: socket.socket) -> tuple[str, int] | None:
    if _is_inet(sock):
        return None
    path = os.fsdecode(sock.getsockname())
    try:
        return path, os.stat(path).st_ino
    except (OSError, ValueError):
        # Abstract and unnamed sockets have no file.
        return None
