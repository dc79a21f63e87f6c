"""Observers over a transport in memory: what each method gets, in what order, and when."""

import asyncio
import contextlib
import logging
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import (
    MISSING,
    SMTP,
    AuthResult,
    Envelope,
    Observer,
    Refused,
    Registry,
    Reply,
    Session,
    TakenMessage,
)
from tests.dialogue.harness import connect, settle
from tests.dialogue.transport import PEER, MemoryTransport

PATIENCE = 30.0
BANNER = b"220 mx.test test\r\n"
EHLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"
DATA = b"DATA\r\n"
BODY = b"Subject: x\r\n\r\nx\r\n.\r\n"
QUIT = b"QUIT\r\n"
MESSAGE = MAIL + RCPT + DATA + BODY
OK = b"250 OK\r\n"
GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
BYE = b"221 Bye\r\n"

VERBS = {f"SMTP.smtp_{verb}" for verb in ("EHLO", "MAIL", "RCPT", "DATA", "QUIT")}
EVENTS = ("began", "refused", "tls", "auth", "line", "reply", "sent", "data", "taken", "ended")


class Seen:
    """An observer that keeps all of its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.servers: list[SMTP] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in EVENTS:
            raise AttributeError(name)

        def keep(server: SMTP, *args: Any) -> None:
            self.servers.append(server)
            self.calls.append((name, *args))

        return keep

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the calls of these methods."""
        return [call for call in self.calls if call[0] in names]

    def plain(self) -> list[tuple[Any, ...]]:
        """Return all calls, `taken` by what is the same in each run, bytes sent joined."""
        calls: list[tuple[Any, ...]] = []
        for name, *args in self.calls:
            if name == "taken":
                args = [args[0].size, args[0].replies]
            if name == "sent" and calls[-1][0] == "sent":
                args = [calls.pop()[1] + args[0]]
            calls.append((name, *args))
        return calls


class Asked:
    """An observer with `before` alone; it keeps the stages, and does what it was given for them."""

    def __init__(self, **acts: Callable[[SMTP], Any]) -> None:
        self.stages: list[tuple[str, str | None]] = []
        self.acts = acts

    async def before(self, server: SMTP, stage: str, argument: str | None) -> None:
        self.stages.append((stage, argument))
        act = self.acts.get(stage.replace("-", "_"))
        if act is not None and (answer := act(server)) is not None:
            await answer


class Conversation:
    """A server, and a client that feeds it."""

    def __init__(
        self, *observers: Any, kind: type[SMTP] = SMTP, handler: Any = None, **keywords: Any
    ) -> None:
        keywords = {"hostname": "mx.test", "ident": "test", **keywords}
        self.server = kind(handler or Sink(), observers=observers, **keywords)
        self.network: MemoryTransport = connect(lambda: self.server)
        self._read = 0

    async def say(self, *pieces: bytes) -> bytes:
        """Feed each piece when the server has done all it can; return what it has sent since."""
        await settle()
        for piece in pieces:
            self.network.feed(piece)
            await settle()
        sent = bytes(self.network.sent)
        before, self._read = self._read, len(sent)
        return sent[before:]

    async def end(self) -> None:
        """Let the client go, and wait for the end."""
        await settle()
        self.network.feed_eof()
        await self.over()

    async def over(self) -> None:
        """Wait for the end."""
        await asyncio.wait_for(self.server.ended(), PATIENCE)


async def said(pieces: Sequence[bytes], *observers: Any, **keywords: Any) -> bytes:
    """Hold a whole conversation; return what the server sent."""
    conversation = Conversation(*observers, **keywords)
    await conversation.say(*pieces)
    await conversation.end()
    return bytes(conversation.network.sent)


@contextlib.contextmanager
def driven() -> Iterator[Counter[str]]:
    """Count the verbs' methods that run: the fast path runs none of them."""
    ran: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_qualname
        if event == "call" and name in VERBS:
            ran[name.removeprefix("SMTP.smtp_")] += 1

    sys.setprofile(count)
    try:
        yield ran
    finally:
        sys.setprofile(None)


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "observer" in record.getMessage()]


# All that there is to see.

