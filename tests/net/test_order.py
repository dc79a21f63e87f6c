"""The order of bytes on real sockets: replies, what a program writes itself, and the end."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, syntax
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.support import Catcher

TIMES = 20
"""Connections of a test that looks for a race."""


@contextmanager
def serving(
    kind: type[SMTP], context: ssl.SSLContext, handler: object | None = None
) -> Iterator[Controller]:
    """Serve with a class of the test's own."""

    class Own(Controller):
        def factory(self) -> SMTP:
            return kind(self.handler, **self.SMTP_kwargs)

    controller = Own(
        handler or Catcher(), "127.0.0.1", 0, server_hostname="mx.test", tls_context=context
    )
    controller.start()
    try:
        yield controller
    finally:
        controller.stop(no_assert=True)


def begin_tls(client: Client, context: ssl.SSLContext) -> None:
    """Go through STARTTLS."""
    assert client.ask(b"EHLO client.test")[:3] == b"250"
    assert client.ask(b"STARTTLS") == b"220 Ready to start TLS\r\n"
    # An end without a close_notify is an error for this client.
    client.socket = context.wrap_socket(
        client.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False
    )


@pytest.fixture(params=["clear", "TLS"])
def connect(
    request: pytest.FixtureRequest, certificates: Certificates
) -> Callable[[Controller], Client]:
    """Return a function that connects, and begins TLS or does not."""

    def connect(controller: Controller) -> Client:
        client = Client(controller.port)
        if request.param == "TLS":
            begin_tls(client, certificates.client_context())
        assert client.ask(b"EHLO client.test")[:3] == b"250"
        return client

    return connect


Connect = Callable[[Controller], Client]


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    return certificates.server_context()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that leaves a warning in the log."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ] == []


# Where programs write.


class Writing:
    """Writes to the transport in a hook: of MAIL now, of RCPT in a later turn."""

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, *_: Any) -> str:
        envelope.mail_from = "a@b.test"
        await server.push("250-one")
        server.transport.write(b"250-two\r\n")
        await server.push("250-three")
        return "250 four"

    async def handle_RCPT(self, server: Any, *_: Any) -> str:
        server.loop.call_later(0, server.transport.write, b"250-two\r\n")
        server.loop.call_soon(server.transport.write, b"250-two\r\n")
        await server.push("250-one")
        # The timer's turn comes in this time.
        await asyncio.sleep(0.001)
        return "250 three"

    def handle_NOOP(self, server: Any, *_: Any) -> Any:
        server.transport.writelines([b"250-one\r\n", b"250-two\r\n"])
        return answer("250 three")


async def answer(reply: str) -> str:
    return reply


def lines_of(reply: bytes) -> list[bytes]:
    return [line[4:] for line in reply.splitlines()]


@pytest.mark.parametrize("apart", [False, True], ids=["pipelined", "apart"])
def test_a_hook_writes_between_its_replies(
    connect: Connect, context: ssl.SSLContext, apart: bool
) -> None:
    commands = [b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"NOOP", b"MAIL FROM:<a@b.test>"]
    with serving(SMTP, context, Writing()) as controller, connect(controller) as client:
        if apart:
            replies = [client.ask(command) for command in commands]
        else:
            client.send(b"".join(command + b"\r\n" for command in commands))
            replies = [client.reply() for _ in commands]
        assert lines_of(replies[0]) == [b"one", b"two", b"three", b"four"]
        assert lines_of(replies[1]) == [b"one", b"two", b"two", b"three"]
        assert lines_of(replies[2]) == [b"one", b"two", b"three"]
        assert replies[3][:3] == b"503"


class Verbs(SMTP):
    """Overrides verbs, and writes in them."""

    # Kept: a StreamWriter that is collected closes its transport.
    writer: asyncio.StreamWriter | None = None

    async def smtp_NOOP(self, arg: str | None) -> None:
        assert self.transport is not None
        await self.push("250-before")
        self.transport.write(b"250-written\r\n")
        await super().smtp_NOOP(arg)
        self.transport.write(b"250 after\r\n")

    async def smtp_RSET(self, arg: str | None) -> None:
        if self.writer is None:
            transport: Any = self.transport
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
            self.writer = asyncio.StreamWriter(transport, protocol, None, self.loop)
        await self.push("250-pushed")
        self.writer.write(b"250-written\r\n")
        await self.writer.drain()
        await super().smtp_RSET(arg)


