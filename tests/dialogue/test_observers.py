"""Observers over a transport in memory: the arguments of each method, and the order."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import (
    MISSING,
    SMTP,
    Envelope,
    Refused,
    Registry,
    Reply,
    Session,
    TakenMessage,
)
from tests.dialogue.harness import settle
from tests.dialogue.observing import (
    AUTH,
    BANNER,
    BODY,
    BYE,
    DATA,
    EHLO,
    GO_AHEAD,
    MAIL,
    MESSAGE,
    OK,
    QUIT,
    RCPT,
    SMALL,
    Asked,
    Conversation,
    Seen,
    driven,
    plain,
    said,
)
from tests.dialogue.transport import PEER, MemoryTransport

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
WORDS = EHLO + MAIL + RCPT * 2 + DATA + BODY + QUIT


class Hooked:
    """A handler with hooks for the commands that the fast path knows."""

    async def handle_MAIL(self, *_: Any) -> Any:
        return MISSING

    async def handle_RCPT(self, *_: Any) -> Any:
        return MISSING


@pytest.mark.parametrize("handler", [Sink, Hooked])
async def test_all_events_are_reported_in_order(handler: type) -> None:
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
        *[("rcpt", "b@example.com")] * 2,
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
            network = getattr(server.transport, "raw", None)
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


async def test_a_reply_that_comes_line_by_line_is_reported_whole() -> None:
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


async def test_an_unknown_verb_is_reported_as_empty() -> None:
    seen = Seen()
    long = b"NOOP " + b"x" * 2000 + b"\r\n"
    lines = [b"noop\r\n", b"FROB x\r\n", b"\xff y\r\n", b"\r\n", b"NOOP\r\n" + long]
    await said(lines, seen)
    assert [call[1] for call in seen.of("line")] == [b"noop", b"FROB x", b"\xff y", b"", b"NOOP"]
    replies = [(call[1], call[2].code) for call in seen.of("reply")[1:]]
    # The last line is too long to be one: no part of it is reported.
    assert replies == [("NOOP", 250), ("", 500), ("", 500), ("", 500), ("NOOP", 250), ("", 500)]


@pytest.mark.parametrize("words", [[EHLO], [EHLO, MAIL]], ids=["driver", "fast path"])
async def test_a_reply_that_answers_no_command_has_no_verb(words: list[bytes]) -> None:
    seen = Seen()
    conversation = Conversation(seen)
    await conversation.say(*words)
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


async def test_a_message_is_reported_with_size_reply_and_times(
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
async def test_a_message_over_the_limit_is_reported_too(handler: type, extensions: str) -> None:
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


async def test_if_a_handler_returns_nonsense_the_451_is_reported() -> None:
    class Odd:
        async def handle_DATA(self, *_: Any) -> Any:
            return 42

    seen = Seen()
    sent = await said([EHLO, MESSAGE], seen, handler=Odd())
    assert seen.of("taken")[0][1].reply.code == 451
    assert b"451 4.3.0 Internal error" in sent


async def test_in_lmtp_a_message_is_reported_with_each_reply() -> None:
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


async def test_in_lmtp_a_chunk_that_is_refused_has_one_reply() -> None:
    def refuse_once(server: SMTP) -> None:
        if len(seen.of("taken")) == 0:
            raise Refused("550 no")

    seen = Seen()
    greeting = EHLO.replace(b"EHLO", b"LHLO")
    words = [greeting, MAIL, RCPT, RCPT, b"BDAT 3\r\nabc", MAIL, RCPT, b"BDAT 3 LAST\r\nabc"]
    sent = await said(
        words,
        seen,
        Asked(end_of_data=refuse_once),
        kind=LMTP,
        handler=Reads(),
        extensions="modern",
    )
    assert [call[1].replies for call in seen.of("taken")] == [["550 no"], ["250 3"]]
    assert sent.endswith(b"550 5.0.0 no\r\n250 2.1.0 OK\r\n250 2.1.5 OK\r\n250 2.0.0 3\r\n")


# AUTH and its secrets.


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
        (
            [b"auth\tPLAIN password", b"AUTH \xff", *[b"NOOP"] * 3],
            [1, 1, 1, 1, 0],
            [("PLAIN", False)],
        ),
        ([b"AUTH", b"NOOP", b"NOOP", b"NOOP"], [0, 1, 1, 0], []),
    ],
)
async def test_secret_lines_are_reported_as_secret(
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
async def test_the_verdict_of_a_hook_is_reported(status: Any, success: bool) -> None:
    class Handler:
        async def handle_AUTH(self, *_: Any) -> Any:
            return status

    seen = Seen()
    await said([EHLO, b"AUTH PLAIN\r\n"], seen, handler=Handler(), **AUTH)
    assert seen.of("auth") == [("auth", "PLAIN", success)]


async def test_a_mechanism_that_returns_an_identity_is_reported() -> None:
    class Handler:
        async def auth_CRAM(self, server: SMTP, args: list[str]) -> bytes:
            return b"joe"

    seen, asked = Seen(), Asked()
    await said([EHLO, b"AUTH CRAM\r\n"], seen, asked, handler=Handler(), **AUTH)
    assert seen.of("auth") == [("auth", "CRAM", True)]
    assert ("auth", "CRAM") in asked.stages


# Connections that are refused, and ends.


async def test_one_connection_too_many_is_reported_without_a_banner() -> None:
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


async def test_a_hook_that_outlives_its_client_is_reported_first() -> None:
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
    # The client had gone, without the reply.
    assert seen.of("taken")[0][1].reply == "250 kept"


class Strict:
    """Ends the connection at the first refusal."""

    def __init__(self) -> None:
        self.replies: list[str] = []

    def reply(self, server: SMTP, verb: str, reply: str) -> None:
        self.replies.append(reply)
        if reply[0] in "45":
            server.disconnect("421 4.7.0 Enough")


async def test_an_observer_may_disconnect_at_a_reply() -> None:
    strict = Strict()
    sent = await said([EHLO, b"RCPT TO:<a@b.test>\r\n", b"NOOP\r\n"], strict)
    assert sent.endswith(b"250 HELP\r\n421 4.7.0 Enough\r\n")
    assert strict.replies[-2:] == ["503 Error: need MAIL command", "421 4.7.0 Enough"]
