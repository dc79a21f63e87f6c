"""TLS at its edges: handshakes that fail, slow peers, and real clients that go without a word."""

import asyncio
import logging
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, TLSSetupException
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.dialogue.tls import Client as TLSClient
from tests.net.support import Catcher, serving, until

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
STARTTLS, FROM_THE_START = "STARTTLS", "from the start"


class Ends(Catcher):
    """A handler that keeps the reasons of all ends, and all faults."""

    def __init__(self) -> None:
        super().__init__()
        self.connects = 0
        self.ends: Queue[str] = Queue()
        self.faults: Queue[Exception] = Queue()

    async def handle_CONNECT(self, *_: Any) -> Any:
        self.connects += 1
        return "220 mx.test"

    async def handle_DISCONNECT(self, server: Any, session: Any, envelope: Any, why: str) -> None:
        self.ends.put(why)

    async def handle_exception(self, error: Exception) -> str:
        self.faults.put(error)
        return "451 Fault"


class Handshake:
    """A client about to shake hands, with the bytes in its own hands."""

    def __init__(self, port: int, security: str, context: ssl.SSLContext) -> None:
        self.wire = Client(port, greet=security == STARTTLS)
        if security == STARTTLS:
            assert self.wire.ask(b"EHLO client.test")[:3] == b"250"
            assert self.wire.ask(b"STARTTLS")[:3] == b"220"
        self.tls = TLSClient(context, "127.0.0.1")

    def begin(self) -> bytes:
        """Return the first message of a client."""
        return self.tls.shake_hands()

    def send(self, data: bytes) -> None:
        self.wire.send(data)

    def go_on(self) -> bytes:
        """Read until the client has an answer to the server's messages; return it."""
        while True:
            data = self.wire.socket.recv(65536)
            assert data
            self.tls.feed(data)
            if answer := self.tls.shake_hands():
                return answer

    def read(self) -> bytes:
        """Read until the server closes; return the bytes as they are."""
        data = b""
        with suppress(ConnectionResetError):
            while piece := self.wire.socket.recv(65536):
                data += piece
        return data

    def reset(self) -> None:
        """Close with a RST."""
        self.wire.reset()

    def half_close(self) -> None:
        """Send a FIN."""
        self.wire.socket.shutdown(socket.SHUT_WR)


@contextmanager
def handshake(
    security: str,
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    room: ssl.SSLContext | None = None,
    **keywords: Any,
) -> Iterator[tuple[Ends, Handshake]]:
    """Serve one connection at a time, and connect to the point at which a handshake begins.

    In the end, the server must have room for another.
    """
    handler = Ends()
    room = room or client
    keywords["tls_context" if security == STARTTLS else "ssl_context"] = server
    with serving(handler, max_connections=1, **keywords) as controller:
        made = Handshake(controller.port, security, client)
        with made.wire:
            yield handler, made
            if security == STARTTLS:
                assert handler.ends.get(timeout=PATIENCE).startswith("TLS handshake failed: ")
                assert isinstance(handler.faults.get(timeout=PATIENCE), TLSSetupException)
        assert has_room(controller, security, room)
        assert handler.faults.empty()
    # The end of the connection that has_room() made is the only other one.
    ends = [handler.ends.get_nowait() for _ in range(handler.ends.qsize())]
    assert not [why for why in ends if "TLS" in why]
    assert len(ends) <= handler.connects


