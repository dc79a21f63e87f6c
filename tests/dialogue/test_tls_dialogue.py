"""SMTP in TLS over a transport in memory: no cut, join or end changes the dialogue."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.conftest import Certificates

from .tls import PATIENCE, Client, Peer

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Handler:
    """Keeps messages, commands and ends."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.names: list[str] = []
        self.ends: list[str] = []
        self.faults: list[Exception] = []

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, name: str, lines: list[str]
    ) -> list[str]:
        self.names.append(name)
        session.host_name = name
        return lines

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.messages.append(envelope.content)
        return "250 Taken"

    async def handle_DISCONNECT(
        self, server: SMTP, session: Session, envelope: Envelope, reason: str
    ) -> None:
        self.ends.append(reason)

    async def handle_exception(self, error: Exception) -> str:
        self.faults.append(error)
        return "451 Fault"


Connect = Callable[[], Awaitable[Peer]]


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture(params=[V12, V13], ids=["1.2", "1.3"])
def context(request: pytest.FixtureRequest, certificates: Certificates) -> ssl.SSLContext:
    """A client's context with one version."""
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = request.param
    return context


@pytest.fixture
def server(handler: Handler, certificates: Certificates) -> Callable[[], SMTP]:
    """Return a function that makes servers, with one context for all."""
    context = certificates.server_context()
    return lambda: SMTP(handler, hostname="mx.test", ident="test", tls_context=context)


@pytest.fixture
def secured(server: Callable[[], SMTP], context: ssl.SSLContext) -> Connect:
    """Return a function that connects, and begins TLS."""

    async def connect() -> Peer:
        peer = Peer(server())
        await peer.until(b"220 mx.test test\r\n")
        await peer.starttls(context)
        return peer

    return connect


