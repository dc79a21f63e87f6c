"""`handle_BODY`: messages while they arrive, over DATA and BDAT."""

import asyncio
import select
from collections.abc import Awaitable, Callable
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, BodyStream, Envelope, IncompleteBody
from tests.client import PATIENCE, Client
from tests.net.support import serving

Read = Callable[[BodyStream], Awaitable[Any]]


class Streams:
    """Reads the body with a function of the test, and keeps its result."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.kept: Queue[Any] = Queue()

    async def handle_BODY(
        self, server: SMTP, session: Any, envelope: Envelope, body: BodyStream
    ) -> Any:
        try:
            answer = await self.read(body)
        except Exception as error:
            self.kept.put(error)
            raise
        self.kept.put(answer)
        return answer

    def next(self) -> Any:
        return self.kept.get(timeout=PATIENCE)


async def whole(body: BodyStream) -> str:
    content = b"".join([piece async for piece in body])
    assert await body.read() == b""
    return f"250 {content!r}"


async def until_the_end(body: BodyStream) -> str:
    pieces = []
    while not body.at_end:
        pieces.append(await body.read())
    return f"250 {b''.join(pieces)!r}"


async def nothing(body: BodyStream) -> str:
    return "250 not looked at"


async def refusal(body: BodyStream) -> str:
    await body.read()
    return "550 5.7.1 not wanted"


async def refusal_in_octets(body: BodyStream) -> bytes:
    return b"550 5.7.1 not wanted"


async def fault(body: BodyStream) -> str:
    await body.read()
    raise ValueError("in the hook")


async def deaf(body: BodyStream) -> str:
    try:
        while await body.read():
            pass
    except IncompleteBody:
        pass
    return "250 is it?"


def begin(client: Client, hello: bytes = b"EHLO") -> None:
    assert client.ask(hello + b" client.test")[:3] == b"250"
    assert client.ask(b"MAIL FROM:<a@b.test>")[:3] == b"250"
    assert client.ask(b"RCPT TO:<c@d.test>")[:3] == b"250"


def by_data(client: Client, content: bytes) -> bytes:
    assert client.ask(b"DATA")[:3] == b"354"
    client.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return client.reply()


def by_chunks(client: Client, content: bytes) -> bytes:
    half = len(content) // 2
    client.send(b"BDAT %d\r\n" % half + content[:half])
    reply = client.reply()
    if not reply.startswith(b"250 2.0.0 %d octets" % half):
        return reply
    client.send(b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
    return client.reply()


WAYS = pytest.mark.parametrize("send", [by_data, by_chunks])
Send = Callable[[Client, bytes], bytes]


@WAYS
@pytest.mark.parametrize("read", [whole, until_the_end])
def test_a_message_while_it_arrives(read: Read, send: Send) -> None:
    handler = Streams(read)
    with serving(handler, extensions="modern") as controller, Client(controller.port) as client:
        for content in b"a\r\n.b\r\n", b"", b"c\r\n":
            begin(client)
            assert send(client, content) == f"250 2.0.0 {content!r}\r\n".encode()
            handler.next()


@WAYS
def test_a_large_message(send: Send) -> None:
    async def count(body: BodyStream) -> str:
        octets = 0
        async for piece in body:
            assert len(piece) <= 65536 + 262_144
            octets += len(piece)
        return f"250 {octets}"

    content = (b"x" * 76 + b"\r\n") * 100_000
    with (
        serving(Streams(count), extensions="modern") as controller,
        Client(controller.port) as client,
    ):
        begin(client)
        assert send(client, content) == f"250 2.0.0 {len(content)}\r\n".encode()


@WAYS
@pytest.mark.parametrize("kind", [SMTP, LMTP])
def test_the_log_tells_of_it(
    send: Send, kind: type[SMTP], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mail.log")
    handler = Streams(nothing)
    with serving(handler) as controller:
        controller.factory = lambda: kind(handler, extensions="modern")  # type: ignore[method-assign]
        with Client(controller.port) as client:
            begin(client, b"EHLO" if kind is SMTP else b"LHLO")
            send(client, b"hello\r\n")
    assert "sent a message of 7 bytes from 'a@b.test' to 1 recipients: '250 not" in caplog.text


@WAYS
def test_mail_data_left_unread_is_dropped(send: Send) -> None:
    with (
        serving(Streams(nothing), extensions="modern") as controller,
        Client(controller.port) as client,
    ):
        for _ in range(2):
            begin(client)
            assert send(client, b"QUIT\r\n" * 50_000) == b"250 2.0.0 not looked at\r\n"


@WAYS
@pytest.mark.parametrize("read", [refusal, refusal_in_octets])
def test_an_early_refusal(send: Send, read: Read) -> None:
    with (
        serving(Streams(read), extensions="modern") as controller,
        Client(controller.port) as client,
    ):
        for _ in range(2):
            begin(client)
            assert send(client, b"QUIT\r\n" * 50_000) == b"550 5.7.1 not wanted\r\n"
        # Of chunks the first one had this answer; there is no transaction for a second one.
        client.send(b"BDAT 6 LAST\r\nQUIT\r\n")
        assert client.reply() == b"503 5.5.1 Error: need RCPT command\r\n"
        assert client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"


@WAYS
def test_a_fault_in_the_hook(send: Send) -> None:
    handler = Streams(fault)
    with serving(handler, extensions="modern") as controller, Client(controller.port) as client:
        for _ in range(2):
            begin(client)
            assert send(client, b"QUIT\r\n" * 50_000).startswith(b"451 4.3.0 Internal error (ref ")
            assert isinstance(handler.next(), ValueError)


@WAYS
@pytest.mark.parametrize("read", [whole, deaf])
def test_a_message_that_is_too_big(send: Send, read: Read) -> None:
    handler = Streams(read)
    with (
        serving(handler, extensions="modern", data_size_limit=1000) as controller,
        Client(controller.port) as client,
    ):
        begin(client)
        assert send(client, b"x" * 1500 + b"\r\n").startswith(b"552 5.3.4 Error: Too much")
        came = handler.next()
        if read is whole:
            assert isinstance(came, IncompleteBody)
            assert came.reply == "552 Error: Too much mail data"
        assert client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"


def test_beyond_twice_the_limit_the_connection_is_closed() -> None:
    handler = Streams(deaf)
    with serving(handler, data_size_limit=1000) as controller, Client(controller.port) as client:
        begin(client)
        assert client.ask(b"DATA")[:3] == b"354"
        client.send(b"x" * 3000)
        assert client.reply()[:3] == b"552"
        assert client.reply() == b""


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("begin_body", [b"DATA\r\nhello\r\n", b"BDAT 9\r\nhello", b"BDAT 1\r\nh"])
@pytest.mark.parametrize("read", [whole, deaf])
def test_a_client_that_goes(
    read: Read, begin_body: bytes, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Streams(read)
    with serving(handler, extensions="modern") as controller:
        with Client(controller.port) as client:
            begin(client)
            client.send(begin_body)
            if begin_body != b"BDAT 9\r\nhello":
                client.reply()
            if reset:
                client.reset_at_close()
        came = handler.next()
        if read is whole:
            assert isinstance(came, IncompleteBody)
            assert came.reply is None
        with Client(controller.port) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"
    assert "internal error" not in caplog.text


@pytest.mark.parametrize(
    "begin_body",
    [b"DATA\r\nhello\r\n", b"BDAT 9\r\nhello", b"BDAT 5\r\nhello", b"BDAT 9 LAST\r\nhello"],
)
@pytest.mark.parametrize("read", [whole, deaf])
def test_silence(read: Read, begin_body: bytes) -> None:
    handler = Streams(read)
    with (
        serving(handler, timeout=0.1, extensions="modern") as controller,
        Client(controller.port) as client,
    ):
        commands = b"EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
        client.send(commands + begin_body)
        *_, last = iter(client.reply, b"")
        assert last.startswith(b"421 4.4.2 ")
        came = handler.next()
        if read is whole:
            assert isinstance(came, IncompleteBody)
            assert came.reply is None


def test_reset_between_chunks() -> None:
    handler = Streams(whole)
    with serving(handler, extensions="modern") as controller, Client(controller.port) as client:
        begin(client)
        client.send(b"BDAT 5\r\nhello")
        assert client.reply() == b"250 2.0.0 5 octets received\r\n"
        assert client.ask(b"RSET") == b"250 2.0.0 OK\r\n"
        assert isinstance(handler.next(), IncompleteBody)
        begin(client)
        assert by_chunks(client, b"again") == b"250 2.0.0 b'again'\r\n"


def test_one_reply_for_each_recipient() -> None:
    class Each(Streams):
        async def handle_BODY(self, *args: Any) -> Any:
            await super().handle_BODY(*args)
            return ["250 yes", "550 no"]

    handler = Each(whole)
    with serving(handler) as controller:
        controller.factory = lambda: LMTP(handler, extensions="modern")  # type: ignore[method-assign]
        for send in by_data, by_chunks:
            with Client(controller.port) as client:
                begin(client, b"LHLO")
                client.ask(b"RCPT TO:<e@f.test>")
                assert send(client, b"hi\r\n") == b"250 2.0.0 yes\r\n"
                assert client.reply() == b"550 5.0.0 no\r\n"


def test_while_the_hook_does_not_read_the_client_waits() -> None:
    go = asyncio.Event()

    async def late(body: BodyStream) -> str:
        await go.wait()
        return await whole(body)

    async def let_go() -> None:
        go.set()

    handler = Streams(late)
    with serving(handler, data_size_limit=None) as controller, Client(controller.port) as client:
        begin(client)
        assert client.ask(b"DATA")[:3] == b"354"
        client.socket.setblocking(False)
        sent = 0
        # The kernel's buffers take some megabytes.
        while select.select([], [client.socket], [], 0.3)[1]:
            sent += client.socket.send(b"x" * 65536)
            assert sent < 100_000_000
        client.socket.settimeout(PATIENCE)
        asyncio.run_coroutine_threadsafe(let_go(), controller.loop).result(PATIENCE)
        client.send(b"\r\n.\r\n")
        assert client.reply()[:3] in (b"250", b"500")
