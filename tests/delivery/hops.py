"""Next hops for the tests of outlets: our own server, and one that follows a script."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiosmtpd.delivery.item import Arrival, Item
from aiosmtpd.server import Server
from aiosmtpd.smtp import ALL, SMTP, Envelope, Session

SENDER = "sender@example.com"
CONTENT = b"Subject: hello\r\n\r\nbody\r\n"


def item_of(
    *recipients: str,
    content: bytes | Path = CONTENT,
    sender: str = SENDER,
    id: str = "queue-id-1",
    **arrival: Any,
) -> Item:
    """Return an item; a path stands for a large message in a file."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return Item(
        id=id,
        sender=sender,
        recipients=recipients or ("one@example.com",),
        arrival=Arrival(**arrival),
        size=size,
        content=content if isinstance(content, bytes) else lambda: content.open("rb"),
    )


class Taking:
    """A handler that keeps what comes; it refuses the recipients that it has a reply for."""

    def __init__(self, refusals: Mapping[str, str] | None = None, reply: Any = "250 OK") -> None:
        self.refusals = refusals or {}
        self.reply = reply
        self.envelopes: list[Envelope] = []
        self.sessions: list[Session] = []

    @property
    def envelope(self) -> Envelope:
        (envelope,) = self.envelopes
        return envelope

    @property
    def content(self) -> bytes:
        return bytes(self.envelope.original_content or b"")

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options = [*envelope.rcpt_options, *options]
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> Any:
        self.sessions.append(session)
        self.envelopes.append(envelope)
        return self.reply


@asynccontextmanager
async def serving(handler: Any, scheme: str = "smtp", **keywords: Any) -> AsyncIterator[str]:
    """Serve in this loop; yield ``HOST:PORT``."""
    server = Server(
        handler,
        listen=f"{scheme}://127.0.0.1:0",
        **{"extensions": ALL, "hostname": "hop.example.com", **keywords},
    )
    async with server:
        address = server.addresses[0]
        assert not isinstance(address, str)
        yield f"{address[0]}:{address[1]}"


HANG, CLOSE, RESET = object(), object(), object()
"""Steps of a script: say nothing more, end the connection, reset it."""


class Script:
    """A hop that answers each command as a script says.

    A step is a reply without its CRLF, several lines with it, or one of HANG, CLOSE, RESET. A list
    has the steps of one command in their order. ``.`` is the end of the message, and ``data`` the
    first bytes of it.
    """

    def __init__(self, **steps: Any) -> None:
        self.steps: dict[str, Any] = {
            "greeting": "220 hop.example.com",
            "EHLO": "250 hop.example.com",
            "LHLO": "250-hop.example.com\r\n250 PIPELINING",
            "MAIL": "250 OK",
            "RCPT": "250 OK",
            "DATA": "354 go on",
            "data": "",
            ".": "250 OK",
            "QUIT": "221 bye",
            **steps,
        }
        self.commands: list[str] = []
        self.message = b""
        self.words: asyncio.Queue[str] = asyncio.Queue()

    async def until(self, word: str, times: int = 1) -> None:
        """Wait until a command has come so many times."""
        while times:
            times -= await self.words.get() == word

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._say(writer, "greeting")
            while line := await reader.readline():
                self.commands.append(line.decode().rstrip("\r\n"))
                word = line.split()[0].decode().upper() if line.split() else ""
                self.words.put_nowait(word)
                await self._say(writer, word)
                if word == "DATA" and str(self.steps["DATA"]).startswith("354"):
                    await self._take(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, "data")
        while not self.message.endswith(b"\r\n.\r\n"):
            piece = await reader.read(65536)
            if not piece:
                raise ConnectionError
            self.message += piece
        await self._say(writer, ".")

    async def _say(self, writer: asyncio.StreamWriter, word: str) -> None:
        step = self.steps.get(word, "502 not in the script")
        if isinstance(step, list):
            step = step.pop(0)
        if isinstance(step, Callable):  # type: ignore[arg-type]
            step = await step()
        if step is HANG:
            await asyncio.Event().wait()
        if step is RESET:
            writer.transport.abort()
            raise ConnectionError
        if step is CLOSE:
            raise ConnectionError
        if step:
            writer.write(step if isinstance(step, bytes) else f"{step}\r\n".encode())
            await writer.drain()


@asynccontextmanager
async def scripted(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve a script in this loop; yield ``HOST:PORT``."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script.serve(reader, writer)
        except asyncio.CancelledError:
            # The server of asyncio reports the exceptions of its tasks.
            pass

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
