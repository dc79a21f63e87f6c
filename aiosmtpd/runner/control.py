"""The channel between the master and a worker: a pair of sockets, and JSON in lines."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any, Self

LONGEST = 64 << 20
"""Bytes of the longest message: a configuration with many users."""


class Channel:
    """One end of the channel. A message is a dict; its keys say what it is about.

    :meth:`send` never waits. The messages are few and small, and the other end reads them at once,
    or is stopped and then killed.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, sock: socket.socket, longest: int = LONGEST) -> Self:
        """Return the channel of a socket, which belongs to it from now on.

        A message with more than *longest* bytes is the end of the channel.
        """
        return cls(*await asyncio.open_connection(sock=sock, limit=longest))

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; it is dropped if the other end has gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Wait for a message; return None if the other end has gone, or sends something else."""
        try:
            line = await self._reader.readline()
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    async def flush(self) -> None:
        """Wait until the messages are sent, or the other end has gone."""
        with suppress(OSError):
            await self._writer.drain()

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


def descriptor_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two connected sockets of a new channel, neither inherited by default."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs
