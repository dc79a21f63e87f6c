"""Serving in the program's own event loop, however it runs."""

import asyncio
import functools
import gc
import os
import smtplib
import socket
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import anyio.to_thread
import pytest

from aiosmtpd import Controller, Mail, Server, UnthreadedController
from aiosmtpd.listen.addresses import Address
from aiosmtpd.smtp import SMTP
from tests.client import PATIENCE, Client
from tests.net.support import Catcher, until


def deliver(address: Address) -> None:
    with smtplib.SMTP(str(address[0]), int(address[1]), timeout=PATIENCE) as client:
        client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")


class Box:
    """A function of its own that keeps mail."""

    def __init__(self) -> None:
        self.mail: list[Mail] = []

    async def take(self, mail: Mail) -> None:
        self.mail.append(mail)

    def take_plainly(self, mail: Mail) -> str:
        self.mail.append(mail)
        return "250 taken"


@pytest.mark.parametrize("name", ["take", "take_plainly"])
async def test_a_function_in_a_server(name: str) -> None:
    box = Box()
    async with Server(getattr(box, name), listen="127.0.0.1:0") as server:
        await asyncio.to_thread(deliver, server.addresses[0])
    assert [mail.message["subject"] for mail in box.mail] == ["hi"]


class Caller(Box):
    """An object that can be called."""

    async def __call__(self, mail: Mail) -> None:
        self.mail.append(mail)


@pytest.mark.parametrize("name", ["append", "partial", "object"])
async def test_any_callable_counts_as_a_function(name: str) -> None:
    """Else its mail would be answered 250 and lost."""
    box = Caller()
    kinds = {"append": box.mail.append, "partial": functools.partial(box.take), "object": box}
    async with Server(kinds[name], listen="127.0.0.1:0") as server:
        await asyncio.to_thread(deliver, server.addresses[0])
    assert [mail.message["subject"] for mail in box.mail] == ["hi"]


class CallableHandler(Catcher):
    """A handler that can be called as well."""

    def __call__(self, mail: Mail) -> None:
        raise AssertionError("it has hooks")


@pytest.mark.parametrize("kind", ["hooks", "class", "mock"])
async def test_a_handler_that_can_be_called_stays_one(kind: str) -> None:
    kinds = {"hooks": CallableHandler(), "class": Box, "mock": mock.Mock()}
    async with Server(kinds[kind], listen="127.0.0.1:0") as server:
        await asyncio.to_thread(deliver, server.addresses[0])


async def test_serve_forever_ends_when_cancelled() -> None:
    server = Server(Catcher(), listen="127.0.0.1:0")
    await server.start()
    forever = asyncio.create_task(server.serve_forever())
    await asyncio.to_thread(deliver, server.addresses[0])
    forever.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forever
    assert server.addresses == []


def test_inside_a_web_frameworks_lifespan() -> None:
    fastapi = pytest.importorskip("fastapi")
    testclient = pytest.importorskip("fastapi.testclient")
    box = Box()

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with Server(box.take, listen="127.0.0.1:0") as server:
            app.state.smtp = server.addresses[0]
            yield

    app = fastapi.FastAPI(lifespan=lifespan)

    async def messages() -> list[str]:
        return [str(mail.message["subject"]) for mail in box.mail]

    app.get("/messages")(messages)
    with testclient.TestClient(app) as client:
        assert client.get("/messages").json() == []
        deliver(app.state.smtp)
        assert client.get("/messages").json() == ["hi"]


def test_under_anyio(pytestconfig: pytest.Config) -> None:
    box = Box()

    async def main() -> None:
        async with Server(box.take, listen="127.0.0.1:0") as server:
            with anyio.fail_after(PATIENCE):
                await anyio.to_thread.run_sync(deliver, server.addresses[0])

    uvloop = pytestconfig.getoption("--uvloop")
    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": uvloop})
    assert len(box.mail) == 1


def test_several_loops_in_one_process() -> None:
    boxes = [Box() for _ in range(3)]
    ready: list[Address] = []
    all_ready = threading.Barrier(4, timeout=PATIENCE)
    done = threading.Event()

    def run(box: Box) -> None:
        async def main() -> None:
            async with Server(box.take, listen="127.0.0.1:0") as server:
                ready.append(server.addresses[0])
                await asyncio.to_thread(all_ready.wait)
                await asyncio.to_thread(done.wait, PATIENCE)

        asyncio.run(main())

    threads = [threading.Thread(target=run, args=(box,)) for box in boxes]
    for thread in threads:
        thread.start()
    all_ready.wait()
    for address in ready:
        deliver(address)
    done.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [len(box.mail) for box in boxes] == [1, 1, 1]