def test_a_verb_writes_between_its_replies(connect: Connect, context: ssl.SSLContext) -> None:
    with serving(Verbs, context) as controller, connect(controller) as client:
        for _ in range(3):
            client.send(b"NOOP\r\nRSET\r\nNOOP\r\n")
            assert client.reply() == b"250-before\r\n250-written\r\n250 OK\r\n"
            assert client.reply() == b"250 after\r\n"
            assert client.reply() == b"250-pushed\r\n250-written\r\n250 OK\r\n"
            assert client.reply() == b"250-before\r\n250-written\r\n250 OK\r\n"
            assert client.reply() == b"250 after\r\n"


class Greeting(SMTP):
    """Writes as soon as it is connected; after STARTTLS again."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.write(b"220-written\r\n")


def test_connection_made_writes_before_the_greeting(context: ssl.SSLContext) -> None:
    with serving(Greeting, context) as controller, Client(controller.port, greet=False) as client:
        first, second = lines_of(client.reply())
        assert first == b"written"
        assert second.startswith(b"mx.test ")


def test_connection_made_writes_in_tls(context: ssl.SSLContext, certificates: Certificates) -> None:
    with serving(Greeting, context) as controller, Client(controller.port, greet=False) as client:
        client.reply()
        begin_tls(client, certificates.client_context())
        assert client.ask(b"NOOP") == b"220-written\r\n250 OK\r\n"


class Refusing(SMTP):
    """Refuses the connection by its transport, not by a hook."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        if self.refuses():
            self.transport.write(b"421 Too many\r\n")
            self.transport.close()

    def refuses(self) -> bool:
        return self.session.ssl is not None


class RefusingAll(Refusing):
    """Refuses in the clear too."""

    def refuses(self) -> bool:
        return True


def test_connection_made_may_refuse(context: ssl.SSLContext) -> None:
    with serving(RefusingAll, context) as controller:
        for _ in range(TIMES):
            with Client(controller.port, greet=False) as client:
                assert client.rest() == b"421 Too many\r\n"


def test_connection_made_may_refuse_in_tls(
    context: ssl.SSLContext, certificates: Certificates
) -> None:
    with serving(Refusing, context) as controller:
        for _ in range(TIMES):
            with Client(controller.port) as client:
                begin_tls(client, certificates.client_context())
                assert client.rest() == b"421 Too many\r\n"


# A last reply, and the end.


async def last_words(server: Any) -> None:
    """Do as programs do: push a reply, and close the transport."""
    await server.push("421 Go away")
    server.transport.close()


def ending_in(name: str) -> object:
    """Return a handler that ends the session in the hook of this name."""

    async def hook(self: Any, server: Any, session: Any, envelope: Any, *_: Any) -> Any:
        await last_words(server)
        return ["250 Never sent"] if name == "EHLO" else "250 Never sent"

    return type("Handler", (), {f"handle_{name}": hook})()


class Ending(SMTP):
    """Has verbs that end the session."""

    @syntax("ENDS")
    async def smtp_ENDS(self, arg: str | None) -> None:
        """End in the verb."""
        await last_words(self)

    @syntax("SOON")
    async def smtp_SOON(self, arg: str | None) -> None:
        """End in another task, while this verb waits."""
        task = self.loop.create_task(last_words(self))
        await task

    @syntax("LATER")
    async def smtp_LATER(self, arg: str | None) -> None:
        """End by a timer, when the client waits for a reply or is idle."""
        self.loop.call_later(0.001, lambda: self.tasks.append(self.end()))
        if arg is None:
            await self.push("250 Wait")

    tasks: list[asyncio.Task[None]] = []

    def end(self) -> asyncio.Task[None]:
        return self.loop.create_task(last_words(self))

    async def smtp_VRFY(self, arg: str | None) -> None:
        """End though the driver has replies of this run to send."""
        assert self.transport is not None
        await self.push("250-one")
        await self.push("250 two")
        self.loop.call_soon(self.transport.close)


ENDS = [
    (b"ENDS", b"421 Go away\r\n"),
    (b"SOON", b"421 Go away\r\n"),
    (b"LATER", b"250 Wait\r\n421 Go away\r\n"),
    (b"LATER silent", b"421 Go away\r\n"),
    (b"VRFY x", b"250-one\r\n250 two\r\n"),
]


