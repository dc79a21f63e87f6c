"""`Server` in the running event loop, and how a loop is closed."""

import asyncio
import errno
import os
import smtplib
import socket
import ssl
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd import Server
from aiosmtpd.handlers import Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.server import close_loop
from aiosmtpd.smtp import SMTP, Session
from tests.client import PATIENCE, Client, Place
from tests.conftest import Certificates
from tests.net.support import Catcher, aside, until

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


async def reach(address: Place, tls: ssl.SSLContext | None = None) -> Client:
    """Connect to a server that runs in this loop; the client is not greeted."""
    return await aside(Client, address, tls=tls, greet=False)


async def greeting(address: Place, tls: ssl.SSLContext | None = None) -> bytes:
    with await reach(address, tls) as client:
        return await aside(client.line)


# Places.


@pytest.mark.parametrize("place", ["127.0.0.1:0", "smtp://127.0.0.1:0", "localhost:0", "0"])
async def test_one_place(place: str) -> None:
    async with Server(Sink(), listen=place) as server:
        assert server.addresses
        for address in server.addresses:
            assert (await greeting(address)).startswith(b"220 ")
    assert server.addresses == []


async def test_the_default_is_a_free_port_of_the_loopback() -> None:
    async with Server(Sink()) as server:
        (address,) = server.addresses
        assert address[0] == "127.0.0.1"
        assert int(address[1]) > 0


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([], "no place to listen at"),
        ("x:y", "Invalid port number: y"),
        (["127.0.0.1:0", "/tmp"], "a socket path is written unix:"),
        ("smtps://127.0.0.1:0", "smtps:// needs an ssl_context"),
    ],
)
def test_no_place(places: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Server(Sink(), listen=places)


async def test_one_place_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        server = Server(Sink(), listen=["127.0.0.1:0", f"127.0.0.1:{port}"])
        with pytest.raises(OSError, match=f"'127.0.0.1', {port}") as caught:
            await server.start()
    assert caught.value.errno == errno.EADDRINUSE
    assert server.addresses == []
    async with server:
        assert len(server.addresses) == 2


async def test_tls_from_the_start(certificates: Certificates) -> None:
    places = ["smtps://127.0.0.1:0", "127.0.0.1:0", "smtp://127.0.0.1:0", "lmtp://127.0.0.1:0"]
    made = []

    def make() -> Any:
        made.append(1)
        return certificates.server_context()

    client = certificates.client_context()
    async with Server(Sink(), listen=places, ssl_context=make) as server:
        for address in server.addresses[:2]:
            assert (await greeting(address, tls=client)).startswith(b"220 ")
        for address in server.addresses[2:]:
            assert (await greeting(address)).startswith(b"220 ")
    assert len(made) == 2


async def test_lmtp() -> None:
    handler = Catcher()
    async with Server(handler, listen="lmtp://127.0.0.1:0") as server:
        (address,) = server.addresses
        assert isinstance(address, tuple)

        def send() -> None:
            with smtplib.LMTP(*address, timeout=PATIENCE) as client:
                client.sendmail("a@b.test", ["c@d.test"], "Subject: x\r\n\r\nbody\r\n")

        await asyncio.to_thread(send)
    assert handler.envelope().rcpt_tos == ["c@d.test"]


@POSIX
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = Server(Sink(), listen=f"unix:{path}")
    for _ in range(2):
        async with server:
            assert server.addresses == [str(path)]
            assert (await greeting(str(path))).startswith(b"220 ")
        assert not path.exists()


@POSIX
async def test_an_inherited_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(tmp_path / "s"))
        async with Server(Sink(), listen=f"fd:{ours.fileno()}") as server:
            assert (await greeting(server.addresses[0])).startswith(b"220 ")
    # The program that made the file removes it.
    assert (tmp_path / "s").exists()


# Service.


async def test_keywords_reach_the_connections() -> None:
    async with Server(Sink(), hostname="mx.test", ident="Mine") as server:
        assert await greeting(server.addresses[0]) == b"220 mx.test Mine\r\n"


