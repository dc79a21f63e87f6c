"""The reply texts of 1.4, over the wire: programs compare with them."""

import re
from base64 import b64encode
from typing import Any

import pytest

import aiosmtpd.smtp
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import AuthResult
from tests.client import Client
from tests.conftest import Certificates
from tests.net.support import serving

HELO, EHLO = b"HELO client.test", b"EHLO client.test"
MAIL, RCPT, DATA = b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA"
TRANSACTION = (HELO, MAIL, RCPT, DATA)
OPEN: dict[str, Any] = {"auth_require_tls": False}
PLAIN = b"AUTH PLAIN " + b64encode(b"\0user\0password")


def allow(*_: object) -> AuthResult:
    return AuthResult(success=True)


ALLOWING: dict[str, Any] = {**OPEN, "authenticator": allow}
COMMANDS = "AUTH DATA EHLO HELO HELP MAIL NOOP QUIT RCPT RSET VRFY"

REPLIES: list[tuple[dict[str, Any], tuple[bytes, ...], str]] = [
    ({}, (HELO,), "250 mx.test"),
    ({}, (b"NOOP",), "250 OK"),
    ({}, (b"QUIT",), "221 Bye"),
    ({}, TRANSACTION, "354 End data with <CR><LF>.<CR><LF>"),
    ({}, (*TRANSACTION, b"."), "250 OK"),
    (
        {},
        (b"VRFY a@b.test",),
        "252 Cannot VRFY user, but will accept message and attempt delivery",
    ),
    ({}, (b"HELP",), f"250 Supported commands: {COMMANDS}"),
    ({}, (b"HELP JUNK",), f"501 Supported commands: {COMMANDS}"),
    ({}, (b"HELP NOOP",), "250 Syntax: NOOP [ignored]"),
    ({}, (b"HELP HELP",), "250 Syntax: HELP [command]"),
    ({}, (b"HELP AUTH",), "250 Syntax: AUTH <mechanism>"),
    ({}, (b"HELP MAIL",), "250 Syntax: MAIL FROM: <address>"),
    ({}, (EHLO, b"HELP MAIL"), "250 Syntax: MAIL FROM: <address> [SP <mail-parameters>]"),
    ({}, (b"",), "500 Error: bad syntax"),
    ({}, (b"N\xc3P",), "500 Error: bad syntax"),
    ({}, (b"NOOP " + b"x" * 508,), "500 Command line too long"),
    ({}, (b"NOOP \xff",), "500 Error: strict ASCII mode"),
    (
        {},
        (*TRANSACTION, b"x" * 1001 + b"\r\n."),
        "500 Line too long (see RFC5321 4.5.3.1.6)",
    ),
    ({"decode_data": True}, (*TRANSACTION, b"\xff\r\n."), "500 Error: strict ASCII mode"),
    ({}, (b"JUNK",), '500 Error: command "JUNK" not recognized'),
    ({}, (b"JUNK",) * 5, "502 5.5.1 Too many unrecognized commands, goodbye."),
    ({"command_call_limit": 1}, (b"NOOP",) * 2, "421 4.7.0 NOOP sent too many times"),
    *(({}, (verb.encode(),), f"501 Syntax: {verb} hostname") for verb in ("HELO", "EHLO")),
    ({}, (HELO, MAIL, RCPT, b"DATA x"), "501 Syntax: DATA"),
    ({}, (b"QUIT x",), "501 Syntax: QUIT"),
    ({}, (b"RSET x",), "501 Syntax: RSET"),
    ({}, (b"STARTTLS x",), "501 Syntax: STARTTLS"),
    ({}, (b"VRFY",), "501 Syntax: VRFY <address>"),
    ({}, (HELO, b"MAIL"), "501 Syntax: MAIL FROM: <address>"),
    ({}, (EHLO, b"MAIL"), "501 Syntax: MAIL FROM: <address> [SP <mail-parameters>]"),
    ({}, (HELO, MAIL, b"RCPT"), "501 Syntax: RCPT TO: <address>"),
    ({}, (EHLO, MAIL, b"RCPT"), "501 Syntax: RCPT TO: <address> [SP <mail-parameters>]"),
    ({}, (MAIL,), "503 Error: send HELO first"),
    ({}, (b"EHLO", MAIL), "503 Error: send HELO first"),
    (OPEN, (PLAIN,), "503 Error: send EHLO first"),
    ({}, (HELO, MAIL, MAIL), "503 Error: nested MAIL command"),
    ({}, (HELO, RCPT), "503 Error: need MAIL command"),
    ({}, (HELO, MAIL, DATA), "503 Error: need RCPT command"),
    ({}, (HELO, b"MAIL FROM:<a@>"), "553 5.1.3 Error: malformed address"),
    (
        {},
        (EHLO, MAIL + b" X=1"),
        "555 MAIL FROM parameters not recognized or not implemented",
    ),
    (
        {},
        (EHLO, MAIL, RCPT + b" X=1"),
        "555 RCPT TO parameters not recognized or not implemented",
    ),
    ({}, (EHLO, MAIL + b" BODY=9BIT"), "501 Error: BODY can only be one of 7BIT, 8BITMIME"),
    ({}, (EHLO, MAIL + b" SMTPUTF8=1"), "501 Error: SMTPUTF8 takes no arguments"),
    (
        {"enable_SMTPUTF8": False},
        (EHLO, MAIL + b" SMTPUTF8"),
        "501 Error: SMTPUTF8 disabled",
    ),
    (
        {"data_size_limit": 9},
        (EHLO, MAIL + b" SIZE=10"),
        "552 Error: message size exceeds fixed maximum message size",
    ),
    ({"data_size_limit": 9}, (*TRANSACTION, b"0123456789\r\n."), "552 Error: Too much mail data"),
    ({}, (b"VRFY @",), "502 Could not VRFY @"),
    ({}, (b"EXPN list",), "502 EXPN not implemented"),
    ({}, (b"STARTTLS",), "454 TLS not available"),
    (ALLOWING, (EHLO, PLAIN), "235 2.7.0 Authentication successful"),
    (OPEN, (EHLO, PLAIN), "535 5.7.8 Authentication credentials invalid"),
    ({**OPEN, "auth_required": True}, (EHLO, MAIL), "530 5.7.0 Authentication required"),
    (
        {},
        (EHLO, PLAIN),
        "538 5.7.11 Encryption required for requested authentication mechanism",
    ),
    (ALLOWING, (EHLO, PLAIN, PLAIN), "503 Already authenticated"),
    (OPEN, (EHLO, b"AUTH"), "501 Not enough value"),
    (OPEN, (EHLO, b"AUTH PLAIN x y"), "501 Too many values"),
    (OPEN, (EHLO, b"AUTH NONE"), "504 5.5.4 Unrecognized authentication type"),
    (OPEN, (EHLO, b"AUTH PLAIN"), "334 "),
    (OPEN, (EHLO, b"AUTH LOGIN"), "334 " + b64encode(b"User Name\0").decode()),
    (OPEN, (EHLO, b"AUTH LOGIN dXNlcg=="), "334 " + b64encode(b"Password\0").decode()),
    (OPEN, (EHLO, b"AUTH PLAIN", b"*"), "501 5.7.0 Auth aborted"),
    (OPEN, (EHLO, b"AUTH PLAIN", b"?"), "501 5.5.2 Can't decode base64"),
    (OPEN, (EHLO, b"AUTH PLAIN", b"dXNlcg=="), "501 5.5.2 Can't split auth value"),
    (OPEN, (HELO, PLAIN), "500 Error: command 'AUTH' not recognized"),
]