@pytest.fixture(autouse=True)
async def quiet() -> AsyncIterator[None]:
    """Fail a test if the event loop has had to report an exception."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    yield
    assert complaints == []


COMMANDS = (
    b"EHLO client.test\r\n",
    b"MAIL FROM:<a@b.test>\r\n",
    b"RCPT TO:<c@d.test>\r\n",
    b"DATA\r\n",
    b"Subject: cut\r\n\r\n..a dot\r\n.\r\n",
    b"QUIT\r\n",
)
MESSAGE = b"Subject: cut\r\n\r\n.a dot\r\n"
CODES = [b"250", b"250", b"250", b"354", b"250", b"221"]


def codes(text: bytes) -> list[bytes]:
    """Return the codes of all replies in a text."""
    return [line[:3] for line in text.splitlines() if line[3:4] == b" "]


# Cuts and joins.


async def test_a_message_may_be_cut_at_every_byte(
    handler: Handler, server: Callable[[], SMTP], context: ssl.SSLContext
) -> None:
    """The handshake too: each byte comes by itself."""
    peer = Peer(server())
    await peer.until(b"220 mx.test test\r\n")
    await peer.asks_for_tls()
    client = Client(context)
    await peer.shake_hands(client, size=1)
    for byte in b"".join(map(client.write, COMMANDS)):
        peer.transport.feed(bytes([byte]))
    assert codes(await peer.finish()) == CODES
    assert handler.messages == [MESSAGE]


async def test_one_cut_anywhere_changes_nothing(handler: Handler, secured: Connect) -> None:
    position, size = 1, 2
    while position < size:
        peer = await secured()
        assert peer.tls is not None
        data = b"".join(map(peer.tls.write, COMMANDS))
        size = len(data)
        peer.transport.feed(data[:position])
        await asyncio.sleep(0)
        peer.transport.feed(data[position:])
        assert codes(await peer.finish()) == CODES, position
        assert handler.messages == [MESSAGE], position
        handler.messages.clear()
        # A record of n bytes of text has its own edges: look near them, and at every fifth byte.
        position += 1 if position % 40 < 8 else 5


async def test_a_handshake_cut_anywhere_ends_well(
    server: Callable[[], SMTP], context: ssl.SSLContext
) -> None:
    for size in (2, 3, 5, 7, 64, 100, 255):
        peer = Peer(server())
        await peer.until(b"220 mx.test test\r\n")
        await peer.asks_for_tls()
        await peer.shake_hands(Client(context), size=size)
        assert await peer.ask(b"NOOP", b"\r\n") == b"250 OK\r\n"
        await peer.finish()


@pytest.mark.parametrize("joined", [False, True], ids=["in many records", "in one record"])
async def test_pipelined_commands(handler: Handler, secured: Connect, joined: bool) -> None:
    peer = await secured()
    assert peer.tls is not None
    pieces = [b"".join(COMMANDS)] if joined else COMMANDS
    peer.transport.feed(b"".join(map(peer.tls.write, pieces)))
    assert codes(await peer.finish()) == CODES
    assert handler.messages == [MESSAGE]


async def test_replies_of_one_run_are_one_record(secured: Connect) -> None:
    peer = await secured()
    await peer.ask(b"EHLO client.test", b"250 HELP\r\n")
    before = len(peer.transport.sent)
    peer.send(b"RSET\r\nNOOP\r\nVRFY\r\n")
    await peer.until(b"VRFY <address>\r\n")
    data = peer.transport.sent[before:]
    assert data[:1] == b"\x17"
    assert int.from_bytes(data[3:5], "big") == len(data) - 5
    await peer.finish()


async def test_commands_with_the_end_of_the_handshake(
    handler: Handler, server: Callable[[], SMTP], certificates: Certificates
) -> None:
    """In TLS 1.3 a client may speak before the server has seen its Finished."""
    peer = Peer(server())
    await peer.until(b"220 mx.test test\r\n")
    await peer.asks_for_tls()
    client = peer.tls = Client(certificates.client_context())
    peer.transport.feed(client.shake_hands())
    while not client.established:
        client.feed(peer.ciphertext())
        finished = client.shake_hands()
        await asyncio.sleep(0)
    peer.text = b""
    peer.transport.feed(finished + b"".join(map(client.write, COMMANDS)))
    assert codes(await peer.finish()) == CODES
    assert handler.messages == [MESSAGE]


async def test_a_large_message_in_many_records(handler: Handler, secured: Connect) -> None:
    message = b"".join(b"%08d %s\r\n" % (number, b"x" * 60) for number in range(30_000))
    peer = await secured()
    assert peer.tls is not None
    for command, end in zip(COMMANDS[:3], (b"HELP\r\n", b"OK\r\n", b"OK\r\n"), strict=True):
        await peer.ask(command[:-2], end)
    await peer.ask(b"DATA", b"354 End data with <CR><LF>.<CR><LF>\r\n")
    data = peer.tls.write(message + b".\r\n")
    # As large as the reads of a socket are.
    for begin in range(0, len(data), 131_072):
        peer.transport.feed(data[begin : begin + 131_072])
    await peer.until(b"250 Taken\r\n")
    await peer.finish()
    assert handler.messages == [message]


# Plain text with STARTTLS.

INJECTED = b"EHLO evil.test\r\nMAIL FROM:<evil@b.test>\r\nRCPT TO:<c@d.test>\r\n"


async def test_plain_text_in_the_packet_of_starttls(
    handler: Handler, server: Callable[[], SMTP], context: ssl.SSLContext
) -> None:
    """CVE-2011-0411: it is dropped, and the session in TLS does not know of it."""
    peer = Peer(server())
    await peer.until(b"220 mx.test test\r\n")
    await peer.ask(b"EHLO client.test", b"250 HELP\r\n")
    peer.send(b"STARTTLS\r\n" + INJECTED)
    await peer.until(b"220 Ready to start TLS\r\n")
    peer.ciphertext()
    await peer.shake_hands(Client(context))
    assert await peer.ask(b"RCPT TO:<c@d.test>", b"\r\n") == b"503 Error: send HELO first\r\n"
    assert handler.names == ["client.test"]
    await peer.finish()


async def test_plain_text_in_the_packet_after_starttls(
    handler: Handler, server: Callable[[], SMTP]
) -> None:
    """The server takes it for a part of the handshake, which it cannot be."""
    peer = Peer(server())
    await peer.until(b"220 mx.test test\r\n")
    await peer.asks_for_tls()
    text = peer.read()
    peer.send(INJECTED)
    await peer.ended()
    await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
    assert peer.read()[len(text) :][:1] in (b"", b"\x15")
    assert handler.names == ["client.test"]
    assert handler.messages == []
    await ends(handler)


async def ends(handler: Handler, times: int = 1) -> str:
    """Wait until handle_DISCONNECT has been called; return what it was given."""
    async with asyncio.timeout(PATIENCE):
        me = asyncio.current_task()
        while len(handler.ends) < times:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        while left := {task for task in asyncio.all_tasks() if task is not me}:
            await asyncio.wait(left)
    assert len(handler.ends) == times
    return handler.ends[-1]


# Ends.


async def test_a_close_notify_is_a_fin(handler: Handler, secured: Connect) -> None:
    """Complete commands are served and answered; then the server's close_notify comes."""
    peer = await secured()
    assert peer.tls is not None
    peer.send(b"EHLO client.test\r\n")
    await peer.until(b"250 HELP\r\n")
    peer.transport.feed(peer.tls.close())
    await peer.ended()
    assert peer.tls.ended
    await peer.finish()
    assert await ends(handler) == "closed by the client"


