"""Limits of time and number over a transport in memory."""

import asyncio
from time import monotonic
from typing import Any

import pytest

from aiosmtpd.smtp import MISSING, SMTP, Envelope, Session

from .observing import Seen
from .test_flow import GREETING, OK, PATIENCE, Server, connected, turns

BAD = b"500 Error: bad syntax\r\n"
TIMED_OUT = b"421 4.4.2 Timeout, closing connection\r\n"
TO_THE_DATA = b"HELO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
GO_ON = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class TestErrors:
    async def test_so_many_and_no_more(self) -> None:
        server = await connected(max_errors=3)
        server.network.feed(b"\r\n" * 3 + b"NOOP\r\nNOOP\r\n")
        await server.over()
        farewell = b"421 4.7.0 Too many errors, closing connection\r\n"
        assert server.network.sent == GREETING + BAD * 3 + farewell

    async def test_the_client_may_quit_at_the_error_limit(self) -> None:
        server = await connected(max_errors=1)
        server.network.feed(b"\r\nQUIT\r\n")
        await server.over()
        assert server.network.sent == GREETING + BAD + b"221 Bye\r\n"

    async def test_errors_that_a_subclass_pushes_count(self) -> None:
        class Refusing(Server):
            async def smtp_NAY(self, arg: str | None) -> None:
                await self.push("550 nay" if arg else b"550 nay")

        server = Refusing(max_errors=2)
        server.network.feed(b"NAY\r\nNAY 2\r\nNOOP\r\n")
        await server.over()
        assert server.network.sent.count(b"550 nay\r\n") == 2
        assert b"250" not in server.network.sent

    async def test_an_accepted_message_resets_the_count(self) -> None:
        server = await connected(max_errors=2)
        server.network.feed((b"\r\n" + TO_THE_DATA + b".\r\n") * 4 + b"QUIT\r\n")
        await server.over()
        assert server.network.sent.count(BAD) == 4
        assert server.network.sent.endswith(OK + b"221 Bye\r\n")

    async def test_a_refused_message_does_not(self) -> None:
        class Refusing:
            async def handle_DATA(self, *_: Any) -> str:
                return "554 no"

        server = await connected(handler=Refusing(), max_errors=3)
        server.network.feed((TO_THE_DATA + b".\r\n") * 4)
        await server.over()
        assert server.network.sent.count(b"554 no") == 3

    async def test_junk(self) -> None:
        server = await connected(max_junk_commands=3)
        server.network.feed(b"NOOP\r\nVRFY a@b.test\r\nRSET\r\nHELP\r\nNOOP\r\n")
        await server.over()
        farewell = b"421 4.7.0 Too many commands that send no mail, closing connection\r\n"
        assert server.network.sent.endswith(OK + farewell)
        assert b"Supported commands" not in server.network.sent

    async def test_junk_with_mail_between(self) -> None:
        server = await connected(max_junk_commands=3)
        server.network.feed((b"NOOP\r\n" + TO_THE_DATA + b".\r\n") * 4 + b"QUIT\r\n")
        await server.over()
        assert server.network.sent.endswith(OK + b"221 Bye\r\n")


class Judge:
    """Answers AUTH itself."""

    def __init__(self, reply: str = "454 4.7.0 Later") -> None:
        self.reply = reply

    async def handle_AUTH(self, server: SMTP, session: Any, envelope: Any, words: list[str]) -> str:
        return self.reply


def broken(*_: Any) -> bool:
    raise LookupError("no such user")


@pytest.mark.parametrize(
    ("handler", "authenticator", "reply"),
    [(Judge(), None, b"454 4.7.0 Later"), (None, broken, b"451 4.3.0 Internal error")],
)
async def test_failures_of_auth_count_however_they_end(
    handler: Any, authenticator: Any, reply: bytes
) -> None:
    """docs/reference/limits, "AUTH failures": temporary failures are tries of a password too."""
    seen = Seen()
    server = await connected(
        handler=handler,
        authenticator=authenticator,
        auth_require_tls=False,
        max_auth_failures=2,
        observers=[seen],
    )
    server.network.feed(b"EHLO client.test\r\n" + b"AUTH PLAIN AGEAYg==\r\n" * 3)
    await server.over()
    assert server.network.sent.count(reply) == 2
    assert b"\r\n421 4.7.0 Too many failed authentications" in server.network.sent
    assert seen.of("auth") == [("auth", "PLAIN", False)] * 2


