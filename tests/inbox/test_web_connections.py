"""Connections to the page that ask for nothing, and too many of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from uvicorn.server import Server

from aiosmtpd.inbox import web
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store
from aiosmtpd.inbox.web import Web
from aiosmtpd.listen.addresses import Listen

ASK = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """A connection to a page."""

    def __init__(self, page: Web) -> None:
        self._page = page

    async def __aenter__(self) -> "Client":
        [address] = self._page.addresses
        assert not isinstance(address, str)
        self._reader, self._writer = await asyncio.open_connection(*address)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def status(self) -> bytes:
        """Return the first line of an answer, after the whole header has come."""
        return (await self._reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0]

    async def rest(self) -> bytes:
        """Return what comes until the server closes."""
        return await self._reader.read()


@asynccontextmanager
async def served(store: Store) -> AsyncIterator[Web]:
    page = Web(Services(store), Listen(host="127.0.0.1", port=0))
    await page.start()
    try:
        async with asyncio.timeout(20):
            yield page
    finally:
        await page.stop()


@pytest.mark.parametrize(
    ("begin", "has_asked"),
    [(b"", False), (b"G", False), (ASK[:-2], False), (b"G", True), (ASK[:-2], True)],
    ids=range(5),
)
async def test_a_connection_without_a_request_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch, begin: bytes, has_asked: bool
) -> None:
    monkeypatch.setattr(web, "SECONDS_TO_ASK", 0.1)
    async with served(store) as page, Client(page) as client:
        if has_asked:
            client.send(ASK)
            assert await client.status() == b"HTTP/1.1 200 OK"
        client.send(begin)
        assert await client.rest() == b""


async def test_a_request_may_take_longer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SECONDS_TO_ASK", 0.1)
    async with served(store) as page, Client(page) as client:
        client.send(ASK.replace(b"/livez", b"/api/wait/none?within=0.3"))
        assert await client.status() == b"HTTP/1.1 200 OK"


async def test_too_many_connections(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "most_connections", lambda: 2)
    async with served(store) as page, Client(page) as first, Client(page) as second:
        for client in first, second:
            client.send(ASK)
            assert await client.status() == b"HTTP/1.1 200 OK"
        async with Client(page) as third:
            assert await third.status() == b"HTTP/1.1 503 Service Unavailable"
            assert await third.rest() == b"too many connections"
        first.send(ASK)
        assert await first.status() == b"HTTP/1.1 200 OK"


def test_the_system_has_a_number_of_connections() -> None:
    assert 50 <= web.most_connections() <= web.MOST_CONNECTIONS


async def test_a_stop_closes_connections_that_uvicorn_leaves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave(self: Server, sockets: object = None) -> None:
        """End as if all connections had been accepted a moment too late."""

    async with served(store) as page, Client(page) as client:
        client.send(ASK)
        assert await client.status() == b"HTTP/1.1 200 OK"
        monkeypatch.setattr(Server, "shutdown", leave)
        await page.stop()
        # Before the five seconds after which uvicorn closes a client at rest.
        async with asyncio.timeout(3):
            assert await client.rest() == b""
