"""Each guard of engine/fast_path.py has a test here that fails without it.

``tests/mutations_fast_path.py`` removes them one by one and runs this file.
"""

import functools
import string
from types import MethodType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.engine import connection, fast_path, transaction
from aiosmtpd.protocol import paths
from aiosmtpd.smtp import SMTP, Envelope
from tests.dialogue.fast_path_server import (
    BODY,
    DATA,
    GO_AHEAD,
    MAIL,
    NEED_MAIL,
    NEED_RCPT,
    OK,
    RCPT,
    TOO_MANY,
    ByTheDriver,
    Hooks,
    Server,
    greeted,
    quiet as quiet,
    turns,
)

# fast_path.run: order, turns, replies.


async def test_the_rest_of_a_read_is_the_drivers() -> None:
    server = await greeted()
    said = b"NOOP\r\n", b"NO"
    assert await server.ask(MAIL + RCPT + b"".join(said), b"OP x\r\n") == OK * 4
    assert server.driven == [b"NOOP", b"NOOP x"]


async def test_replies_are_in_order_with_what_waits() -> None:
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


async def test_replies_have_codes_if_the_client_was_told_so() -> None:
    server = await greeted(extensions="modern")
    assert server.at_once(MAIL + RCPT) == b"250 2.1.0 OK\r\n250 2.1.5 OK\r\n"
    assert server.at_once(RCPT * 2) == b"250 2.1.5 OK\r\n" * 2
    assert server.at_once(DATA) == GO_AHEAD
    await server.ask(BODY, b"HELO client.test\r\n")
    assert server.at_once(MAIL) == OK


class Timed(Server):
    """Notes how long the client may be silent, each time that it is told."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.patience: list[float | None] = []
        super().__init__(*args, **keywords)

    def _reset_timeout(self, duration: float | None = None) -> None:
        self.patience.append(duration)
        super()._reset_timeout(duration)


async def test_the_timer_begins_anew_with_each_command() -> None:
    server = await greeted(kind=Timed, data_timeout=50)
    assert isinstance(server, Timed)
    for said, patience in ((MAIL, None), (RCPT * 2, None), (DATA, 50)):
        server.patience.clear()
        server.network.feed(said)
        assert server.patience == [patience]


async def test_the_timer_begins_anew_before_a_part_of_a_line() -> None:
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
        def taken(self, server: Any, envelope: Any, size: int, reply: Any, *times: float) -> None:
            heard.extend(times)

    clock = Clock()
    for module in (connection, fast_path, transaction):
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


# fast_path._applies.

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
    assert server.driven == [b"DATA"]
    assert await server.ask(BODY) == f"250 {BODY[:-3]!r}\r\n".encode()


# fast_path._COMMAND: it takes no more than what paths.parse returns unchanged.

ATEXT = "!#$%&'*+-./09=?AZ^_`az{|}~"
OTHERS = ' "(),:;<>@[\\]\x00\t\r\n\x7f\x80\x9f\xa0\xe9\xff'


def check(mailbox: str) -> bool:
    """Return True if the fast path takes a mailbox; it must then be parsed as it is."""
    line = b"RCPT TO:<%s>\r\n" % mailbox.encode("latin-1")
    if (found := fast_path._COMMAND.match(line)) is None:
        return False
    assert found["RCPT"].decode() == mailbox
    assert paths.parse(line[8:-2].decode()) == (mailbox, "")
    assert len(line) <= min(fast_path.LONGEST, connection.LONG_LINE) - len("MAIL FROM") + len(
        "RCPT TO"
    )
    return True


@pytest.mark.parametrize(
    "form",
    ["%s@d.test", "a%sb@d.test", "a@%s", "a@%s.test", "a@d%sd.test", "a@d.%s", "a@d%s", "%s"],
)
def test_each_character_of_a_mailbox_is_parsed_alike(form: str) -> None:
    taken = {character for character in map(chr, range(256)) if check(form % character)}
    assert taken <= {*ATEXT, *string.ascii_letters, *string.digits}
    assert ("a" in taken) == ("@" in form)


@given(
    local=st.text(ATEXT) | st.text(ATEXT + OTHERS, max_size=3),
    domain=st.lists(st.text("a-Z_9") | st.text("a.-" + OTHERS, max_size=2), max_size=4),
    repeat=st.integers(1, 80),
)
def test_a_mailbox_that_is_taken_is_parsed_alike(
    local: str, domain: list[str], repeat: int
) -> None:
    check(f"{local * repeat}@{'.'.join(domain)}")
    check(f"{local}@{'.'.join(domain * repeat)}")


@pytest.mark.parametrize(
    ("mailbox", "is_taken"),
    [
        ("l" * 64 + "@" + "d" * 255, True),
        ("l" * 65 + "@d", False),
        ("l@" + "d" * 256, False),
        ("@d", False),
        ("l@", False),
        ("l@d.", False),
        ("l@.d", False),
        ("l@d..d", False),
        (".l..l.@d", True),
        ("l@d@d", False),
        ("", False),
    ],
)
def test_the_lengths_of_a_mailbox_are_limited(mailbox: str, is_taken: bool) -> None:
    assert check(mailbox) == is_taken


@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM:<a@example.com>\n",
        b"MAIL FROM:<a@example.com> \r\n",
        b"MAIL FROM:<a@example.com>\r",
        b"MAIL FROM:a@example.com\r\n",
        b"MAIL FROM: <a@example.com>\r\n",
        b"MAIL  FROM:<a@example.com>\r\n",
        b" MAIL FROM:<a@example.com>\r\n",
        b"MAIL FROM:<>\r\n",
        b"RCPT TO:<b@example.com>\n",
        b"RCPT TO:<b@example.com> NOTIFY=NEVER\r\n",
        b"DATA\n",
        b"DATA \r\n",
        b"DATA x\r\n",
        b"XDATA\r\n",
    ],
)
async def test_other_forms_of_a_line_are_the_drivers(line: bytes) -> None:
    heard = []
    for kind in (Server, ByTheDriver):
        server = await greeted(kind=kind)
        heard.append((await server.ask(line), server.driven))
    assert heard[0] == heard[1]


async def test_capitals_do_not_matter() -> None:
    server = await greeted()
    assert server.at_once(MAIL.lower()) == OK
    assert server.at_once(RCPT.swapcase() + RCPT + RCPT.lower() * 2 + RCPT * 2) == OK * 6
    assert server.at_once(DATA.lower()) == GO_AHEAD
    assert server.driven == []
    assert server.envelope.rcpt_tos == [
        address if number else address.upper()
        for number, address in enumerate(["b@example.com"] * 6)
    ]
