"""Faults on real sockets: each stage, each effect, and the handler's part in it."""

import asyncio
import io
import smtplib
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.observers.transcript import Dialogue
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from aiosmtpd.testing.faults import Fault, Faults, faulty
from aiosmtpd.testing.inbox import Inbox
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.support import Catcher

MESSAGE = b"Subject: x\r\n\r\nbody\r\n.\r\n"


@contextmanager
def serving(
    *faults: Fault | str,
    handler: Any = None,
    protocol: type[SMTP] = SMTP,
    sleep: Callable[[float], Coroutine[Any, Any, object]] = asyncio.sleep,
    ssl_context: ssl.SSLContext | None = None,
    **keywords: Any,
) -> Iterator[Controller]:
    """Serve with faults."""
    made = faulty(protocol, Faults(faults, sleep=sleep))
    handler = handler or Sink()
    keywords.setdefault("hostname", "mx.test")

    class Faulty(Controller):
        def factory(self) -> SMTP:
            return made(handler, **keywords)

    controller = Faulty(handler, hostname="127.0.0.1", port=0, ssl_context=ssl_context)
    with controller:
        yield controller


def transaction(client: Client, *recipients: bytes, hello: bytes = b"EHLO") -> bytes:
    """Send a whole message; return the first reply that is not as usual, else the last one."""
    commands = [hello + b" client.test", b"MAIL FROM:<a@b.test>"]
    commands += [b"RCPT TO:<%b>" % one for one in recipients or (b"c@d.test",)]
    for command in [*commands, b"DATA"]:
        reply = client.ask(command)
        if reply[:3] not in (b"250", b"354"):
            return reply
    client.send(MESSAGE)
    return client.reply()


class Pauses:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.asked: Queue[tuple[float, Callable[[], object]]] = Queue()

    async def __call__(self, seconds: float) -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        self.asked.put((seconds, partial(loop.call_soon_threadsafe, over.set)))
        await over.wait()

    def end(self) -> float:
        """End the next one; return its seconds."""
        seconds, end = self.asked.get(timeout=PATIENCE)
        end()
        return seconds


class Reasons:
    """A handler that tells why connections ended."""

    def __init__(self) -> None:
        self.given: Queue[str] = Queue()

    async def handle_DISCONNECT(
        self, server: SMTP, session: Session, envelope: Envelope, reason: str
    ) -> None:
        self.given.put(reason)


# A reply in place of a command, at each stage.


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        ("ehlo: 501 5.5.4 who are you", b"501 5.5.4 who are you\r\n"),
        ("mail a@*: 450 4.7.1 greylisted", b"450 4.7.1 greylisted\r\n"),
        ("rcpt *@d.test: 550 5.1.1 no such user", b"550 5.1.1 no such user\r\n"),
        ("data from=a@b.test to=c@*: 451 4.3.0 later", b"451 4.3.0 later\r\n"),
        ("end-of-data: 552 5.2.2 mailbox full", b"552 5.2.2 mailbox full\r\n"),
        ("end-of-data: say BOO", b"BOO\r\n"),
        ("rcpt: say 25", b"25\r\n"),
        ("end-of-data: 250 lost", b"250 lost\r\n"),
    ],
)
def test_a_reply_in_place_of_a_command(fault: str, reply: bytes) -> None:
    catcher = Catcher()
    with serving(fault + " x1", handler=catcher) as controller, Client(controller.port) as client:
        assert transaction(client) == reply
        assert catcher.caught.empty()
        client.ask(b"RSET")
        assert transaction(client) == b"250 OK\r\n"
        assert catcher.envelope().rcpt_tos == ["c@d.test"]


def test_a_refused_recipient_is_not_in_the_envelope() -> None:
    catcher = Catcher()
    faults = "rcpt slow@*: 450 4.2.1 busy", "rcpt /^never/: 550 5.1.1 no"
    with (
        serving(*faults, handler=catcher) as controller,
        smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client,
    ):
        to = ["slow@d.test", "good@d.test", "never@d.test"]
        refused = client.sendmail("a@b.test", to, "Subject: x\n\nbody")
    assert refused == {
        "slow@d.test": (450, b"4.2.1 busy"),
        "never@d.test": (550, b"5.1.1 no"),
    }
    assert catcher.envelope().rcpt_tos == ["good@d.test"]


