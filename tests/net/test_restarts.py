"""Rolling restarts: the listening socket is held elsewhere, and no client is lost."""

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import Iterator

import pytest

from aiosmtpd import Server
from aiosmtpd.handlers import Sink
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.support import aside, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")

ONE_BY_ONE, POOLED = 20, 10
RESTARTS = 2
LINGER = 0.7

TRANSACTION = (
    (b"MAIL FROM:<a@a.test>\r\n", b"250"),
    (b"RCPT TO:<b@b.test>\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (b"Subject: x\r\n\r\nbody\r\n.\r\n", b"250"),
)


class Farewell(Exception):
    """The server has said 421."""


class Clients:
    """Clients that go on until *are_done*, and what happened to them."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self.port = port
        self.tls = tls
        self.seen: Counter[str] = Counter()
        self.are_done = False

    async def session(self, *, is_pooled: bool) -> None:
        """Run one connection: a message and QUIT, or messages until the server ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        where = "before a transaction"

        async def ask(line: bytes, code: bytes) -> None:
            writer.write(line)
            while (reply := await reader.readline())[3:4] == b"-":
                pass
            if reply.startswith(b"421"):
                raise Farewell
            assert reply.startswith(code), reply or "an end without a word"

        try:
            await ask(b"", b"220")
            await ask(b"EHLO client.test\r\n", b"250")
            self.seen["pooled connections"] += is_pooled
            while True:
                where = "between transactions"
                for line, code in TRANSACTION:
                    await ask(line, code)
                    where = "in a transaction"
                self.seen["messages"] += 1
                if not is_pooled or self.are_done:
                    break
            await ask(b"QUIT\r\n", b"221")
        except Farewell:
            self.seen[f"421 {where}"] += 1
            assert await reader.read() == b"", "more after a 421"
        finally:
            writer.close()

    async def go_on(self, *, is_pooled: bool) -> None:
        """Connect anew after each session; each farewell is counted."""
        while not self.are_done:
            await self.session(is_pooled=is_pooled)
            self.seen["sessions"] += not is_pooled

    async def all_pooled(self, number: int) -> None:
        """Wait until each pooled client has its connection of this number."""
        await until(lambda: self.seen["pooled connections"] == number * POOLED)


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """The listening socket of a master, which never closes it."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        yield sock


async def replace(server: Server, held: socket.socket) -> Server:
    """Start the next server, then stop this one."""
    after = Server(Sink(), listen=f"fd:{held.fileno()}", ssl_context=server.ssl_context)
    await after.start()
    await server.stop(PATIENCE, linger=LINGER)
    return after


async def restart_under(clients: Clients, held: socket.socket, tls: ssl.SSLContext | None) -> None:
    """Replace the server a few times; raise the error of a client that was let down."""
    server = Server(Sink(), listen=f"fd:{held.fileno()}", ssl_context=tls)
    await server.start()
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(ONE_BY_ONE + POOLED):
                group.create_task(clients.go_on(is_pooled=number < POOLED))
            await clients.all_pooled(1)
            for number in range(RESTARTS):
                server = await replace(server, held)
                await clients.all_pooled(number + 2)
            clients.are_done = True
    finally:
        await server.stop(0)


async def test_a_command_that_crosses_the_421_resets_nothing() -> None:
    server = Server(Sink())
    await server.start()
    with await aside(Client, server.addresses[0]) as client:
        stopping = asyncio.create_task(server.stop(PATIENCE, linger=0.01))
        await aside(client.expect, b"421 4.3.2")
        # The server has closed: a socket that is gone answers each of these with a reset.
        for _ in range(2):
            await aside(client.send, b"MAIL FROM:<a@a.test>\r\n")
        assert await aside(client.rest) == b""
    await stopping


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_rolling_restarts_lose_no_client(
    held: socket.socket, certificates: Certificates, tls: bool
) -> None:
    clients = Clients(held.getsockname()[1], certificates.client_context() if tls else None)
    async with asyncio.timeout(2 * PATIENCE):
        await restart_under(clients, held, certificates.server_context() if tls else None)
    seen = clients.seen
    # A reset, or an end without a word, would be an error of its client's task.
    assert seen["421 before a transaction"] == seen["421 in a transaction"] == 0
    # Each pooled connection but the last ends with one farewell, and no other connection does.
    assert seen["421 between transactions"] == RESTARTS * POOLED
    assert seen["pooled connections"] == (RESTARTS + 1) * POOLED
    assert seen["sessions"] >= RESTARTS * ONE_BY_ONE
    assert seen["messages"] > seen["sessions"]
