"""The fast path has the same conversation as the driver and leaves out no hook."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import MISSING, SMTP, Envelope, Refused, Session
from tests.dialogue.harness import run_by_the_driver, settle
from tests.dialogue.transport import MemoryTransport

PATIENCE = 30.0
EHLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"rcpt to:<b.c+d@example.com>\r\n"
OTHERS = b"".join(b"RCPT TO:<%d@%d.test>\r\n" % (number, number % 4) for number in range(10))
DATA = b"DATA\r\n"
BODY = b"Subject: x\r\n\r\nx\r\n.\r\n"
OK = b"250 OK\r\n"
QUIT = b"QUIT\r\n.\r\nQUIT\r\n"
GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class Server(SMTP):
    """A server that a test feeds."""

    def __init__(self, handler: Any = None, **keywords: Any) -> None:
        super().__init__(handler or Sink(), hostname="mx.test", ident="test", **keywords)
        self.network = MemoryTransport(asyncio.get_running_loop(), self)

    async def ask(self, data: bytes) -> bytes:
        """Send *data* and a NOOP; return the replies, with that to the NOOP."""
        before = len(self.network.sent)
        self.network.feed(data)
        self.network.feed(b"NOOP end\r\n")
        return await self.until(b"250 END\r\n", before)

    async def until(self, end: bytes, before: int = 0) -> bytes:
        async with asyncio.timeout(PATIENCE):
            while not self.network.sent.endswith(end, before):
                self.network.changed.clear()
                await self.network.changed.wait()
        return bytes(self.network.sent[before:])

    async def smtp_NOOP(self, arg: str | None) -> None:
        """Answer so that the end of a script is seen."""
        await self.push("250 END")

    def at_once(self, data: bytes) -> bytes:
        """Return what was sent while *data* was fed, with no turn of the loop between."""
        before = len(self.network.sent)
        self.network.feed(data)
        return bytes(self.network.sent[before:])


class ByTheDriver(Server):
    """A server that overrides ``push()``: the driver runs all commands."""

    async def push(self, status: str | bytes) -> None:
        await super().push(status)


async def greeted(kind: type[Server] = Server, handler: Any = None, **keywords: Any) -> Server:
    server = kind(handler, **keywords)
    await server.until(b"220 mx.test test\r\n")
    await server.ask(EHLO)
    return server


async def closed(server: Server) -> None:
    server.network.reset()
    await asyncio.wait_for(server.ended(), PATIENCE)


SCRIPTS = {
    "a message": MAIL + RCPT + DATA + BODY,
    "two messages": (MAIL + RCPT + DATA + BODY) * 2,
    "many recipients": MAIL + RCPT * 1100 + DATA + BODY,
    "recipients in capitals": MAIL + OTHERS + DATA + BODY,
    "capitals and not": MAIL + OTHERS + RCPT + OTHERS + RCPT * 2 + DATA + BODY,
    "one that is unusual": MAIL + OTHERS + b"RCPT TO:<@c.test:d@e.test>\r\n" + OTHERS + DATA + BODY,
    "1,100 in capitals": MAIL + OTHERS * 110 + DATA + BODY,
    "nested MAIL": MAIL + MAIL + RCPT,
    "RCPT first": RCPT + MAIL + RCPT,
    "DATA first": DATA + MAIL + DATA + RCPT + DATA + BODY,
    "DATA with an argument": MAIL + RCPT + b"DATA x\r\n" + DATA + BODY,
    "a parameter": b"MAIL FROM:<a@example.com> SIZE=10\r\n" + RCPT + DATA + BODY,
    "BINARYMIME": b"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n" + RCPT + DATA,
    "the null reverse-path": b"MAIL FROM:<>\r\n" + RCPT + DATA + BODY,
    "a bare LF": MAIL.replace(b"\r", b"") + RCPT.replace(b"\r", b"") + DATA + BODY,
    "a quoted local part": MAIL + b'RCPT TO:<"b c"@example.com>\r\n' + DATA + BODY,
    "a long domain": MAIL + b"RCPT TO:<b@" + b"d" * 256 + b">\r\n" + DATA + BODY,
    "no ASCII": MAIL + b"RCPT TO:<b\xff@example.com>\r\n" + DATA,
    "RSET between": MAIL + b"RSET\r\n" + MAIL + RCPT + DATA + BODY,
    "HELO again": MAIL + b"HELO other.test\r\n" + RCPT + MAIL + RCPT + DATA + BODY,
}

LONG = 10_000
"""Bytes of a script that takes a while in lines."""

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "modern": {"extensions": "modern"},
    "all": {"extensions": "all"},
    "few recipients": {"max_recipients": 1},
    "eight recipients": {"max_recipients": 8},
    "no limit of recipients": {"max_recipients": None},
    "few transactions": {"max_transactions": 1},
    "few domains": {"max_recipient_domains": 1},
    "call limits": {"command_call_limit": 3},
    "AUTH": {"auth_required": True},
    "SMTPUTF8": {"enable_SMTPUTF8": True},
    "short commands": {"command_size_limit": 20},
    "short lines": {"line_length_limit": 20},
    "no limit of lines": {"line_length_limit": 0},
}


FAST = {
    "a message": ("MAIL RCPT DATA", "MAIL RCPT DATA"),
    "two messages": ("MAIL RCPT DATA", "MAIL RCPT DATA"),
    "many recipients": ("MAIL RCPT", "MAIL RCPT DATA"),
    "recipients in capitals": ("MAIL RCPT DATA", "MAIL RCPT DATA"),
    "capitals and not": ("MAIL RCPT DATA", "MAIL RCPT DATA"),
    "one that is unusual": ("MAIL RCPT", "MAIL RCPT DATA"),
    "1,100 in capitals": ("MAIL RCPT", "MAIL RCPT DATA"),
    "nested MAIL": ("MAIL", "MAIL RCPT"),
    "RCPT first": ("", "MAIL RCPT"),
    "DATA first": ("", "MAIL RCPT DATA"),
    "DATA with an argument": ("MAIL RCPT", "MAIL RCPT DATA"),
    "a parameter": ("", "RCPT DATA"),
    "BINARYMIME": ("", ""),
    "the null reverse-path": ("", "RCPT DATA"),
    "a bare LF": ("", "DATA"),
    "a quoted local part": ("MAIL", "MAIL DATA"),
    "a long domain": ("MAIL", "MAIL DATA"),
    "no ASCII": ("MAIL", "MAIL"),
    "RSET between": ("MAIL", "MAIL RCPT DATA"),
    "HELO again": ("MAIL", "MAIL RCPT DATA"),
}
"""The verbs that the fast path runs of each script, if it arrives at once and in lines."""

ALWAYS_DRIVER = {
    "few transactions", "few domains", "call limits", "AUTH", "short commands", "short lines",
}  # fmt: skip
"""The settings without a fast path."""

LIMITED = {"few recipients", "eight recipients"}
"""After the first recipient too many, the driver runs what has arrived with it."""


def fast_verbs(script: str, setting: str, in_lines: bool) -> set[str]:
    """Return the verbs that the fast path must run, by a handler without hooks for them."""
    if setting in ALWAYS_DRIVER:
        return set()
    verbs = FAST[script][in_lines].split()
    return {*verbs} if in_lines or setting not in LIMITED else {*verbs[:1]}


async def replies_to(server: Server, said: bytes, in_lines: bool) -> tuple[bytes, Counter[str]]:
    """Return all replies, and how often the driver ran MAIL, RCPT and DATA."""
    # EHLO may tell the time.
    server.network.sent.clear()
    with run_by_the_driver() as ran:
        for piece in said.splitlines(keepends=True) if in_lines else [said]:
            server.network.feed(piece)
            await settle()
        await asyncio.wait_for(server.ended(), PATIENCE)
    return bytes(server.network.sent), ran


@pytest.fixture(params=SCRIPTS)
def script(request: pytest.FixtureRequest) -> str:
    """Return the name of each script."""
    name: str = request.param
    return name


at_once_and_in_lines = pytest.mark.parametrize(
    "in_lines", [False, True], ids=["at once", "in lines"]
)


def settings_for(script: str, in_lines: bool, settings: Iterable[str] = SETTINGS) -> list[str]:
    """Return the settings with which a script is run: a long one in lines with one alone."""
    is_long = in_lines and len(SCRIPTS[script]) >= LONG
    return ["none"] if is_long else list(settings)


@at_once_and_in_lines
async def test_the_replies_are_those_of_the_driver(script: str, in_lines: bool) -> None:
    said = SCRIPTS[script] + QUIT
    for setting in settings_for(script, in_lines):
        keywords = SETTINGS[setting]
        fast, by_fast = await replies_to(await greeted(Server, **keywords), said, in_lines)
        slow, by_slow = await replies_to(await greeted(ByTheDriver, **keywords), said, in_lines)
        assert (setting, fast) == (setting, slow)
        # Commands that only the second driver ran were run by the first server's fast path.
        expected = fast_verbs(script, setting, in_lines)
        assert {*(by_slow - by_fast)} >= expected, setting
        if setting in ALWAYS_DRIVER:
            assert by_fast == by_slow, setting


class Hearing:
    """Notes the messages it gets."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        taken = envelope.mail_from, envelope.rcpt_tos, envelope.recipients, envelope.content
        self.told.append(taken)
        return "250 taken"


