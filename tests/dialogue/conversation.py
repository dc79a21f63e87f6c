"""A dialogue that a test holds itself: send the client's commands, get the replies."""

import asyncio
from typing import Any, Self

from aiosmtpd.smtp import SMTP

from .harness import PATIENCE, finish
from .transport import MemoryTransport


class SecureTransport(MemoryTransport):
    """A transport that says that it is one of TLS."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return True if name == "sslcontext" else super().get_extra_info(name, default)


class Conversation:
    """A client of a server in memory."""

    def __init__(self, server: SMTP, *, tls: bool = False) -> None:
        kind = SecureTransport if tls else MemoryTransport
        self.transport = kind(asyncio.get_running_loop(), server)
        self._read = 0

    async def __aenter__(self) -> Self:
        assert (await self.reply()).startswith("220 ")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.feed_eof()
        await finish(self.transport)

    def send(self, data: bytes) -> None:
        self.transport.feed(data)

    async def reply(self) -> str:
        """Return the next reply, its lines joined by LF; empty if the server closes instead."""
        lines: list[str] = []
        while line := await self._line():
            lines.append(line)
            if line[3:4] != "-":
                break
        return "\n".join(lines)

    async def ask(self, command: str | bytes) -> str:
        """Send a command, return the reply."""
        self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
        return await self.reply()

    async def rest(self) -> bytes:
        """Wait for the end of the connection; return all that the server still sent."""
        await finish(self.transport)
        return bytes(self.transport.sent[self._read :])

    async def _line(self) -> str:
        sent = self.transport.sent
        async with asyncio.timeout(PATIENCE):
            while (end := sent.find(b"\r\n", self._read)) < 0:
                if self.transport.is_closing():
                    return ""
                self.transport.changed.clear()
                await self.transport.changed.wait()
        line = bytes(sent[self._read : end])
        self._read = end + 2
        return line.decode()
