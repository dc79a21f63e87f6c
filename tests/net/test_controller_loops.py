"""Controllers in a loop that the program runs, and their ends."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiosmtpd.controller import (
    BaseThreadedController,
    BaseUnthreadedController,
    Controller,
    UnthreadedController,
)
from aiosmtpd.handlers import Sink
from tests.client import PATIENCE, Client
from tests.net.controlling import LOCAL, POSIX, Failing, is_served, taken
from tests.net.support import Catcher, aside

# In a loop that the program runs.


async def greeting(port: int) -> bytes:
    with await aside(Client, port) as client:
        return client.greeting


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


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


def test_begin_makes_its_loop_the_current_one() -> None:
    controller = UnthreadedController(Sink(), **LOCAL)
    try:
        controller.begin()
        loop = asyncio.get_event_loop()
        assert loop.run_until_complete(greeting(controller.port)).startswith(b"220 ")
        controller.end()
        assert loop is controller.loop
    finally:
        controller.loop.close()
        asyncio.set_event_loop(None)


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


class StopsLoop(Catcher):
    """Stops the loop that serves it at the first message."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        server.loop.stop()
        return await super().handle_DATA(server, session, envelope)


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


async def test_start_async_after_a_start_that_failed() -> None:
    with taken() as port:
        controller = Controller(Sink(), "127.0.0.1", port)
        with pytest.raises(OSError):
            await asyncio.to_thread(controller.start)
    await controller.start_async()
    assert (await greeting(port)).startswith(b"220 ")
    await controller.stop_async()
    assert controller.addresses == []


async def test_start_after_start_async() -> None:
    async with Controller(Sink(), **LOCAL) as controller:
        with pytest.raises(AssertionError, match="already running"):
            controller.start()


async def test_stop_async_ends_the_thread_too() -> None:
    controller = Controller(Sink(), **LOCAL)
    controller.start()
    await controller.stop_async()
    assert controller.addresses == []


# Ended by its loop or its program.


def test_cancel_tasks_from_outside() -> None:
    controller = Controller(Sink(), **LOCAL)
    controller.start()
    controller.loop.call_soon_threadsafe(controller.cancel_tasks)
    controller.stop()
    assert not is_served(controller.port)


async def test_cancel_tasks_without_the_loop() -> None:
    controller = Controller(Sink(), loop=asyncio.get_running_loop(), **LOCAL)
    task = asyncio.create_task(asyncio.sleep(PATIENCE))
    controller.loop.call_soon(controller.cancel_tasks, False)
    # We are one of them.
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(PATIENCE)
    assert task.cancelling()


def test_a_loop_stopped_by_a_handler() -> None:
    controller = Controller(StopsLoop(), **LOCAL)
    controller.start()
    with Client(controller.port) as client:
        client.transaction()
        client.send(b".\r\n")
        client.reply()
        controller.stop()
    assert not is_served(controller.port)


def test_stop_has_its_own_patience() -> None:
    class Slow:
        def __init__(self) -> None:
            self.begun = threading.Event()

        async def handle_NOOP(self, *_: Any) -> str:
            self.begun.set()
            await asyncio.sleep(PATIENCE)
            return "250 OK"

    handler = Slow()
    controller = Controller(handler, **LOCAL)
    controller.start()
    with Client(controller.port) as client:
        client.send(b"NOOP\r\n")
        assert handler.begun.wait(PATIENCE)
        before = time.monotonic()
        controller.stop(timeout=0.1)
        assert time.monotonic() - before < PATIENCE / 2


PROGRAM = """
import signal, sys, threading
from aiosmtpd.controller import Controller, UnthreadedController
from aiosmtpd.handlers import Sink
# A shell's background job has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
controller = globals()[sys.argv[1]](Sink(), hostname="127.0.0.1", port=0)
if sys.argv[2] == "begun":
    controller.start() if sys.argv[1] == "Controller" else controller.begin()
def tell():
    while not controller.addresses or signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        pass
    print(controller.port, flush=True)
threading.Thread(target=tell).start()
controller.run()
print("ended", controller.addresses, flush=True)
"""


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begun", ["begun", "new"])
@pytest.mark.parametrize("kind", ["Controller", "UnthreadedController"])
def test_run_until_a_signal(kind: str, begun: str, number: int) -> None:
    command = [sys.executable, "-c", PROGRAM, kind, begun]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        watchdog = threading.Timer(2 * PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with Client(port) as client:
                process.send_signal(number)
                assert client.reply()[:9] == b"421 4.3.2"
            out, err = process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
    assert (process.returncode, out, err) == (0, b"ended []\n", b"")


class StartedByRun(Controller):
    """Calls a function when `run()` has started it: after this, `run()` only waits."""

    then: Callable[[], None]

    def start(self) -> None:
        super().start()
        self.then()


def test_run_outside_the_main_thread() -> None:
    controller, started = StartedByRun(Sink(), **LOCAL), threading.Event()
    controller.then = started.set
    thread = threading.Thread(target=controller.run)
    thread.start()
    assert started.wait(PATIENCE)
    assert is_served(controller.port)
    controller.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_run_in_the_main_thread_ends_with_the_server() -> None:
    controller = StartedByRun(Sink(), **LOCAL)
    before = signal.getsignal(signal.SIGTERM)
    stopper = threading.Thread(target=controller.stop)
    controller.then = stopper.start
    controller.run()
    stopper.join(PATIENCE)
    assert signal.getsignal(signal.SIGTERM) is before


# A controller of another kind.


class Early(Controller):
    """Makes a future of asyncio in its thread, before the loop runs there."""

    made: asyncio.Future[Any]

    def _create_server(self) -> Any:
        self.made = asyncio.ensure_future(super()._create_server())
        return self.made


def test_the_loop_is_the_current_one_in_its_thread() -> None:
    with Early(Sink(), **LOCAL) as controller:
        assert is_served(controller.port)
        assert controller.made.get_loop() is controller.loop


def test_a_controller_of_the_programs_own() -> None:
    """The abstract classes name the methods that a program must have."""
    for kind in BaseThreadedController, BaseUnthreadedController:
        with pytest.raises(TypeError, match="_create_server"):
            kind(Sink())  # type: ignore[abstract]

    class Odd(BaseThreadedController):
        port = 0

        async def _create_server(self) -> asyncio.AbstractServer:
            server = await self.loop.create_server(self._factory_invoker, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            return server

        def _trigger_server(self) -> None:
            pass

    with Odd(Sink()) as controller:
        assert is_served(controller.port)
    assert not is_served(controller.port)
