"""Flow control and ends of a connection, over a transport whose peer reads when a test says so."""

import asyncio
from typing import Any

import pytest

from aiosmtpd.engine.registry import Registry
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP
from tests.dialogue.tls import Client as TLSClient
from tests.dialogue.transport import MemoryTransport

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""


class SlowTransport(MemoryTransport):
    """A transport that keeps *unread* bytes for a peer that does not read."""

    unread = 0
    patient = True
    aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if self.unread > self._limits[1] and self.patient:
            self.patient = False
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.unread

    def read_all(self) -> None:
        """Let the peer read."""
        self.unread = 0
        self.patient = True
        self._protocol.resume_writing()

    def close(self) -> None:
        if not self.unread:
            super().close()
        self._closing = True

    def abort(self) -> None:
        self.aborted = True
        self._closing = False
        super().close() if not self.unread else self._end(None)


class Server(SMTP):
    """A server that a test can look into."""

    def __init__(self, handler: Any = None, **keywords: Any) -> None:
        super().__init__(handler or Sink(), hostname="mx.test", ident="test", **keywords)
        self.network = SlowTransport(asyncio.get_running_loop(), self)

    async def smtp_FLOOD(self, arg: str | None) -> None:
        """Answer so much that it does not wait for the end of the input."""
        for _ in range(20_000):
            await self.push("250 OK")

    async def sent(self, text: bytes) -> None:
        """Wait until all that was sent ends so."""
        async with asyncio.timeout(PATIENCE):
            while not self.network.sent.endswith(text):
                self.network.changed.clear()
                await self.network.changed.wait()

    async def over(self) -> None:
        """Wait until connection and task have ended."""
        await asyncio.wait_for(self.ended(), PATIENCE)


GREETING = b"220 mx.test test\r\n"
OK = b"250 OK\r\n"


async def connected(**keywords: Any) -> Server:
    server = Server(**keywords)
    await server.sent(GREETING)
    return server


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_command_is_run_while_the_peer_does_not_read() -> None:
    server = await connected()
    server.network.unread = 100_000
    server.network.feed(b"NOOP\r\n")
    await server.sent(GREETING + OK)
    server.network.feed(b"NOOP\r\nNOOP\r\n")
    await turns()
    assert server.network.sent == GREETING + OK
    server.network.read_all()
    await server.sent(OK * 3)
    server.network.reset()
    await server.over()


async def test_a_push_waits_while_the_peer_does_not_read() -> None:
    server = await connected()
    server.network.unread = 100_000
    server.network.feed(b"FLOOD\r\n")
    await server.sent(OK)
    await turns()
    assert 65536 < len(server.network.sent) < 65536 + 4096
    server.network.read_all()
    server.network.feed(b"QUIT\r\n")
    await server.sent(b"221 Bye\r\n")
    assert server.network.sent.count(OK) == 20_000
    server.network.reset()
    await server.over()


async def test_after_a_fin_replies_wait_for_a_peer_that_does_not_read() -> None:
    server = await connected()
    server.network.unread = 100_000
    server.network.feed(b"NOOP\r\n" * 20_000)
    server.network.feed_eof()
    await turns()
    assert len(server.network.sent) < 65536 + 4096
    server.network.read_all()
    await server.over()
    assert server.network.sent.count(OK) == 20_000


async def test_a_peer_that_never_reads_is_cut_off() -> None:
    server = await connected(timeout=0.05)
    server.network.unread = 100_000
    server.network.feed(b"NOOP\r\n")
    await server.over()
    assert server.network.aborted


async def test_a_peer_that_leaves_the_last_reply_unread_is_cut_off() -> None:
    """docs/reference/limits, "unread replies": close() would wait for it for ever."""
    server = await connected(timeout=0.05)
    server.network.unread = 10
    server.network.feed(b"QUIT\r\n")
    await server.over()
    assert server.network.sent.endswith(b"221 Bye\r\n")
    assert server.network.aborted


