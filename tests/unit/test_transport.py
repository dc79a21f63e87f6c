"""The transport that programs see: all of asyncio's methods, and the order of bytes."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from aiosmtpd.engine.transport import Transport
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, syntax
from tests.conftest import Certificates
from tests.dialogue.tls import PATIENCE, Client, HalfOpen, Peer
from tests.dialogue.transport import LOCAL, PEER

Act = Callable[["Acting"], Awaitable[Any]]


class Acting(SMTP):
    """Has a verb that does what a test says."""

    act: Act
    failure: Exception | None = None
    acted = 0

    @syntax("ACT")
    async def smtp_ACT(self, arg: str | None) -> None:
        """Act, and answer if that is still possible."""
        try:
            is_over = await self.act(self)
            self.acted += 1
        except Exception as error:
            self.failure = error
            raise
        if not is_over and self.transport is not None and not self.transport.is_closing():
            await self.push("250 Acted")


Connect = Callable[[Act], Awaitable[Peer]]


@pytest.fixture(params=["clear", "TLS"])
def connect(request: pytest.FixtureRequest, certificates: Certificates) -> Connect:
    """Return a function that connects to a server whose verb ACT does as a test says."""

    async def connect(act: Act) -> Peer:
        context = certificates.server_context()
        server = Acting(Sink(), hostname="mx.test", ident="test", tls_context=context)
        server.act = act
        peer = Peer(server)
        await peer.until(b"220 mx.test test\r\n")
        if request.param == "TLS":
            await peer.starttls(certificates.client_context())
            await peer.ask(b"NOOP", b"250 OK\r\n")
        peer.text = b""
        return peer

    return connect


@pytest.fixture(autouse=True)
async def quiet() -> AsyncIterator[None]:
    """Fail a test if the event loop has had to report an exception."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    yield
    assert complaints == []


async def answer(connect: Connect, act: Act) -> bytes:
    """Return the server's text for ACT, in a session that goes on after it."""
    peer = await connect(act)
    text = await peer.ask(b"ACT", b"250 Acted\r\n")
    assert await peer.ask(b"NOOP", b"250 OK\r\n") == b"250 OK\r\n"
    await peer.finish()
    assert peer.server.acted == 1
    return text


async def last_words(connect: Connect, act: Act) -> bytes:
    """Return the server's text for an ACT that ends the session."""
    peer = await connect(act)
    peer.send(b"ACT\r\n")
    await peer.ended()
    text = await peer.finish()
    assert peer.server.failure is None
    assert peer.server.acted == 1
    return text


# Its kind.


async def test_it_is_a_transport_of_asyncio(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        transport = server.transport
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, Transport)
        assert server.session_transport is transport
        assert transport.get_protocol() is server

    await answer(connect, act)


def test_it_has_all_methods_of_asyncio() -> None:
    names = [name for name in dir(asyncio.Transport) if not name.startswith("_")]
    assert "write" in names
    assert [name for name in names if name not in vars(Transport)] == []


