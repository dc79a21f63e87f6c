"""Controllers in the event loop of a program, before it runs or while it does."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from aiosmtpd.controller import Controller, UnthreadedController
from aiosmtpd.handlers import Sink
from tests.net.support import PATIENCE, Client
from tests.net.test_controller import LOCAL, Failing, StopsLoop, is_served, taken

# In a loop that the program runs.


async def greeting(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await asyncio.wait_for(reader.readline(), PATIENCE)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_begin_and_end(loop: asyncio.AbstractEventLoop) -> None:
    controller = UnthreadedController(Sink(), loop=loop, **LOCAL)
    for _ in range(2):
        controller.begin()
        assert not controller.ended.is_set()
        assert loop.run_until_complete(greeting(controller.port)).startswith(b"220 ")
        controller.end()
        assert controller.ended.is_set()
        assert not is_served(controller.port)
    with pytest.raises(AssertionError, match="not running"):
        controller.end()
    assert not loop.is_closed()


def test_finalize(loop: asyncio.AbstractEventLoop) -> None:
    controller = UnthreadedController(Sink(), loop=loop, **LOCAL)
    controller.begin()
    loop.run_until_complete(controller.finalize())
    assert controller.ended.is_set()
    loop.run_until_complete(controller.finalize())


def test_end_in_the_running_loop(loop: asyncio.AbstractEventLoop) -> None:
    controller = UnthreadedController(Sink(), loop=loop, **LOCAL)
    controller.begin()

    async def main() -> None:
        controller.end()
        controller.end()
        assert not controller.ended.is_set()
        await asyncio.to_thread(controller.ended.wait, PATIENCE)

    loop.run_until_complete(main())
    assert controller.ended.is_set()


def test_begin_in_a_running_loop() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"use `await controller.start_async\(\)`"):
            UnthreadedController(Sink(), **LOCAL).begin()

    asyncio.run(main())


def test_begin_twice(loop: asyncio.AbstractEventLoop) -> None:
    controller = UnthreadedController(Sink(), loop=loop, **LOCAL)
    controller.begin()
    with pytest.raises(AssertionError, match="already running"):
        controller.begin()
    controller.end()


def test_begin_that_fails(loop: asyncio.AbstractEventLoop) -> None:
    with taken() as port:
        controller = UnthreadedController(Sink(), loop=loop, hostname="127.0.0.1", port=port)
        with pytest.raises(OSError, match="address already in use"):
            controller.begin()
    controller = UnthreadedController(Sink(), loop=loop, nonsense=1, **LOCAL)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="nonsense"):
        controller.begin()
    assert not is_served(controller.port)


@pytest.mark.parametrize("given", [False, True])
def test_a_loop_of_its_own_is_closed(given: bool, loop: asyncio.AbstractEventLoop) -> None:
    controller = UnthreadedController(Sink(), loop=loop if given else None, **LOCAL)
    for _ in range(2):
        with controller:
            serving = controller.loop
            assert serving.run_until_complete(greeting(controller.port)).startswith(b"220 ")
        assert serving.is_closed() is not given


def test_run_ends_with_its_loop() -> None:
    controller = UnthreadedController(StopsLoop(), **LOCAL)
    controller.begin()

    def send() -> None:
        with Client(controller.port) as client:
            client.transaction()
            client.send(b".\r\n")
            assert client.reply() == b"250 OK\r\n"

    thread = threading.Thread(target=send)
    thread.start()
    controller.run()
    thread.join(PATIENCE)
    assert controller.ended.is_set()


# Inside a running loop.


async def test_start_async_and_stop_async() -> None:
    for kind in Controller, UnthreadedController:
        controller = kind(Sink(), **LOCAL)
        await controller.start_async()
        assert (await greeting(controller.port)).startswith(b"220 ")
        with pytest.raises(AssertionError, match="already running"):
            await controller.start_async()
        await controller.stop_async()
        with pytest.raises(AssertionError, match="not running"):
            await controller.stop_async()
        await controller.stop_async(no_assert=True)


async def test_as_an_async_context_manager() -> None:
    async with Controller(Sink(), **LOCAL) as controller:
        assert controller.loop is asyncio.get_running_loop()
        assert (await greeting(controller.port)).startswith(b"220 ")


async def test_start_async_that_fails() -> None:
    controller = Failing(Sink(), **LOCAL)
    with pytest.raises(ValueError, match=r"in factory\(\)"):
        await controller.start_async()
    controller.good = 1
    async with controller:
        pass


async def test_start_after_start_async() -> None:
    async with Controller(Sink(), **LOCAL) as controller:
        with pytest.raises(AssertionError, match="already running"):
            controller.start()


async def test_stop_async_ends_the_thread_too() -> None:
    controller = Controller(Sink(), **LOCAL)
    controller.start()
    await controller.stop_async()
    assert controller.addresses == []