@pytest.mark.parametrize("established", [True, False])
async def test_tls_that_fails_waits_for_no_reader(certificates: Any, established: bool) -> None:
    """docs/reference/limits, "unread replies": a connection that is closed must end, here too."""
    server = await connected(timeout=0.05, tls_context=certificates.server_context())
    server.network.feed(b"STARTTLS\r\n")
    await server.sent(b"220 Ready to start TLS\r\n")
    client = TLSClient(certificates.client_context())
    while established and not client.established:
        before = len(server.network.sent)
        server.network.feed(client.shake_hands())
        await turns()
        client.feed(bytes(server.network.sent[before:]))
    server.network.unread = 10
    server.network.feed(b"no record of TLS\r\n")
    await server.over()
    assert server.network.aborted


async def test_a_reset_ends_a_push_that_waits() -> None:
    server = await connected()
    server.network.unread = 100_000
    server.network.feed(b"FLOOD\r\n")
    await turns()
    server.network.reset()
    await server.over()


async def test_late_or_repeated_transport_calls_are_harmless() -> None:
    server = await connected()
    server.resume_writing()
    server.network.reset()
    await server.over()
    server.pause_writing()
    server.disconnect("421 too late")
    server.data_received(b"x" * 70_000)
    server.resume_writing()


async def test_a_lost_connection_holds_no_timer() -> None:
    server = await connected()
    server.network.reset()
    await server.over()
    server._reset_timeout()
    assert server._timer is None


class Waiting(Sink):
    """A handler whose NOOP waits for ever."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def handle_NOOP(self, *_: Any) -> str:
        self.entered.set()
        await asyncio.Event().wait()
        return "250 OK"


async def test_a_stop_ends_the_hook_of_a_client_that_has_gone() -> None:
    handler, registry = Waiting(), Registry()
    server = await connected(handler=handler, registry=registry)
    server.network.feed(b"NOOP\r\n")
    await asyncio.wait_for(handler.entered.wait(), PATIENCE)
    server.network.reset()
    await turns()
    assert registry.connections == {server}
    await asyncio.wait_for(registry.stop(0), PATIENCE)
    assert registry.connections == set()


async def test_one_that_was_never_connected_can_be_ended() -> None:
    server = SMTP(Sink())
    server.abort()
    server.disconnect()


class Hasty(Server):
    """Gives up after the go-ahead for TLS."""

    async def push(self, status: str | bytes) -> None:
        await super().push(status)
        if str(status).startswith("220 Ready"):
            self.disconnect()


async def test_a_connection_closed_at_the_go_ahead_for_tls(certificates: Any) -> None:
    server = Hasty(tls_context=certificates.server_context())
    await server.sent(GREETING)
    server.network.feed(b"STARTTLS\r\n")
    await server.over()
    assert server.network.sent.endswith(b"220 Ready to start TLS\r\n")


class Rescue(Sink):
    """Keeps the exceptions."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    async def handle_exception(self, error: Exception) -> str:
        self.errors.append(error)
        return "500 no"


@pytest.mark.parametrize("quietly", [True, False])
async def test_a_peer_that_leaves_in_the_handshake(certificates: Any, quietly: bool) -> None:
    handler = Rescue()
    server = await connected(handler=handler, tls_context=certificates.server_context())
    server.network.feed(b"STARTTLS\r\n")
    await server.sent(b"220 Ready to start TLS\r\n")
    if quietly:
        server.network.feed_eof()
    else:
        server.network.reset()
    await server.over()
    assert [type(error).__name__ for error in handler.errors] == ["TLSSetupException"]


async def test_a_client_that_goes_in_handle_connect_is_not_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Talker:
        async def handle_CONNECT(self, server: Server, *_: Any) -> str:
            server.network.reset()
            await turns()
            await server.push("220-more to come")
            return "220 never sent"

    server = Server(Talker())
    await server.over()
    assert server.network.sent == b""
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


class Unusable:
    """The socket of a program's transport, which has no options."""

    def setsockopt(self, *_: int) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("found", [Unusable(), object(), ("127.0.0.1", 25)])
async def test_a_message_in_pieces_needs_no_socket(
    found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error would leave the rest of the message, which is then run as commands."""
    monkeypatch.setattr("aiosmtpd.engine.wire.QUICK_ACK", 12)
    server = await connected()
    server.network._extra["socket"] = found  # type: ignore[attr-defined]
    server.network.feed(b"EHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
    await turns()
    for piece in (b"Subject: x\r\n", b"\r\nNOOP\r\n", b".\r\n"):
        server.network.feed(piece)
        await turns()
    assert server.network.sent.endswith(b"<CR><LF>.<CR><LF>\r\n" + OK)
