"""The sockets of the server: the master binds them once, and workers come and go.

On Linux each address of TCP has one socket for each slot, in a group (``SO_REUSEPORT``): the kernel
divides the connections. The master keeps them all open, so that no connection that waits in one is
lost when a worker ends. Elsewhere, and if another program has bound the sockets, all workers share
one socket for each address.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import attrs

from aiosmtpd.listen import sockets
from aiosmtpd.listen.addresses import Address, Listen, explain
from aiosmtpd.process.activation import passed_sockets
from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.config import Place

T = TypeVar("T")

HAS_GROUPS = sys.platform == "linux"

LOWEST_FREE_PORT = 1024
LOW_PORT = "; a port below 1024 needs root, or AmbientCapabilities= in the service of systemd"

ROUNDS, PAUSE = 10, 0.1
"""How often, and with how many seconds between, a place is tried that is taken.

The processes of a master that was killed need a moment to end.
"""


BACKLOG = 128
"""Clients of a Unix socket that may wait for the first worker."""


class Group:
    """The sockets of one address: one for each slot, or one for all."""

    def __init__(self, members: list[socket.socket], *, is_grouped: bool) -> None:
        self.members = members
        self.is_grouped = is_grouped
        self.file = None if is_grouped else sockets.file_of(members[0])

    @property
    def is_lost(self) -> bool:
        """True if the file of a Unix socket is gone: no client can connect any more."""
        return self.file is not None and not os.path.lexists(self.file[0])

    def extend(self, count: int) -> None:
        """Have as many sockets as there are slots, if each slot has one."""
        while self.is_grouped and len(self.members) < count:
            self.members.append(_bind_member(self.members[0]))

    def of_slot(self, slot: int, count: int) -> list[socket.socket]:
        """Return the sockets of a slot; if there are more than slots, all are given out."""
        return self.members[slot::count] if self.is_grouped else self.members

    def close(self) -> None:
        """Close the sockets of this process; workers that have them accept who waits there."""
        if self.is_grouped:
            for sock in self.members:
                sockets.begin_no_more(sock)
        sockets.close_all(self.members)


def _bind_member(first: socket.socket) -> socket.socket:
    """Return one more socket that is bound to the address of another."""
    sock = socket.socket(first.family, first.type, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if first.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(first.getsockname())
    except BaseException:
        sock.close()
        raise
    return sock


@attrs.frozen
class Passed:
    """A socket that a worker gets, and the scheme that it speaks there."""

    fd: int
    scheme: str


class Sockets:
    """Every socket of the server, by the place that the configuration names."""

    def __init__(self) -> None:
        self._groups: dict[Listen, list[Group]] = {}
        self._from_systemd: list[tuple[int, str]] | None = None

    async def bind(self, places: Iterable[Place], count: int) -> None:
        """Bind the places that are new or lost, and give each slot its sockets; all or nothing.

        Raises Failure with one line.
        """
        new: dict[Listen, list[Group]] = {}
        try:
            for place in places:
                key = _key(place)
                if self._is_missing(key) and key not in new:
                    new[key] = await self._bind(place)
            for group in (*self._all(), *(group for groups in new.values() for group in groups)):
                group.extend(count)
        except BaseException as error:
            for groups in new.values():
                _close(groups)
            if isinstance(error, OSError | OverflowError):
                raise Failure(_why(error), 1) from error
            raise
        for key, groups in new.items():
            # The files are gone: other sockets of the same place serve from now on.
            _close(self._groups.get(key, ()))
            self._groups[key] = groups

    def _is_missing(self, key: Listen) -> bool:
        groups = self._groups.get(key, ())
        return not groups or any(group.is_lost for group in groups)

    def of_slot(self, places: Iterable[Place], slot: int, count: int) -> list[Passed]:
        """Return the sockets of one slot of *count*, in the order of the places."""
        return [
            Passed(sock.fileno(), place.scheme or "smtp")
            for place in places
            for group in self._groups[_key(place)]
            for sock in group.of_slot(slot, count)
        ]

    def listening(self, places: Iterable[Place]) -> Iterator[tuple[str, socket.socket]]:
        """Name the scheme of each socket."""
        for place in places:
            for group in self._groups.get(_key(place), ()):
                for sock in group.members:
                    yield place.scheme or "smtp", sock

    def keep(self, places: Iterable[Place]) -> None:
        """Close the sockets of all other places."""
        wanted = {_key(place) for place in places}
        for key in self._groups.keys() - wanted:
            _close(self._groups.pop(key))

    def close(self) -> None:
        """Close all sockets, and remove the files of Unix sockets."""
        self.keep(())

    @property
    def addresses(self) -> list[Address]:
        """The addresses of all places."""
        return [_address(group.members[0]) for group in self._all()]

    def _all(self) -> Iterator[Group]:
        for groups in self._groups.values():
            yield from groups

    async def _bind(self, place: Place) -> list[Group]:
        if place.systemd is not None:
            passed = [sock for fd in self._passed(place.systemd) for sock in sockets.adopt_fd(fd)]
            return [_shared(sock, is_ours=False) for sock in passed]
        bound = await _patient(place)
        if place.port is not None and HAS_GROUPS:
            return _grouped(bound)
        if place.path is not None:
            for sock in bound:
                # Until then, another server would take its file for that of a dead one.
                sock.listen(BACKLOG)
        return [_shared(sock, is_ours=place.fd is None) for sock in bound]

    def _passed(self, name: str) -> Sequence[int]:
        if self._from_systemd is None:
            try:
                self._from_systemd = passed_sockets()
            except ValueError as error:
                raise Failure(str(error)) from None
        found = [fd for fd, known in self._from_systemd if name in ("", known)]
        if not found:
            wanted = f"no socket with the name {name}" if name else "no socket"
            raise Failure(f"systemd has passed {wanted}: see the .socket unit")
        return found


def _key(place: Place) -> Listen:
    """Return the place without its scheme: a socket may get another one at a reload."""
    return attrs.evolve(place, scheme=None)


def _grouped(bound: list[socket.socket]) -> list[Group]:
    """Bind the addresses of sockets again, now in groups, and close those sockets.

    The first ones have shown that no other server is there. A socket in a group would not: two
    servers of one user would divide the connections.
    """
    groups: list[Group] = []
    try:
        for sock in bound:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            groups.append(Group([_bind_member(sock)], is_grouped=True))
    except BaseException:
        _close(groups)
        raise
    finally:
        sockets.close_all(bound)
    return groups


async def _patient(place: Place) -> list[socket.socket]:
    try:
        return await patiently(lambda: sockets.bind(place))
    except OSError as error:
        if error.errno == errno.EACCES and 0 < (place.port or 0) < LOWEST_FREE_PORT:
            raise OSError(error.errno, f"{error.strerror}{LOW_PORT}") from error
        raise


async def patiently(bind: Callable[[], Awaitable[T]]) -> T:
    """Bind; try again if the place is taken. Raises OSError."""
    for last in reversed(range(ROUNDS)):
        try:
            return await bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not last:
                raise
        await asyncio.sleep(PAUSE)
    raise AssertionError("unreachable")  # pragma: no cover


def _shared(sock: socket.socket, *, is_ours: bool) -> Group:
    """Return the group of one socket; the file of another program's Unix socket stays."""
    group = Group([sock], is_grouped=False)
    if not is_ours:
        group.file = None
    return group


def _close(groups: Iterable[Group]) -> None:
    for group in groups:
        group.close()
        if group.file is not None:
            path, inode = group.file
            # Another server may have put its own socket there.
            with suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)


def _address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else os.fsdecode(name)


def _why(error: Exception) -> str:
    reason = explain(error)
    # An error without a place begins with the reason.
    is_placed = reason not in (str(error), getattr(error, "strerror", None))
    return f"Cannot listen{' on' if is_placed else ':'} {reason}"