@pytest.mark.parametrize("whole", [False, True], ids=["apart", "in one packet"])
@pytest.mark.parametrize("count", [1, 3, 5, 6])
async def test_commands_before_a_close_notify_are_served(
    handler: Handler, secured: Connect, whole: bool, count: int
) -> None:
    peer = await secured()
    assert peer.tls is not None
    data = b"".join(map(peer.tls.write, COMMANDS[:count]))
    if whole:
        peer.transport.feed(data + peer.tls.close())
    else:
        peer.transport.feed(data)
        peer.transport.feed(peer.tls.close())
    text = await peer.ended()
    assert codes(text) == CODES[:count]
    assert handler.messages == [MESSAGE][: int(count >= 5)]
    assert peer.tls.ended
    await peer.finish()
    await ends(handler)


@pytest.mark.parametrize("piece", [1000, 65_536, 131_072, 1 << 30])
async def test_a_large_message_before_a_close_notify(
    handler: Handler, secured: Connect, piece: int
) -> None:
    """Reading is paused in the middle, and goes on to the end."""
    message = b"".join(b"%08d %s\r\n" % (number, b"x" * 60) for number in range(20_000))
    peer = await secured()
    assert peer.tls is not None
    data = peer.tls.write(b"".join(COMMANDS[:4]) + message + b".\r\n" + b"NOOP\r\n" * 20_000)
    data += peer.tls.write(COMMANDS[5]) + peer.tls.close()
    for begin in range(0, len(data), piece):
        peer.transport.feed(data[begin : begin + piece])
    text = await peer.ended()
    assert codes(text) == [*CODES[:5], *[b"250"] * 20_000, b"221"]
    assert handler.messages == [message]
    assert peer.tls.ended
    await peer.finish()


async def test_half_a_command_before_a_close_notify(handler: Handler, secured: Connect) -> None:
    peer = await secured()
    assert peer.tls is not None
    peer.transport.feed(peer.tls.write(b"EHLO a.test\r\nNOOP\r\nEHLO b.test") + peer.tls.close())
    assert codes(await peer.ended()) == [b"250", b"250"]
    await peer.finish()
    assert handler.names == ["client.test", "a.test"]


async def up_to_data(peer: Peer) -> None:
    """Go up to the 354."""
    peer.send(b"".join(COMMANDS[:4]))
    await peer.until(b"354 End data with <CR><LF>.<CR><LF>\r\n")


