"""A server whose driver is watched, for the tests of the fast path."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP
from tests.dialogue.transport import MemoryTransport

TURNS = 60
"""Turns of the event loop that the longest answer here takes."""

EHLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"
DATA = b"DATA\r\n"
BODY = b"Subject: x\r\n\r\nx\r\n.\r\n"
OK = b"250 OK\r\n"
GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class Network(MemoryTransport):
    """A transport with an optional client that reads nothing, and optional TLS."""

    def __init__(self, server: asyncio.Protocol, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(asyncio.get_running_loop(), server)
        self.tls = tls
        self.is_read = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.tls if name == "sslcontext" else super().get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if not self.is_read:
            self.is_read = True
            self._protocol.pause_writing()


SERVERS: list["Server"] = []
"""The servers of the running test."""


class Server(SMTP):
    """A server that a test feeds. It notes the command lines that its driver runs."""

    def __init__(
        self, handler: Any = None, tls: ssl.SSLContext | None = None, **keywords: Any
    ) -> None:
        super().__init__(handler or Sink(), hostname="mx.test", ident="test", **keywords)
        self.network = Network(self, tls)
        self.driven: list[bytes] = []
        SERVERS.append(self)

    def _execute(self, line: bytes) -> Coroutine[Any, Any, None]:
        self.driven.append(line)
        return super()._execute(line)

    async def ask(self, *pieces: bytes) -> bytes:
        """Return the replies to *pieces*, each fed when the driver is at rest."""
        before = len(self.network.sent)
        for data in pieces:
            self.network.feed(data)
            await turns(self)
        return bytes(self.network.sent[before:])

    def at_once(self, data: bytes) -> bytes:
        """Return what is sent while *data* is fed."""
        before = len(self.network.sent)
        self.network.feed(data)
        return bytes(self.network.sent[before:])


class ByTheDriver(Server):
    """A server whose driver runs every command."""

    async def push(self, status: str | bytes) -> None:
        await super().push(status)


async def turns(server: Server | None = None) -> None:
    """Let the event loop run everything that is ready, or until the driver of *server* rests."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if server is not None and server._wakeup.waiting:
            # Its replies leave in the next turn.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return


async def greeted(handler: Any = None, kind: type[Server] = Server, **keywords: Any) -> Server:
    """Return a server that waits for the first MAIL."""
    server = kind(handler, **keywords)
    await turns()
    await server.ask(EHLO)
    assert server.session.host_name == "client.test"
    server.driven.clear()
    return server


@pytest.fixture(autouse=True)
async def quiet(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Set the log's level, for at DEBUG no command takes the fast path; end all servers."""
    caplog.set_level(logging.INFO, "mail.log")
    yield
    while SERVERS:
        SERVERS.pop().network.reset()
    await turns()
