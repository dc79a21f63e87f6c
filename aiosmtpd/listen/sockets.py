"""The sockets of a server: bound here, or inherited from another process."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias, cast

from aiosmtpd.listen.addresses import LOOPBACKS as LOOPBACKS, Address, Listen

_SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

DEFAULT_PORT = 8025
MISSING_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)

PORT_ROUNDS = 16
"""How often a port is looked for that is free on every address."""

_ATTACH_FILTER = 26
"""Linux's SO_ATTACH_FILTER, which the socket module does not name."""

_FIRST_PACKETS = array(
    "B",
    b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x30, 0, 0, 13),  # the flags of TCP
            (0x54, 0, 0, 0x12),  # of them SYN and ACK
            (0x15, 0, 1, 0x02),  # SYN alone begins a connection:
            (0x06, 0, 0, 0),  # drop it
            (0x06, 0, 0, 0xFFFFFFFF),  # take all else
        )
    ),
)
"""A filter for listening sockets, in the kernel's form: (code, jump if true, if false, value)."""


async def bind(place: Listen) -> list[socket.socket]:
    """Bind the sockets of a place, or take its descriptor, without accepting connections.

    Raises OSError with the address in its text, OverflowError for a port that cannot exist.
    """
    if place.path is not None:
        return bind_unix(place.path)
    if place.fd is not None:
        return adopt_fd(place.fd)
    hosts = LOOPBACKS if place.host is None else [place.host]
    return await bind_tcp(hosts, DEFAULT_PORT if place.port is None else place.port)


async def bind_tcp(hosts: Iterable[str], port: int) -> list[socket.socket]:
    """Bind every address of the hosts to one port, in their order; ``""`` is every interface.

    Port 0 is a port that is free on all addresses. Addresses that this machine does not have are
    left out if one remains. Raises OSError (gaierror for a name) with the address in
    its text, OverflowError for a port that cannot exist.
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
    # An address needs no lookup, and so no thread: a thread of the pool would outlive it.
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
        is_local = family == getattr(socket, "AF_UNIX", None)
        # asyncio sets TCP_NODELAY only on connections to a socket that was made for TCP by name.
        sock = socket.socket(family, socket.SOCK_STREAM, 0 if is_local else socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)
            if not is_local and os.name == "posix":
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
    """Bind a Unix socket; replace the file that a dead server has left.

    Raises OSError with the path in it: EADDRINUSE if a server answers there, or if the file is not
    a socket.
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
    except (OSError, ValueError):
        # ValueError: an abstract socket has no file.
        return False
    return False


def adopt_fd(number: int) -> list[socket.socket]:
    """Take a copy of a bound stream socket inherited from the parent process.

    Raises OSError with the number in it if the descriptor is not such a socket.
    """
    try:
        copy = os.dup(number)
        try:
            sock = socket.socket(fileno=copy)
        except BaseException:
            os.close(copy)
            raise
    except OSError as error:
        raise OSError(error.errno, f"fd:{number} is not a socket: {error.strerror}") from None
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise OSError(errno.EPROTOTYPE, f"fd:{number} is not a stream socket")
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


def begin_no_more(sock: socket.socket) -> None:
    """Let the kernel begin no more connections at a TCP socket that is about to close.

    Those that have begun can still be accepted. Without this, one that comes between the last
    accept() and the close is reset. New clients repeat their first packet after a second, and are
    refused if the socket is closed by then. The socket stays deaf to them in every process that has
    it, so no other server may have it. Only Linux can do it.
    """
    if sys.platform == "linux" and _is_inet(sock):
        address, _ = _FIRST_PACKETS.buffer_info()
        count = len(_FIRST_PACKETS) // struct.calcsize("HBBI")
        # A sandbox may know no filters.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", count, address))


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close sockets; some may be closed already."""
    for sock in sockets:
        sock.close()


def addresses_of(server: asyncio.AbstractServer | None) -> list[Address]:
    """Return the addresses of a server, also of one that the event loop has made."""
    return [_name_of(sock) for sock in getattr(server, "sockets", ())]


def _is_inet(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def _name_of(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if _is_inet(sock):
        return (name[0], name[1])
    return os.fsdecode(name)


def file_of(sock: socket.socket) -> tuple[str, int] | None:
    """Return the path and the inode of a Unix socket's file; None if it has no file."""
    if _is_inet(sock):
        return None
    path = os.fsdecode(sock.getsockname())
    try:
        return path, os.stat(path).st_ino
    except (OSError, ValueError):
        # Abstract and unnamed sockets have no file.
        return None
