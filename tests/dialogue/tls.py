"""A TLS client in memory, and a peer of a server that may begin TLS."""

import asyncio
import ssl
from contextlib import suppress
from typing import Any

import pytest

from .transport import MemoryTransport

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""


@pytest.fixture(autouse=True)
def no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no handshake wait for the next turn of the loop, as on a busy machine."""
    monkeypatch.setattr("aiosmtpd.engine.handshakes.BUDGET", 60.0)


class Client:
    """The client's side of a TLS connection, as the ssl module has it."""

    def __init__(
        self,
        context: ssl.SSLContext,
        name: str = "localhost",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=name, session=session
        )
        self.established = self.ended = False

    def feed(self, data: bytes) -> None:
        """Let ciphertext arrive."""
        self._incoming.write(data)

    def shake_hands(self) -> bytes:
        """Go on with the handshake; return the bytes for the server."""
        with suppress(ssl.SSLWantReadError):
            self.object.do_handshake()
            self.established = True
        return self._outgoing.read()

    def alert(self) -> bytes:
        """Return the bytes that a failure has left for the server."""
        return self._outgoing.read()

    def write(self, data: bytes) -> bytes:
        """Return *data* as ciphertext."""
        self.object.write(data)
        return self._outgoing.read()

    def read(self) -> bytes:
        """Return the plain bytes that have come."""
        pieces = []
        try:
            while piece := self.object.read(65536):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return b"".join(pieces)

    def close(self) -> bytes:
        """Return a close_notify."""
        with suppress(ssl.SSLWantReadError):
            self.object.unwrap()
        return self._outgoing.read()


class HalfOpen(MemoryTransport):
    """A transport that shows when its server's side is closed."""

    has_ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take *data* as sent, if nothing has ended before it."""
        if self.has_ended:
            # As asyncio's own transport does.
            raise RuntimeError("write() after write_eof()")
        super().write(data)

    def write_eof(self) -> None:
        """Say that nothing more comes."""
        self.has_ended = True
        self.changed.set()


class Peer:
    """The client of a server in memory, in the clear until :meth:`starttls`."""

    def __init__(self, server: asyncio.Protocol) -> None:
        self.server: Any = server
        self.transport = HalfOpen(asyncio.get_running_loop(), server)
        self.tls: Client | None = None
        self.text = b""
        """The server's text since TLS began, or since the connection began."""
        self._position = 0

    def send(self, *pieces: bytes) -> None:
        """Let each piece arrive by itself: in TLS, each a record or more."""
        for piece in pieces:
            self.transport.feed(piece if self.tls is None else self.tls.write(piece))

    def ciphertext(self) -> bytes:
        """Return the bytes that have come since the last call."""
        data = bytes(self.transport.sent[self._position :])
        self._position += len(data)
        return data

    def read(self) -> bytes:
        """Return :attr:`text` after taking what has come."""
        data = self.ciphertext()
        if self.tls is not None:
            self.tls.feed(data)
            data = self.tls.read()
        self.text += data
        return self.text

    async def until(self, end: bytes) -> bytes:
        """Wait until the server's text ends so; return all of it."""
        async with asyncio.timeout(PATIENCE):
            while not self.read().endswith(end):
                assert not self.transport.is_closing(), self.text
                await self._change()
        return self.text

    async def ask(self, command: bytes, end: bytes) -> bytes:
        """Send a line, and wait for a text with this end; return what came."""
        before = len(self.read())
        self.send(command + b"\r\n")
        return (await self.until(end))[before:]

    async def _change(self) -> None:
        self.transport.changed.clear()
        await self.transport.changed.wait()

    async def greeted(self) -> None:
        """Wait for the greeting, and until the driver waits for the first command."""
        await self.until(b"\r\n")
        await asyncio.sleep(0)

    async def asks_for_tls(self) -> None:
        """Go up to the reply that lets a handshake begin."""
        await self.greeted()
        await self.ask(b"EHLO client.test", b"250 HELP\r\n")
        await self.ask(b"STARTTLS", b"220 Ready to start TLS\r\n")

    async def starttls(self, context: ssl.SSLContext) -> None:
        """Begin TLS; the handshake is done when this returns."""
        await self.asks_for_tls()
        await self.shake_hands(Client(context))

    async def shake_hands(self, client: Client, *, size: int = 1 << 20) -> None:
        """Do the handshake, in pieces of *size* bytes."""
        self.tls, self.text = client, b""
        async with asyncio.timeout(PATIENCE):
            while True:
                data = client.shake_hands()
                for begin in range(0, len(data), size):
                    self.transport.feed(data[begin : begin + size])
                if client.established:
                    return
                while not (data := self.ciphertext()):
                    await self._change()
                client.feed(data)

    async def ended(self) -> bytes:
        """Wait for the server's FIN; return its text."""
        async with asyncio.timeout(PATIENCE):
            while not (self.transport.is_closing() or self.transport.has_ended):
                await self._change()
        return self.read()

    async def finish(self) -> bytes:
        """Send a FIN, wait until the connection is over and return the server's text."""
        self.transport.feed_eof()
        await asyncio.wait_for(self.transport.lost.wait(), PATIENCE)
        return self.read()
