"""``open()`` and ``close()`` of a handler: servers await both, and leave other methods alone."""

import asyncio
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from aiosmtpd.controller import Controller, UnthreadedController
from aiosmtpd.handlers import Sink
from aiosmtpd.server import Server
from tests.client import Client


class Lively:
    """Notes what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error: Exception | None = None

    async def open(self) -> None:
        self.calls.append("open")
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.calls.append("close")

    async def handle_DATA(self, *_: Any) -> str:
        self.calls.append("DATA")
        return "250 OK"


def send(port: int) -> None:
    with Client(port) as client:
        client.transaction()
        client.send(b"x\r\n.\r\n")
        assert client.reply()[:3] == b"250"


async def test_a_server_opens_and_closes() -> None:
    handler = Lively()
    async with Server(handler) as server:
        assert handler.calls == ["open"]
        await asyncio.to_thread(send, int(server.addresses[0][1]))
    assert handler.calls == ["open", "DATA", "close"]
    await server.stop()
    assert handler.calls == ["open", "DATA", "close"]
    async with server:
        pass
    assert handler.calls[3:] == ["open", "close"]


def test_a_controller_opens_and_closes() -> None:
    handler = Lively()
    with Controller(handler, port=0) as controller:
        send(controller.port)
    assert handler.calls == ["open", "DATA", "close"]


async def test_a_controller_in_the_loop() -> None:
    handler = Lively()
    async with UnthreadedController(handler, port=0) as controller:
        await asyncio.to_thread(send, controller.port)
    assert handler.calls == ["open", "DATA", "close"]


async def test_open_that_fails_stops_the_start() -> None:
    handler = Lively()
    handler.error = ValueError("no database")
    server = Server(handler)
    with pytest.raises(ValueError, match="no database"):
        await server.start()
    assert server.addresses == []
    with pytest.raises(ValueError, match="no database"):
        await asyncio.to_thread(Controller(handler, port=0).start)
    assert handler.calls == ["open", "open"]


async def test_close_comes_after_a_failed_bind() -> None:
    handler = Lively()
    async with Server(Sink()) as other:
        controller = Controller(handler, "127.0.0.1", int(other.addresses[0][1]))
        with pytest.raises(OSError):
            await asyncio.to_thread(controller.start)
    assert handler.calls == ["open", "close"]


class Plain:
    """A handler for 1.4 whose program calls these methods itself."""

    def open(self) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


class WithFile(Lively):
    async def open(self, name: str) -> None:  # type: ignore[override]
        raise AssertionError


class ClosesOnly:
    async def close(self) -> None:
        raise AssertionError


class Attributes:
    def __init__(self) -> None:
        self.open = self.close = AsyncMock(side_effect=AssertionError)


class Answers:
    def __getattr__(self, name: str) -> Any:
        if name.startswith("handle_"):
            raise AttributeError
        raise AssertionError


@pytest.mark.parametrize(
    "handler",
    [Plain(), WithFile(), ClosesOnly(), Attributes(), Answers(), Lively, Mock(), MagicMock()],
    ids=lambda handler: type(handler).__name__,
)
async def test_methods_of_programs_are_left_alone(handler: Any) -> None:
    async with Server(handler):
        pass
    if isinstance(handler, Mock):
        assert not handler.open.called
        assert not handler.close.called
