"""Each guard of the fast path has a test here that fails without it.

``tests/mutations_fast_path.py`` removes them one by one and runs this file.
"""

import functools
import logging
import ssl
from types import MethodType
from typing import Any

import pytest

from aiosmtpd.engine import connection, fast_path, observer as observer_module, transaction
from aiosmtpd.engine.observer import TakenMessage
from aiosmtpd.smtp import MISSING, SMTP, Envelope, Refused, Session
from tests.dialogue.fed import (
    BODY,
    DATA,
    GO_AHEAD,
    MAIL,
    OK,
    RCPT,
    ByTheDriver,
    Server,
    greeted,
    quiet as quiet,
    turns,
)

NEED_MAIL = b"503 Error: need MAIL command\r\n"
NEED_RCPT = b"503 Error: need RCPT command\r\n"
TOO_LONG = b"500 Command line too long\r\n"
TOO_MANY = b"452 4.5.3 Error: too many recipients\r\n"


async def test_the_fast_path_is_taken() -> None:
    server = await greeted()
    assert server.at_once(MAIL + RCPT * 3) == OK * 4
    assert server.at_once(RCPT) == OK
    assert server.at_once(DATA) == GO_AHEAD
    assert await server.ask(BODY) == OK
    assert server.at_once(MAIL) == OK
    assert server.driven == []


@pytest.mark.parametrize("in_lines", [False, True], ids=["at once", "in lines"])
async def test_the_envelope_is_that_of_the_driver(in_lines: bool) -> None:
    said = [MAIL, *[RCPT] * 3, b"RCPT TO:<c@example.com>\r\n"]
    kept = []
    for kind in (Server, ByTheDriver):
        server = await greeted(kind=kind)
        await server.ask(*said if in_lines else [b"".join(said)])
        kept.append(vars(server.envelope))
        # A handler may change it, or make JSON of it.
        assert isinstance(server.envelope.mail_params, dict)
    assert kept[0] == kept[1]
    assert server.driven == [line[:-2] for line in said]


# Connection.data_received.


async def test_a_command_is_not_taken_within_a_line() -> None:
    server = await greeted()
    assert await server.ask(b"NOOP ", MAIL) == OK
    assert server.envelope.mail_from is None


async def test_mail_data_is_not_run() -> None:
    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
            return f"250 {len(envelope.rcpt_tos)} {envelope.content!r}"

    server = await greeted(Handler())
    assert await server.ask(MAIL + RCPT, DATA, RCPT + b".\r\n") == (
        OK * 2 + GO_AHEAD + f"250 1 {RCPT!r}\r\n".encode()
    )
    assert await server.ask(MAIL + RCPT + DATA + RCPT + b".\r\n") == (
        OK * 2 + GO_AHEAD + f"250 1 {RCPT!r}\r\n".encode()
    )


async def test_the_answer_to_a_challenge_is_not_run() -> None:
    server = await greeted(auth_require_tls=False, authenticator=lambda *args: True)
    assert await server.ask(b"AUTH PLAIN\r\n", MAIL) == b"334 \r\n501 5.5.2 Can't decode base64\r\n"
    assert server.envelope.mail_from is None


async def test_commands_after_the_end_are_not_run() -> None:
    server = await greeted()
    server.shut_down()
    # The event loop's TLS layer gives bytes to a protocol that has closed its transport.
    server.data_received(MAIL)
    await turns()
    assert server.network.sent.endswith(
        b"\r\n421 4.3.2 Service shutting down, closing connection\r\n"
    )
    assert server.network.written_after_close == b""


async def test_a_client_that_reads_nothing_is_not_answered() -> None:
    server = await greeted()
    server.network.is_read = False
    # The buffer of the transport is full with this reply.
    assert await server.ask(MAIL) == OK
    assert len(await server.ask(*[RCPT] * 100)) <= len(OK)
    server.resume_writing()
    assert len(await server.ask(b"")) >= 99 * len(OK)
    assert len(server.envelope.rcpt_tos) == 100


def longest(verb: str) -> bytes:
    """Return the longest command line that the fast path takes."""
    return b"%s:<%s@%s>\r\n" % (verb.encode(), b"l" * 64, b"d" * 255)