@pytest.mark.parametrize("text", [b"", b"Subject: half", b"half\r\n", b"half\r\n.", b"half\r\n.\r"])
async def test_a_close_notify_in_mail_data_gives_no_message(
    handler: Handler, secured: Connect, text: bytes
) -> None:
    peer = await secured()
    assert peer.tls is not None
    await up_to_data(peer)
    peer.send(text)
    peer.transport.feed(peer.tls.close())
    await peer.ended()
    await peer.finish()
    await ends(handler)
    assert handler.messages == []


@pytest.mark.parametrize("cut", [0, 1, 5, 20, 24, 25, 40])
async def test_a_truncated_stream_in_mail_data_gives_no_message(
    handler: Handler, secured: Connect, cut: int
) -> None:
    """A FIN that no close_notify precedes may be an attacker's."""
    peer = await secured()
    assert peer.tls is not None
    await up_to_data(peer)
    whole, last = peer.tls.write(b"Subject: half\r\n"), peer.tls.write(b"\r\n.\r\n")
    peer.transport.feed(whole + last[: min(cut, len(last) - 1)])
    text = await peer.finish()
    await ends(handler)
    assert handler.messages == []
    assert text.endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")


async def test_a_truncated_stream_between_commands(handler: Handler, secured: Connect) -> None:
    peer = await secured()
    assert peer.tls is not None
    data = peer.tls.write(b"EHLO a.test\r\n") + peer.tls.write(b"EHLO b.test\r\n")[:-1]
    peer.transport.feed(data)
    assert codes(await peer.finish()) == [b"250"]
    await ends(handler)
    assert handler.names == ["client.test", "a.test"]


async def test_a_reset_in_mail_data_gives_no_message(handler: Handler, secured: Connect) -> None:
    peer = await secured()
    await up_to_data(peer)
    peer.send(b"Subject: half\r\n")
    peer.transport.reset()
    await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
    assert "reset" in await ends(handler)
    assert handler.messages == []


async def test_bytes_after_a_close_notify_are_ignored(handler: Handler, secured: Connect) -> None:
    peer, other = await secured(), await secured()
    assert peer.tls is not None
    assert other.tls is not None
    peer.transport.feed(peer.tls.close())
    # A second one, a record of another connection, and no record at all.
    record, second = other.tls.write(COMMANDS[0]), other.tls.close()
    for late in (second, record, b"EHLO late.test\r\n"):
        peer.transport.feed(late)
    await peer.ended()
    await peer.finish()
    await other.finish()
    await ends(handler, 2)
    assert handler.names == ["client.test"] * 2
    assert peer.text == b""


async def test_bytes_in_the_packet_of_a_close_notify(handler: Handler, secured: Connect) -> None:
    peer, other = await secured(), await secured()
    assert peer.tls is not None
    assert other.tls is not None
    data = peer.tls.write(COMMANDS[0]) + peer.tls.close()
    peer.transport.feed(data + other.tls.write(b"EHLO late.test\r\n") + b"late\r\n")
    assert codes(await peer.ended()) == [b"250"]
    await peer.finish()
    await other.finish()
    await ends(handler, 2)
    assert "late.test" not in handler.names