class Telling(Hearing):
    """Has hooks for MAIL and RCPT that accept, and records their arguments."""

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        self.told.append(("MAIL", address, list(options), dict(envelope.mail_params)))
        return self.mail(envelope, address)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        self.told.append(("RCPT", address, list(options), list(envelope.rcpt_tos)))
        return self.rcpt(envelope, address)

    def mail(self, envelope: Envelope, address: str) -> Any:
        envelope.mail_from = address
        return "250 sender"

    def rcpt(self, envelope: Envelope, address: str) -> Any:
        envelope.rcpt_tos.append(address)
        return b"250 recipient"


class Leaving(Telling):
    def mail(self, envelope: Envelope, address: str) -> Any:
        return MISSING

    def rcpt(self, envelope: Envelope, address: str) -> Any:
        return MISSING


class Forgetful(Telling):
    def rcpt(self, envelope: Envelope, address: str) -> Any:
        return "250 forgotten"


class Refusing(Telling):
    def rcpt(self, envelope: Envelope, address: str) -> Any:
        if len(self.told) % 2:
            raise Refused("550 5.1.1 Not here")
        return super().rcpt(envelope, address)


class Closing(Telling):
    def rcpt(self, envelope: Envelope, address: str) -> Any:
        return "421 4.3.2 Enough" if len(self.told) > 3 else super().rcpt(envelope, address)