def has_room(controller: Controller, security: str, context: ssl.SSLContext) -> bool:
    """Connect until the server does not refuse it for too many connections."""
    for _ in range(200):
        plain = socket.create_connection(("127.0.0.1", controller.port), timeout=PATIENCE)
        with plain, suppress(ConnectionError, ssl.SSLError):
            if security == FROM_THE_START:
                plain = context.wrap_socket(plain, server_hostname="127.0.0.1")
            with plain:
                if plain.recv(1000)[:4] == b"220 ":
                    return True
    return False


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Return a function for the lines that tell of an end in TLS; no line may be a warning."""
    with caplog.at_level(logging.INFO):
        yield lambda: [
            record.getMessage() for record in caplog.records if "TLS" in record.getMessage()
        ]
    assert [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ] == []


Lines = Callable[[], list[str]]
SECURITIES = pytest.mark.parametrize("security", [STARTTLS, FROM_THE_START])


def only(lines: Lines) -> str:
    """Return the one line of the log; with its cause, it is all that the log says."""
    found = [line for line in lines() if "handshake failed" in line]
    assert len(found) == 1, found
    assert len(lines()) == 1, lines()
    return found[0].lower()


# Handshakes that fail.


@SECURITIES
def test_no_shared_version(certificates: Certificates, lines: Lines, security: str) -> None:
    server, client = certificates.server_context(), certificates.client_context()
    server.minimum_version, client.maximum_version = V13, V12
    room = certificates.client_context()
    with handshake(security, server, client, room) as (_, peer):
        peer.send(peer.begin())
        assert peer.read()[:1] == b"\x15"
    assert "unsupported protocol" in only(lines)


@SECURITIES
def test_no_shared_cipher(certificates: Certificates, lines: Lines, security: str) -> None:
    server, client = certificates.server_context(), certificates.client_context()
    server.maximum_version = V12
    server.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    client.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    room = certificates.client_context()
    with handshake(security, server, client, room) as (_, peer):
        peer.send(peer.begin())
        assert peer.read()[:1] == b"\x15"
    assert "no shared cipher" in only(lines)


@SECURITIES
@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_client_refuses_the_certificate(
    certificates: Certificates, lines: Lines, security: str, version: ssl.TLSVersion
) -> None:
    client = ssl.create_default_context()
    client.maximum_version = version
    room = certificates.client_context()
    with handshake(security, certificates.server_context(), client, room) as (_, peer):
        peer.send(peer.begin())
        with pytest.raises(ssl.SSLCertVerificationError):
            peer.go_on()
        peer.send(peer.tls.alert())
        peer.read()
    assert "alert unknown ca" in only(lines)


@SECURITIES
@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_client_has_no_certificate(
    certificates: Certificates, lines: Lines, security: str, version: ssl.TLSVersion
) -> None:
    server, client = certificates.server_context(ssl.CERT_REQUIRED), certificates.client_context()
    client.maximum_version = version
    room = certificates.client_context(own_certificate=True)
    with handshake(security, server, client, room) as (_, peer):
        peer.send(peer.begin())
        peer.send(peer.go_on())
        peer.tls.feed(peer.read())
        # In TLS 1.3 the client has ended its handshake: the alert comes after that.
        go_on = peer.tls.read if peer.tls.established else peer.tls.shake_hands
        with pytest.raises(ssl.SSLError, match=r"(?i)alert (handshake fail|certificate required)"):
            go_on()
    assert "peer did not return a certificate" in only(lines)


@SECURITIES
@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\xff\xff" + b"x" * 99, b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"],
    ids=["too long", "empty"],
)
def test_garbage_in_a_handshake(
    certificates: Certificates, lines: Lines, security: str, garbage: bytes
) -> None:
    contexts = certificates.server_context(), certificates.client_context()
    with handshake(security, *contexts) as (_, peer):
        peer.send(garbage)
        assert peer.read()[:1] in (b"", b"\x15")
    only(lines)


# At which point of a handshake a client goes, or stands still.


def at_once(peer: Handshake) -> None:
    """Say nothing."""


def in_the_first_message(peer: Handshake) -> None:
    """Say half of the first message."""
    peer.send(peer.begin()[:100])


def after_one_byte(peer: Handshake) -> None:
    """Say next to nothing."""
    peer.send(peer.begin()[:1])


def before_the_last_message(peer: Handshake) -> None:
    """Read the server's messages, and do not answer."""
    peer.send(peer.begin())
    peer.go_on()


def in_the_last_message(peer: Handshake) -> None:
    """Say half of the last message."""
    peer.send(peer.begin())
    peer.send(peer.go_on()[:-10])


POINTS = pytest.mark.parametrize(
    "point",
    [at_once, after_one_byte, in_the_first_message, before_the_last_message, in_the_last_message],
    ids=lambda point: point.__name__,
)


@SECURITIES
@POINTS
def test_a_handshake_that_stalls(
    certificates: Certificates, lines: Lines, security: str, point: Callable[[Handshake], None]
) -> None:
    contexts = certificates.server_context(), certificates.client_context()
    with handshake(security, *contexts, handshake_timeout=0.2) as (_, peer):
        point(peer)
        # Nothing in the clear: the client would take it for a part of the handshake.
        assert b"421" not in peer.read()
    line = only(lines)
    assert "it took" in line or "nothing came" in line