@pytest.mark.parametrize(("keywords", "commands", "expected"), REPLIES)
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_replies_have_the_texts_of_1_4(
    keywords: dict[str, Any], commands: tuple[bytes, ...], expected: str
) -> None:
    keywords = {"enable_SMTPUTF8": b"\xff" not in b"".join(commands), **keywords}
    with serving(Sink(), **keywords) as controller, Client(controller.port) as client:
        replies = [client.ask(command) for command in commands]
    assert replies[-1].decode() == f"{expected}\r\n"


def test_the_greeting_has_the_text_of_1_4() -> None:
    with (
        serving(Sink(), ident="Mine 1.0") as controller,
        Client(controller.port, greet=False) as client,
    ):
        assert client.reply() == b"220 mx.test Mine 1.0\r\n"
    with serving(Sink()) as controller, Client(controller.port, greet=False) as client:
        assert client.reply() == f"220 mx.test {aiosmtpd.smtp.__ident__}\r\n".encode()


@pytest.mark.parametrize(
    ("keywords", "lines"),
    [
        ({}, ["SIZE 33554432", "8BITMIME", "SMTPUTF8"]),
        ({"data_size_limit": None, "enable_SMTPUTF8": False}, ["8BITMIME"]),
        ({"decode_data": True, "data_size_limit": 5}, ["SIZE 5", "SMTPUTF8"]),
        (OPEN, ["SIZE 33554432", "8BITMIME", "SMTPUTF8", "AUTH LOGIN PLAIN"]),
        (
            {**OPEN, "auth_exclude_mechanism": ["LOGIN"]},
            ["SIZE 33554432", "8BITMIME", "SMTPUTF8", "AUTH PLAIN"],
        ),
    ],
)
def test_the_ehlo_lines_of_1_4(keywords: dict[str, Any], lines: list[str]) -> None:
    expected = [f"250-{line}" for line in ["mx.test", *lines]]
    with serving(Sink(), **keywords) as controller, Client(controller.port) as client:
        assert client.ask(EHLO).decode().splitlines() == [*expected, "250 HELP"]


def test_replies_about_tls(certificates: Certificates) -> None:
    class Unhappy(Sink):
        def handle_STARTTLS(self, *_: object) -> bool:
            return False

    keywords = {"tls_context": certificates.server_context(), "require_starttls": True}
    with serving(Unhappy(), **keywords) as controller, Client(controller.port) as client:
        assert b"250-STARTTLS\r\n" in client.ask(EHLO)
        assert client.ask(MAIL) == b"530 Must issue a STARTTLS command first\r\n"
        assert client.ask(b"STARTTLS") == b"220 Ready to start TLS\r\n"
        client.start_tls(certificates.client_context(), "localhost")
        assert client.ask(EHLO) == b"554 Command refused due to lack of security\r\n"
        assert client.ask(b"QUIT") == b"221 Bye\r\n"


def test_an_internal_error_has_a_reference() -> None:
    class Failing:
        async def handle_NOOP(self, *_: object) -> str:
            raise ValueError("secret")

    with serving(Failing()) as controller, Client(controller.port) as client:
        answer = client.ask(b"NOOP").decode()
    assert re.fullmatch(r"451 4\.3\.0 Internal error \(ref [0-9a-f]{8}\)\r\n", answer)
