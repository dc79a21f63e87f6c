"""Observers that act: `before` a stage, pauses, replies that are wrapped, and failures."""

import asyncio
import logging
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import (
    MISSING,
    SMTP,
    Observer,
    Refused,
    Registry,
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
    EVENTS,
    GO_AHEAD,
    MAIL,
    MESSAGE,
    OK,
    PATIENCE,
    QUIT,
    RCPT,
    SMALL,
    Asked,
    Conversation,
    Seen,
    driven,
    failures,
    plain,
    refuse,
    said,
)
from tests.dialogue.transport import PEER

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


async def test_after_a_refused_second_ehlo_the_client_greets_again() -> None:
    def refuse_later(server: SMTP) -> None:
        if server.session.host_name:
            raise Refused("550 5.7.1 No")

    conversation = Conversation(Asked(ehlo=refuse_later), **SMALL)
    assert (await conversation.say(EHLO, EHLO)).endswith(b"HELP\r\n550 5.7.1 No\r\n")
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


async def test_a_half_closed_client_may_wait_for_an_observer() -> None:
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


async def test_a_server_that_stops_waits_for_an_observer() -> None:
    over = asyncio.Event()
    conversation = Conversation(Asked(mail=lambda _: over.wait()))
    await conversation.say(EHLO, MAIL)
    conversation.server.shut_down()
    assert await conversation.say() == b""
    over.set()
    # The transaction has begun: it may end.
    assert await conversation.say() == OK
    farewell = b"421 4.3.2 Service shutting down, closing connection\r\n"
    assert await conversation.say(b"RSET\r\n") == OK + farewell
    await conversation.over()


async def forever(_: float) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["eof", "reset", "shut down"])
async def test_a_pause_ends_with_its_client_and_its_server(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At once, not as late as a hook.
    monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 2 * PATIENCE)
    seen = Seen()
    observer = Asked(mail=lambda server: server.pause(600, sleep=forever))
    conversation = Conversation(observer, seen)
    await conversation.say(EHLO, MAIL)
    server, network = conversation.server, conversation.network
    {"eof": network.feed_eof, "reset": network.reset, "shut down": server.shut_down}[how]()
    await conversation.over()
    stopping = "421 4.3.2 Service shutting down, closing connection"
    # The command is not done.
    assert b"250 OK" not in network.sent
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

    conversation = Conversation(Asked(mail=stop_and_pause))
    sent = await conversation.say(EHLO, MAIL)
    await conversation.over()
    assert sent.endswith(b"421 4.3.2 Service shutting down, closing connection\r\n")


async def test_hooks_may_pause_too() -> None:
    class Handler:
        async def handle_MAIL(self, server: SMTP, *_: Any) -> Any:
            await server.pause(0)
            return MISSING

    assert (await said([EHLO, MAIL], handler=Handler())).endswith(OK)


# Replies sent in another way.


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "auth"])
async def test_an_observer_may_wrap_the_next_reply(stage: str) -> None:
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


async def test_the_last_reply_of_auth_is_wrapped_not_the_challenge() -> None:
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
            server.send(data.lower())

        server.wrap_next_reply(deliver)

    sent = await said([EHLO], Asked(ehlo=wrap), kind=OwnPush, **SMALL)
    assert sent == BANNER + b"250-mx.test\r\n250-8bitmime\r\n250 help\r\n"


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


async def test_mail_data_after_the_connection_was_closed_is_dropped() -> None:
    def wrap(server: SMTP) -> None:
        async def deliver(data: bytes) -> None:
            server.send(data)
            server.disconnect(reason="cut")

        server.wrap_next_reply(deliver)

    seen = Seen()
    sent = await said([EHLO, MESSAGE], Asked(data=wrap), seen)
    assert sent.endswith(GO_AHEAD)
    assert seen.of("data", "taken") == []


async def test_in_lmtp_the_reply_to_each_recipient_is_wrapped_alone() -> None:
    def wrap(server: SMTP) -> None:
        async def deliver(data: bytes) -> None:
            server.send(data.lower())

        if asked.stages[-1][1] == "b@x.test":
            server.wrap_next_reply(deliver)

    asked = Asked(end_of_data=wrap)
    recipients = [b"RCPT TO:<%c@x.test>\r\n" % letter for letter in b"abc"]
    words = [EHLO.replace(b"EHLO", b"LHLO"), MAIL, *recipients, DATA, BODY]
    assert (await said(words, asked, kind=LMTP)).endswith(OK + OK.lower() + OK)


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


async def test_several_observers_are_called_in_their_order() -> None:
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


async def test_after_the_first_refusal_no_later_observer_is_asked() -> None:
    later = Asked()
    sent = await said([EHLO, MAIL], Asked(mail=refuse), later)
    assert sent.endswith(b"550 5.7.1 No\r\n")
    assert "mail" not in [stage for stage, _ in later.stages]


class Failing:
    """An observer with one method, which raises."""

    def __init__(self, name: str) -> None:
        setattr(self, name, self.fail)

    def fail(self, server: SMTP, *args: Any) -> None:
        raise LookupError(f"failed at {args!r}")


EVERYTHING = [
    *[EHLO, b"AUTH PLAIN " + plain(b"wrong") + b"\r\n", b"hidden\r\n", b"NOOP\r\n"],
    *[b"AUTH PLAIN " + plain(b"right") + b"\r\n", MAIL, RCPT, DATA, BODY, QUIT],
]


@pytest.mark.parametrize("name", sorted({*EVENTS, "before"} - {"tls", "refused"}))
async def test_one_that_fails_is_logged_and_changes_nothing(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
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


async def test_a_failure_in_refused_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    keywords: dict[str, Any] = {"registry": registry, "max_connections": 1}
    conversation = Conversation(**keywords)
    await conversation.say(EHLO)
    sent = await said([EHLO], Failing("refused"), **keywords)
    await conversation.end()
    assert sent == b"421 4.7.0 Too many connections, try again later\r\n"
    assert len(failures(caplog)) == 1


async def test_a_lost_connection_of_an_observer_ends_no_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lose(_: SMTP) -> None:
        raise ConnectionResetError("the database has gone")

    assert (await said([EHLO, MAIL], Asked(mail=lose))).endswith(OK)
    assert len(failures(caplog)) == 1


async def test_a_client_that_goes_while_an_observer_pushes_is_normal(
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


async def test_a_plain_function_may_decide() -> None:
    class Plain:
        def before(self, server: SMTP, stage: str, argument: str | None) -> None:
            if stage == "rcpt":
                raise Refused("450 4.2.1 Later")

    sent = await said([EHLO, b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<c@d.test>\r\n"], Plain())
    assert sent.endswith(b"250 OK\r\n450 4.2.1 Later\r\n")


async def test_no_observer_is_needed_to_send_at_once() -> None:
    class Sending:
        async def handle_NOOP(self, server: SMTP, *_: Any) -> str:
            async def deliver(data: bytes) -> None:
                raise AssertionError

            server.wrap_next_reply(deliver)
            server.send_now(b"250-Not alone\r\n")
            return "250 OK"

    sent = await said([EHLO, b"NOOP\r\n"], handler=Sending())
    assert sent.endswith(b"250-Not alone\r\n250 OK\r\n")