@pytest.mark.parametrize("name", ["line_length_limit", "command_size_limit"])
async def test_every_line_limit_is_kept(name: str) -> None:
    line = longest("MAIL FROM")
    answers = set()
    for limit in range(len(line) - 40, len(line) + 10):
        heard = [
            await (await greeted(kind=kind, **{name: limit})).ask(line)
            for kind in (Server, ByTheDriver)
        ]
        assert heard[0] == heard[1]
        answers.add(heard[0])
    assert answers == {OK, TOO_LONG}


@pytest.mark.parametrize("limit", [0, None, 340, 1001])
async def test_no_limit_of_lines_keeps_the_fast_path(limit: int | None) -> None:
    server = await greeted()
    server.line_length_limit = limit  # type: ignore[assignment]
    assert server.at_once(longest("MAIL FROM")) == OK
    assert server.driven == []


async def test_a_usual_limit_of_commands_keeps_the_fast_path() -> None:
    server = await greeted(command_size_limit=fast_path.LONGEST)
    assert server.at_once(longest("MAIL FROM")) == OK
    assert server.driven == []


# Commands.connection_lost.


@pytest.mark.parametrize("kind", [Server, ByTheDriver])
async def test_a_lost_connection_ends_a_transaction_after_data(kind: type[Server]) -> None:
    class Handler:
        def __init__(self) -> None:
            self.seen: list[str | None] = []

        async def handle_DISCONNECT(
            self, server: Any, session: Any, envelope: Envelope, reason: str
        ) -> None:
            self.seen.append(envelope.mail_from)

    for said, left in ([MAIL, RCPT], "a@example.com"), ([MAIL, RCPT, DATA], None):
        server = await greeted(handler := Handler(), kind=kind)
        await server.ask(*said)
        server.network.reset()
        await turns()
        assert handler.seen == [left]


# fast_path.take.


async def test_a_client_has_to_say_hello() -> None:
    server = Server()
    await turns()
    # The first bytes are the driver's anyway.
    await server.ask(b"NOOP\r\n")
    assert await server.ask(MAIL) == b"503 Error: send HELO first\r\n"


async def test_a_refused_tls_handshake_ends_mail() -> None:
    server = await greeted()
    # As after a handle_STARTTLS that returned False: tests/net has that with real TLS.
    server._tls_handshake_okay = False
    assert await server.ask(MAIL) == b"554 Command refused due to lack of security\r\n"


async def test_starttls_is_required_without_tls_only() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await greeted(tls_context=context, require_starttls=True)
    assert await server.ask(MAIL) == b"530 Must issue a STARTTLS command first\r\n"
    server = await greeted(tls=context, tls_context=context, require_starttls=True)
    assert server.at_once(MAIL) == OK
    assert (await server.ask(b"QUIT\r\n")).startswith(b"221")


class Watching:
    """An observer that notes all it sees of commands and replies."""

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, bool]] = []
        self.replies: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []

    def line(self, server: Any, line: bytes, secret: bool) -> None:
        self.lines.append((line, secret))

    def reply(self, server: Any, verb: str, reply: str) -> None:
        self.replies.append((verb, str(reply)))

    def sent(self, server: Any, data: bytes) -> None:
        self.pieces.append(bytes(data))


async def test_lines_after_a_failed_auth_are_secret() -> None:
    observer = Watching()
    server = await greeted(auth_require_tls=False, observers=[observer])
    refused = b"AUTH PLAIN AGEAYg==\r\n"
    assert (await server.ask(refused)).startswith(b"535")
    await server.ask(MAIL, RCPT, RCPT)
    assert [secret for _, secret in observer.lines[-4:]] == [True, True, True, False]


async def test_too_many_errors_end_the_connection() -> None:
    server = await greeted(max_errors=1)
    assert (await server.ask(b"DATA x\r\n")).startswith(b"503")
    assert (await server.ask(MAIL)).startswith(b"421 4.7.0 ")


async def test_a_command_size_limit_of_a_verb_counts() -> None:
    server = await greeted()
    server.command_size_limits = {"RCPT": 10}  # type: ignore[misc]
    assert await server.ask(MAIL, RCPT) == OK + TOO_LONG


