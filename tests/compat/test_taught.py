"""Behaviour of 1.4 that existing programs rely on, each found by running a program's own tests."""

import linecache
import warnings
from base64 import b64encode
from typing import Any, ClassVar

import pytest

import aiosmtpd.smtp
from aiosmtpd.handlers import Message, Sink
from aiosmtpd.lmtp import LMTP
from aiosmtpd.main import parseargs
from aiosmtpd.proxy_protocol import get_proxy
from aiosmtpd.smtp import MISSING, SMTP, AuthResult, BodyStream, Envelope, Session
from tests.compat.proxy_headers import VALID, Octets, finish
from tests.dialogue.observing import BODY, DATA, EHLO, MAIL, MESSAGE, QUIT, RCPT, Conversation
from tests.net.support import Catcher
from tests.rows import each_row

HELO = b"HELO client.test\r\n"
AUTH_LINE = b"AUTH PLAIN " + b64encode(b"\0user\0secret") + b"\r\n"
REST = b"NOOP\r\nVRFY <a@b.test>\r\nEXPN list\r\nHELP\r\nRSET\r\n"
LONG_LINE = b"500 Line too long (see RFC5321 4.5.3.1.6)\r\n"


# An override of _call_handler_hook that records commands.


def recording(base: type[SMTP]) -> type[SMTP]:
    """Return a server class that records the names of the commands that hooks are called for."""

    class Recording(base):  # type: ignore[misc, valid-type]
        recorded: ClassVar[list[str]] = []

        async def _call_handler_hook(self, command: str, *args: Any) -> Any:
            self.recorded.append(command)
            return await super()._call_handler_hook(command, *args)

    return Recording


class Later:
    """Has the hooks that 1.4 does not have, and records their calls."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def handle_CONNECT(self, *_: Any) -> Any:
        self.called.append("CONNECT")
        return MISSING

    async def handle_DISCONNECT(self, *_: Any) -> None:
        self.called.append("DISCONNECT")

    async def handle_EXPN(self, *_: Any) -> str:
        self.called.append("EXPN")
        return "250 list"


class WithBody(Later):
    async def handle_BODY(
        self, server: SMTP, session: Session, envelope: Envelope, body: BodyStream
    ) -> str:
        self.called.append("BODY")
        async for _ in body:
            pass
        return "250 read"


class WithData(Later):
    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, lines: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return lines

    async def handle_DATA(self, *_: Any) -> str:
        return "250 kept"


async def talk(kind: type[SMTP], handler: Any, *pieces: bytes, **keywords: Any) -> bytes:
    conversation = Conversation(kind=kind, handler=handler, **keywords)
    sent = await conversation.say(*pieces)
    await conversation.end()
    return sent


ALWAYS = ["MAIL", "RCPT"]
AFTER = ["NOOP", "VRFY", "RSET", "QUIT"]


@pytest.mark.parametrize(
    ("base", "handler", "greeting", "recorded"),
    [
        (SMTP, Later(), HELO, ["HELO", *ALWAYS, *AFTER]),
        (SMTP, Later(), EHLO, [*ALWAYS, *AFTER]),
        (SMTP, WithBody(), EHLO, [*ALWAYS, *AFTER]),
        (SMTP, WithData(), EHLO, ["EHLO", *ALWAYS, "DATA", *AFTER]),
        (LMTP, WithData(), b"LHLO client.test\r\n", ["EHLO", *ALWAYS, "DATA", *AFTER]),
        (LMTP, WithBody(), b"LHLO client.test\r\n", [*ALWAYS, *AFTER]),
    ],
)
async def test_an_override_sees_the_names_of_1_4_alone(
    base: type[SMTP], handler: Later, greeting: bytes, recorded: list[str]
) -> None:
    handler.called.clear()
    kind = recording(base)
    sent = await talk(kind, handler, greeting, MESSAGE, REST, QUIT)
    assert kind.recorded == recorded  # type: ignore[attr-defined]
    later = ["CONNECT", *(["BODY"] if isinstance(handler, WithBody) else []), "EXPN", "DISCONNECT"]
    assert handler.called == later
    assert b"250 list\r\n" in sent


async def test_an_override_sees_auth_with_its_words() -> None:
    kind = recording(SMTP)
    handler = Later()
    await talk(kind, handler, EHLO, AUTH_LINE, QUIT, auth_require_tls=False)
    assert kind.recorded == ["AUTH", "QUIT"]  # type: ignore[attr-defined]


async def test_an_override_may_answer_without_super() -> None:
    class Deaf(SMTP):
        async def _call_handler_hook(self, command: str, *args: Any) -> Any:
            return f"250 {command}"

    handler = WithBody()
    sent = await talk(Deaf, handler, EHLO, b"NOOP\r\nEXPN x\r\n")
    assert sent.endswith(b"250 NOOP\r\n250 list\r\n")
    assert handler.called == ["CONNECT", "EXPN", "DISCONNECT"]


# Errors.


class Parsed(Message):
    def handle_message(self, message: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize("content", [None, 7, ["x"]])
async def test_content_of_another_type_is_named(content: Any) -> None:
    envelope = Envelope()
    envelope.content = content
    with pytest.raises(TypeError) as raised:
        Parsed().prepare_message(None, envelope)  # type: ignore[arg-type]
    assert str(raised.value) == f"Expected str or bytes, got {type(content)}"


@pytest.mark.parametrize("separator", [".", ":"])
def test_a_class_without_from_cli_is_named_as_written(
    separator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class comes from another module than the one that the user named."""
    assert Catcher.__module__ != __name__
    with pytest.raises(SystemExit):
        parseargs(("-c", f"{__name__}{separator}Catcher", "x"))
    assert f"Handler class {__name__} takes no arguments\n" in capsys.readouterr().err