def test_loops_of_several_threads_do_not_mix_what_they_read() -> None:
    """Connections of one thread share a buffer."""
    handlers = [Catcher() for _ in range(3)]
    controllers = [Controller(handler, hostname="127.0.0.1", port=0) for handler in handlers]
    for controller in controllers:
        controller.start()

    def send(number: int) -> None:
        line = bytes([97 + number]) * 70 + b"\r\n"
        with Client(controllers[number].port) as client:
            client.transaction()
            client.send(line * 60_000 + b".\r\n")
            client.reply()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for number, (handler, controller) in enumerate(zip(handlers, controllers, strict=True)):
        content = handler.envelope().original_content or b""
        assert content == (bytes([97 + number]) * 70 + b"\r\n") * 60_000
        controller.stop()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
async def test_a_connection_that_has_ended_is_freed_at_once() -> None:
    """No garbage collector is needed for it."""
    connections: weakref.WeakSet[SMTP] = weakref.WeakSet()

    def make() -> SMTP:
        connections.add(server := SMTP(Catcher()))
        return server

    gc.disable()
    try:
        async with Server(None, listen="127.0.0.1:0", factory=make) as server:
            await asyncio.to_thread(deliver, server.addresses[0])
            await until(lambda: not server._registry.connections)
            # The loop lets go of its transport's callbacks in the next turns.
            await until(lambda: not connections)
    finally:
        gc.enable()


async def test_a_server_that_has_stopped_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
    call_later = loop.call_later

    def noted(*args: Any, **keywords: Any) -> asyncio.TimerHandle:
        timers.append(call_later(*args, **keywords))
        return timers[-1]

    monkeypatch.setattr(loop, "call_later", noted)
    async with Server(Catcher(), listen="127.0.0.1:0") as server:
        await asyncio.to_thread(talk, int(server.addresses[0][1]))
    assert timers
    assert [one for one in timers if one.when() > loop.time() and not one.cancelled()] == []


def held() -> tuple[int, set[threading.Thread]]:
    """Count the descriptors and threads of a process."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0, set(threading.enumerate())


def cycle_threaded() -> None:
    with Controller(Catcher(), hostname="127.0.0.1", port=0) as controller:
        talk(controller.port)


def cycle_unthreaded() -> None:
    loop = asyncio.new_event_loop()
    controller = UnthreadedController(Catcher(), loop=loop, hostname="127.0.0.1", port=0)
    controller.begin()
    client = socket.create_connection(("127.0.0.1", controller.port), PATIENCE)
    controller.end()
    client.close()
    loop.close()


def cycle_async() -> None:
    async def main() -> None:
        async with Server(Catcher(), listen="127.0.0.1:0") as server:
            port = int(server.addresses[0][1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert (await reader.readline()).startswith(b"220 ")
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def talk(port: int) -> None:
    with Client(port) as client:
        client.ask(b"NOOP")


@pytest.mark.parametrize("cycle", [cycle_threaded, cycle_unthreaded, cycle_async])
def test_200_starts_and_stops_leave_nothing(cycle: Callable[[], None]) -> None:
    """ResourceWarning is an error here, as every warning is (pyproject.toml)."""
    cycle()
    before = held()
    for _ in range(200):
        cycle()
    assert held() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
async def test_several_places_at_once(tmp_path: Path) -> None:
    box = Box()
    places = ["127.0.0.1:0", f"unix:{tmp_path / 'mail.socket'}", "lmtp://127.0.0.1:0"]
    async with Server(box.take, listen=places) as server:
        first, path, lmtp = server.addresses
        assert path == str(tmp_path / "mail.socket")
        await asyncio.to_thread(deliver, first)

        def speak_lmtp() -> None:
            with smtplib.LMTP("127.0.0.1", int(lmtp[1])) as client:
                client.sendmail("a@b.test", ["c@d.test"], "hi")

        await asyncio.to_thread(speak_lmtp)
    assert len(box.mail) == 2
    assert not (tmp_path / "mail.socket").exists()