async def test_a_limit_of_local_parts_counts() -> None:
    server = await greeted()
    server.local_part_limit = 3
    assert await server.ask(MAIL) == OK
    assert (await server.ask(b"RCPT TO:<long@example.com>\r\n")).startswith(b"553 5.1.3 ")


@pytest.mark.parametrize(
    ("stage", "line"),
    [("mail", MAIL), ("rcpt", RCPT), ("data", DATA)],
    ids=["mail", "rcpt", "data"],
)
async def test_an_observer_is_asked_before_a_command(stage: str, line: bytes) -> None:
    class Asking:
        async def before(self, server: Any, now: str, argument: Any) -> None:
            if now == stage:
                raise Refused("550 5.7.1 not now")

    server = await greeted(observers=[Asking()])
    assert (await server.ask(MAIL, RCPT, DATA)).count(b"550 5.7.1 not now\r\n") == 1


async def test_observers_see_what_the_fast_path_does() -> None:
    observer = Watching()
    server = await greeted(observers=[observer])
    observer.lines.clear()
    observer.replies.clear()
    assert server.at_once(MAIL + RCPT * 3 + DATA) == OK * 4 + GO_AHEAD
    assert server.driven == []
    assert observer.lines == [
        (line[:-2], False) for line in (MAIL, RCPT, RCPT, RCPT, DATA)
    ]  # fmt: skip
    assert [verb for verb, _ in observer.replies] == ["MAIL", "RCPT", "RCPT", "RCPT", "DATA"]
    assert [reply for _, reply in observer.replies] == ["250 OK"] * 4 + [GO_AHEAD.decode()[:-2]]
    assert observer.pieces[-5:] == [OK] * 4 + [GO_AHEAD]


async def test_observers_see_no_empty_piece() -> None:
    observer = Watching()
    server = await greeted(Hooks(), observers=[observer])
    await server.ask(MAIL + b"RSET\r\n")
    assert b"" not in observer.pieces


async def test_observers_see_a_command_that_has_a_hook() -> None:
    observer = Watching()
    server = await greeted(Hooks(), observers=[observer])
    observer.lines.clear()
    observer.replies.clear()
    await server.ask(MAIL, RCPT + MAIL)
    assert [line for line, _ in observer.lines] == [MAIL[:-2], RCPT[:-2], MAIL[:-2]]
    assert [verb for verb, _ in observer.replies] == ["MAIL", "RCPT", "MAIL"]


async def test_the_log_tells_of_commands(caplog: pytest.LogCaptureFixture) -> None:
    server = await greeted()
    caplog.set_level(logging.DEBUG, "mail.log")
    await server.ask(MAIL, RCPT)
    assert [line.getMessage().split(" sent ")[1] for line in caplog.records] == [
        "MAIL 'FROM:<a@example.com>'",
        "RCPT 'TO:<b@example.com>'",
    ]


# Settings.takes_plain.


async def test_mail_needs_auth_if_the_settings_say_so() -> None:
    server = await greeted(auth_required=True)
    assert await server.ask(MAIL) == b"530 5.7.0 Authentication required\r\n"


async def test_mail_needs_auth_if_a_program_requires_it_later() -> None:
    server = await greeted()
    server._auth_required = True
    assert await server.ask(MAIL) == b"530 5.7.0 Authentication required\r\n"


async def test_commands_are_counted_if_their_calls_are_limited() -> None:
    server = await greeted(command_call_limit={"MAIL": 1})
    assert await server.ask(MAIL) == OK
    assert (await server.ask(MAIL)).startswith(b"421 4.7.0 MAIL sent too many times")


async def test_transactions_are_counted_if_they_are_limited() -> None:
    server = await greeted(max_transactions=1)
    assert await server.ask(MAIL, b"RSET\r\n") == OK * 2
    assert (await server.ask(MAIL)).startswith(b"452 4.5.3 ")


async def test_domains_are_counted_if_they_are_limited() -> None:
    server = await greeted(max_recipient_domains=1)
    assert await server.ask(MAIL, RCPT) == OK * 2
    assert (await server.ask(b"RCPT TO:<b@other.test>\r\n")).startswith(b"452 4.5.3 ")