async def test_it_knows_the_endpoints(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        ask = server.transport.get_extra_info
        assert ask("peername") == PEER
        assert ask("sockname") == LOCAL
        assert ask("no such thing") is None
        assert ask("no such thing", 7) == 7

    await answer(connect, act)


async def test_it_knows_of_tls(connect: Connect, request: pytest.FixtureRequest) -> None:
    secure = request.node.callspec.params["connect"] == "TLS"

    async def act(server: Acting) -> None:
        assert server.transport is not None
        ask = server.transport.get_extra_info
        assert isinstance(ask("ssl_object"), ssl.SSLObject) is secure
        assert isinstance(ask("sslcontext"), ssl.SSLContext) is secure
        assert (ask("cipher") is not None) is secure
        assert ask("peercert") is None
        assert server.transport.can_write_eof() is not secure
        if secure:
            assert server.session is not None
            assert server.session.ssl is not None
            assert server.session.ssl["ssl_object"] is ask("ssl_object")
            assert server._original_transport is not server.transport
            assert server._tls_protocol is not None

    await answer(connect, act)


# Writing.


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_write_comes_between_the_replies(
    connect: Connect, kind: Callable[[bytes], bytes]
) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        await server.push("250-one")
        server.transport.write(kind(b"250-two\r\n"))
        await server.push("250-three")
        server.transport.write(kind(b""))
        server.transport.writelines([kind(b"250-four\r\n"), b"", kind(b"250-five\r\n")])

    assert await answer(connect, act) == (
        b"250-one\r\n250-two\r\n250-three\r\n250-four\r\n250-five\r\n250 Acted\r\n"
    )


async def test_a_write_of_a_later_turn_comes_after_replies(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        # Before the reply in the queue of the event loop, after it in time.
        server.loop.call_soon(server.transport.write, b"250-two\r\n")
        await server.push("250-one")
        await asyncio.sleep(0)

    assert await answer(connect, act) == b"250-one\r\n250-two\r\n250 Acted\r\n"


async def test_a_written_buffer_may_be_used_again(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        line = bytearray(b"250-one\r\n")
        server.transport.write(line)
        line[4:7] = b"two"
        server.transport.write(line)

    assert await answer(connect, act) == b"250-one\r\n250-two\r\n250 Acted\r\n"


async def test_a_large_write_comes_whole(connect: Connect) -> None:
    lines = b"".join(b"250-%06d\r\n" % number for number in range(100_000))

    async def act(server: Acting) -> None:
        assert server.transport is not None
        await server.push("250-first")
        server.transport.write(lines)

    assert await answer(connect, act) == b"250-first\r\n" + lines + b"250 Acted\r\n"


async def test_pipelined_replies_keep_their_places(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        server.transport.write(b"250-written\r\n")

    peer = await connect(act)
    peer.send(b"NOOP\r\nACT\r\nRSET\r\nACT\r\nVRFY\r\n")
    text = await peer.until(b"VRFY <address>\r\n")
    codes = [line.split()[0] for line in text.splitlines()]
    assert codes == [b"250", b"250-written", b"250", b"250", b"250-written", b"250", b"501"]
    await peer.finish()


async def test_a_stream_writer_works_on_it(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        assert server.transport is not None
        writer = asyncio.StreamWriter(server.transport, protocol, None, server.loop)
        await server.push("250-one")
        writer.write(b"250-two\r\n")
        await writer.drain()
        await server.push("250-three")
        writer.writelines([b"421 four\r\n"])
        assert not writer.is_closing()
        assert writer.get_extra_info("peername") == PEER
        writer.close()
        await writer.drain()
        assert writer.is_closing()

    text = await last_words(connect, act)
    assert text == b"250-one\r\n250-two\r\n250-three\r\n421 four\r\n"


async def test_limits_and_size_are_those_of_the_loop(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        server.transport.set_write_buffer_limits(high=4000, low=1000)
        assert server.transport.get_write_buffer_limits() == (1000, 4000)
        assert server.transport.get_write_buffer_size() == 0

    await answer(connect, act)


async def test_a_writing_side_may_be_closed_alone(
    connect: Connect, request: pytest.FixtureRequest
) -> None:
    secure = request.node.callspec.params["connect"] == "TLS"

    async def act(server: Acting) -> bool:
        assert server.transport is not None
        await server.push("421 Bye")
        if secure:
            # As in asyncio: a FIN without a close_notify is a truncated stream.
            with pytest.raises(NotImplementedError):
                server.transport.write_eof()
            server.transport.close()
        else:
            server.transport.write_eof()
        return True

    assert await last_words(connect, act) == b"421 Bye\r\n"


@pytest.mark.parametrize("connect", ["clear"], indirect=True)
async def test_replies_after_write_eof_are_dropped(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        await server.push("250-one")
        for word in "two", "three":
            server.transport.write_eof()
            await server.push(f"250-{word}")
            server.transport.write(b"250 four\r\n")

    peer = await connect(act)
    peer.send(b"ACT\r\nEHLO client.test\r\nVRFY anne\r\n")
    await peer.ended()
    peer.send(b"QUIT\r\n")
    assert await peer.finish() == b"250-one\r\n"
    assert peer.server.failure is None
    assert peer.server.session.host_name == "client.test"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("connect", ["clear"], indirect=True)
async def test_write_eof_if_the_event_loop_cannot(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop's own TLS cannot: the session goes on."""

    def write_eof(transport: HalfOpen) -> None:
        raise NotImplementedError

    async def act(server: Acting) -> None:
        assert server.transport is not None
        with pytest.raises(NotImplementedError):
            server.transport.write_eof()

    monkeypatch.setattr(HalfOpen, "can_write_eof", lambda transport: False)
    monkeypatch.setattr(HalfOpen, "write_eof", write_eof)
    await answer(connect, act)


@pytest.mark.parametrize("connect", ["clear"], indirect=True)
async def test_write_eof_after_the_client_has_gone(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        transport = server.transport
        assert transport is not None
        peer.transport.reset()
        await peer.transport.lost.wait()
        transport.write_eof()

    peer = await connect(act)
    peer.send(b"ACT\r\n")
    await asyncio.wait_for(peer.server.ended(), PATIENCE)
    assert peer.server.failure is None
    assert not peer.transport.has_ended


# Reading.


async def test_reading_may_be_paused(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        assert server.transport.is_reading()
        server.transport.pause_reading()
        assert not server.transport.is_reading()

    peer = await connect(act)
    await peer.ask(b"ACT", b"250 Acted\r\n")
    peer.send(b"NOOP\r\n")
    await asyncio.sleep(0)
    assert peer.read() == b"250 Acted\r\n"
    peer.server.transport.resume_reading()
    assert await peer.until(b"250 OK\r\n") == b"250 Acted\r\n250 OK\r\n"
    await peer.finish()


class Other(asyncio.Protocol):
    """Speaks another protocol: it says what it has heard."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.transport.write(b"heard " + data)


async def test_no_other_protocol_takes_over_in_tls(
    connect: Connect, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["connect"] != "TLS":
        pytest.skip("it may in the clear")

    async def act(server: Acting) -> None:
        assert server.transport is not None
        with pytest.raises(RuntimeError, match="in TLS"):
            server.transport.set_protocol(asyncio.Protocol())

    await answer(connect, act)


async def test_another_protocol_may_take_over(
    connect: Connect, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["connect"] == "TLS":
        pytest.skip("it may not in TLS")
    others: list[Other] = []

    async def act(server: Acting) -> None:
        assert server.transport is not None
        others.append(Other(server.transport))
        await server.push("250-Switching")
        server.transport.set_protocol(others[0])
        assert server.transport.get_protocol() is others[0]

    peer = await connect(act)
    await peer.ask(b"ACT", b"250 Acted\r\n")
    peer.send(b"plain")
    assert await peer.until(b"heard plain") == b"250-Switching\r\n250 Acted\r\nheard plain"
    assert others[0].heard == b"plain"
    peer.server.transport.set_protocol(peer.server)
    assert peer.server.transport.get_protocol() is peer.server
    assert await peer.ask(b"NOOP", b"250 OK\r\n") == b"250 OK\r\n"
    await peer.finish()


# The end.


async def test_a_close_comes_after_the_replies(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        await server.push("421 Bye")
        assert not server.transport.is_closing()
        server.transport.close()
        assert server.transport.is_closing()

    assert await last_words(connect, act) == b"421 Bye\r\n"


async def test_a_close_of_a_later_turn_comes_after_replies(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        server.loop.call_soon(server.transport.close)
        await server.push("421 Bye")
        await asyncio.sleep(0)

    assert await last_words(connect, act) == b"421 Bye\r\n"


async def test_nothing_is_sent_after_a_close(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        # As asyncio's own transports do, ours drops these bytes.
        transport = server.transport
        assert transport is not None
        transport.write(b"421 Bye\r\n")
        transport.close()
        transport.close()
        transport.write(b"late\r\n")
        transport.writelines([b"late\r\n"])
        with suppress(ConnectionError):
            await server.push("250 late")
        await asyncio.sleep(0)
        transport.write(b"late\r\n")

    assert await last_words(connect, act) == b"421 Bye\r\n"


async def test_a_command_after_a_close_is_not_run(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        await server.push("421 Bye")
        server.transport.close()

    peer = await connect(act)
    peer.send(b"ACT\r\nACT\r\nNOOP\r\n")
    peer.send(b"ACT\r\n")
    assert await peer.finish() == b"421 Bye\r\n"
    assert peer.server.acted == 1


async def test_an_abort_is_at_once(connect: Connect) -> None:
    async def act(server: Acting) -> None:
        assert server.transport is not None
        server.transport.write(b"421 Bye\r\n")
        server.transport.abort()
        assert server.transport.is_closing()

    peer = await connect(act)
    peer.send(b"ACT\r\n")
    await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
    assert peer.read() == b"421 Bye\r\n"
    if peer.tls is not None:
        assert not peer.tls.ended


async def test_it_does_no_harm_after_its_end(connect: Connect) -> None:
    kept: list[asyncio.Transport] = []

    async def act(server: Acting) -> None:
        assert server.transport is not None
        kept.append(server.transport)

    peer = await connect(act)
    await peer.ask(b"ACT", b"250 Acted\r\n")
    await peer.finish()
    (transport,) = kept
    assert transport.is_closing()
    assert not transport.is_reading()
    transport.write(b"late\r\n")
    transport.writelines([b"late\r\n"])
    transport.close()
    transport.abort()
    assert transport.get_extra_info("peername") == PEER
    assert peer.server.transport is None
    assert b"late" not in peer.read()


async def test_a_program_may_write_in_a_handshake(certificates: Certificates) -> None:
    """A timer of the program fires while the client is in its handshake."""
    context = certificates.server_context()
    server = SMTP(Sink(), hostname="mx.test", ident="test", tls_context=context)
    peer = Peer(server)
    await peer.until(b"220 mx.test test\r\n")
    await peer.asks_for_tls()
    before = bytes(peer.transport.sent)
    assert server.transport is not None
    server.transport.write(b"421 Time is over\r\n")
    await server.push("421 Time is over")
    await asyncio.sleep(0)
    # In the clear, the client would take it for a part of the handshake.
    assert peer.transport.sent == before
    await peer.shake_hands(Client(certificates.client_context()))
    await peer.ask(b"NOOP", b"250 OK\r\n")
    await peer.finish()


async def test_a_program_may_close_in_a_handshake(certificates: Certificates) -> None:
    context = certificates.server_context()
    server = SMTP(Sink(), hostname="mx.test", ident="test", tls_context=context)
    peer = Peer(server)
    await peer.until(b"220 mx.test test\r\n")
    await peer.asks_for_tls()
    size = len(peer.transport.sent)
    assert server.transport is not None
    server.transport.close()
    await peer.finish()
    assert len(peer.transport.sent) == size


async def test_the_end_of_a_transport_whose_connection_is_over(connect: Connect) -> None:
    async def keep(server: Acting) -> None:
        kept.append(server.transport)

    kept: list[Any] = []
    peer = await connect(keep)
    await peer.ask(b"ACT", b"250 Acted\r\n")
    await peer.finish()
    (transport,) = kept
    if transport.can_write_eof():
        transport.write_eof()
        assert peer.transport.has_ended
    else:
        with pytest.raises(NotImplementedError):
            transport.write_eof()


async def test_uvloops_own_transport_gets_each_reply_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program with a STARTTLS of its own has it, and may write to it or close it."""
    monkeypatch.setattr(HalfOpen, "__module__", "uvloop.loop")

    class Own(Acting):
        async def smtp_STARTTLS(self, arg: str | None) -> None:
            raise NotImplementedError

    async def act(server: Acting) -> bool:
        assert isinstance(server.transport, HalfOpen)
        await server.push("250-one")
        server._writer.write(b"250-two\r\n")
        server.transport.write(b"250 three\r\n")
        await server.push("421 four")
        server.transport.close()
        return True

    server = Own(Sink(), hostname="mx.test", ident="test")
    server.act = act
    peer = Peer(server)
    await peer.until(b"220 mx.test test\r\n")
    peer.text = b""
    peer.send(b"ACT\r\n")
    await peer.ended()
    assert await peer.finish() == b"250-one\r\n250-two\r\n250 three\r\n421 four\r\n"
