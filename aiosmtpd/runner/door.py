"""A door of the desk: a server that answers one request of each client, within limits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

from aiosmtpd.listen.listener import Listener

PATIENCE = 5.0
"""Seconds that a client has for its request, and then to take the answer."""


class Door:
    """Serves listening sockets. A subclass has :meth:`answer`.

    More clients than *clients* at the same time are disconnected. A request has at most *longest*
    bytes.
    """

    def __init__(self, clients: int, longest: int) -> None:
        self._most = clients
        self._longest = longest
        self._clients = 0
        self._listeners: list[Listener] = []
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Accept clients at *sockets*, which belong to this door from now on."""
        # Not asyncio.start_server(): it drops clients that are accepted in the turn of its end.
        for sock in sockets:
            sock.setblocking(False)
            # Another desk may have the socket, too, and the file of a Unix socket is the master's.
            listener = Listener([sock], self._protocol, is_shared=True)
            self._listeners.append(listener)
            await listener.start_serving()

    def stop(self) -> None:
        """Accept no more clients."""
        for listener in self._listeners:
            listener.close()

    async def idle(self) -> None:
        """Wait until no client is left, after :meth:`stop`."""
        for listener in self._listeners:
            await listener.end_arrivals()
        await self._is_idle.wait()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=self._longest)
        return asyncio.StreamReaderProtocol(reader, self._serve)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a client; OSError and TimeoutError are its end, and not worth a line."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        self._is_idle.clear()
        try:
            # At the end of the desk, asyncio would log each cancelled task as an error.
            with suppress(OSError, TimeoutError, asyncio.CancelledError):
                if self._clients <= self._most:
                    await self.answer(reader, writer)
                    async with asyncio.timeout(PATIENCE):
                        writer.close()
                        await writer.wait_closed()
        finally:
            self._clients -= 1
            if not self._clients:
                self._is_idle.set()
            # A client that does not read would stay for ever.
            writer.transport.abort()
