"""The small HTTP server for metrics and health."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aiosmtpd.runner.health import CLIENTS, REQUEST, Answer, Health
from tests.client import PATIENCE


async def broken(query: str) -> Answer:
    raise ValueError(query)


async def echo(query: str) -> Answer:
    return Answer(503, f"<{query}>\n")


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    health = Health({"/echo": echo, "/broken": broken})
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await health.start([sock])
    try:
        yield port
    finally:
        health.stop()
        async with asyncio.timeout(PATIENCE):
            await health.idle()


async def ask(port: int, request: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    return answer.decode()


def get(target: str, method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_a_page_gets_its_query() -> None:
    async with serving() as port:
        head, _, body = (await ask(port, get("/echo?verbose"))).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
    assert "Content-Length: 10\r\n" in head
    assert body == "<verbose>\n"


async def test_head_has_no_body() -> None:
    async with serving() as port:
        answer = await ask(port, get("/echo", "HEAD"))
    assert "Content-Length: 3\r\n" in answer
    assert answer.endswith("\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/none"), "404 Not Found"),
        (get("/echo", "POST"), "405 Method Not Allowed"),
        (b"EHLO x\r\n\r\n", "400 Bad Request"),
        (b"GET /echo HTTP/1.1\r\n", "400 Bad Request"),
        (b"GET /" + b"x" * 2 * REQUEST + b" HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (get("/broken?why"), "500 Internal Server Error"),
    ],
    ids=["unknown", "post", "smtp", "half", "long", "broken"],
)
async def test_requests_that_get_no_page(
    request_: bytes, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as port:
        answer = await ask(port, request_)
    assert answer.startswith(f"HTTP/1.1 {status}\r\n")
    assert "why" not in answer
    assert ("Allow: GET, HEAD" in answer) == status.startswith("405")


async def refused(port: int) -> bool:
    """Return True if a client is closed before it asks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    return not answer


async def test_one_client_too_many_gets_no_answer() -> None:
    async with serving() as port:
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CLIENTS)]
        assert await refused(port)
        for reader, writer in waiting:
            writer.write(get("/echo"))
            assert (await reader.read()).endswith(b"<>\n")
            writer.close()
        assert (await ask(port, get("/echo"))).endswith("<>\n")


async def test_a_silent_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.runner.health.PATIENCE", 0.01)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()


def test_the_end_logs_no_error_for_a_client(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as client:

        async def end() -> None:
            health = Health({"/echo": echo})
            sock = socket.create_server(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            await health.start([sock])
            client.connect(("127.0.0.1", port))
            # This one is answered, so that the first is served too.
            assert (await ask(port, get("/echo"))).endswith("<>\n")
            health.stop()

        asyncio.run(end())
    assert caplog.text == ""