def test_a_refused_ehlo_leaves_the_client_unknown() -> None:
    with serving("ehlo: 421 4.3.2 not now") as controller, Client(controller.port) as client:
        assert client.ask(b"EHLO client.test") == b"421 4.3.2 not now\r\n"
        assert client.reply() == b""
    with serving("ehlo: 550 go away") as controller, Client(controller.port) as client:
        assert client.ask(b"HELO client.test") == b"550 go away\r\n"
        assert client.ask(b"MAIL FROM:<a@b.test>")[:3] == b"503"


def test_a_greeting_that_is_not_220() -> None:
    faults = "connect: 554 5.7.1 no service here x1", "connect 127.*: say SSH-2.0-OpenSSH_9.9 x1"
    with serving(*faults) as controller:
        with Client(controller.port, greet=False) as client:
            assert client.reply() == b"554 5.7.1 no service here\r\n"
            assert client.reply() == b""
        with Client(controller.port, greet=False) as client:
            assert client.line() == b"SSH-2.0-OpenSSH_9.9\r\n"
            assert client.ask(b"NOOP") == b"250 OK\r\n"
        with Client(controller.port) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"


def test_a_client_of_another_address_is_greeted() -> None:
    with serving("connect 10.*: drop") as controller, Client(controller.port) as client:
        assert client.ask(b"NOOP") == b"250 OK\r\n"


def accept(*_: object) -> AuthResult:
    return AuthResult(success=True)