SESSION = [
    ("began",),
    ("reply", "", "220 mx.test test"),
    ("sent", BANNER),
    ("line", EHLO[:-2], False),
    ("reply", "EHLO", "250-mx.test\r\n250-8BITMIME\r\n250 HELP"),
    ("sent", b"250-mx.test\r\n250-8BITMIME\r\n250 HELP\r\n"),
    ("line", MAIL[:-2], False),
    ("reply", "MAIL", "250 OK"),
    ("sent", OK),
    ("line", RCPT[:-2], False),
    ("reply", "RCPT", "250 OK"),
    ("sent", OK),
    ("line", DATA[:-2], False),
    ("reply", "DATA", GO_AHEAD[:-2].decode()),
    ("sent", GO_AHEAD),
    ("data", len(BODY) - 3),
    ("taken", len(BODY) - 3, ["250 OK"]),
    ("reply", "DATA", "250 OK"),
    ("sent", OK),
    ("line", QUIT[:-2], False),
    ("reply", "QUIT", "221 Bye"),
    ("sent", BYE),
    ("ended", "QUIT"),
]
WORDS = EHLO + MESSAGE + QUIT


class Hooked:
    """A handler with hooks for the commands that the fast path knows."""

    async def handle_MAIL(self, *_: Any) -> Any:
        return MISSING

    async def handle_RCPT(self, *_: Any) -> Any:
        return MISSING


SMALL: dict[str, Any] = {"data_size_limit": 0}


@pytest.mark.parametrize("handler", [Sink, Hooked])
async def test_everything_is_told_in_order(handler: type) -> None:
    seen = Seen()
    with driven() as ran:
        await said(WORDS.splitlines(keepends=True), seen, handler=handler(), **SMALL)
    assert seen.plain() == SESSION
    # The fast path is not lost: EHLO and QUIT alone were the driver's.
    assert set(ran) == {"EHLO", "QUIT"}
    assert len({*map(id, seen.servers)}) == 1


@pytest.mark.parametrize("handler", [Sink, Hooked])
async def test_with_before_the_driver_runs_every_command(handler: type) -> None:
    seen, asked = Seen(), Asked()
    with driven() as ran:
        await said(WORDS.splitlines(keepends=True), seen, asked, handler=handler(), **SMALL)
    assert seen.plain() == SESSION
    assert {*ran} >= {"MAIL", "RCPT", "DATA"}
    assert asked.stages == [
        ("connect", None),
        ("ehlo", "client.test"),
        ("mail", "a@example.com"),
        ("rcpt", "b@example.com"),
        ("data", None),
        ("end-of-data", None),
        ("quit", None),
    ]


@pytest.mark.parametrize("others", [[], [Asked()]], ids=["fast path", "driver"])
@pytest.mark.parametrize("handler", [Sink, Hooked])
async def test_calls_do_not_depend_on_how_bytes_arrive(handler: type, others: list[Any]) -> None:
    ways = [[WORDS[:cut], WORDS[cut:]] for cut in range(len(WORDS))]
    for pieces in [*ways, [bytes([octet]) for octet in WORDS]]:
        seen = Seen()
        await said(pieces, seen, *others, handler=handler(), **SMALL)
        assert seen.plain() == SESSION, pieces


async def test_the_banner_comes_after_the_beginning() -> None:
    class First:
        def began(self, server: SMTP) -> None:
            assert server.session.peer == PEER
            network = server.transport
            assert isinstance(network, MemoryTransport)
            assert not network.sent
            self.called = True

    first = First()
    await said([], first)
    assert first.called


async def test_replies_have_their_parts_and_the_codes_that_are_sent() -> None:
    seen = Seen()
    sent = await said([EHLO, MAIL, b"RCPT TO:<>\r\n"], seen, extensions="modern")
    replies = [call[2] for call in seen.of("reply")]
    assert all(isinstance(reply, Reply) for reply in replies)
    assert [reply.code for reply in replies] == [220, 250, 250, 553]
    assert [reply.enhanced for reply in replies[2:]] == ["2.1.0", "5.1.3"]
    assert b"".join(reply.octets for reply in replies) == sent


async def test_a_reply_that_comes_line_by_line_is_told_whole() -> None:
    class OwnPush(SMTP):
        async def push(self, status: str | bytes) -> None:
            await super().push(status)

        async def smtp_ODD(self, arg: str | None) -> None:
            await self.push(b"not a reply")
            await self.push("250 odd")

    seen = Seen()
    await said([EHLO, b"ODD\r\n"], seen, kind=OwnPush, **SMALL)
    assert seen.of("reply")[1:] == [
        ("reply", "EHLO", "250-mx.test\r\n250-8BITMIME\r\n250 HELP"),
        ("reply", "ODD", "250 odd"),
    ]
    assert ("sent", b"not a reply\r\n") in seen.calls