# Deprecated forms warn when they are used.


class OldServer(SMTP):
    async def ehlo_hook(self) -> None:
        """Do nothing."""

    async def rset_hook(self) -> None:
        """Do nothing."""


class OldHandler:
    def process_message(self, peer: Any, mail_from: str, rcpt_tos: list[str], data: bytes) -> str:
        return "250 old"


EHLO_HOOK = "Use handler.handle_EHLO() instead of .ehlo_hook()"
RSET_HOOK = "Use handler.handle_RSET() instead of .rset_hook()"
PROCESS_MESSAGE = "Use handler.handle_DATA() instead of .process_message()"


@pytest.mark.parametrize(
    ("said", "warned"),
    [
        ([], []),
        ([HELO, b"NOOP\r\n"], []),
        ([EHLO], [EHLO_HOOK]),
        ([HELO, b"RSET\r\n"], [RSET_HOOK]),
        ([HELO, MAIL, RCPT, DATA], []),
        ([HELO, MESSAGE], [PROCESS_MESSAGE]),
        ([EHLO, b"RSET\r\n", MESSAGE], [EHLO_HOOK, RSET_HOOK, PROCESS_MESSAGE]),
    ],
)
async def test_deprecated_forms_warn_when_they_are_used(
    said: list[bytes], warned: list[str]
) -> None:
    """They are reported for ``aiosmtpd.smtp``, by which programs of 1.4 filter them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await talk(OldServer, OldHandler(), *said)
    assert [(one.category, str(one.message)) for one in caught] == [
        (DeprecationWarning, text) for text in warned
    ]
    assert {one.filename for one in caught} <= {aiosmtpd.smtp.__file__}


class Challenging(SMTP):
    async def auth_LOGGED(self, server: SMTP, args: list[str]) -> AuthResult:
        await self.challenge_auth("name?", log_client_response=True)
        return AuthResult(success=True)

    async def auth_SILENT(self, server: SMTP, args: list[str]) -> AuthResult:
        await self.challenge_auth("name?")
        return AuthResult(success=True)


@pytest.mark.parametrize(
    ("mechanism", "warned"),
    [
        (b"SILENT", []),
        (
            b"LOGGED",
            ["AUTH interaction logging is enabled!", "Sensitive information might be leaked!"],
        ),
    ],
)
async def test_logging_the_answer_to_a_challenge_warns_twice(
    mechanism: bytes, warned: list[str]
) -> None:
    """The warnings name the line of the mechanism that asks for it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = EHLO, b"AUTH " + mechanism + b"\r\n", b"YQ==\r\n"
        sent = await talk(Challenging, Sink(), *said, auth_require_tls=False)
    assert sent.endswith(b"334 bmFtZT8=\r\n235 2.7.0 Authentication successful\r\n")
    assert [(one.category, str(one.message)) for one in caught] == [
        (UserWarning, text) for text in warned
    ]
    for one in caught:
        assert one.filename == __file__
        assert "log_client_response=True" in linecache.getline(__file__, one.lineno)


# Readers of the PROXY header.


class Arrays(Octets):
    """A reader that returns bytearrays."""

    async def read(self, n: int = -1) -> bytearray:  # type: ignore[override]
        return bytearray(await super().read(n))

    async def readexactly(self, n: int) -> bytearray:  # type: ignore[override]
        return bytearray(await super().readexactly(n))


@each_row("header", VALID)
def test_a_reader_may_return_bytes_or_bytearrays(header: bytes) -> None:
    expected, data = (finish(get_proxy(kind(header))) for kind in (Octets, Arrays))
    assert data.valid
    assert data.same_attribs(
        **{
            name: getattr(expected, name)
            for name in ("version", "command", "family", "protocol", "src_addr", "dst_addr", "rest")
        }
    )
    assert data.whole_raw == header
    for name in ("rest", "src_addr", "dst_addr"):
        assert type(getattr(data, name)) is type(getattr(expected, name))


# The limit that was broken first.


@pytest.mark.parametrize("handler", [Sink(), WithBody()])
@pytest.mark.parametrize("spill_size", [None, 100])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_long_line_is_reported_beyond_twice_the_size_limit(
    handler: Any, spill_size: int | None, pieces: int
) -> None:
    mail = b"x" * 1050 + b"\r\n" + b"y" * 998 + b"\r\n" + b"z" * 998 + b"\r\n"
    size = len(mail) // pieces + 1
    said = [mail[at : at + size] for at in range(0, len(mail), size)]
    conversation = Conversation(handler=handler, data_size_limit=1200, spill_size=spill_size)
    await conversation.say(HELO, MAIL, RCPT, DATA)
    assert await conversation.say(*said, BODY) == LONG_LINE
    await conversation.over()