# fast_path.run: order, turns, replies.


async def test_the_rest_of_a_read_is_the_drivers() -> None:
    server = await greeted()
    said = b"NOOP\r\n", b"NO"
    assert await server.ask(MAIL + RCPT + b"".join(said), b"OP x\r\n") == OK * 4
    assert server.driven == [b"NOOP", b"NOOP x"]


async def test_replies_go_out_after_those_that_wait() -> None:
    server = await greeted()
    await server.push("250 said by the program")
    assert server.at_once(MAIL) == b"250 said by the program\r\n" + OK
    await server.push("250 said again")
    assert await server.ask(RCPT + b"VRFY x\r\n" + RCPT) == (
        b"250 said again\r\n" + OK + b"252 Cannot VRFY user, but will accept message and attempt "
        b"delivery\r\n" + OK
    )


async def test_one_read_has_a_bounded_number_of_commands() -> None:
    server = await greeted(max_recipients=None)
    server.network.feed(MAIL + RCPT.lower() * 2 * fast_path.BURST)
    # Without a turn of the loop.
    assert len(server.envelope.rcpt_tos) < fast_path.BURST
    await turns()
    assert len(server.envelope.rcpt_tos) == 2 * fast_path.BURST
    assert server.driven


async def test_replies_have_codes_if_ehlo_offered_them() -> None:
    server = await greeted(extensions="modern")
    assert server.at_once(MAIL + RCPT) == b"250 2.1.0 OK\r\n250 2.1.5 OK\r\n"
    assert server.at_once(RCPT * 2) == b"250 2.1.5 OK\r\n" * 2
    assert server.at_once(DATA) == GO_AHEAD
    await server.ask(BODY, b"HELO client.test\r\n")
    assert server.at_once(MAIL) == OK


class Timed(Server):
    """Records each time limit for a silent client that is set."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.patience: list[float | None] = []
        super().__init__(*args, **keywords)

    def _reset_timeout(self, duration: float | None = None) -> None:
        self.patience.append(duration)
        super()._reset_timeout(duration)


async def test_each_command_restarts_the_timer() -> None:
    server = await greeted(kind=Timed, data_timeout=50)
    assert isinstance(server, Timed)
    for said, patience in ((MAIL, None), (RCPT * 2, None), (DATA, 50)):
        server.patience.clear()
        server.network.feed(said)
        assert server.patience == [patience]


async def test_the_timer_restarts_before_a_part_of_a_line() -> None:
    server = await greeted(kind=Timed)
    assert isinstance(server, Timed)
    server.patience.clear()
    assert await server.ask(MAIL + b"RCPT") == OK
    assert server.patience == [None]


async def test_a_part_of_a_line_gives_no_more_time() -> None:
    server = await greeted(kind=Timed)
    assert isinstance(server, Timed)
    server.patience.clear()
    assert await server.ask(b"MAIL") == b""
    assert server.patience == []


class Clock:
    """The time, which a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_the_wait_for_mail_data_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Server, ByTheDriver):
        clock = Clock()
        for module in (connection, fast_path, transaction):
            monkeypatch.setattr(module, "monotonic", clock)
        server = await greeted(kind=kind, min_data_rate=100)
        assert await server.ask(MAIL + RCPT + DATA) == OK * 2 + GO_AHEAD
        clock.now += 59
        assert await server.ask(BODY) == OK
        assert await server.ask(MAIL + RCPT, DATA) == OK * 2 + GO_AHEAD
        clock.now += 70
        assert await server.ask(BODY) == b"421 4.4.2 Timeout, closing connection\r\n"
        assert server.network.is_closing()


