"""Names that programs written for 1.4 lean on, answered by what the house has instead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiosmtpd.engine import hooks
from aiosmtpd.engine.connection import Connection, Disconnected

if TYPE_CHECKING:
    from collections.abc import Callable


class Reader:
    """Reads like an :class:`asyncio.StreamReader` from a connection's receiver."""

    def __init__(self, connection: Facades) -> None:
        self._connection = connection

    @property
    def _transport(self) -> asyncio.BaseTransport | None:
        return self._connection.transport

    @_transport.setter
    def _transport(self, transport: asyncio.BaseTransport) -> None:
        self._connection.switch_transport(transport)

    def at_eof(self) -> bool:
        """True where nothing waits and nothing will come."""
        return self._connection.at_eof()

    async def read(self, n: int = -1) -> bytes:
        """Return at most *n* octets, or all until the end where *n* is negative."""
        if n == 0:
            return b""
        if n < 0:
            pieces = []
            while piece := await self.read(65536):
                pieces.append(piece)
            return b"".join(pieces)
        try:
            return await self._connection.take(n)
        except Disconnected:
            return b""

    async def readexactly(self, n: int) -> bytes:
        """Return *n* octets; raises IncompleteReadError where they do not come."""
        data = bytearray()
        while len(data) < n:
            if not (piece := await self.read(n - len(data))):
                raise asyncio.IncompleteReadError(bytes(data), n)
            data += piece
        return bytes(data)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Return what comes up to and with *separator*; raises IncompleteReadError."""
        data = bytearray()
        while not data.endswith(separator):
            if len(data) > 65536:
                raise asyncio.LimitOverrunError("separator is not found", len(data))
            if not (piece := await self.read(1)):
                raise asyncio.IncompleteReadError(bytes(data), None)
            data += piece
        return bytes(data)

    async def readline(self) -> bytes:
        """Return a line with its end, or what there is where the input ends before."""
        try:
            return await self.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial


class Writer:
    """Writes like an :class:`asyncio.StreamWriter` to a connection."""

    def __init__(self, connection: Facades) -> None:
        self._connection = connection

    @property
    def _transport(self) -> asyncio.BaseTransport | None:
        return self._connection.transport

    @_transport.setter
    def _transport(self, transport: asyncio.BaseTransport) -> None:
        self._connection.switch_transport(transport)

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """The connection's transport."""
        return self._connection.transport

    def write(self, data: bytes) -> None:
        """Send *data* behind the replies that wait."""
        self._connection.send(data)

    def writelines(self, data: list[bytes]) -> None:
        """Send all of *data*."""
        self.write(b"".join(data))

    async def drain(self) -> None:
        """Wait while the peer leaves too much unread."""
        await self._connection.drain()

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def is_closing(self) -> bool:
        """True where the connection is closed or about to be."""
        return self._connection.transport is None or self._connection.transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the transport."""
        transport = self._connection.transport
        return default if transport is None else transport.get_extra_info(name, default)


class Facades(Connection):
    """A connection with the private names of 1.4."""

    __slots__ = ()

    event_handler: Any

    def switch_transport(self, transport: asyncio.BaseTransport) -> None:
        """Go on with another transport, as a subclass's own STARTTLS wants; a session begins."""
        if transport is not self.session_transport:
            self._begin_session(transport)

    async def take(self, octets: int) -> bytes:
        """Return at least one and at most *octets* octets of input. Raises Disconnected."""
        while not len(self._receiver):
            await self._more()
        return self._receiver.take(octets)

    def at_eof(self) -> bool:
        """True where nothing waits and nothing will come."""
        return (self._eof or self._lost) and not len(self._receiver)

    async def drain(self) -> None:
        """Wait while the peer leaves too much unread."""
        if self._drained is not None:
            await self._drained

    @property
    def _reader(self) -> Reader:
        return Reader(self)

    @property
    def _writer(self) -> Writer:
        return Writer(self)

    @property
    def _handle_hooks(self) -> dict[str, Callable[..., Any]]:
        """The handler's hooks by verb."""
        handler = self.event_handler
        names = hooks.names(handler, "handle_")
        return {name.removeprefix("handle_"): getattr(handler, name) for name in names}

    @property
    def _smtp_methods(self) -> dict[str, Callable[..., Any]]:
        """The methods of all verbs."""
        names = hooks.names(self, "smtp_")
        return {name.removeprefix("smtp_"): getattr(self, name) for name in names}