def test_auth_and_quit() -> None:
    faults = "auth: 454 4.7.0 try later x1", "quit: 451 4.3.0 stay x1"
    with (
        serving(*faults, authenticator=accept, auth_require_tls=False) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        assert client.ask(b"AUTH PLAIN AGEAYg==") == b"454 4.7.0 try later\r\n"
        assert client.ask(b"AUTH PLAIN AGEAYg==")[:3] == b"235"
        assert client.ask(b"QUIT") == b"451 4.3.0 stay\r\n"
        assert client.ask(b"QUIT")[:3] == b"221"
        assert client.reply() == b""


def test_drop_after_auth_waits_for_its_last_reply() -> None:
    with (
        serving("auth: drop after", authenticator=accept, auth_require_tls=False) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        assert client.ask(b"AUTH PLAIN") == b"334 \r\n"
        assert client.ask(b"AGEAYg==")[:3] == b"235"
        assert client.reply() == b""


def test_only_replies_of_faults_get_enhanced_status_codes() -> None:
    faults = "mail: 450 busy x1", "mail: say 450 busy x1"
    with (
        serving(*faults, extensions="modern") as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"450 4.0.0 busy\r\n"
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"450 busy\r\n"


# STARTTLS.


def test_starttls_is_refused_or_its_handshake_fails(certificates: Certificates) -> None:
    reasons = Reasons()
    faults = "starttls: 454 4.7.0 not now x1", "starttls: tls-failure x1"
    context = certificates.client_context()
    tls = certificates.server_context()
    with serving(*faults, handler=reasons, tls_context=tls) as controller:
        with smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client:
            with pytest.raises(smtplib.SMTPResponseException, match="not now"):
                client.starttls(context=context)
            # The second one strikes with the first one, too, but only with its reply.
            client.ehlo()
            client.starttls(context=context)
        assert reasons.given.get(timeout=PATIENCE) == "QUIT"
    with serving("starttls: tls-failure x1", handler=reasons, tls_context=tls) as controller:
        client = smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE)
        with client, pytest.raises(ssl.SSLError):
            client.starttls(context=context)
        assert "TLS handshake failed" in reasons.given.get(timeout=PATIENCE)
        with smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client:
            assert client.starttls(context=context)[0] == 220
            assert client.noop()[0] == 250


@pytest.mark.parametrize(
    ("fault", "replies"),
    [
        ("drop", [b""]),
        ("drop after", [b"220 Ready to start TLS\r\n", b""]),
        ("truncate 5", [b"220 R"]),
        ("say TLS? no", [b"TLS? no\r\n"]),
    ],
)
def test_starttls_breaks_off(certificates: Certificates, fault: str, replies: list[bytes]) -> None:
    tls = certificates.server_context()
    with (
        serving(f"starttls: {fault}", tls_context=tls) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        client.send(b"STARTTLS\r\n")
        assert [client.reply() for _ in replies] == replies


def test_starttls_is_slow_and_works(certificates: Certificates) -> None:
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    faults = "starttls: delay 7", "starttls: drip 0.5", "connect: delay 3"
    tls = certificates.server_context()
    with (
        serving(*faults, tls_context=tls, sleep=sleep) as controller,
        smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client,
    ):
        assert client.starttls(context=certificates.client_context())[0] == 220
        assert client.noop()[0] == 250
    # TLS begins a new session, but no new connection.
    assert waited == [3.0, 7.0, *[0.5] * len(b"220 Ready to start TLS\r")]


def test_faults_inside_tls(certificates: Certificates) -> None:
    context = certificates.client_context()
    fault = "connect: 554 5.7.1 not here x1"
    with serving(fault, ssl_context=certificates.server_context()) as controller:
        where = "localhost", controller.port
        with pytest.raises(smtplib.SMTPConnectError, match="not here"):
            smtplib.SMTP_SSL(*where, timeout=PATIENCE, context=context)
        with smtplib.SMTP_SSL(*where, timeout=PATIENCE, context=context) as client:
            assert client.noop()[0] == 250


# Delays.


def test_a_delay_is_waited_for_and_the_command_is_done_then() -> None:
    pauses, catcher = Pauses(), Catcher()
    with (
        serving("rcpt: delay 2.5 x1", sleep=pauses, handler=catcher) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        client.ask(b"MAIL FROM:<a@b.test>")
        client.send(b"RCPT TO:<c@d.test>\r\n")
        seconds, end = pauses.asked.get(timeout=PATIENCE)
        assert seconds == 2.5
        with Client(controller.port) as another:
            # No other client waits; and the reply of the first is not there before.
            assert another.ask(b"NOOP") == b"250 OK\r\n"
            client.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.socket.recv(1)
            client.socket.settimeout(PATIENCE)
        end()
        assert client.reply() == b"250 OK\r\n"
        client.ask(b"DATA")
        client.send(MESSAGE)
        assert client.reply() == b"250 OK\r\n"
    assert catcher.envelope().rcpt_tos == ["c@d.test"]


def test_a_delay_and_a_reply_go_together_in_any_order() -> None:
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    with (
        serving("mail: 450 busy", "mail: delay 7", sleep=sleep) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"450 busy\r\n"
    assert waited == [7.0]


def test_a_reply_drips_byte_by_byte() -> None:
    pauses = Pauses()
    with (
        serving("connect: drip 0.5", "mail: drip", sleep=pauses) as controller,
        Client(controller.port, greet=False) as client,
    ):
        greeting = b""
        while not greeting.endswith(b"\r\n"):
            piece = client.socket.recv(1000)
            assert len(piece) == 1
            greeting += piece
            # After the last byte there is nothing to wait for.
            assert piece == b"\n" or pauses.end() == 0.5
        assert greeting.startswith(b"220 mx.test ")
        client.ask(b"EHLO client.test")
        client.send(b"MAIL FROM:<a@b.test>\r\n")
        for octet in b"250 OK\r\n":
            assert client.socket.recv(1000) == bytes([octet])
            assert octet == 10 or pauses.end() == 0.1


@pytest.mark.parametrize(
    ("octets", "end"),
    [("", b"250 H"), (" 0", b""), (" 13", b"250-mx.test\r\n"), (" 15", b"250-mx.test\r\n25")],
)
def test_a_reply_of_several_lines_drips_whole_or_is_cut(octets: str, end: bytes) -> None:
    async def sleep(seconds: float) -> None:
        pass

    faults = "ehlo: drip x1", f"ehlo: truncate{octets} x2"
    with serving(*faults, sleep=sleep) as controller:
        for _ in range(2):
            with Client(controller.port) as client:
                client.send(b"EHLO client.test\r\n")
                reply = client.rest()
            assert b"250-mx.test\r\n250-SIZE 33554432\r\n250-8BITMIME\r\n250 H".startswith(reply)
            assert reply.endswith(end)
            assert octets != " 0" or not reply


@pytest.mark.parametrize("fault", ["mail: delay 600", "mail: drip 600"])
@pytest.mark.parametrize("how", ["close", "reset", "stop"])
def test_a_slow_fault_ends_with_its_client_and_its_server(fault: str, how: str) -> None:
    pauses, reasons = Pauses(), Reasons()
    with (
        serving(fault, sleep=pauses, handler=reasons) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        client.send(b"MAIL FROM:<a@b.test>\r\n")
        assert pauses.asked.get(timeout=PATIENCE)[0] == 600
        if how == "reset":
            client.reset_at_close()
        if how == "stop":
            # It aborts a command that runs after so long, which is another reason.
            controller.stop(timeout=PATIENCE)
        else:
            client.close()
        reason = reasons.given.get(timeout=PATIENCE)
        # A client that has not read all sends a reset as well.
        others = () if how == "stop" else ("connection lost: ",)
        assert reason.startswith(("closed by a fault", *others))


# Dropped connections.


@pytest.mark.parametrize("stage", ["connect", "ehlo", "mail", "rcpt", "data", "end-of-data"])
def test_a_connection_is_dropped_in_place_of_a_command(stage: str) -> None:
    catcher = Catcher()
    with serving(f"{stage}: drop x1", handler=catcher) as controller:
        with Client(controller.port, greet=False) as client:
            if stage != "connect":
                assert client.reply()[:3] == b"220"
                assert transaction(client) == b""
            else:
                assert client.reply() == b""
        assert catcher.caught.empty()
        with Client(controller.port) as client:
            assert transaction(client) == b"250 OK\r\n"


def test_a_connection_is_dropped_after_a_reply() -> None:
    catcher = Catcher()
    faults = "end-of-data: drop after x1", "ehlo client=10.*: drop after", "connect: drop after x1"
    with serving(*faults, handler=catcher) as controller:
        with Client(controller.port) as client:
            assert client.reply() == b""
        with Client(controller.port) as client:
            assert transaction(client) == b"250 OK\r\n"
            assert client.reply() == b""
        assert catcher.envelope().rcpt_tos == ["c@d.test"]


def test_a_message_is_taken_and_the_client_never_hears_of_it() -> None:
    catcher = Catcher()
    faults = "end-of-data: truncate 0 x1", "end-of-data: truncate x1"
    with serving(*faults, handler=catcher) as controller:
        for rest in b"", b"250 ":
            with Client(controller.port) as client:
                assert transaction(client) == rest
                assert client.reply() == b""
            assert catcher.envelope().rcpt_tos == ["c@d.test"]


def test_pipelined_commands_after_a_drop_are_not_run() -> None:
    catcher = Catcher()
    with (
        serving("data: drop after", handler=catcher, extensions="modern") as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + MESSAGE)
        assert client.reply()[:3] == b"250"
        assert client.reply()[:3] == b"250"
        assert client.reply()[:3] == b"354"
        assert client.reply() == b""
    assert catcher.caught.empty()


# Messages that are streamed, and LMTP.


class Streaming:
    """Reads a message while it comes, and keeps it."""

    def __init__(self) -> None:
        self.caught: Queue[bytes] = Queue()

    async def handle_BODY(
        self, server: SMTP, session: Session, envelope: Envelope, body: Any
    ) -> str:
        message = b""
        async for piece in body:
            message += piece
        self.caught.put(message)
        return "250 OK"


def test_a_streamed_message_is_refused_before_it_is_read() -> None:
    handler = Streaming()
    with (
        serving("end-of-data: 452 4.3.1 no space x1", handler=handler) as controller,
        Client(controller.port) as client,
    ):
        assert transaction(client) == b"452 4.3.1 no space\r\n"
        assert transaction(client) == b"250 OK\r\n"
    assert handler.caught.get(timeout=PATIENCE) == MESSAGE.removesuffix(b".\r\n")
    assert handler.caught.empty()


def test_in_lmtp_each_recipient_has_faults_of_its_own() -> None:
    catcher = Catcher()
    faults = "end-of-data full@*: 452 4.2.2 full", "end-of-data /^odd/: say ???"
    with (
        serving(*faults, protocol=LMTP, handler=catcher) as controller,
        Client(controller.port) as client,
    ):
        to = b"full@d.test", b"good@d.test", b"odd@d.test", b"last@d.test"
        assert transaction(client, *to, hello=b"LHLO") == b"452 4.2.2 full\r\n"
        assert [client.reply() for _ in range(3)] == [b"250 OK\r\n", b"???\r\n", b"250 OK\r\n"]
        envelope = catcher.envelope()
        assert envelope.rcpt_tos == ["good@d.test", "last@d.test"]
        assert [one.address for one in envelope.recipients] == envelope.rcpt_tos
        assert client.ask(b"NOOP") == b"250 OK\r\n"


def test_in_lmtp_a_message_refused_for_all_is_not_handled() -> None:
    catcher = Catcher()
    faults = "end-of-data: 452 4.2.2 full x2", "end-of-data: drop every 3"
    with serving(*faults, protocol=LMTP, handler=catcher) as controller:
        with Client(controller.port) as client:
            to = b"a@d.test", b"b@d.test"
            assert transaction(client, *to, hello=b"LHLO") == b"452 4.2.2 full\r\n"
            assert client.reply() == b"452 4.2.2 full\r\n"
            assert transaction(client, hello=b"LHLO") == b""
        assert catcher.caught.empty()


def test_in_lmtp_the_connection_is_lost_between_two_replies() -> None:
    catcher = Catcher()
    with (
        serving("end-of-data b@*: drop", protocol=LMTP, handler=catcher) as controller,
        Client(controller.port) as client,
    ):
        to = b"a@d.test", b"b@d.test", b"c@d.test"
        assert transaction(client, *to, hello=b"LHLO") == b"250 OK\r\n"
        assert client.reply() == b""
        assert catcher.envelope().rcpt_tos == ["a@d.test", "c@d.test"]


def test_in_lmtp_a_message_over_the_limit_meets_no_fault() -> None:
    with (
        serving("end-of-data: drop", protocol=LMTP, data_size_limit=5) as controller,
        Client(controller.port) as client,
    ):
        assert transaction(client, hello=b"LHLO")[:3] == b"552"


def test_in_lmtp_a_refused_chunk_leaves_no_state() -> None:
    catcher = Catcher()
    with (
        serving(
            "end-of-data: 452 4.2.2 full x1",
            protocol=LMTP,
            handler=Streaming(),
            extensions="modern",
            data_size_limit=30,
        ) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"LHLO client.test")
        client.ask(b"MAIL FROM:<a@b.test>")
        client.ask(b"RCPT TO:<c@d.test>")
        client.send(b"BDAT 3\r\nabc")
        assert client.reply() == b"452 4.2.2 full\r\n"
        client.ask(b"MAIL FROM:<a@b.test>")
        client.ask(b"RCPT TO:<c@d.test>")
        client.send(b"BDAT 31 LAST\r\n" + b"a" * 31)
        assert client.reply()[:3] == b"552"
    assert catcher.caught.empty()


# While the server runs.


def test_faults_come_and_go_while_the_server_runs() -> None:
    faults = Faults()
    made = faulty(SMTP, faults)

    class Faulty(Controller):
        def factory(self) -> SMTP:
            return made(self.handler, **self.SMTP_kwargs)

    with (
        Faulty(Sink(), hostname="127.0.0.1", port=0) as controller,
        Client(controller.port) as client,
    ):
        assert transaction(client) == b"250 OK\r\n"
        faults.add("rcpt: 450 4.2.1 busy")
        assert transaction(client) == b"450 4.2.1 busy\r\n"
        faults.clear()
        assert transaction(client) == b"250 OK\r\n"


def test_a_subclass_of_the_user_s_own_may_be_faulty_too() -> None:
    class Own(SMTP):
        __slots__ = ("pings",)

        async def smtp_PING(self, arg: str | None) -> None:
            await self.push("259 Pong")

    with (
        serving("mail: drop after", protocol=Own) as controller,
        Client(controller.port) as client,
    ):
        assert client.ask(b"PING") == b"259 Pong\r\n"
        client.ask(b"EHLO client.test")
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"250 OK\r\n"
        assert client.reply() == b""


def test_transcripts_show_replies_that_drip_or_are_cut() -> None:
    with Inbox() as inbox:
        inbox.fail("mail", "drip 0.0001")
        inbox.fail("rcpt", "truncate 6")
        with (
            smtplib.SMTP(inbox.host, inbox.port, timeout=PATIENCE) as client,
            pytest.raises(smtplib.SMTPServerDisconnected),
        ):
            client.sendmail("a@b.test", ["c@d.test"], "Subject: x\n\nbody")
    said = [line.partition(": ")[2] for line in inbox.transcript.splitlines()]
    # smtplib writes TO in capitals up to Python 3.12.
    said[-3] = said[-3].lower()
    assert said[-4:] == [
        "250 2.1.0 OK",
        "rcpt to:<c@d.test>",
        "250 2.",
        "closed by a fault",
    ]


def test_a_dialogue_shows_a_part_of_a_reply() -> None:
    screen = io.StringIO()
    with (
        serving("mail: truncate 6", observers=[Dialogue(screen)]) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO client.test")
        assert client.ask(b"MAIL FROM:<a@b.test>") == b"250 OK"
        assert client.reply() == b""
    lines = [line[11:] for line in screen.getvalue().splitlines()]
    assert lines[-2:] == [" S: 250 OK", " -- disconnected: closed by a fault"]
