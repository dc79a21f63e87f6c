"""Private attributes of aiosmtpd 1.4 that existing programs use, emulated.

``SMTP`` takes them in at its end. Each works on an instance as it did: it can be read and set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import attrs

from aiosmtpd.engine import auth, hooks
from aiosmtpd.engine.connection import Connection, Disconnected
from aiosmtpd.engine.transport import Transport


class _Side:
    """The parts that the reader and the writer of a connection share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _transport(self) -> asyncio.BaseTransport | None:
        return _transport_of(self._connection)

    @_transport.setter
    def _transport(self, transport: asyncio.BaseTransport) -> None:
        _switch_transport(self._connection, transport)


class Reader(_Side):
    """Reads like an :class:`asyncio.StreamReader` from a connection's receiver."""

    def at_eof(self) -> bool:
        """Return True if nothing waits and nothing will come."""
        connection = self._connection
        return (connection._eof or connection._lost) and not connection._receiver.waiting

    async def read(self, n: int = -1) -> bytes:
        """Return at most *n* bytes, or all until the end if *n* is negative."""
        if n == 0:
            return b""
        if n < 0:
            pieces = []
            while piece := await self.read(65536):
                pieces.append(piece)
            return b"".join(pieces)
        connection = self._connection
        try:
            while not connection._receiver.waiting:
                await connection._more()
        except Disconnected:
            return b""
        return connection._receiver.take(n)

    async def readexactly(self, n: int) -> bytes:
        """Return *n* bytes; raise IncompleteReadError if the input ends before."""
        data = bytearray()
        while len(data) < n:
            if not (piece := await self.read(n - len(data))):
                raise asyncio.IncompleteReadError(bytes(data), n)
            data += piece
        return bytes(data)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Return the bytes up to and with *separator*; raise IncompleteReadError."""
        data = bytearray()
        while not data.endswith(separator):
            if len(data) > 65536:
                raise asyncio.LimitOverrunError("separator is not found", len(data))
            if not (piece := await self.read(1)):
                raise asyncio.IncompleteReadError(bytes(data), None)
            data += piece
        return bytes(data)

    async def readline(self) -> bytes:
        """Return a line with its end, or the rest if the input ends before."""
        try:
            return await self.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial


class Writer(_Side):
    """Writes like an :class:`asyncio.StreamWriter` to a connection."""

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """The connection's transport."""
        return self._connection.transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* after the replies that wait.

        Raises TypeError, as asyncio does, unless *data* is bytes-like.
        """
        # A copy: the program may change a buffer of its own while these bytes wait.
        self._connection.send(bytes(memoryview(data)))

    def writelines(self, data: list[bytes]) -> None:
        """Send all of *data*."""
        self.write(b"".join(data))

    async def drain(self) -> None:
        """Wait while the peer leaves too much unread."""
        if self._connection._drained is not None:
            await self._connection._drained

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def is_closing(self) -> bool:
        """Return True if the connection is closed or about to be."""
        return self._connection.transport is None or self._connection.transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the transport."""
        transport = self._connection.transport
        return default if transport is None else transport.get_extra_info(name, default)


def _transport_of(connection: Connection) -> asyncio.BaseTransport | None:
    """Return the transport of a connection: the one that the program has set, if it has."""
    transport = connection.transport
    if isinstance(transport, Transport) and transport.is_foreign:
        return transport.raw
    return transport


def _switch_transport(connection: Connection, transport: asyncio.BaseTransport) -> None:
    """Go on with another transport, as a subclass's own STARTTLS wants; a session begins."""
    if transport in (connection.session_transport, _transport_of(connection)):
        return
    connection._begin_session(transport)
    if isinstance(connection.transport, Transport):  # pragma: no branch - it is not, on uvloop
        connection.transport.is_foreign = connection.transport is not transport


def setting(name: str) -> Any:
    """Return a property for one of the settings; setting it changes this connection alone."""

    def set_it(server: Any, value: Any) -> None:
        # A subclass may set it before __init__(), which sets it anyway.
        if (settings := getattr(server, "settings", None)) is not None:
            server.settings = attrs.evolve(settings, **{name: value})

    return property(attrgetter(f"settings.{name}"), set_it)


def auth_callback() -> Any:
    """Return a property for the old callback, which is never None."""
    return property(
        lambda server: server.settings.auth_callback or auth.login_always_fail,
        setting("auth_callback").fset,
    )


def methods_by_verb(prefix: str, owner: Callable[[Any], Any]) -> Any:
    """Return a property with the methods of an owner whose names begin so, by verb."""

    def found(server: Any) -> dict[str, Callable[..., Any]]:
        one = owner(server)
        return {name.removeprefix(prefix): getattr(one, name) for name in hooks.names(one, prefix)}

    return property(found)