@SECURITIES
@POINTS
def test_a_handshake_that_drips(
    certificates: Certificates, lines: Lines, security: str, point: Callable[[Handshake], None]
) -> None:
    """Each byte that comes gives the client no more time."""
    contexts = certificates.server_context(), certificates.client_context()
    with handshake(security, *contexts, handshake_timeout=0.2) as (_, peer):
        point(peer)
        peer.wire.socket.settimeout(0.02)
        with suppress(ConnectionError):
            for _ in range(int(PATIENCE / 0.02)):
                # A warning that means nothing, byte by byte, is a record that never ends.
                peer.send(b"\x16" if point is at_once else b"\x00")
                try:
                    if not peer.wire.socket.recv(65536):
                        break
                except TimeoutError:
                    continue
    only(lines)


@SECURITIES
@POINTS
def test_a_handshake_that_is_reset(
    certificates: Certificates, lines: Lines, security: str, point: Callable[[Handshake], None]
) -> None:
    contexts = certificates.server_context(), certificates.client_context()
    with handshake(security, *contexts) as (_, peer):
        point(peer)
        peer.reset()
    if security == STARTTLS:
        assert "reset" in only(lines) or "the client has gone" in only(lines)


@SECURITIES
@POINTS
def test_a_handshake_that_is_left(
    certificates: Certificates, lines: Lines, security: str, point: Callable[[Handshake], None]
) -> None:
    contexts = certificates.server_context(), certificates.client_context()
    with handshake(security, *contexts) as (_, peer):
        point(peer)
        peer.half_close()
        assert b"421" not in peer.read()
    if security == STARTTLS or point is not at_once:
        assert "the client has gone" in only(lines)


@SECURITIES
def test_a_client_takes_its_leave_in_a_handshake(
    certificates: Certificates, lines: Lines, security: str
) -> None:
    """A close_notify in place of the last message: as a user who cancels sends it."""
    server, client = certificates.server_context(), certificates.client_context()
    client.maximum_version = V12
    with handshake(security, server, client) as (_, peer):
        peer.send(peer.begin())
        peer.go_on()
        peer.send(b"\x15\x03\x03\x00\x02\x01\x00")
        assert b"421" not in peer.read()
    assert only(lines).rstrip(")")[-1].isalnum()


# Slow peers.