async def test_observers_hear_how_long_mail_data_took(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[float] = []

    class Timing:
        def taken(self, server: Any, message: TakenMessage) -> None:
            heard.append(message.data_seconds)

    clock = Clock()
    for module in (connection, fast_path, observer_module, transaction):
        monkeypatch.setattr(module, "monotonic", clock)
    server = await greeted(observers=[Timing()])
    await server.ask(MAIL + RCPT + DATA)
    clock.now += 5
    await server.ask(BODY)
    assert heard[0] == 5


async def test_no_other_hook_is_blamed_for_a_slow_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr(connection, "monotonic", clock)

    class Handler:
        async def handle_RSET(self, server: Any, session: Any, envelope: Any) -> str:
            return "250 OK"

    class Slow(Server):
        async def _answer_data(self, status: Any, envelope: Envelope) -> None:
            clock.now += 1
            await super()._answer_data(status, envelope)

    server = await greeted(Handler(), kind=Slow)
    await server.ask(b"RSET\r\n", MAIL + RCPT, DATA)
    # From the loop, as a socket does: then the driver runs in this very call.
    server.loop.call_soon(server.network.feed, BODY)
    await turns()
    assert server.network.sent.endswith(GO_AHEAD + OK)
    assert "blocked the event loop" not in caplog.text


# fast_path.run: methods and handlers.

CALLS = {
    "smtp_MAIL": 1,
    "smtp_RCPT": 1,
    "smtp_DATA": 1,
    "check_helo_needed": 3,
    "check_auth_needed": 3,
    "push": 3,
    "_call_handler_hook": 2,
    "_getaddr": 2,
    "_strip_command_keyword": 2,
}
"""The methods that MAIL, RCPT and DATA run, and how often."""


def noting(name: str, seen: list[str]) -> Any:
    """Return a method like that of SMTP, which notes its calls."""
    original = getattr(SMTP, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any) -> Any:
        seen.append(name)
        return original(self, *args)

    return method


@pytest.mark.parametrize("name", CALLS)
async def test_a_method_of_a_subclass_is_run(name: str) -> None:
    seen: list[str] = []
    server = await greeted(kind=type("Own", (Server,), {name: noting(name, seen)}))
    seen.clear()
    assert await server.ask(MAIL, RCPT, DATA) == OK * 2 + GO_AHEAD
    assert seen == [name] * CALLS[name]


@pytest.mark.parametrize("owner", ["SMTP", "a subclass"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_method_that_a_class_gets_later_is_run(
    name: str, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    server = await greeted()
    assert await server.ask(MAIL, b"RSET\r\n") == OK * 2
    kind = SMTP if owner == "SMTP" else Server
    monkeypatch.setattr(kind, name, noting(name, seen), raising=False)
    assert await server.ask(MAIL, RCPT, DATA) == OK * 2 + GO_AHEAD
    assert seen == [name] * CALLS[name]


@pytest.mark.parametrize("bound", [True, False], ids=["method", "function"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_method_of_an_instance_is_run(name: str, bound: bool) -> None:
    seen: list[str] = []
    server = await greeted()
    method = noting(name, seen)
    own = MethodType(method, server) if bound else lambda *args: method(server, *args)
    setattr(server, name, own)
    assert await server.ask(MAIL, RCPT, DATA) == OK * 2 + GO_AHEAD
    assert seen == [name] * CALLS[name]


async def test_a_handler_that_answers_to_any_name_is_the_drivers() -> None:
    class Any_:
        def __init__(self) -> None:
            self.asked: set[str] = set()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("handle_"):
                self.asked.add(name)
            raise AttributeError(name)

    handler = Any_()
    server = await greeted(handler)
    handler.asked.clear()
    await server.ask(MAIL, RCPT, DATA)
    by_the_driver = Any_()
    server = await greeted(by_the_driver, kind=ByTheDriver)
    by_the_driver.asked.clear()
    await server.ask(MAIL, RCPT, DATA)
    assert handler.asked == by_the_driver.asked


# fast_path._take: state, limits, hooks.


class Hooks:
    """A handler with hooks that accept, and note what they hear."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def handle_MAIL(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        self.heard.append(address)
        return MISSING

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        self.heard.append(address)
        return MISSING


@pytest.mark.parametrize(
    ("said", "replies"),
    [
        ([MAIL, MAIL], OK + b"503 Error: nested MAIL command\r\n"),
        ([RCPT], NEED_MAIL),
        ([DATA], NEED_RCPT),
        ([MAIL, DATA], OK + NEED_RCPT),
        ([MAIL, RCPT, DATA, BODY, RCPT], OK * 2 + GO_AHEAD + OK + NEED_MAIL),
        ([MAIL, RCPT, DATA, BODY, DATA], OK * 2 + GO_AHEAD + OK + NEED_RCPT),
    ],
    ids=["nested MAIL", "RCPT first", "DATA first", "DATA second", "RCPT later", "DATA again"],
)
@pytest.mark.parametrize("hooks", [False, True], ids=["no hooks", "hooks"])
async def test_commands_out_of_sequence_are_refused(
    said: list[bytes], replies: bytes, hooks: bool
) -> None:
    for pieces in (said, [b"".join(said)]):
        server = await greeted(Hooks() if hooks else None)
        assert await server.ask(*pieces) == replies


async def test_binary_mail_needs_bdat() -> None:
    server = await greeted(extensions="all")
    await server.ask(b"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n", RCPT)
    assert (await server.ask(DATA)).startswith(b"503 ")


@pytest.mark.parametrize("hooks", [False, True], ids=["no hooks", "hooks"])
@pytest.mark.parametrize("in_lines", [False, True], ids=["in a row", "in lines"])
async def test_recipients_are_limited(in_lines: bool, hooks: bool) -> None:
    handler = Hooks()
    server = await greeted(handler if hooks else None, max_recipients=3)
    said = [MAIL, *[RCPT] * 5]
    assert await server.ask(*said if in_lines else [b"".join(said)]) == OK * 4 + TOO_MANY * 2
    assert server.envelope.rcpt_tos == ["b@example.com"] * 3
    assert handler.heard == (["a@example.com"] + ["b@example.com"] * 3) * hooks


async def test_all_recipients_up_to_the_limit_are_taken_at_once() -> None:
    server = await greeted(max_recipients=3)
    assert server.at_once(MAIL + RCPT * 3) == OK * 4
    assert server.driven == []


async def test_no_limit_of_recipients_keeps_the_fast_path() -> None:
    server = await greeted(max_recipients=None)
    assert server.at_once(MAIL + RCPT * 2000) == OK * 2001
    assert server.at_once(RCPT) == OK
    assert server.envelope.rcpt_tos == ["b@example.com"] * 2001


async def test_a_hook_hears_of_each_command() -> None:
    for pieces in ([MAIL, RCPT, RCPT], [MAIL + RCPT + RCPT]):
        handler = Hooks()
        server = await greeted(handler)
        assert await server.ask(*pieces) == OK * 3
        assert handler.heard == ["a@example.com", "b@example.com", "b@example.com"]


async def test_a_hook_of_recipients_hears_of_all_in_a_row() -> None:
    class Handler:
        handle_RCPT = Hooks.handle_RCPT
        heard: list[str] = []

    server = await greeted(Handler())
    assert await server.ask(MAIL + RCPT * 3) == OK * 4
    assert Handler.heard == ["b@example.com"] * 3


async def test_a_command_with_a_hook_is_parsed_once() -> None:
    server = await greeted(Hooks())
    assert await server.ask(MAIL, RCPT, RCPT) == OK * 3
    assert server.driven == []


async def test_recipients_in_a_row_are_added_together() -> None:
    added: list[int] = []

    class Counting(Envelope):
        def _add_recipients(
            self, addresses: list[str], params: dict[str, Any] | None = None
        ) -> None:
            added.append(len(addresses))
            super()._add_recipients(addresses, params)

    class Own(Server):
        def _create_envelope(self) -> Envelope:
            return Counting()

    for most, sizes in (None, [1, 4]), (5, [1, 4]), (4, [1, 1, 1, 1]):
        added.clear()
        server = await greeted(kind=Own, max_recipients=most)
        assert (await server.ask(MAIL + RCPT * 5)).count(OK) == 1 + sum(sizes)
        assert added == sizes


async def test_a_hook_that_reads_the_message_gets_it() -> None:
    class Handler:
        async def handle_BODY(self, server: Any, session: Any, envelope: Any, body: Any) -> str:
            return f"250 {await body.read()!r}"

    server = await greeted(Handler())
    assert await server.ask(MAIL + RCPT) == OK * 2
    server.driven.clear()
    assert await server.ask(DATA) == GO_AHEAD
    assert server.driven == []
    assert await server.ask(BODY) == f"250 {BODY[:-3]!r}\r\n".encode()
