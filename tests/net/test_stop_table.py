"""The table of docs/howto/deploy: each kind of client, and how a server stops."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from aiosmtpd.server import Server
from tests.client import PATIENCE
from tests.conftest import Certificates

DOWN = b"421 4.3.2 Service shutting down, closing connection\r\n"
HELLO = b"\x16\x03\x01\x02\x00"
LINUX = sys.platform == "linux"

pytestmark = pytest.mark.skipif(not LINUX, reason="needs a second address of the loopback")

TRANSACTION = (b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>")


class Waits:
    """A handler whose hook waits until the test lets it go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def handle_CONNECT(self, server: Any, *_: Any) -> str:
        if server.session.peer[0] == "127.0.0.2":
            await self.let_go.wait()
        return "220 mx.test"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if envelope.rcpt_tos == ["slow@d.test"]:
            await self.let_go.wait()
        return "250 OK"


class Peer:
    """A client, and the bytes that it has seen since the server began to stop."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._port, self._host = port, host

    async def connect(self) -> "Peer":
        where = (self._host, 0)
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=where
        )
        return self

    async def ask(self, *lines: bytes) -> "Peer":
        for line in (None, *lines):
            if line is not None:
                self.writer.write(line + b"\r\n")
            while (await self.reader.readline())[3:4] == b"-":
                pass
        return self

    async def rest(self) -> bytes:
        """Return all bytes up to the end of the connection; a reset fails."""
        async with asyncio.timeout(PATIENCE):
            seen = await self.reader.read()
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()
        return seen


Clients = dict[str, Peer]


async def all_kinds(plain: int, tls: int) -> Clients:
    def at(port: int = plain, host: str = "127.0.0.1") -> Awaitable[Peer]:
        return Peer(port, host).connect()

    data = (b"EHLO a.test", *TRANSACTION, b"DATA")
    slow = (b"EHLO a.test", TRANSACTION[0], b"RCPT TO:<slow@d.test>", b"DATA")
    clients = {
        "rests": await (await at()).ask(b"EHLO a.test"),
        "in a transaction": await (await at()).ask(b"EHLO a.test", *TRANSACTION),
        "in mail data": await (await at()).ask(*data),
        "in mail data for ever": await (await at()).ask(*data),
        "in a hook": await (await at()).ask(*slow),
        "before its banner": await at(host="127.0.0.2"),
        "in a handshake": await at(tls),
    }
    clients["in a hook"].writer.write(b".\r\n")
    clients["in a handshake"].writer.write(HELLO)
    # A turn for each: the server has the bytes when another client has its reply.
    await (await (await at()).ask(b"NOOP", b"QUIT")).rest()
    return clients


Seen = dict[str, bytes]


@pytest.fixture
def stopped(certificates: Certificates) -> Callable[..., Awaitable[Seen]]:
    """Return a function that stops a server, and returns what each client has seen."""

    async def run(act: Callable[[Waits, Clients], None], **how: Any) -> Seen:
        handler = Waits()
        context: ssl.SSLContext = certificates.server_context()
        places = ["smtp://127.0.0.1:0", "smtps://127.0.0.1:0"]
        server = Server(handler, listen=places, ssl_context=context, shutdown_timeout=0.3)
        async with server:
            plain, tls = (int(address[1]) for address in server.addresses)
            clients = await all_kinds(plain, tls)
            # No turn of the loop accepts it before the stop.
            queued = socket.create_connection(("127.0.0.1", plain))
            stopping = asyncio.create_task(server.stop(**how))
            await asyncio.sleep(0)
            act(handler, clients)
            clients["in the queue"] = peer = Peer(plain)
            peer.reader, peer.writer = await asyncio.open_connection(sock=queued)
            seen = {name: await one.rest() for name, one in clients.items()}
            await stopping
        return seen

    return run


def go_on(handler: Waits, clients: Clients) -> None:
    """End what can end: the hooks, and one message."""
    handler.let_go.set()
    clients["in mail data"].writer.write(b"x\r\n.\r\n")


EXPECTED = {
    "rests": DOWN,
    "in a transaction": DOWN,
    "in mail data": b"250 OK\r\n" + DOWN,
    "in mail data for ever": DOWN,
    "in a hook": b"250 OK\r\n" + DOWN,
    "before its banner": b"220 mx.test\r\n" + DOWN,
    "in a handshake": b"",
    "in the queue": b"220 mx.test\r\n" + DOWN,
}


@pytest.mark.parametrize("how", [{}, {"timeout": 0.3}, {"linger": 0.2}])
async def test_clients_that_go_on(
    stopped: Callable[..., Awaitable[Seen]], how: dict[str, float]
) -> None:
    assert await stopped(go_on, **how) == EXPECTED


async def test_clients_that_wait_until_the_time_is_over(
    stopped: Callable[..., Awaitable[Seen]],
) -> None:
    """A hook that is cancelled gives no reply."""
    seen = await stopped(lambda *_: None, timeout=0)
    lost = {"in a hook": b"", "before its banner": b"", "in mail data": DOWN}
    assert seen == EXPECTED | lost


async def test_clients_that_leave_while_the_server_lingers(
    stopped: Callable[..., Awaitable[Seen]],
) -> None:
    def leave(handler: Waits, clients: Clients) -> None:
        go_on(handler, clients)
        clients["rests"].writer.write(b"QUIT\r\n")
        clients["in a transaction"].writer.write(b"DATA\r\n.\r\nNOOP\r\nQUIT\r\n")

    seen = await stopped(leave, linger=0.3)
    ready, bye = b"354 End data with <CR><LF>.<CR><LF>\r\n", b"221 Bye\r\n"
    assert seen == EXPECTED | {
        "rests": bye,
        "in a transaction": ready + b"250 OK\r\n250 OK\r\n" + bye,
    }