class NoDelay:
    """Tells for each HELO whether the connection sends every write at once."""

    async def handle_HELO(self, server: SMTP, session: Session, envelope: Any, name: str) -> str:
        assert server.transport is not None
        session.host_name = name
        # A copy: the one of uvloop has fewer methods.
        copy = os.dup(server.transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=copy) as sock:
            return f"250 {sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0}"


@POSIX
async def test_no_reply_waits_for_an_acknowledgement() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        async with Server(NoDelay(), listen=["127.0.0.1:0", f"fd:{inherited.fileno()}"]) as server:
            for address in server.addresses:
                with await reach(address) as client:
                    await aside(client.line)
                    assert await aside(client.ask, b"HELO client.test") == b"250 True\r\n"


async def test_a_factory() -> None:
    made: list[SMTP] = []

    def make() -> SMTP:
        made.append(LMTP(Sink()))
        return made[-1]

    async with Server(Sink(), factory=make) as server:
        with await reach(server.addresses[0]) as client:
            await aside(client.expect, b"220")
            await aside(client.ask, b"LHLO x", b"250")
    assert len(made) == 2


async def test_a_factory_that_fails_later(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [SMTP(Sink()), ValueError("secret")]

    def make() -> SMTP:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, SMTP)
        return answer

    async with Server(Sink(), factory=make) as server:
        with await reach(server.addresses[0]) as client:
            assert await aside(client.rest) == b"421 4.3.0 Service not available\r\n"
    assert "ValueError: secret" in caplog.text


async def test_a_factory_of_another_protocol() -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"hello\r\n")
            transport.close()

    async with Server(Sink(), factory=Echo) as server:
        assert await greeting(server.addresses[0]) == b"hello\r\n"


class NoThreads(ThreadPoolExecutor):
    def submit(self, *_: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("can't start new thread")


async def test_without_a_thread_the_greeting_has_the_short_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "short")
    # A name that was not looked up before.
    monkeypatch.setattr(socket, "getfqdn", lambda: "full.test")
    async with Server(Sink()) as server:
        asyncio.get_running_loop().set_default_executor(NoThreads())
        assert (await greeting(server.addresses[0])).startswith(b"220 short Python SMTP ")


async def test_a_reply_may_be_bytes() -> None:
    class Octets(SMTP):
        async def smtp_PING(self, arg: str | None) -> None:
            await self.push(b"250 \xff")  # as push() takes them too

    async with Server(Sink(), factory=lambda: Octets(Sink())) as server:
        with await reach(server.addresses[0]) as client:
            await aside(client.expect, b"220")
            assert await aside(client.ask, b"PING") == b"250 \xff\r\n"


# Its life.


async def test_start_and_stop() -> None:
    server = Server(Sink())
    await server.stop()
    for _ in range(3):
        await server.start()
        (address,) = server.addresses
        with pytest.raises(RuntimeError, match="already running"):
            await server.start()
        assert (await greeting(address)).startswith(b"220 ")
        await server.stop()
        await server.stop()
        with pytest.raises(ConnectionRefusedError):
            await greeting(address)


async def test_stop_sends_421_to_connected_clients() -> None:
    async with Server(Sink()) as server:
        client = await reach(server.addresses[0])
        await aside(client.expect, b"220")
    with client:
        await aside(client.expect, b"421 4.3.2")
        assert await aside(client.rest) == b""


async def test_a_server_that_its_own_hook_stops() -> None:
    """The hook's task reports the end of its connection while the server waits for it."""
    stopped: list[asyncio.Task[None]] = []

    class Stops:
        async def handle_DISCONNECT(self, *_: Any) -> None:
            stopped.append(asyncio.create_task(server.stop()))

    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    server = Server(Stops(), max_connections_per_host=5)
    await server.start()
    with await reach(server.addresses[0]) as client:
        await aside(client.expect, b"220")
        await aside(client.ask, b"QUIT", b"221")
        assert await aside(client.rest) == b""
    await until(lambda: bool(stopped))
    await stopped[0]
    # The hook's task tells of its end in the turn after that.
    await asyncio.sleep(0)
    assert said == []