async def test_a_verb_that_is_unknown_is_not_told_as_one() -> None:
    seen = Seen()
    long = b"NOOP " + b"x" * 2000 + b"\r\n"
    lines = [b"noop\r\n", b"FROB x\r\n", b"\xff y\r\n", b"\r\n", b"NOOP\r\n" + long]
    await said(lines, seen)
    assert [call[1] for call in seen.of("line")] == [b"noop", b"FROB x", b"\xff y", b"", b"NOOP"]
    replies = [(call[1], call[2].code) for call in seen.of("reply")[1:]]
    # The last line is too long to be one: nothing of it is told.
    assert replies == [("NOOP", 250), ("", 500), ("", 500), ("", 500), ("NOOP", 250), ("", 500)]


async def test_a_reply_that_answers_no_command_has_no_verb() -> None:
    seen = Seen()
    conversation = Conversation(seen)
    await conversation.say(b"NOOP\r\n")
    conversation.server.shut_down()
    await conversation.end()
    assert seen.calls[-3:] == [
        ("reply", "", "421 4.3.2 Service shutting down, closing connection"),
        ("sent", b"421 4.3.2 Service shutting down, closing connection\r\n"),
        ("ended", "421 4.3.2 Service shutting down, closing connection"),
    ]


# Messages.