FIVE_MB = b"".join(b"%08d %s\r\n" % (number, b"x" * 60) for number in range(5_000_000 // 71))


@contextmanager
def secure(
    security: str, handler: Any, certificates: Certificates, **keywords: Any
) -> Iterator[ssl.SSLSocket]:
    """Serve, and connect a client that is greeted and in TLS; its buffers are small."""
    context = certificates.server_context()
    keywords["tls_context" if security == STARTTLS else "ssl_context"] = context
    with (
        serving(handler, **keywords) as controller,
        socket.socket() as plain,
    ):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        plain.settimeout(PATIENCE)
        plain.connect(("127.0.0.1", controller.port))
        if security == STARTTLS:
            assert plain.recv(1000)[:4] == b"220 "
            plain.sendall(b"STARTTLS\r\n")
            assert plain.recv(1000)[:4] == b"220 "
        with certificates.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as made:
            if security == FROM_THE_START:
                assert made.recv(1000)[:4] == b"220 "
            made.sendall(b"EHLO client.test\r\n")
            while not made.recv(4096).endswith(b"250 HELP\r\n"):
                pass
            yield made


class Slow:
    """Reads a message only when it may."""

    def __init__(self) -> None:
        self.begun: Queue[tuple[Any, asyncio.Event]] = Queue()
        self.taken: Queue[bytes] = Queue()

    async def handle_BODY(self, server: Any, session: Any, envelope: Any, body: Any) -> str:
        may_read = asyncio.Event()
        self.begun.put((server, may_read))
        await may_read.wait()
        self.taken.put(b"".join([piece async for piece in body]))
        return "250 Read"


@SECURITIES
def test_a_slow_handler_pauses_its_client(certificates: Certificates, security: str) -> None:
    handler = Slow()
    with secure(security, handler, certificates, extensions="modern") as client:
        for command in (b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA"):
            client.sendall(command + b"\r\n")
            assert client.recv(1000)[:1] in b"23"
        rest = memoryview(FIVE_MB + b".\r\n")
        client.setblocking(False)
        server: Any = None
        may_read = asyncio.Event()
        while True:
            with suppress(ssl.SSLWantWriteError):
                rest = rest[client.send(rest[:16384]) :]
                continue
            if server is None:
                server, may_read = handler.begun.get(timeout=PATIENCE)
            is_full = not select.select([], [client], [], 0.05)[1]
            if is_full and not server.transport.is_reading():
                break
        assert len(FIVE_MB) - len(rest) < 2_000_000
        server.loop.call_soon_threadsafe(may_read.set)
        client.settimeout(PATIENCE)
        client.sendall(rest)
        assert client.recv(1000) == b"250 2.0.0 Read\r\n"
        assert handler.taken.get(timeout=PATIENCE) == FIVE_MB


class Talkative:
    """Has 5 MB to say to VRFY, and notes how much of it waits."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.is_done = False

    async def handle_VRFY(self, server: Any, session: Any, envelope: Any, name: str) -> str:
        line = b"250-" + b"y" * 16_000
        for _ in range(5_000_000 // len(line)):
            await server.push(line)
            self.waiting.append(server.transport.get_write_buffer_size())
        self.is_done = True
        return "250 Said"


@SECURITIES
def test_a_slow_client_pauses_its_handler(certificates: Certificates, security: str) -> None:
    handler = Talkative()
    with secure(security, handler, certificates) as client:
        client.sendall(b"VRFY x\r\n")
        text = client.recv(4096)
        # A kernel takes less than all that: the handler waits.
        assert not handler.is_done
        while not text.endswith(b"250 Said\r\n"):
            text += client.recv(4096)
        assert text.count(b"250-" + b"y" * 16_000 + b"\r\n") == 5_000_000 // 16_004
        # Never was more in memory than a few replies.
        assert max(handler.waiting) < 200_000


class Says:
    """Says much or little to VRFY, and ends the session."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ends: Queue[str] = Queue()

    async def handle_VRFY(self, server: Any, session: Any, envelope: Any, name: str) -> str:
        server.transport.write(b"250-" + b"y" * self.size + b"\r\n421 Bye\r\n")
        # Most of it waits in the event loop.
        server.transport.close()
        return "250 Never sent"

    async def handle_DISCONNECT(self, server: Any, session: Any, envelope: Any, why: str) -> None:
        self.ends.put(why)


@SECURITIES
@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_client_that_never_leaves_is_cut_off(
    certificates: Certificates, security: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read all, the close_notify too, and keeps its side open."""
    monkeypatch.setattr("aiosmtpd.engine.connection.CLOSE_NOTIFY", 0.1)
    handler = Says(size)
    with secure(security, handler, certificates) as client:
        client.sendall(b"VRFY x\r\n")
        text = b""
        while data := client.recv(65536):
            text += data
        assert len(text) == size + 15
        assert handler.ends.get(timeout=PATIENCE) == "closed by the server"


class SaysLate(Says):
    """Waits until the client has sent so much that the server reads no more."""

    async def handle_VRFY(self, server: Any, session: Any, envelope: Any, name: str) -> str:
        await until(lambda: not server.transport.is_reading())
        return await super().handle_VRFY(server, session, envelope, name)


@SECURITIES
@pytest.mark.parametrize("kind", [Says, SaysLate])
def test_the_end_of_a_client_is_seen_after_a_close(
    certificates: Certificates, security: str, kind: type[Says], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has said more than the server has read when the session ends."""
    monkeypatch.setattr("aiosmtpd.engine.connection.CLOSE_NOTIFY", 3 * PATIENCE)
    handler = kind(10)
    with secure(security, handler, certificates) as client:
        with suppress(ConnectionError, ssl.SSLError):
            client.sendall(b"VRFY x\r\n" + b"NOOP\r\n" * 200_000)
        with suppress(ConnectionError, ssl.SSLError):
            while client.recv(65536):
                pass
    assert handler.ends.get(timeout=PATIENCE) == "closed by the server"


class Between(asyncio.Protocol):
    """A protocol that hands plain bytes on, as a program does that has looked at the first ones."""

    def __init__(self, server: SMTP) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.server.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.server.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connection_lost(exc)


async def test_starttls_below_a_protocol_of_the_programs(certificates: Certificates) -> None:
    """Ciphertext does not come by the way of the plain bytes."""
    server = SMTP(Catcher(), hostname="mx.test", tls_context=certificates.server_context())
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Between(server), "127.0.0.1", 0)
    async with listener, asyncio.timeout(PATIENCE):
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.readline())[:4] == b"220 "
        writer.write(b"STARTTLS\r\n")
        assert (await reader.readline())[:4] == b"220 "
        await writer.start_tls(certificates.client_context(), server_hostname="localhost")
        writer.write(b"EHLO client.test\r\n")
        assert (await reader.readuntil(b"HELP\r\n"))[:12] == b"250-mx.test\r"
        writer.close()
        await server.ended()