async def test_serve_forever_until_stopped() -> None:
    server = Server(Sink())
    task = asyncio.create_task(server.serve_forever())
    await until(lambda: bool(server.addresses))
    assert (await greeting(server.addresses[0])).startswith(b"220 ")
    await server.stop()
    await asyncio.wait_for(task, PATIENCE)


async def test_serve_forever_of_one_that_was_started() -> None:
    async with Server(Sink()) as server:
        task = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.addresses == []


async def test_serve_forever_of_one_that_was_bound() -> None:
    server = Server(Sink())
    await server.bind()
    task = asyncio.create_task(server.serve_forever())
    await until(lambda: any(one.is_serving() for one in server.listeners))
    assert (await greeting(server.addresses[0])).startswith(b"220 ")
    await server.stop()
    await asyncio.wait_for(task, PATIENCE)


class Hangs:
    """Its NOOP does not end by itself, and by force only if asked nicely."""

    def __init__(self, stubborn: bool = False) -> None:
        self.stubborn = stubborn
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def handle_NOOP(self, *_: Any) -> str:
        self.begun.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        return "250 OK"


async def test_stop_has_its_patience() -> None:
    handler = Hangs()
    server = Server(handler, shutdown_timeout=60)
    await server.start()
    with await reach(server.addresses[0]) as client:
        client.send(b"NOOP\r\n")
        await handler.begun.wait()
        async with asyncio.timeout(PATIENCE):
            await server.stop(timeout=0.05)


async def test_a_stop_that_is_cancelled_ends_the_connections() -> None:
    handler = Hangs()
    server = Server(handler, shutdown_timeout=60)
    await server.start()
    with await reach(server.addresses[0]) as client:
        # Before the greeting, which nothing holds back.
        client.send(b"NOOP\r\n")
        await aside(client.expect, b"220")
        await handler.begun.wait()
        task = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        client.resets_are_ends = True
        assert (await aside(client.line))[:3] in (b"", b"421")


async def test_stop_leaves_hooks_that_refuse_to_end(caplog: pytest.LogCaptureFixture) -> None:
    handler = Hangs(stubborn=True)
    server = Server(handler, shutdown_timeout=0)
    await server.start()
    with await reach(server.addresses[0]) as client:
        client.send(b"NOOP\r\n")
        await handler.begun.wait()
        async with asyncio.timeout(PATIENCE):
            await server.stop()
    assert "1 connections refuse to end, their hooks too" in caplog.text
    handler.let_go.set()
    # No task of it is left in the loop.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=PATIENCE)


# The end of a loop.


async def forever(let_go: threading.Event) -> None:
    while not let_go.is_set():
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            pass


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_is_closed_though_a_task_does_not_end() -> None:
    loop = asyncio.new_event_loop()
    let_go = threading.Event()
    task = loop.create_task(forever(let_go))
    ended = []

    async def ends() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append(1)

    loop.create_task(ends())  # noqa: RUF006
    loop.run_until_complete(asyncio.sleep(0))
    close_loop(loop, 0.05)
    assert loop.is_closed()
    assert ended == [1]
    assert not task.done()
    let_go.set()
    # The test leaves the task pending on purpose: asyncio must not complain of it.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_loop_is_closed_though_a_thread_does_not_end() -> None:
    loop = asyncio.new_event_loop()
    let_go = threading.Event()
    started = threading.Event()

    def work() -> None:
        started.set()
        let_go.wait(PATIENCE)

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)
        await asyncio.to_thread(started.wait, PATIENCE)

    loop.run_until_complete(main())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        close_loop(loop, 0.05)
    assert loop.is_closed()
    let_go.set()
