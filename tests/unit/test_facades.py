"""Private names that programs for 1.4 lean on: readers, writers, tables of hooks and verbs."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiosmtpd.engine.compat import Reader, Writer
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, syntax
from tests.dialogue.transport import PEER, MemoryTransport

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""

Act = Callable[["Acting"], Awaitable[Any]]


class Acting(SMTP):
    """Has a verb that calls a function of the test."""

    def __init__(self, act: Act, handler: object = None) -> None:
        super().__init__(handler or Sink(), hostname="mx.test", ident="test")
        self.act = act
        self.outcome = self.loop.create_future()
        self.begun = asyncio.Event()

    @syntax("ACT")
    async def smtp_ACT(self, arg: str | None) -> None:
        """Call the function, and keep its result."""
        self.begun.set()
        try:
            self.outcome.set_result(await self.act(self))
        except Exception as error:
            self.outcome.set_exception(error)
        if not self._lost:
            await self.push("250 Acted")


class Peer:
    """A connection to an `Acting` server that is about to act."""

    def __init__(self, act: Act) -> None:
        self.server = Acting(act)
        self.transport = MemoryTransport(asyncio.get_running_loop(), self.server)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.transport.feed(piece)

    async def outcome(self) -> Any:
        return await asyncio.wait_for(self.server.outcome, PATIENCE)

    async def sent(self, end: bytes) -> bytes:
        """Wait until the output ends with *end*; return all of it."""
        async with asyncio.timeout(PATIENCE):
            while not self.transport.sent.endswith(end):
                self.transport.changed.clear()
                await self.transport.changed.wait()
        return bytes(self.transport.sent)


@asynccontextmanager
async def acting(act: Act) -> Any:
    peer = Peer(act)
    await peer.sent(b"220 mx.test test\r\n")
    peer.feed(b"ACT\r\n")
    await asyncio.wait_for(peer.server.begun.wait(), PATIENCE)
    try:
        yield peer
    finally:
        peer.transport.close()
        await asyncio.wait_for(peer.server.ended(), PATIENCE)


async def turn() -> None:
    """Let the loop go round once."""
    loop = asyncio.get_running_loop()
    gone_round = loop.create_future()
    loop.call_soon(gone_round.set_result, None)
    await gone_round


def reading(name: str, *args: Any) -> Act:
    """Act by calling a method of the reader."""
    return lambda server: getattr(server._reader, name)(*args)


# The reader.


@pytest.mark.parametrize(
    ("name", "args", "pieces", "expected"),
    [
        ("readline", (), [b"one\r\ntwo\r\n"], b"one\r\n"),
        ("readline", (), [b"one\n"], b"one\n"),
        ("readline", (), [b"o", b"n", b"e\r", b"\n"], b"one\r\n"),
        ("readuntil", (), [b"one\ntwo"], b"one\n"),
        ("readuntil", (b"\r\n",), [b"one\ntwo\r", b"\nthree"], b"one\ntwo\r\n"),
        ("readuntil", (b"abab",), [b"abaab", b"abx"], b"abaabab"),
        ("readexactly", (5,), [b"1234567"], b"12345"),
        ("readexactly", (5,), [b"12", b"34", b"56"], b"12345"),
        ("readexactly", (0,), [b"12"], b""),
        ("read", (5,), [b"12"], b"12"),
        ("read", (2,), [b"1234"], b"12"),
    ],
)
async def test_reading(name: str, args: Any, pieces: list[bytes], expected: bytes) -> None:
    async with acting(reading(name, *args)) as peer:
        peer.feed(*pieces)
        assert await peer.outcome() == expected


async def test_a_reader_takes_buffered_bytes_and_leaves_commands() -> None:
    peer = Peer(reading("readexactly", 5))
    await peer.sent(b"220 mx.test test\r\n")
    peer.feed(b"ACT\r\nQUIT\nNOOP\r\n")
    assert await peer.outcome() == b"QUIT\n"
    assert (await peer.sent(b"250 Acted\r\n250 OK\r\n")).count(b"\r\n") == 3
    peer.transport.close()
    await peer.server.ended()


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [("read", (), b"123456"), ("read", (-1,), b"123456"), ("readline", (), b"123456")],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_reading_to_the_end(name: str, args: Any, expected: bytes, reset: bool) -> None:
    async with acting(reading(name, *args)) as peer:
        peer.feed(b"123", b"456")
        await turn()
        if reset:
            peer.transport.reset()
        else:
            peer.transport.feed_eof()
        assert await peer.outcome() == expected


@pytest.mark.parametrize(
    ("name", "args"), [("readexactly", (9,)), ("readuntil", ()), ("readuntil", (b"x",))]
)
async def test_an_end_too_early(name: str, args: Any) -> None:
    async with acting(reading(name, *args)) as peer:
        peer.feed(b"1234")
        await turn()
        peer.transport.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await peer.outcome()
    assert caught.value.partial == b"1234"
    assert caught.value.expected == (9 if name == "readexactly" else None)


async def test_a_separator_that_does_not_come() -> None:
    async with acting(reading("readuntil", b"x")) as peer:
        for _ in range(17):
            peer.feed(b"-" * 4096)
        with pytest.raises(asyncio.LimitOverrunError):
            await peer.outcome()


async def test_reading_zero_bytes_does_not_wait() -> None:
    """asyncio.StreamReader.read: if n is 0, return an empty bytes object immediately."""
    async with acting(reading("read", 0)) as peer:
        await turn()
        try:
            assert peer.server.outcome.done()
        finally:
            peer.feed(b"x\r\n")
            assert await peer.outcome() == b""


async def test_at_eof() -> None:
    async def act(server: Acting) -> list[bool]:
        reader = server._reader
        told = [reader.at_eof()]
        await reader.readexactly(2)
        told.append(reader.at_eof())
        await reader.read()
        told.append(reader.at_eof())
        return told

    async with acting(act) as peer:
        peer.feed(b"1234")
        peer.transport.feed_eof()
        assert await peer.outcome() == [False, False, True]


async def test_nothing_is_at_its_end_while_something_waits() -> None:
    go_on = asyncio.Event()

    async def act(server: Acting) -> list[bool]:
        await go_on.wait()
        told = [server._reader.at_eof()]
        await server._reader.readexactly(2)
        return [*told, server._reader.at_eof()]

    async with acting(act) as peer:
        peer.feed(b"12")
        peer.transport.feed_eof()
        go_on.set()
        assert await peer.outcome() == [False, True]


# The writer.


async def test_writing() -> None:
    async def act(server: Acting) -> None:
        writer = server._writer
        writer.write(b"250-one\r\n")
        writer.writelines([b"250-", b"two\r\n"])
        await writer.drain()

    async with acting(act) as peer:
        sent = await peer.sent(b"250 Acted\r\n")
    assert sent == b"220 mx.test test\r\n250-one\r\n250-two\r\n250 Acted\r\n"


@pytest.mark.parametrize("data", ["250 text", None, 3])
async def test_a_writer_refuses_what_is_not_bytes(data: Any) -> None:
    async def act(server: Acting) -> None:
        with pytest.raises(TypeError, match="bytes-like"):
            server._writer.write(data)

    async with acting(act) as peer:
        await peer.outcome()
        assert (await peer.sent(b"Acted\r\n")).endswith(b"220 mx.test test\r\n250 Acted\r\n")


async def test_a_writer_keeps_a_copy() -> None:
    async def act(server: Acting) -> None:
        data = bytearray(b"250-first\r\n")
        server._writer.write(data)
        data.clear()

    async with acting(act) as peer:
        await peer.outcome()
        assert b"250-first\r\n250 Acted\r\n" in await peer.sent(b"Acted\r\n")


async def test_draining_waits_for_a_peer_that_does_not_read() -> None:
    async with acting(lambda server: server._writer.drain()) as peer:
        await peer.outcome()
    paused = asyncio.Event()

    async def act(server: Acting) -> None:
        await paused.wait()
        await server._writer.drain()

    async with acting(act) as peer:
        peer.server.pause_writing()
        paused.set()
        for _ in range(5):
            await turn()
        assert not peer.server.outcome.done()
        peer.server.resume_writing()
        await peer.outcome()


async def test_a_writer_knows_its_transport() -> None:
    async def act(server: Acting) -> tuple[object, ...]:
        writer = server._writer
        return (
            writer.transport,
            writer.get_extra_info("peername"),
            writer.get_extra_info("nothing"),
            writer.get_extra_info("nothing", 5),
        )

    async with acting(act) as peer:
        transport, *known = await peer.outcome()
        assert transport.raw is peer.transport
        assert known == [PEER, None, 5]


async def test_closing() -> None:
    async def act(server: Acting) -> list[bool]:
        writer = server._writer
        told = [writer.is_closing()]
        writer.close()
        return [*told, writer.is_closing()]

    async with acting(act) as peer:
        assert await peer.outcome() == [False, True]
        await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
        writer = peer.server._writer
        assert writer.is_closing()
        assert writer.transport is None
        assert writer.get_extra_info("peername") is None
        assert writer.get_extra_info("peername", "gone") == "gone"


# The transport: a STARTTLS of a subclass's own puts another in its place.


@pytest.mark.parametrize("facade", ["_reader", "_writer"])
async def test_another_transport_begins_a_session(facade: str) -> None:
    async def act(server: Acting) -> object:
        before = server.session, server.envelope
        shown = getattr(server, facade)
        same = shown._transport
        shown._transport = same
        assert (server.session, server.envelope) == before, "the same transport changes nothing"
        # It is the driver's own task that goes on with the other transport.
        other = Silent(server.loop, {"peername": ("192.0.2.9", 9), "sslcontext": "tls"})
        shown._transport = other
        assert getattr(server, facade)._transport is other
        shown_transport: Any = server.transport
        assert shown_transport.raw is other
        assert server.session is not before[0]
        assert server.envelope is not before[1]
        after = server.session
        assert server.session.ssl is not None
        shown._transport = same
        return same, after.peer

    async with acting(act) as peer:
        # The peer of a connection stays if its transport changes.
        transport, peer_name = await peer.outcome()
        assert (transport.raw, peer_name) == (peer.transport, PEER)


class Silent(asyncio.Transport):
    """Drops the bytes that are written, and sends none."""

    def __init__(self, loop: asyncio.AbstractEventLoop, extra: dict[str, object]) -> None:
        super().__init__(extra)

    def write(self, data: object) -> None:
        """Drop it."""

    def is_closing(self) -> bool:
        """It is open."""
        return False


# Tables.


class Hooks:
    """Has two hooks, and a method that is not a hook."""

    async def handle_DATA(self, *_: object) -> str:
        return "250 OK"

    async def handle_MAIL(self, *_: object) -> str:
        return "250 OK"

    async def auth_MINE(self, *_: object) -> None:
        """Stand for a method that is not the hook of a verb."""


async def nothing(server: Acting) -> None:
    """Do nothing."""


async def test_hooks_and_verbs_by_name() -> None:
    handler = Hooks()
    server = Acting(nothing, handler)
    found = server._handle_hooks
    assert set(found) == {"DATA", "MAIL"}
    assert found["DATA"] == handler.handle_DATA
    verbs = server._smtp_methods
    assert {"HELO", "EHLO", "MAIL", "RCPT", "DATA", "QUIT", "ACT"} <= set(verbs)
    assert verbs["ACT"] == server.smtp_ACT
    assert all(name.isupper() for name in verbs)
    assert isinstance(server._reader, Reader)
    assert isinstance(server._writer, Writer)