class Failing(Telling):
    def mail(self, envelope: Envelope, address: str) -> Any:
        if len(self.told) == 1:
            raise LookupError("no such sender")
        return super().mail(envelope, address)

    async def handle_exception(self, error: Exception) -> str:
        return f"451 {error}"


def fast_verbs_with(kind: type[Hearing], script: str, setting: str, in_lines: bool) -> set[str]:
    """Return the verbs that the fast path must run; a command with a hook ends it."""
    verbs = fast_verbs(script, setting, in_lines)
    if kind is Hearing or (in_lines and kind in {Telling, Leaving}):
        return verbs
    # The other hooks end some transactions.
    return verbs & {"MAIL"}


KINDS = (Hearing, Telling, Leaving, Forgetful, Refusing, Closing, Failing)


@at_once_and_in_lines
async def test_the_fast_path_calls_hooks_as_the_driver_does(script: str, in_lines: bool) -> None:
    settings = settings_for(script, in_lines, ["none", "modern", "few recipients"])
    for kind, setting in product(KINDS, settings):
        told = kind.__name__, setting
        heard = []
        drivers = []
        for server_kind in (Server, ByTheDriver):
            handler = kind()
            server = await greeted(server_kind, handler, **SETTINGS[setting])
            replies, by_driver = await replies_to(server, SCRIPTS[script] + QUIT, in_lines)
            heard.append((told, replies, handler.told))
            drivers.append(by_driver)
        assert heard[0] == heard[1]
        expected = fast_verbs_with(kind, script, setting, in_lines)
        assert {*(drivers[1] - drivers[0])} >= expected, told


async def test_a_hook_is_run_in_the_task_of_its_connection() -> None:
    class Tasks(Telling):
        async def handle_RCPT(self, server: SMTP, *args: Any) -> Any:
            self.told.append(asyncio.current_task() is server._handler_coroutine)
            async with asyncio.timeout(PATIENCE):
                await asyncio.sleep(0)
            return await super().handle_RCPT(server, *args)

    handler = Tasks()
    server = await greeted(handler=handler)
    assert await server.ask(MAIL + RCPT) == b"250 sender\r\n250 recipient\r\n250 END\r\n"
    assert True in handler.told
    await closed(server)


async def test_usual_commands_are_answered_as_soon_as_they_arrive() -> None:
    server = await greeted()
    assert server.at_once(MAIL) == OK
    assert server.at_once(RCPT) == OK
    assert server.at_once(DATA) == GO_AHEAD
    assert server.at_once(BODY) == b""
    assert await server.ask(b"") == OK + b"250 END\r\n"
    await closed(server)


async def test_replies_that_wait_are_sent_first() -> None:
    server = await greeted()
    await server.push("250 said by the program")
    assert server.at_once(MAIL) == b"250 said by the program\r\n" + OK
    await closed(server)


async def test_the_handler_gets_the_whole_transaction() -> None:
    got: list[Envelope] = []

    class Handler:
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
            got.append(envelope)
            return "250 OK"

    server = await greeted(handler=Handler())
    await server.ask(MAIL + RCPT * 2 + DATA + BODY)
    (envelope,) = got
    assert (envelope.mail_from, envelope.rcpt_tos) == (
        "a@example.com",
        ["b.c+d@example.com"] * 2,
    )
    assert envelope.recipients == [("b.c+d@example.com", {})] * 2
    assert envelope.content == b"Subject: x\r\n\r\nx\r\n"
    await closed(server)