async def test_a_hook_that_accepts_leaves_all_tries() -> None:
    judge = Judge("235 2.7.0 Welcome")
    server = await connected(handler=judge, auth_require_tls=False, max_auth_failures=1)
    server.network.feed(b"EHLO client.test\r\n" + b"AUTH PLAIN AGEAYg==\r\n" * 2 + b"QUIT\r\n")
    await server.over()
    assert server.network.sent.endswith(b"235 2.7.0 Welcome\r\n" * 2 + b"221 Bye\r\n")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the rate of mail data soon."""
    monkeypatch.setattr("aiosmtpd.engine.transaction.DRIBBLE_GRACE", 0.05)


class TestTime:
    async def test_mail_data_without_progress(self) -> None:
        server = await connected(data_timeout=0.05)
        server.network.feed(TO_THE_DATA + b"Subject: never to end\r\n")
        await server.over()
        assert server.network.sent.endswith(GO_ON + TIMED_OUT)

    async def test_a_command_has_more_time(self) -> None:
        server = await connected(data_timeout=0.05)
        server.network.feed(TO_THE_DATA + b".\r\n")
        await server.sent(GO_ON + OK)
        # A session that begins later, after its time for mail data.
        other = await connected(data_timeout=0.05)
        other.network.feed(TO_THE_DATA)
        await other.over()
        server.network.feed(b"QUIT\r\n")
        await server.over()
        assert server.network.sent.endswith(b"221 Bye\r\n")

    @pytest.mark.usefixtures("soon")
    @pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 9999 LAST\r\n", b"BDAT 1\r\n"])
    async def test_a_dribble(self, command: bytes) -> None:
        handler = Received()
        server = await connected(
            handler=handler, timeout=0.05, min_data_rate=10**6, extensions="modern"
        )
        server.network.feed(TO_THE_DATA.removesuffix(b"DATA\r\n") + command)
        async with asyncio.timeout(PATIENCE):
            while not server.network.is_closing():
                server.network.feed(b"x" if b"BDAT 1\r" not in command else b"xBDAT 1\r\n")
                await asyncio.sleep(0.002)
        await server.over()
        assert server.network.sent.endswith(TIMED_OUT)
        assert not handler.messages

    @pytest.mark.usefixtures("soon")
    async def test_a_dribble_into_a_refused_chunk(self) -> None:
        server = await connected(extensions="modern", min_data_rate=10**6)
        server.network.feed(b"EHLO client.test\r\nBDAT 9999 LAST\r\n")
        async with asyncio.timeout(PATIENCE):
            while not server.network.is_closing():
                server.network.feed(b"x")
                await asyncio.sleep(0.002)
        await server.over()
        assert server.network.sent.endswith(TIMED_OUT)

    @pytest.mark.usefixtures("soon")
    async def test_no_rate_no_dribble(self) -> None:
        handler = Received()
        server = await connected(handler=handler, min_data_rate=None)
        server.network.feed(TO_THE_DATA)
        for _ in range(50):
            server.network.feed(b"x")
            await asyncio.sleep(0.002)
        server.network.feed(b"\r\n.\r\nQUIT\r\n")
        await server.over()
        assert handler.messages == [b"x" * 50 + b"\r\n"]

    async def test_a_hook_may_take_so_long(self, caplog: pytest.LogCaptureFixture) -> None:
        class Slow:
            ended = ""

            async def handle_NOOP(self, *_: Any) -> str:
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    self.ended = "cancelled"
                return "250 never"

        handler = Slow()
        server = await connected(handler=handler, handler_timeout=0.05)
        server.network.feed(b"NOOP\r\nRSET\r\nQUIT\r\n")
        await server.over()
        refusal = b"451 4.3.0 Error: the server took too long, try again later\r\n"
        assert server.network.sent == GREETING + refusal + OK + b"221 Bye\r\n"
        assert handler.ended == "cancelled"
        assert "handle_NOOP took longer than 0.05 s and was cancelled" in caplog.text

    async def test_a_hook_in_time(self) -> None:
        server = await connected(handler=Received(), handler_timeout=PATIENCE)
        server.network.feed(TO_THE_DATA + b".\r\nQUIT\r\n")
        await server.over()
        assert server.network.sent.endswith(GO_ON + OK + b"221 Bye\r\n")

    async def test_a_hooks_own_timeout_is_a_fault_like_any(self) -> None:
        class Impatient:
            async def handle_NOOP(self, *_: Any) -> str:
                raise TimeoutError

        server = await connected(handler=Impatient(), handler_timeout=PATIENCE)
        server.network.feed(b"NOOP\r\nQUIT\r\n")
        await server.over()
        assert b"451 4.3.0 Internal error (ref " in server.network.sent

    async def test_a_session_may_last_so_long(self) -> None:
        server = await connected(session_timeout=0.05)
        await server.over()
        assert server.network.sent == GREETING + TIMED_OUT

    async def test_a_session_ends_after_the_running_command(self) -> None:
        class Telling(Server):
            def shut_down(self, *reply: Any) -> None:
                super().shut_down(*reply)
                over.set()

        class Slow:
            async def handle_NOOP(self, *_: Any) -> str:
                await over.wait()
                return "250 done"

        over = asyncio.Event()
        server = Telling(Slow(), session_timeout=0.05)
        server.network.feed(b"NOOP\r\n")
        await server.over()
        assert server.network.sent == GREETING + b"250 done\r\n" + TIMED_OUT

    async def test_a_session_that_ends_in_time_holds_no_timer(self) -> None:
        server = await connected(session_timeout=PATIENCE)
        server.network.feed(b"QUIT\r\n")
        await server.over()
        assert server._session_timer is not None
        assert server._session_timer.cancelled()


class TestTurns:
    async def test_a_client_with_much_to_say_waits_for_the_others(self) -> None:
        busy, other = await connected(), await connected()
        busy.network.feed(b"NOOP\r\n" * 20_000)
        other.network.feed(b"NOOP\r\n")
        await other.sent(GREETING + OK)
        assert busy.network.sent.count(OK) < 200
        for server in busy, other:
            server.network.reset()
            await server.over()

    async def test_slow_commands_have_shorter_turns(self) -> None:
        class Spinning(Server):
            async def smtp_SPIN(self, arg: str | None) -> None:
                until = monotonic() + 0.006
                while monotonic() < until:
                    pass
                await self.push("250 dizzy")

        busy, other = Spinning(), await connected()
        await busy.sent(GREETING)
        busy.network.feed(b"SPIN\r\n" * 20)
        other.network.feed(b"NOOP\r\n")
        await other.sent(GREETING + OK)
        assert busy.network.sent.count(b"dizzy") <= 3
        for server in busy, other:
            server.network.reset()
            await server.over()

    async def test_a_stop_ends_a_client_that_never_rests(self) -> None:
        server = await connected()
        server.network.feed(b"NOOP\r\n" * 20_000)
        server.shut_down()
        await server.over()
        farewell = b"421 4.3.2 Service shutting down, closing connection\r\n"
        assert server.network.sent.endswith(OK + farewell)
        assert server.network.sent.count(OK) < 200

    async def test_a_client_that_goes_between_turns(self) -> None:
        server = await connected()
        server.network.feed(b"NOOP\r\n" * 20_000)
        server.network.reset()
        await server.over()
        await turns()


class Received:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.messages.append(envelope.content)
        return "250 OK"


class TestCommitted:
    async def test_a_hook_that_has_committed_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The rule is docs/reference/limits, "vanished client"."""
        monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 0.02)
        events: list[str] = []

        class Careful:
            async def handle_NOOP(self, server: Server, *_: Any) -> Any:
                try:
                    async with server.committed():
                        server.network.reset()
                        await asyncio.sleep(0.1)
                        events.append("kept")
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    events.append("cancelled after it")
                    raise
                return MISSING

        server = await connected(handler=Careful())
        server.network.feed(b"NOOP\r\n")
        await server.over()
        assert events == ["kept", "cancelled after it"]

    async def test_commands_sent_before_a_fin_are_served(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """docs/reference/limits, "half-closed client": it waits for its replies."""
        monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 0.02)

        class Careful:
            async def handle_NOOP(self, server: Server, *_: Any) -> Any:
                async with server.committed():
                    server.network.feed_eof()
                return MISSING

            async def handle_RSET(self, *_: Any) -> Any:
                await asyncio.sleep(0.1)
                return MISSING

        server = await connected(handler=Careful())
        server.network.feed(b"NOOP\r\nRSET\r\nQUIT\r\n")
        await server.over()
        assert server.network.sent == GREETING + OK * 2 + b"221 Bye\r\n"

    async def test_while_the_client_is_there_it_means_nothing(self) -> None:
        class Careful:
            async def handle_NOOP(self, server: Server, *_: Any) -> Any:
                async with server.committed():
                    return MISSING

        server = await connected(handler=Careful())
        server.network.feed(b"NOOP\r\nQUIT\r\n")
        await server.over()
        assert server.network.sent == GREETING + OK + b"221 Bye\r\n"


@pytest.mark.parametrize("first", [b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n"])
async def test_a_tls_handshake_on_a_plain_port(first: bytes) -> None:
    """The rule is docs/reference/limits, "foreign protocol"."""
    server = await connected()
    server.network.feed(first)
    await server.over()
    farewell = b"421 4.7.0 This port does not begin with TLS\r\n"
    assert server.network.sent == GREETING + farewell