@pytest.mark.parametrize(("command", "words"), ENDS, ids=lambda value: value.decode().strip()[:12])
def test_the_last_reply_of_a_verb_always_comes(
    connect: Connect, context: ssl.SSLContext, command: bytes, words: bytes
) -> None:
    with serving(Ending, context) as controller:
        for _ in range(TIMES):
            with connect(controller) as client:
                client.send(command + b"\r\n")
                assert client.rest() == words


@pytest.mark.parametrize("name", ["MAIL", "RCPT", "DATA", "RSET", "VRFY", "NOOP"])
def test_the_last_reply_of_a_hook_always_comes(
    connect: Connect, context: ssl.SSLContext, name: str
) -> None:
    commands = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nhi\r\n.\r\n"
    if name not in ("MAIL", "RCPT", "DATA"):
        commands = name.encode() + b" x@d.test\r\n" * (name == "VRFY") + b"\r\n"
    with serving(SMTP, context, ending_in(name)) as controller:
        for _ in range(TIMES):
            with connect(controller) as client:
                client.send(commands)
                text = client.rest()
                assert text.endswith(b"421 Go away\r\n")
                assert b"Never" not in text


def test_the_last_reply_of_ehlo_always_comes(context: ssl.SSLContext) -> None:
    with serving(SMTP, context, ending_in("EHLO")) as controller:
        for _ in range(TIMES):
            with Client(controller.port) as client:
                client.send(b"EHLO client.test\r\n")
                text = client.rest()
                assert text.endswith(b"421 Go away\r\n")


@pytest.mark.parametrize("size", [100, 60_000, 400_000, 3_000_000])
def test_a_last_reply_comes_though_the_client_talks_on(
    connect: Connect, context: ssl.SSLContext, size: int
) -> None:
    """Bytes that are not read when a socket closes make a reset, which may overtake the reply."""
    more = b"NOOP\r\n" * (size // 6)
    with serving(Ending, context) as controller:
        for _ in range(TIMES if size < 1_000_000 else 3):
            with connect(controller) as client:
                try:
                    client.send(b"ENDS\r\n" + more)
                except (ConnectionError, ssl.SSLEOFError):
                    # The server may be gone before all is sent; its reply has come nevertheless.
                    assert size > 1_000_000
                assert client.rest() == b"421 Go away\r\n"


def test_a_last_reply_comes_to_a_client_that_sends_a_message(
    connect: Connect, context: ssl.SSLContext
) -> None:
    """The hook of RCPT ends a session; the client has sent its mail data with the command."""
    data = b"DATA\r\n" + b"x" * 70 + b"\r\n" * 2000 + b".\r\n"
    with serving(SMTP, context, ending_in("RCPT")) as controller:
        for _ in range(TIMES):
            with connect(controller) as client:
                client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n" + data)
                assert client.rest() == b"250 OK\r\n421 Go away\r\n"


def test_a_client_that_half_closes_gets_the_last_reply(context: ssl.SSLContext) -> None:
    with serving(Ending, context) as controller:
        for _ in range(TIMES):
            with Client(controller.port) as client:
                client.send(b"EHLO a\r\nENDS\r\n")
                client.socket.shutdown(socket.SHUT_WR)
                assert client.rest().endswith(b"250 HELP\r\n421 Go away\r\n")


class Large(SMTP):
    """Writes more than a socket takes at once, then ends."""

    async def smtp_VRFY(self, arg: str | None) -> None:
        assert self.transport is not None
        await self.push("250-first")
        self.transport.write(b"250-%s\r\n" % (b"x" * 70) * 50_000)
        await last_words(self)


def test_a_close_waits_for_all_that_was_written(connect: Connect, context: ssl.SSLContext) -> None:
    with serving(Large, context) as controller, connect(controller) as client:
        client.socket.settimeout(PATIENCE)
        client.send(b"VRFY x\r\n")
        lines = client.rest().splitlines()
        assert len(lines) == 50_002
        assert (lines[0], lines[-1]) == (b"250-first", b"421 Go away")


class Chatty(SMTP):
    """Goes on talking after the end."""

    @syntax("ENDS")
    async def smtp_ENDS(self, arg: str | None) -> None:
        transport = self.transport
        assert transport is not None
        await last_words(self)
        transport.write(b"250 Too late\r\n")
        await self.push("250 Too late")


def test_words_after_the_end_are_dropped(
    connect: Connect, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that talks on gets a FIN before the close: asyncio raises if bytes come after it."""
    with serving(Chatty, context) as controller, connect(controller) as client:
        client.send(b"ENDS\r\nNOOP\r\n")
        assert client.rest() == b"421 Go away\r\n"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
