"""A door of the desk: a server that answers one request of each client, within limits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

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
        self._servers: list[asyncio.AbstractServer] = []
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Accept clients at *sockets*, which belong to this door from now on."""
        for sock in sockets:
            # Not start_unix_server(), which removes the file at its end: it is the master's.
            server = await asyncio.start_server(self._serve, sock=sock, limit=self._longest)
            self._servers.append(server)

    def stop(self) -> None:
        """Accept no more clients."""
        while self._servers:
            self._servers.pop().close()

    async def idle(self) -> None:
        """Wait until no client is left."""
        await self._is_idle.wait()

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