class Slow:
    """A handler that lets a clock go on."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    async def handle_DATA(self, *_: Any) -> str:
        self.clock[0] += 5
        return "250 kept"


async def test_a_message_is_told_with_its_size_reply_and_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("aiosmtpd.engine.observer.monotonic", lambda: clock[0])
    seen = Seen()

    def wait_a_little(_: SMTP) -> None:
        clock[0] += 50

    conversation = Conversation(seen, Asked(end_of_data=wait_a_little), handler=Slow(clock))
    await conversation.say(EHLO, MAIL, RCPT, DATA, BODY[:8])
    clock[0] += 2
    assert await conversation.say(BODY[8:]) == b"250 kept\r\n"
    await conversation.end()
    ((_, message),) = seen.of("taken")
    assert isinstance(message, TakenMessage)
    assert (message.size, message.reply.code, message.replies) == (17, 250, ["250 kept"])
    assert message.envelope.rcpt_tos == ["b@example.com"]
    assert message.envelope.content == BODY[:-3]
    # The observers' own time is neither's.
    assert (message.data_seconds, message.handler_seconds) == (2.0, 5.0)


class Reads:
    """A handler that reads the message itself."""

    async def handle_BODY(
        self, server: SMTP, session: Session, envelope: Envelope, body: Any
    ) -> str:
        return f"250 {sum([len(piece) async for piece in body])}"


@pytest.mark.parametrize("handler", [Sink, Reads])
@pytest.mark.parametrize("extensions", ["classic", "modern"])
async def test_a_message_over_the_limit_is_told_too(handler: type, extensions: str) -> None:
    seen = Seen()
    body = [DATA, BODY] if extensions == "classic" else [b"BDAT 17 LAST\r\n" + BODY[:17]]
    sent = await said(
        [EHLO, MAIL, RCPT, *body],
        seen,
        handler=handler(),
        data_size_limit=10,
        extensions=extensions,
    )
    assert sent.splitlines()[-1][:3] == b"552"
    ((_, message),) = seen.of("taken")
    assert (message.size, message.reply.code) == (17, 552)
    # A handler that reads the message had some of it.
    assert (message.handler_seconds > 0) is (handler is Reads)
    assert seen.of("data") == [("data", 17)]


async def test_chunks_are_one_message() -> None:
    seen, asked = Seen(), Asked()
    chunks = b"BDAT 2\r\nhi", b"NOOP\r\n", b"BDAT 3 LAST\r\nyou"
    await said([EHLO, MAIL, RCPT, *chunks], seen, asked, extensions="modern")
    assert seen.of("data", "taken")[0] == ("data", 5)
    assert [call[1].size for call in seen.of("taken")] == [5]
    assert [call[1:] for call in seen.of("reply")[-3:]] == [
        ("BDAT", "250 2.0.0 2 octets received"),
        ("NOOP", "250 2.0.0 OK"),
        ("BDAT", "250 2.0.0 OK"),
    ]
    assert [stage for stage, _ in asked.stages].count("end-of-data") == 1


@pytest.mark.parametrize("handler", [Sink, Reads])
async def test_a_message_that_breaks_off_is_data_but_not_taken(handler: type) -> None:
    seen = Seen()
    await said([EHLO, MAIL, RCPT, DATA, b"half of it"], seen, handler=handler())
    assert seen.of("data", "taken") == [("data", 10)]
    assert seen.calls[-1] == ("ended", "closed by the client")


async def test_a_handler_that_answers_nonsense_is_told_as_the_451_that_is_sent() -> None:
    class Odd:
        async def handle_DATA(self, *_: Any) -> Any:
            return 42

    seen = Seen()
    sent = await said([EHLO, MESSAGE], seen, handler=Odd())
    assert seen.of("taken")[0][1].reply.code == 451
    assert b"451 4.3.0 Internal error" in sent


async def test_in_lmtp_a_message_is_told_with_each_reply() -> None:
    class Each:
        async def handle_DATA(self, *_: Any) -> Any:
            return ["250 one", "450 two"]

    def refuse_third(server: SMTP) -> None:
        if asked.stages[-1][1] == "c@x.test":
            raise Refused("550 three")

    seen, asked = Seen(), Asked(end_of_data=refuse_third)
    recipients = [b"RCPT TO:<%c@x.test>\r\n" % letter for letter in b"acb"]
    words = [EHLO.replace(b"EHLO", b"LHLO"), MAIL, *recipients, DATA, BODY]
    sent = await said(words, seen, asked, kind=LMTP, handler=Each())
    ((_, message),) = seen.of("taken")
    assert message.replies == ["250 one", "550 three", "450 two"]
    assert message.envelope.rcpt_tos == ["a@x.test", "b@x.test"]
    assert sent.endswith(b"250 one\r\n550 three\r\n450 two\r\n")
    assert [call[1:] for call in seen.of("reply")[-3:]] == [
        ("DATA", "250 one"),
        ("DATA", "550 three"),
        ("DATA", "450 two"),
    ]
    assert [one for one in asked.stages if one[0] == "end-of-data"] == [
        ("end-of-data", f"{letter}@x.test") for letter in "acb"
    ]


# AUTH, and what is secret.


def judge(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data.password == b"right")


def plain(password: bytes) -> bytes:
    return b64encode(b"\0joe\0" + password)


AUTH: dict[str, Any] = {"authenticator": judge, "auth_require_tls": False, "auth_required": False}


@pytest.mark.parametrize(
    ("lines", "secret", "results"),
    [
        ([b"AUTH PLAIN " + plain(b"right"), b"NOOP"], [1, 0], [("PLAIN", True)]),
        (
            [b"AUTH PLAIN " + plain(b"wrong"), b"password", b"noop", b"NOOP"],
            [1, 1, 1, 0],
            [("PLAIN", False)],
        ),
        (
            [b"auth login", b64encode(b"joe"), b64encode(b"right"), b"NOOP"],
            [1, 1, 1, 0],
            [("LOGIN", True)],
        ),
        ([b"AUTH LOGIN", b"*", b"x", b"y", b"NOOP"], [1, 1, 1, 1, 0], [("LOGIN", False)]),
        ([b"AUTH password", b"x", b"y", b"NOOP"], [1, 1, 1, 0], []),
        ([b"AUTH", b"NOOP", b"NOOP", b"NOOP"], [0, 1, 1, 0], []),
    ],
)
async def test_secret_lines_are_told_as_such(
    lines: list[bytes], secret: list[int], results: list[tuple[str, bool]]
) -> None:
    words = b"".join(line + b"\r\n" for line in lines)
    ways = [[EHLO + words], [EHLO, *words.splitlines(keepends=True)]]
    ways += [[EHLO + words[:cut], words[cut:]] for cut in range(1, len(words))]
    for pieces in ways:
        seen = Seen()
        await said(pieces, seen, **AUTH)
        assert [call[1:] for call in seen.of("line")[1:]] == [
            (line, bool(is_secret)) for line, is_secret in zip(lines, secret, strict=True)
        ]
        assert [call[1:] for call in seen.of("auth")] == results
        verbs = {call[1] for call in seen.of("reply")}
        assert verbs <= {"", "EHLO", "AUTH", "NOOP"}


@pytest.mark.parametrize(
    ("status", "success"), [("235 fine", True), (b"235 fine", True), ("535 no", False)]
)
async def test_the_verdict_of_a_hook_is_told(status: Any, success: bool) -> None:
    class Handler:
        async def handle_AUTH(self, *_: Any) -> Any:
            return status

    seen = Seen()
    await said([EHLO, b"AUTH PLAIN\r\n"], seen, handler=Handler(), **AUTH)
    assert seen.of("auth") == [("auth", "PLAIN", success)]


async def test_a_mechanism_that_returns_an_identity_is_told() -> None:
    class Handler:
        async def auth_CRAM(self, server: SMTP, args: list[str]) -> bytes:
            return b"joe"

    seen, asked = Seen(), Asked()
    await said([EHLO, b"AUTH CRAM\r\n"], seen, asked, handler=Handler(), **AUTH)
    assert seen.of("auth") == [("auth", "CRAM", True)]
    assert ("auth", "CRAM") in asked.stages


# Connections that are refused, and ends.


async def test_one_connection_too_many_is_told_before_a_banner() -> None:
    registry, first, second = Registry(), Seen(), Seen()
    keywords: dict[str, Any] = {"registry": registry, "max_connections": 1}
    conversation = Conversation(first, **keywords)
    await conversation.say(EHLO)
    sent = await said([EHLO], second, **keywords)
    await conversation.end()
    reply = "421 4.7.0 Too many connections, try again later"
    assert sent == reply.encode() + b"\r\n"
    assert second.calls == [
        ("began",),
        ("refused", reply),
        ("reply", "", reply),
        ("sent", sent),
        ("ended", reply),
    ]
    assert first.of("refused", "ended") == [("ended", "closed by the client")]


@pytest.mark.parametrize("how", ["quit", "eof", "reset", "abort", "disconnect", "shut down"])
@pytest.mark.parametrize("words", [b"", EHLO, EHLO + MAIL + RCPT + DATA + b"half"])
async def test_a_connection_ends_once_and_last(words: bytes, how: str) -> None:
    seen = Seen()
    conversation = Conversation(seen)
    await conversation.say(words)
    server, network = conversation.server, conversation.network
    ways: dict[str, Callable[[], Any]] = {
        "quit": lambda: network.feed(b"\r\n.\r\nQUIT\r\n"),
        "eof": network.feed_eof,
        "reset": network.reset,
        "abort": server.abort,
        "disconnect": lambda: server.disconnect("421 bye"),
        "shut down": server.shut_down,
    }
    ways[how]()
    await conversation.end()
    assert seen.calls[0] == ("began",)
    assert [seen.calls.index(call) for call in seen.of("ended")] == [len(seen.calls) - 1]
    assert len(seen.of("began")) == 1


async def test_a_hook_that_outlives_its_client_is_told_before_the_end() -> None:
    class Late:
        def __init__(self) -> None:
            self.go_on = asyncio.Event()

        async def handle_DATA(self, server: SMTP, *_: Any) -> str:
            await self.go_on.wait()
            return "250 kept"

    seen, handler = Seen(), Late()
    conversation = Conversation(seen, handler=handler)
    await conversation.say(EHLO, MESSAGE)
    conversation.network.reset()
    await settle()
    assert not seen.of("ended", "taken")
    handler.go_on.set()
    await conversation.over()
    assert [call[0] for call in seen.calls[-3:]] == ["data", "taken", "ended"]
    # Nobody was left to get the reply.
    assert seen.of("taken")[0][1].reply == "250 kept"


# Before a stage.

STAGES = {
    "connect": [],
    "ehlo": [EHLO],
    "auth": [EHLO, b"AUTH PLAIN " + plain(b"right") + b"\r\n"],
    "mail": [EHLO, MAIL],
    "rcpt": [EHLO, MAIL, RCPT],
    "data": [EHLO, MAIL, RCPT, DATA],
    "end_of_data": [EHLO, MAIL, RCPT, DATA, BODY],
    "quit": [EHLO, QUIT],
}


def refuse(_: SMTP) -> None:
    raise Refused("550 5.7.1 No")


@pytest.mark.parametrize("stage", STAGES)
async def test_a_rule_refuses_in_place_of_the_command(stage: str) -> None:
    class Handler:
        def __init__(self) -> None:
            self.called: list[str] = []

        async def _called(self, name: str) -> Any:
            self.called.append(name)
            return MISSING

        async def handle_CONNECT(self, *_: Any) -> Any:
            return await self._called("connect")

        async def handle_HELO(self, *_: Any) -> Any:
            return await self._called("ehlo")

        async def handle_AUTH(self, *_: Any) -> Any:
            return await self._called("auth")

        async def handle_MAIL(self, *_: Any) -> Any:
            return await self._called("mail")

        async def handle_RCPT(self, *_: Any) -> Any:
            return await self._called("rcpt")

        async def handle_DATA(self, *_: Any) -> Any:
            return await self._called("end_of_data")

        async def handle_QUIT(self, *_: Any) -> Any:
            return await self._called("quit")

    handler, seen = Handler(), Seen()
    conversation = Conversation(Asked(**{stage: refuse}), seen, handler=handler, **AUTH)
    assert (await conversation.say(*STAGES[stage])).endswith(b"550 5.7.1 No\r\n")
    assert stage not in handler.called
    assert seen.of("reply")[-1][2] == "550 5.7.1 No"
    if stage != "connect":
        assert await conversation.say(b"NOOP\r\n") == OK
    if stage == "ehlo":
        assert (await conversation.say(MAIL))[:3] == b"503"
    await conversation.end()


async def test_helo_and_lhlo_are_the_stage_of_ehlo() -> None:
    asked = Asked()
    await said([b"HELO a.test\r\n"], asked)
    await said([b"LHLO b.test\r\n"], asked, kind=LMTP)
    assert asked.stages == [
        *[("connect", None), ("ehlo", "a.test")],
        *[("connect", None), ("ehlo", "b.test")],
    ]


async def test_a_command_out_of_order_is_not_a_stage() -> None:
    asked = Asked()
    words = [
        MAIL,
        EHLO,
        RCPT,
        DATA,
        b"STARTTLS\r\n",
        b"AUTH X\r\n",
        b"MAIL FROM:<\r\n",
        b"QUIT x\r\n",
    ]
    await said(words, asked, **AUTH)
    assert asked.stages == [("connect", None), ("ehlo", "client.test")]


@pytest.mark.parametrize("stage", STAGES)
async def test_before_may_disconnect(stage: str) -> None:
    seen = Seen()
    observer = Asked(**{stage: lambda server: server.disconnect(reason="enough")})
    conversation = Conversation(observer, seen, **AUTH)
    await conversation.say(*STAGES[stage], b"NOOP\r\n")
    await conversation.over()
    assert seen.calls[-1] == ("ended", "enough")
    assert not [call for call in seen.of("line") if call[1] == b"NOOP"]


async def test_before_may_disconnect_with_a_reply() -> None:
    observer = Asked(mail=lambda server: server.disconnect("421 4.7.0 Slow down"))
    sent = await said([EHLO, MAIL, RCPT], observer, **SMALL)
    assert sent.endswith(b"HELP\r\n421 4.7.0 Slow down\r\n")


async def test_before_may_wait_while_the_next_commands_come() -> None:
    over = asyncio.Event()
    conversation = Conversation(Asked(mail=lambda _: over.wait()))
    await conversation.say(EHLO)
    assert await conversation.say(MAIL, RCPT) == b""
    over.set()
    assert await conversation.say() == OK * 2
    await conversation.end()


async def test_a_wait_is_like_that_of_a_hook_when_the_client_half_closes() -> None:
    # As `nc` does at the end of its input: the commands that came before are served.
    over, seen = asyncio.Event(), Seen()
    conversation = Conversation(Asked(mail=lambda _: over.wait()), seen)
    await conversation.say(EHLO, MESSAGE + QUIT)
    conversation.network.feed_eof()
    await settle()
    over.set()
    await conversation.over()
    assert [call[1].reply for call in seen.of("taken")] == ["250 OK"]
    assert bytes(conversation.network.sent).endswith(OK + BYE)


async def test_a_wait_is_waited_for_by_a_server_that_stops() -> None:
    over = asyncio.Event()
    conversation = Conversation(Asked(mail=lambda _: over.wait()))
    await conversation.say(EHLO, MAIL)
    conversation.server.shut_down()
    assert await conversation.say() == b""
    over.set()
    assert (
        await conversation.say() == OK + b"421 4.3.2 Service shutting down, closing connection\r\n"
    )
    await conversation.over()


async def forever(_: float) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["eof", "reset", "shut down"])
async def test_a_pause_ends_with_its_client_and_its_server(how: str) -> None:
    seen = Seen()
    observer = Asked(mail=lambda server: server.pause(600, sleep=forever))
    conversation = Conversation(observer, seen)
    await conversation.say(EHLO, MAIL)
    server, network = conversation.server, conversation.network
    {"eof": network.feed_eof, "reset": network.reset, "shut down": server.shut_down}[how]()
    await conversation.over()
    stopping = "421 4.3.2 Service shutting down, closing connection"
    reasons = {
        "eof": "closed by the client",
        "reset": "connection lost: Connection reset by peer",
        "shut down": stopping,
    }
    assert seen.calls[-1] == ("ended", reasons[how])
    assert (stopping.encode() in network.sent) is (how == "shut down")


async def test_a_pause_is_as_long_as_it_says() -> None:
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    observer = Asked(mail=lambda server: server.pause(1.5, sleep=sleep))
    assert (await said([EHLO, MAIL], observer)).endswith(OK)
    assert slept == [1.5]


async def test_a_pause_after_the_server_was_stopped_does_not_begin() -> None:
    def stop_and_pause(server: SMTP) -> Any:
        server.shut_down()
        return server.pause(600, sleep=forever)

    sent = await said([EHLO, MAIL], Asked(mail=stop_and_pause))
    assert sent.endswith(b"421 4.3.2 Service shutting down, closing connection\r\n")


async def test_hooks_may_pause_too() -> None:
    class Handler:
        async def handle_MAIL(self, server: SMTP, *_: Any) -> Any:
            await server.pause(0)
            return MISSING

    assert (await said([EHLO, MAIL], handler=Handler())).endswith(OK)


# Replies sent in another way.


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "auth"])
async def test_the_next_reply_is_sent_in_another_way(stage: str) -> None:
    got: list[bytes] = []

    def wrap(server: SMTP) -> None:
        async def deliver(data: bytes) -> None:
            got.append(data)
            for place in range(len(data)):
                server.send_now(data[place : place + 1])

        server.wrap_next_reply(deliver)

    seen = Seen()
    words = STAGES[stage] if stage == "quit" else [*STAGES[stage], b"NOOP\r\n"]
    sent = await said(words, Asked(**{stage: wrap}), seen, **AUTH)
    assert sent == await said(words, **AUTH)
    (wrapped,) = got
    assert wrapped in sent
    assert [call for call in seen.of("sent") if len(call[1]) == 1] == [
        ("sent", wrapped[place : place + 1]) for place in range(len(wrapped))
    ]


async def test_a_challenge_is_not_wrapped_but_the_last_reply_of_auth_is() -> None:
    got: list[bytes] = []

    def wrap(server: SMTP) -> None:
        async def deliver(data: bytes) -> None:
            got.append(data)
            server.send(data)

        server.wrap_next_reply(deliver)

    words = [EHLO, b"AUTH PLAIN\r\n", plain(b"right") + b"\r\n"]
    sent = await said(words, Asked(auth=wrap), **AUTH)
    assert sent.endswith(b"334 \r\n235 2.7.0 Authentication successful\r\n")
    assert got == [b"235 2.7.0 Authentication successful\r\n"]


async def test_a_reply_of_several_pushes_is_wrapped_whole() -> None:
    class OwnPush(SMTP):
        async def push(self, status: str | bytes) -> None:
            await super().push(status)

    def wrap(server: SMTP) -> None:
        async def deliver(data: bytes) -> None:
            server.send(data.upper())

        server.wrap_next_reply(deliver)

    sent = await said([EHLO], Asked(ehlo=wrap), kind=OwnPush, **SMALL)
    assert sent == BANNER + b"250-MX.TEST\r\n250-8BITMIME\r\n250 HELP\r\n"


async def test_a_part_of_a_reply_may_be_all_that_is_sent() -> None:
    def wrap(server: SMTP) -> None:
        async def deliver(data: bytes) -> None:
            server.send(data[:5])
            server.disconnect(reason="cut")

        server.wrap_next_reply(deliver)

    seen = Seen()
    sent = await said([EHLO, MAIL + RCPT], Asked(mail=wrap), seen, **SMALL)
    assert sent.endswith(b"HELP\r\n250 O")
    assert seen.calls[-2:] == [("sent", b"250 O"), ("ended", "cut")]


async def test_a_delivery_that_fails_is_completed(caplog: pytest.LogCaptureFixture) -> None:
    def wrap(server: SMTP) -> None:
        async def deliver(data: bytes) -> None:
            server.send(data[:2])
            raise LookupError("no more")

        server.wrap_next_reply(deliver)

    sent = await said([EHLO, MAIL + RCPT], Asked(mail=wrap), **SMALL)
    assert sent.endswith(b"HELP\r\n" + OK * 2)
    (record,) = failures(caplog)
    assert record.exc_info is not None


# Several observers, and those that fail.


async def test_several_observers_are_told_in_their_order() -> None:
    heard: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def line(self, server: SMTP, line: bytes, secret: bool) -> None:
            heard.append(f"{self.name} {line.decode()}")

        async def before(self, server: SMTP, stage: str, argument: Any) -> None:
            heard.append(f"{self.name} before {stage}")

    await said([b"HELO x\r\n"], Named("a"), Named("b"))
    assert heard == [
        *["a before connect", "b before connect", "a HELO x", "b HELO x"],
        *["a before ehlo", "b before ehlo"],
    ]


async def test_the_first_refusal_counts_and_no_later_observer_is_asked() -> None:
    later = Asked()
    sent = await said([EHLO, MAIL], Asked(mail=refuse), later)
    assert sent.endswith(b"550 5.7.1 No\r\n")
    assert "mail" not in [stage for stage, _ in later.stages]


class Failing:
    """An observer of which one method raises."""

    def __init__(self, name: str) -> None:
        setattr(self, name, self.fail)

    def fail(self, server: SMTP, *args: Any) -> None:
        raise LookupError(f"failed at {args!r}")


EVERYTHING = [
    *[EHLO, b"AUTH PLAIN " + plain(b"wrong") + b"\r\n", b"hidden\r\n", b"NOOP\r\n"],
    *[b"AUTH PLAIN " + plain(b"right") + b"\r\n", MAIL, RCPT, DATA, BODY, QUIT],
]


@pytest.mark.parametrize("name", [*EVENTS, "before"])
async def test_one_that_fails_is_logged_and_changes_nothing(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name in ("tls", "refused"):
        pytest.skip("with a real socket and with a registry, below")
    before, after = Seen(), Seen()
    sent = await said(EVERYTHING, before, Failing(name), after, **AUTH)
    assert sent == await said(EVERYTHING, Seen(), **AUTH)
    assert before.plain() == after.plain()
    records = failures(caplog)
    assert len(records) == (9 if name == "before" else len(before.of(name)))
    for record in records:
        assert (record.name, record.levelno) == ("mail.log", logging.ERROR)
        assert record.getMessage() == f"{PEER!r} the observer's Failing.fail failed"
        text = logging.Formatter().format(record)
        assert "Traceback" in text
        assert "LookupError" in text
        for secret in plain(b"wrong"), plain(b"right"), b"hidden", b"HIDDEN":
            assert secret.decode() not in text
    assert ("failed at (" in caplog.text) is (name != "auth")


async def test_a_refusal_that_cannot_be_told_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    keywords: dict[str, Any] = {"registry": registry, "max_connections": 1}
    conversation = Conversation(**keywords)
    await conversation.say(EHLO)
    sent = await said([EHLO], Failing("refused"), **keywords)
    await conversation.end()
    assert sent == b"421 4.7.0 Too many connections, try again later\r\n"
    assert len(failures(caplog)) == 1


async def test_a_lost_connection_of_the_observer_s_own_does_not_end_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lose(_: SMTP) -> None:
        raise ConnectionResetError("the database has gone")

    assert (await said([EHLO, MAIL], Asked(mail=lose))).endswith(OK)
    assert len(failures(caplog)) == 1


async def test_a_client_that_goes_while_an_observer_pushes_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    over = asyncio.Event()

    async def push_late(server: SMTP) -> None:
        await over.wait()
        await server.push("250-wait")

    seen = Seen()
    conversation = Conversation(Asked(mail=push_late), seen)
    await conversation.say(EHLO, MAIL)
    conversation.network.reset()
    await settle()
    over.set()
    await conversation.over()
    assert failures(caplog) == []
    assert len(seen.of("ended")) == 1


async def test_methods_that_are_not_there_cost_no_call() -> None:
    class Counts:
        count = 0
        reply = None

        def taken(self, server: SMTP, message: TakenMessage) -> None:
            self.count += 1

    observer = Counts()
    await said([EHLO, MESSAGE, MESSAGE], observer)
    assert observer.count == 2


@pytest.mark.parametrize("other", [object(), Seen, "line"])
async def test_other_objects_are_refused(other: Any) -> None:
    with pytest.raises(TypeError, match="observer"):
        SMTP(Sink(), observers=[other])


async def test_observers_need_no_hash_and_no_equality() -> None:
    class Equal:
        count = 0
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

        def began(self, server: SMTP) -> None:
            self.count += 1

    observers = [Equal(), Equal()]
    await said([], observers[0])
    await said([], *observers)
    assert [one.count for one in observers] == [2, 1]


async def test_the_base_class_is_empty() -> None:
    class Mine(Observer):
        def ended(self, server: Any, reason: str) -> None:
            self.reason = reason

    mine = Mine()
    with driven() as ran:
        await said([EHLO, MAIL, QUIT], mine)
    assert mine.reason == "QUIT"
    assert "MAIL" not in ran
