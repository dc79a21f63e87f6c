"""Each guard of the fast path has a test here that fails without it.

``tests/mutations_fast_path.py`` removes them one by one and runs this file.
"""

import asyncio
import logging
import ssl
from typing import Any

import pytest

from aiosmtpd.engine import fast_path
from aiosmtpd.smtp import Envelope, Refused
from tests.dialogue.fast_path_server import (
    BODY,
    DATA,
    GO_AHEAD,
    MAIL,
    OK,
    RCPT,
    TOO_LONG,
    ByTheDriver,
    Hooks,
    Server,
    greeted,
    quiet as quiet,
    turns,
)


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


async def test_what_comes_after_the_end_is_not_run() -> None:
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


# Commands._take_at_once.


async def test_a_client_has_to_say_hello() -> None:
    server = Server()
    await turns()
    # The first bytes are the driver's anyway.
    await server.ask(b"NOOP\r\n")
    assert await server.ask(MAIL) == b"503 Error: send HELO first\r\n"


async def test_a_refused_tls_handshake_ends_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler:
        def handle_STARTTLS(self, server: Any, session: Any, envelope: Any) -> bool:
            return False

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await greeted(Handler(), tls_context=context)

    async def start_tls(*args: Any, **keywords: Any) -> asyncio.Transport:
        server.network.tls = context
        return server.network

    monkeypatch.setattr(server.loop, "start_tls", start_tls)
    await server.ask(b"STARTTLS\r\n")
    server.session.host_name = "client.test"
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
    assert observer.pieces[-1] == OK * 4 + GO_AHEAD


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


async def test_mail_needs_auth_if_a_program_says_so_later() -> None:
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