class Hooks:
    """A handler that gets hooks while it is in use."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def note(self, server: SMTP, session: Session, envelope: Envelope, *args: Any) -> str:
        self.heard.append(str(args[0]))
        return "550 heard"


@pytest.mark.parametrize(("name", "line"), [("handle_MAIL", MAIL), ("handle_RCPT", RCPT)])
async def test_a_hook_that_comes_later_is_called(name: str, line: bytes) -> None:
    handler = Hooks()
    server = await greeted(handler=handler)
    assert (await server.ask(MAIL + RCPT + b"RSET\r\n")).count(OK) == 3
    if line is RCPT:
        await server.ask(MAIL)
    setattr(handler, name, handler.note)
    assert (await server.ask(line)).startswith(b"550 heard\r\n")
    assert len(handler.heard) == 1
    await closed(server)


async def put_into_the_instance(server: Server) -> None:
    async def refuse(arg: str | None) -> None:
        await SMTP.push(server, "550 mine")

    server.smtp_RCPT = refuse  # type: ignore[method-assign]


async def a_small_limit_of_commands(server: Server) -> None:
    server.command_size_limits = {"RCPT": 10}  # type: ignore[misc]


async def a_limit_of_local_parts(server: Server) -> None:
    server.local_part_limit = 2


@pytest.mark.parametrize(
    ("change", "reply"),
    [
        (put_into_the_instance, b"550 mine\r\n"),
        (a_small_limit_of_commands, b"500 Command line too long\r\n"),
        (a_limit_of_local_parts, b"553 5.1.3 Error: malformed address\r\n"),
    ],
)
async def test_changes_by_a_program_count_at_once(
    change: Callable[[Server], Any], reply: bytes
) -> None:
    server = await greeted()
    assert (await server.ask(MAIL + RCPT)).count(OK) == 2
    await change(server)
    assert await server.ask(RCPT) == reply + b"250 END\r\n"
    await closed(server)


async def test_the_log_tells_of_each_command(caplog: pytest.LogCaptureFixture) -> None:
    server = await greeted()
    with caplog.at_level(logging.DEBUG, "mail.log"):
        await server.ask(MAIL + RCPT)
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)][:2] == [
        "MAIL",
        "RCPT",
    ]
    await closed(server)


async def test_a_client_that_goes_before_its_message_leaves_nothing() -> None:
    seen: list[Envelope] = []

    class Handler:
        async def handle_DISCONNECT(
            self, server: SMTP, session: Session, envelope: Envelope, reason: str
        ) -> None:
            seen.append(envelope)

    server = await greeted(handler=Handler())
    await server.ask(MAIL + RCPT)
    assert server.at_once(DATA) == GO_AHEAD
    await closed(server)
    assert [envelope.mail_from for envelope in seen] == [None]


async def test_mail_data_is_waited_for_as_long_as_data_timeout_says() -> None:
    server = await greeted(data_timeout=0.05)
    await server.ask(MAIL + RCPT)
    assert server.at_once(DATA) == GO_AHEAD
    await server.until(b"421 4.4.2 Timeout, closing connection\r\n")
    await asyncio.wait_for(server.ended(), PATIENCE)


async def test_only_commands_with_a_hook_are_left_to_the_driver() -> None:
    class Handler:
        async def handle_RCPT(
            self,
            server: SMTP,
            session: Session,
            envelope: Envelope,
            address: str,
            options: list[str],
        ) -> str:
            envelope.rcpt_tos.append(address)
            return "250 mine"

    server = await greeted(handler=Handler())
    assert server.at_once(MAIL) == OK
    assert server.at_once(RCPT) == b""
    assert await server.ask(b"") == b"250 mine\r\n250 END\r\n"
    assert server.at_once(DATA) == GO_AHEAD
    await closed(server)


async def test_a_hook_that_reads_waits_for_the_first_bytes() -> None:
    class Handler:
        called = False

        async def handle_BODY(
            self, server: SMTP, session: Session, envelope: Envelope, body: Any
        ) -> str:
            self.called = True
            return f"250 {sum([len(piece) async for piece in body])}"

    handler = Handler()
    server = await greeted(handler=handler)
    assert server.at_once(MAIL + RCPT + DATA) == OK * 2 + GO_AHEAD
    await asyncio.sleep(0)
    assert not handler.called
    assert await server.ask(BODY) == b"250 17\r\n250 END\r\n"
    await closed(server)