async def test_a_close_notify_while_a_hook_runs(handler: Handler, secured: Connect) -> None:
    """The message was complete: its reply is sent, though the client has said goodbye."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Handler):
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
            begun.set()
            await go_on.wait()
            return await super().handle_DATA(server, session, envelope)

    peer = await secured()
    assert peer.tls is not None
    handler.handle_DATA = Slow.handle_DATA.__get__(slow := Slow())  # type: ignore[method-assign]
    peer.server.event_handler = slow
    await up_to_data(peer)
    peer.send(COMMANDS[4])
    await asyncio.wait_for(begun.wait(), PATIENCE)
    peer.transport.feed(peer.tls.close())
    go_on.set()
    assert (await peer.ended()).endswith(b"250 Taken\r\n")
    assert peer.tls.ended
    await peer.finish()
    assert slow.messages == [MESSAGE]


async def test_quit_ends_with_a_close_notify(handler: Handler, secured: Connect) -> None:
    peer = await secured()
    assert peer.tls is not None
    peer.send(b"QUIT\r\n")
    assert await peer.ended() == b"221 Bye\r\n"
    assert peer.tls.ended
    # The connection waits for the client's, and is over at once when it comes.
    assert not peer.transport.lost.is_set()
    peer.transport.feed(peer.tls.close())
    await peer.finish()
    assert await ends(handler) == "QUIT"


async def test_a_forged_record_ends_the_session(
    handler: Handler, secured: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await secured()
    assert peer.tls is not None
    record = bytearray(peer.tls.write(b"EHLO forged.test\r\n"))
    record[-1] ^= 1
    with caplog.at_level(logging.INFO, "mail.log"):
        peer.transport.feed(bytes(record))
        await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
        reason = await ends(handler)
    assert "TLS failed" in reason
    assert "bad record mac" in reason.lower()
    assert handler.names == ["client.test"]
    assert [record.levelname for record in caplog.records] == ["INFO"]
    with pytest.raises(ssl.SSLError, match=r"(?i)alert bad record mac"):
        peer.read()


async def test_a_forged_record_in_mail_data(handler: Handler, secured: Connect) -> None:
    peer = await secured()
    assert peer.tls is not None
    await up_to_data(peer)
    record = bytearray(peer.tls.write(b"forged\r\n.\r\n"))
    record[8] ^= 1
    peer.transport.feed(peer.tls.write(b"half\r\n") + bytes(record))
    await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
    assert "TLS failed" in await ends(handler)
    assert handler.messages == []


# A client that vanishes.


async def test_after_the_last_reply_the_rest_is_still_read(secured: Connect) -> None:
    """Bytes that are never read would make a reset of the close, which may overtake the reply."""
    peer = await secured()
    more = b"NOOP\r\n" * 100_000
    # As from a socket, outside all tasks: the driver runs as soon as the bytes arrive.
    asyncio.get_running_loop().call_soon(peer.send, b"QUIT\r\n" + more)
    assert await peer.until(b"221 Bye\r\n") == b"221 Bye\r\n"
    assert peer.transport.is_reading()


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_a_client_may_vanish_at_any_byte(
    handler: Handler, secured: Connect, reset: bool
) -> None:
    """The message counts only if its last record has come."""
    position, size = 0, 1
    while position < size:
        peer = await secured()
        assert peer.tls is not None
        records = list(map(peer.tls.write, COMMANDS))
        data, until_dot = b"".join(records), len(b"".join(records[:5]))
        size = len(data)
        peer.transport.feed(data[:position])
        if reset:
            peer.transport.reset()
        else:
            peer.transport.feed_eof()
        await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
        await ends(handler)
        # After a RST, the hook of a complete message may have begun, or not.
        if not reset or position < until_dot:
            assert handler.messages == [MESSAGE] * (position >= until_dot), position
        handler.messages.clear()
        handler.ends.clear()
        position += 3
    assert handler.faults == []


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_a_client_may_vanish_in_its_handshake(
    handler: Handler, server: Callable[[], SMTP], context: ssl.SSLContext, reset: bool
) -> None:
    position, size = 0, 1
    while position < size:
        peer = Peer(server())
        await peer.until(b"220 mx.test test\r\n")
        await peer.asks_for_tls()
        hello = Client(context).shake_hands()
        size = len(hello)
        peer.transport.feed(hello[:position])
        if reset:
            peer.transport.reset()
        else:
            peer.transport.feed_eof()
        await asyncio.wait_for(peer.transport.lost.wait(), PATIENCE)
        assert (await ends(handler)).startswith("TLS handshake failed: "), position
        assert [type(fault).__name__ for fault in handler.faults] == ["TLSSetupException"]
        handler.ends.clear()
        handler.faults.clear()
        position += 11
