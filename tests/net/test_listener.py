"""Accepting connections, in spite of the kernel, other programs and clients."""

import asyncio
import errno
import gc
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.listen import listener as listener_module, sockets as listening
from aiosmtpd.listen.listener import Listener
from aiosmtpd.smtp import SMTP
from tests.client import PATIENCE
from tests.conftest import Certificates
from tests.net.support import until

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


class Hello(asyncio.Protocol):
    """Says hello and ends."""

    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello\r\n")
        transport.close()


@asynccontextmanager
async def accepting(
    sockets: list[socket.socket], protocols: Callable[[], Any] = Hello, **keywords: Any
) -> AsyncIterator[Listener]:
    listener = Listener(sockets, protocols, **keywords)
    await listener.start_serving()
    try:
        yield listener
    finally:
        listener.close()
        await listener.end_arrivals()


async def hello(address: Any) -> bytes:
    if isinstance(address, str):
        # Not by the loop: uvloop's clients know no abstract addresses.
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
    else:
        reader, writer = await asyncio.open_connection(*address)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()
        await writer.wait_closed()


async def loopback() -> list[socket.socket]:
    return await listening.bind_tcp(["127.0.0.1"], 0)


# As an asyncio.AbstractServer.


async def test_the_public_surface() -> None:
    async with accepting(await loopback()) as listener:
        (address,) = listening.addresses_of(listener)
        assert listener.is_serving()
        assert listener.get_loop() is asyncio.get_running_loop()
        await listener.start_serving()
        assert await hello(address) == b"hello\r\n"
        waiting = asyncio.create_task(listener.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done()
        listener.close()
        await asyncio.wait_for(waiting, PATIENCE)
        listener.close()
        assert listener.sockets == ()
        assert not listener.is_serving()
        await listener.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await hello(address)


async def test_a_waiting_task_may_be_cancelled() -> None:
    async with accepting(await loopback()) as listener:
        for _ in range(2):
            waiting = asyncio.create_task(listener.wait_closed())
            await asyncio.sleep(0)
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert listener.is_serving()


async def test_serve_forever() -> None:
    for ending in "cancel", "close":
        async with accepting(await loopback()) as listener:
            task = asyncio.create_task(listener.serve_forever())
            await asyncio.sleep(0)
            listener.close() if ending == "close" else task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not listener.is_serving()


async def test_as_an_async_context_manager() -> None:
    async with Listener(await loopback(), Hello) as listener:
        await listener.start_serving()
        assert await hello(listening.addresses_of(listener)[0]) == b"hello\r\n"
    assert not listener.is_serving()


async def test_a_socket_that_cannot_listen() -> None:
    sockets = await loopback()
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(OSError):
        await Listener([*sockets, datagrams], Hello).start_serving()
    assert [sock.fileno() for sock in sockets] == [-1]


class NoReaders(asyncio.SelectorEventLoop):
    """A loop without readers, as the one of Windows is."""

    def add_reader(self, *_: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError

    def remove_reader(self, *_: Any) -> Any:
        raise NotImplementedError


def test_a_loop_without_readers() -> None:
    async def main() -> None:
        async with accepting(await loopback()) as listener:
            address = listener.sockets[0].getsockname()

            def read() -> bytes:
                with socket.create_connection(address, PATIENCE) as sock:
                    return sock.recv(100)

            assert await asyncio.to_thread(read) == b"hello\r\n"
        assert not listener.is_serving()

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        runner.run(main())


# Connections that come at once, or never quite.


async def test_many_at_once() -> None:
    async with accepting(await loopback()) as listener:
        (address,) = listening.addresses_of(listener)
        answers = await asyncio.gather(*(hello(address) for _ in range(200)))
    assert answers == [b"hello\r\n"] * 200


async def test_a_protocol_that_cannot_be_made() -> None:
    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

    def fail() -> Any:
        raise ValueError("in the factory")

    async with accepting(await loopback(), fail) as listener:
        (address,) = listening.addresses_of(listener)
        assert await hello(address) == b""
        assert listener.is_serving()
    assert [str(context["exception"]) for context in said] == ["in the factory"]


def ours(**keywords: Any) -> SMTP:
    """A connection of ours: it begins TLS itself."""
    return SMTP(Sink(), hostname="mx.test", **keywords)


@pytest.mark.parametrize("sent", [b"EHLO x\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_client_without_tls(
    sent: bytes, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mail.log")
    context = certificates.server_context()
    async with accepting(await loopback(), ours, ssl_context=context) as listener:
        (address,) = listening.addresses_of(listener)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        assert answer.startswith(b"421 4.7.0 TLS is required from the start")
        writer.close()
        await until(lambda: bool(caplog.records))
    (message,) = caplog.messages
    assert "TLS handshake failed: " in message
    assert message.endswith("(this port speaks TLS from the start, the client may not)")


async def test_a_handshake_that_does_not_come(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mail.log")
    context = certificates.server_context()
    protocols = partial(ours, handshake_timeout=0.05)
    async with accepting(await loopback(), protocols, ssl_context=context) as listener:
        (address,) = listening.addresses_of(listener)
        assert await hello(address) == b""
        await until(lambda: bool(caplog.records))
    (message,) = caplog.messages
    assert "TLS handshake failed: nothing came in 0.05 seconds (this port speaks TLS" in message


async def test_a_client_without_tls_that_goes_on_reads_the_reply(
    certificates: Certificates,
) -> None:
    context = certificates.server_context()
    async with accepting(await loopback(), ours, ssl_context=context) as listener:
        (address,) = listening.addresses_of(listener)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"EHLO x\r\n" * 20_000)
        assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"421 ")
        # It does not close: the server does.
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        await until(lambda: len(asyncio.all_tasks()) == 1)
        writer.close()


async def test_a_client_that_goes_before_its_handshake(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mail.log")
    context = certificates.server_context()
    async with accepting(await loopback(), ours, ssl_context=context) as listener:
        address = listener.sockets[0].getsockname()
        for reset in False, True:
            with socket.create_connection(address) as client:
                # Until the server waits for it.
                await until(lambda: len(asyncio.all_tasks()) == 2)
                if reset:
                    reset_at_close = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_at_close)
            await until(lambda: len(asyncio.all_tasks()) == 1)
    assert len(caplog.messages) == 2


async def test_a_protocol_of_others_has_the_loops_tls(certificates: Certificates) -> None:
    context = certificates.server_context()
    ended = asyncio.Event()

    class Ending(Hello):
        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    async with accepting(await loopback(), Ending, ssl_context=context) as listener:
        (address,) = listening.addresses_of(listener)
        client = certificates.client_context()
        reader, writer = await asyncio.open_connection(
            *address, ssl=client, server_hostname="127.0.0.1"
        )
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"hello\r\n"
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(ended.wait(), PATIENCE)


# The event loop's TLS leaves the transport of a cancelled handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_their_handshakes_end_with_the_server(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "ARRIVAL", 0.05)
    context = certificates.server_context()
    async with accepting(await loopback(), ssl_context=context) as listener:
        (address,) = listening.addresses_of(listener)
        ends = [await asyncio.open_connection(*address) for _ in range(3)]
        # Until they are accepted.
        await until(lambda: len(asyncio.all_tasks()) == 4)
        listener.close()
        await listener.end_arrivals()
        for reader, writer in ends:
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()
            with suppress(ConnectionResetError):
                await writer.wait_closed()
    # Now, and not in another test.
    gc.collect()


async def test_connections_that_wait_are_accepted_at_the_end() -> None:
    """The kernel has answered them: they are served, not dropped without a word."""
    async with accepting(await loopback()) as listener:
        address = listener.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(40)]
        # No turn of the loop has accepted them.
        listener.close()
        await listener.end_arrivals()
        for client in clients:
            with client:
                assert await asyncio.to_thread(client.recv, 100) == b"hello\r\n"


WITHOUT_DESCRIPTORS = """
import asyncio, logging, os, resource, socket, sys
from aiosmtpd import Server
from aiosmtpd.handlers import Sink

async def main():
    async with Server(Sink()) as server:
        (address,) = server.addresses
        clients = [socket.create_connection(address) for _ in range(3)]
        await asyncio.sleep(0)
        highest = max(client.fileno() for client in clients)
        kept = [os.dup(0)]
        while kept[-1] <= highest:
            kept.append(os.dup(0))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # No descriptor for the next connection.
        late = socket.create_connection(address)
        resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, hard))
        while True:
            try:
                kept.append(os.dup(0))
            except OSError:
                break
        before = os.times().user
        await asyncio.sleep(0.3)
        print("waited", os.times().user - before < 0.2)
        os.close(kept.pop())
        # One connection takes what is free: nothing is left to look up the host's name with.
        await greeted(clients[0])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for client in (*clients[1:], late):
            await greeted(client)
        for client in (late, *clients):
            client.close()
        for fd in kept:
            os.close(fd)

async def greeted(client):
    client.setblocking(False)
    print("served", (await asyncio.get_running_loop().sock_recv(client, 100))[:4])

logging.basicConfig()
asyncio.run(main())
"""


@LINUX
def test_out_of_descriptors() -> None:
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.stdout == "waited True\n" + 4 * "served b'220 '\n"
    assert done.returncode == 0
    # Logged once, not thousands of times.
    assert done.stderr.count("Connections wait, none can be accepted") == 1


async def test_accepting_goes_on_when_there_are_descriptors_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, errors = socket.socket.accept, [errno.EMFILE, errno.ENFILE, errno.ENOBUFS]

    def accept(sock: socket.socket) -> Any:
        if errors:
            raise OSError(errors.pop(), "none left")
        return real(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with accepting(await loopback()) as listener:
        (address,) = listening.addresses_of(listener)
        assert await hello(address) == b"hello\r\n"
        errors.append(errno.EMFILE)
        assert await hello(address) == b"hello\r\n"
        errors += [errno.EMFILE] * 100
        _, writer = await asyncio.open_connection(*address)
        await until(lambda: len(errors) < 100)
        # Closed in a pause.
        listener.close()
        writer.close()
        left = len(errors)
        await asyncio.sleep(0.05)
        assert len(errors) == left
    assert caplog.messages == ["Connections wait, none can be accepted: [Errno 105] none left"]


async def test_those_who_wait_are_served_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    real, errors = socket.socket.accept, [errno.EMFILE]

    def accept(sock: socket.socket) -> Any:
        if errors:
            raise OSError(errors.pop(), "none left")
        return real(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with accepting(await loopback()) as listener:
        address = listener.sockets[0].getsockname()
        assert await hello(address) == b"hello\r\n"
        with socket.create_connection(address, PATIENCE) as client:
            # The server has not seen this client: the loop had no turn since.
            listener.close()
            await listener.end_arrivals()
            client.setblocking(False)
            received = await asyncio.get_running_loop().sock_recv(client, 100)
        assert received == b"hello\r\n"


async def test_a_handshake_that_is_broken_off(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mail.log")
    context = certificates.server_context()
    async with accepting(await loopback(), ours, ssl_context=context) as listener:
        (address,) = listening.addresses_of(listener)
        _, writer = await asyncio.open_connection(*address)
        hello_of_a_client = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
        writer.write(hello_of_a_client)
        await until(lambda: bool(caplog.records))
        writer.close()
    (message,) = caplog.messages
    assert "TLS handshake failed: " in message
    assert "may not" not in message


async def test_an_error_of_accept_is_raised() -> None:
    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    ours, theirs = socket.socketpair()

    class Broken(socket.socket):
        def accept(self) -> Any:
            theirs.recv(10)
            raise OSError(errno.EIO, "broken")

        def listen(self, *_: Any) -> None:
            pass

    theirs.setblocking(False)
    with ours, theirs, Broken(fileno=os.dup(theirs.fileno())) as broken:
        async with accepting([broken]):
            ours.send(b"x")
            await until(lambda: bool(said))
    assert [context["exception"].errno for context in said] == [errno.EIO]


# Addresses.


async def test_one_free_port_for_all_addresses() -> None:
    addresses = ["127.0.0.1", "127.0.0.2"] if sys.platform == "linux" else ["127.0.0.1"]
    sockets = await listening.bind_tcp(addresses, 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert [sock.getsockname()[0] for sock in sockets] == addresses
    finally:
        listening.close_all(sockets)


@LINUX
async def test_a_port_must_be_free_on_every_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, rounds = socket.socket.bind, []

    def bind(sock: socket.socket, address: Any) -> None:
        if address[0] == "127.0.0.2":
            rounds.append(address[1])
            if len(rounds) < 3:
                raise OSError(errno.EADDRINUSE, "taken")
        real(sock, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    sockets = await listening.bind_tcp(["127.0.0.1", "127.0.0.2"], 0)
    listening.close_all(sockets)
    assert len(rounds) == 3

    rounds.clear()
    monkeypatch.setattr(listening, "PORT_ROUNDS", 2)
    with pytest.raises(OSError, match="taken"):
        await listening.bind_tcp(["127.0.0.1", "127.0.0.2"], 0)


async def test_the_same_address_twice_is_one() -> None:
    sockets = await listening.bind_tcp(["127.0.0.1", "localhost", "127.0.0.1"], 0)
    names = [sock.getsockname()[0] for sock in sockets]
    listening.close_all(sockets)
    assert names.count("127.0.0.1") == 1


async def test_addresses_that_this_machine_does_not_have() -> None:
    # An address for documentation (RFC 5737): no machine has it.
    sockets = await listening.bind_tcp(["192.0.2.1", "127.0.0.1"], 0)
    names = [sock.getsockname()[0] for sock in sockets]
    listening.close_all(sockets)
    assert names == ["127.0.0.1"]
    with pytest.raises(OSError, match=r"'192\.0\.2\.1', 0") as caught:
        await listening.bind_tcp(["192.0.2.1"], 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("port", [-1, 65536, 1 << 40])
async def test_no_port(port: int) -> None:
    with pytest.raises(OverflowError, match="0-65535"):
        await listening.bind_tcp(["127.0.0.1"], port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".test"])
async def test_no_host(host: str) -> None:
    with pytest.raises(socket.gaierror, match=host.replace(".", r"\.")):
        await listening.bind_tcp([host], 0)


# Unix sockets.


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@POSIX
async def test_a_file_that_a_dead_server_left(path: str) -> None:
    listening.close_all(listening.bind_unix(path))
    async with accepting(listening.bind_unix(path)):
        assert await hello(path) == b"hello\r\n"
    assert not Path(path).exists()  # noqa: ASYNC240


@POSIX
async def test_a_file_of_a_living_server(path: str) -> None:
    async with accepting(listening.bind_unix(path)):
        with pytest.raises(OSError, match="already in use") as caught:
            listening.bind_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert await hello(path) == b"hello\r\n"


@POSIX
async def test_the_file_of_another_server_stays(path: str) -> None:
    async with accepting(listening.bind_unix(path)):
        os.unlink(path)
        others = listening.bind_unix(path)
    assert Path(path).exists()  # noqa: ASYNC240
    listening.close_all(others)


@POSIX
async def test_a_file_that_is_gone(path: str) -> None:
    async with accepting(listening.bind_unix(path)):
        os.unlink(path)


@POSIX
def test_a_file_that_is_not_a_socket(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(OSError, match="already in use"):
        listening.bind_unix(path)
    assert Path(path).read_text() == "mine"


@POSIX
def test_a_socket_of_another_kind(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        with pytest.raises(OSError, match="already in use"):
            listening.bind_unix(path)
    assert Path(path).exists()


@POSIX
@pytest.mark.parametrize("path", ["x" * 300, "no/such/folder/s", "\0" * 200])
def test_no_path(path: str) -> None:
    with pytest.raises(OSError, match="error while attempting to bind"):
        listening.bind_unix(path)


@LINUX
async def test_an_abstract_socket() -> None:
    name = f"\0aiosmtpd-test-{os.getpid()}"
    async with accepting(listening.bind_unix(name)) as listener:
        assert listening.addresses_of(listener) == [name]
        assert await hello(name) == b"hello\r\n"
        with pytest.raises(OSError, match="already in use"):
            listening.bind_unix(name)


def test_a_system_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    with pytest.raises(OSError, match="this system has no Unix sockets: /x"):
        listening.bind_unix("/x")


# Inherited sockets.


def test_no_descriptor() -> None:
    with pytest.raises(OSError, match="fd:9999 is not a socket: Bad file descriptor"):
        listening.adopt_fd(9999)


@POSIX
def test_a_descriptor_of_something_else() -> None:
    with open(os.devnull) as file, pytest.raises(OSError, match="is not a socket: "):
        listening.adopt_fd(file.fileno())
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(OSError, match="is not a stream socket"),
    ):
        listening.adopt_fd(sock.fileno())
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="is a connection"):
        listening.adopt_fd(ours.fileno())


@POSIX
async def test_a_copy_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        async with accepting(listening.adopt_fd(ours.fileno()), is_shared=True):
            assert await hello(ours.getsockname()) == b"hello\r\n"
        # Only the copy was closed.
        assert ours.fileno() >= 0


@POSIX
@pytest.mark.parametrize("is_last", [True, False])
async def test_the_last_of_a_shared_socket_accepts_all(is_last: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        copies = listening.adopt_fd(ours.fileno())
        async with accepting(copies, is_shared=True) as listener:
            clients = [socket.create_connection(ours.getsockname()) for _ in range(20)]
            if is_last:
                listener.stop_sharing()
            listener.close()
            await listener.end_arrivals()
        waiting = 0
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.accept()[0].close()
                waiting += 1
        assert waiting == (0 if is_last else 20)
        for client in clients:
            client.close()


@POSIX
async def test_few_are_accepted_at_once_from_a_shared_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        made: list[Hello] = []

        def make() -> Hello:
            made.append(Hello())
            return made[-1]

        listener = Listener(listening.adopt_fd(ours.fileno()), make, is_shared=True)
        clients = [socket.create_connection(ours.getsockname()) for _ in range(12)]
        await listener.start_serving()
        counts = []
        while len(made) < 12:
            await asyncio.sleep(0)
            counts.append(len(made))
        # The other processes that serve the socket get their part.
        assert set(counts) - {0} == {4, 8, 12}
        listener.close()
        await listener.end_arrivals()
        for client in clients:
            client.close()
