"""Rows of RFCs, each over every way that they can be met: RFC 1870, RFC 5321 and RFC 4954."""

import asyncio
import io
import logging
import re
from base64 import b64encode
from typing import Any

import pytest

from aiosmtpd.lmtp import LMTP
from aiosmtpd.observers.transcript import Dialogue
from aiosmtpd.smtp import SMTP, AuthResult, BodyStream, Envelope, Session
from tests.dialogue.observing import (
    AUTH,
    DATA,
    EHLO,
    GO_AHEAD,
    MAIL,
    OK,
    PATIENCE,
    RCPT,
    Conversation,
    Seen,
)

HELO = b"HELO client.test\r\n"
SETS = ["classic", "modern", "all"]


# RFC 1870 section 5: CRLFs count, stuffed dots and the final dot do not.


class Keep:
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        with envelope.open() as file:
            self.messages.append(file.read())
        return "250 OK"


class Stream:
    """Reads the messages while they arrive."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def handle_BODY(
        self, server: SMTP, session: Session, envelope: Envelope, body: BodyStream
    ) -> str:
        self.messages.append(b"".join([piece async for piece in body]))
        return "250 OK"


MESSAGE = b".\r\n..\r\nSubject: dots\r\n\r\n.hidden\r\n" + b".\r\n" * 40 + b"end.\r\n"
STUFFED = (b"\r\n" + MESSAGE).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


def by_data(message: bytes) -> list[bytes]:
    return [DATA, (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"]


def by_data_in_pieces(message: bytes) -> list[bytes]:
    command, wire = by_data(message)
    return [command, *(wire[at : at + 61] for at in range(0, len(wire), 61))]


def by_bdat(message: bytes) -> list[bytes]:
    return [b"BDAT %d LAST\r\n" % len(message), message]


def by_chunks(message: bytes) -> list[bytes]:
    half = len(message) // 2
    return [
        b"BDAT %d\r\n%s" % (half, message[:half]),
        b"BDAT %d LAST\r\n%s" % (len(message) - half, message[half:]),
    ]


async def sent(conversation: Conversation, text: bytes) -> None:
    """Wait for a reply; a message may be on its way to a file in a thread."""
    network = conversation.network
    async with asyncio.timeout(PATIENCE):
        while not bytes(network.sent).endswith(text):
            network.changed.clear()
            await network.changed.wait()


@pytest.mark.parametrize("way", [by_data, by_data_in_pieces, by_bdat, by_chunks])
@pytest.mark.parametrize("kind", [SMTP, LMTP])
@pytest.mark.parametrize("make", [Keep, Stream])
@pytest.mark.parametrize("spill_size", [None, 10])
async def test_a_message_of_the_size_limit_is_accepted(
    way: Any, kind: type[SMTP], make: Any, spill_size: int | None
) -> None:
    """The limit, SIZE= and the size that is reported are one number."""
    size = len(MESSAGE)
    assert len(STUFFED) > size + 40
    handler, seen = make(), Seen()
    conversation = Conversation(
        seen,
        kind=kind,
        handler=handler,
        extensions="modern",
        data_size_limit=size,
        spill_size=spill_size,
    )
    greeting = EHLO if kind is SMTP else EHLO.replace(b"EHLO", b"LHLO")
    assert b"\r\n250-SIZE %d\r\n" % size in await conversation.say(greeting)
    mail = MAIL.replace(b"\r\n", b" SIZE=%d\r\n")
    assert (await conversation.say(mail % (size + 1))).startswith(b"552 ")
    assert (await conversation.say(mail % size)).startswith(b"250 ")
    await conversation.say(RCPT, *way(MESSAGE))
    await sent(conversation, b"250 2.0.0 OK\r\n")
    assert handler.messages == [MESSAGE]
    assert seen.of("data") == [("data", size)]
    assert [call[1].size for call in seen.of("taken")] == [size]
    await conversation.say(MAIL, RCPT, *way(b"x" + MESSAGE))
    await sent(conversation, b"\r\n552 5.3.4 Error: Too much mail data\r\n")
    assert len(handler.messages) == 1
    await conversation.end()


async def test_the_log_says_the_size_of_the_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mail.log"):
        conversation = Conversation(handler=Keep())
        await conversation.say(HELO, MAIL, RCPT, *by_data(MESSAGE))
        await conversation.end()
    assert f"sent a message of {len(MESSAGE)} bytes " in caplog.text


# RFC 5321 section 4.1.1 and the secrets of AUTH. The grammar of whitespace is in the transcripts.

SECRET = b64encode(b"\0joe\0right")
SPELLINGS = [
    b"AUTH PLAIN %s",
    b"auth plain %s",
    b"AuTh\tPLAIN %s",
    b"AUTH\tPLAIN\t%s",
    b"AUTH \t PLAIN \t %s \t",
    b" AUTH PLAIN %s",
    b"\tAUTH PLAIN %s",
    b" \t AUTH\tPLAIN\t%s",
    b"\0AUTH PLAIN %s",
    b"\r\v\fAUTH PLAIN %s",
    b"\xff\xfb\x01AUTH PLAIN %s",
    b"\xc2\xa0AUTH PLAIN %s",
    b"AUTH\vPLAIN\v%s",
    b"AUTH\0PLAIN\0%s",
    b"AUTH\xa0PLAIN %s",
    b"AUTH,PLAIN,%s",
    b"AUTHPLAIN %s",
    b"AUTH: PLAIN %s",
    b"AUTH=PLAIN %s",
    b"AUTH %s",
    b"AUTH\t%s",
    b"AUTH%s",
    b"AUTHENTICATE PLAIN %s",
    b"AUTH PLAIN \xff%s",
    b"AUTH PLAIN %s extra words",
    b"AUTH X-UNKNOWN %s",
]
PLACES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "after EHLO": (EHLO, {}),
    "after HELO": (HELO, {}),
    "before all": (b"", {}),
    "STARTTLS comes first": (EHLO, {"tls_context": lambda: None, "require_starttls": True}),
    "TLS comes first": (EHLO, {"auth_require_tls": True}),
    "lines are short": (EHLO, {"command_size_limit": 12}),
    "8-bit arguments": (EHLO, {"enable_SMTPUTF8": True}),
    "between chunks": (EHLO + MAIL + RCPT + b"BDAT 1\r\nx", {"extensions": "modern"}),
    "in a transaction": (EHLO + MAIL, {"extensions": "modern"}),
}


@pytest.mark.parametrize("place", PLACES)
async def test_the_argument_of_auth_is_never_logged(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    for spelling in SPELLINGS:
        caplog.clear()
        await say_secrets(place, spelling, caplog)


async def say_secrets(place: str, spelling: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Send the secret, and the two lines that a client sends although it was refused."""
    before, keywords = PLACES[place]
    seen, screen = Seen(), io.StringIO()
    user, password = b64encode(b"user name"), b64encode(b"pass word")
    lines = [spelling % SECRET, user, password]
    with caplog.at_level(logging.DEBUG):
        conversation = Conversation(seen, Dialogue(screen), **(AUTH | keywords))
        await conversation.say(before)
        replies = await conversation.say(lines[0] + b"\r\n")
        if replies.startswith(b"235"):
            lines = lines[:1]
        await conversation.say(*(line + b"\r\n" for line in lines[1:]))
        await conversation.say(b"NOOP visible\r\n")
        await conversation.end()
    secrets = [secret for _, line, secret in seen.of("line") if line in lines]
    assert secrets == [True] * len(lines), spelling
    assert ("line", b"NOOP visible", False) in seen.calls, spelling
    assert "visible" in caplog.text, spelling
    for text in (caplog.text, screen.getvalue()):
        for word in (SECRET, user, password):
            # A reply to an unknown verb repeats up to 32 characters of it, in capitals.
            assert word[:9].decode().upper() not in text.upper(), spelling


@pytest.mark.parametrize("spelling", [b"AUTH\tPLAIN\t%s", b"auth \tplain %s\t \r", b"aUTH\tLOGIN"])
async def test_auth_with_tabs_succeeds(spelling: bytes) -> None:
    conversation = Conversation(**AUTH)
    await conversation.say(EHLO)
    line = spelling % SECRET if b"%s" in spelling else spelling
    replies = await conversation.say(line.rstrip(b"\r") + b"\r\n")
    if replies.startswith(b"334"):
        answers = (b64encode(word) + b"\r\n" for word in (b"joe", b"right"))
        replies = await conversation.say(*answers)
    assert replies.endswith(b"235 2.7.0 Authentication successful\r\n")
    await conversation.end()


@pytest.mark.parametrize("blank", [b" ", b"\t"])
async def test_a_long_initial_response_may_follow_a_tab(blank: bytes) -> None:
    """RFC 4954 section 4: 12,288 bytes."""
    conversation = Conversation(**AUTH)
    await conversation.say(EHLO)
    long = b64encode(b"\0" + b"x" * 8000 + b"\0right")
    replies = await conversation.say(b"AUTH" + blank + b"PLAIN" + blank + long + b"\r\n")
    assert replies == b"235 2.7.0 Authentication successful\r\n"
    await conversation.end()


async def test_a_transcript_names_the_mechanism_after_a_tab() -> None:
    screen = io.StringIO()
    conversation = Conversation(Dialogue(screen), **AUTH)
    await conversation.say(EHLO, b"AUTH\tPLAIN\t" + SECRET + b"\r\n")
    await conversation.end()
    assert re.search(r"C: AUTH PLAIN \*+\n", screen.getvalue())
    assert "S: 235 2.7.0" in screen.getvalue()


async def test_a_chunk_may_follow_a_tab() -> None:
    """As an unknown verb, its bytes would be run as commands."""
    conversation = Conversation(handler=Keep(), extensions="modern")
    await conversation.say(HELO, MAIL, RCPT)
    assert await conversation.say(b"BDAT\t6 LAST\t\r\nNOOP\r\n") == OK
    await conversation.end()


# RFC 4954 section 4.


class Mechanisms:
    """Has a mechanism of its own, which keeps its words."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []

    async def auth_OWN(self, server: SMTP, args: list[str]) -> AuthResult:
        self.words.append(args)
        return AuthResult(success=False)


@pytest.mark.parametrize("extensions", SETS)
async def test_an_equals_sign_is_an_empty_initial_response(extensions: str) -> None:
    handler, claims = Mechanisms(), []

    def judge(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        claims.append((mechanism, data.login, data.password))
        return AuthResult(success=False)

    keywords: dict[str, Any] = AUTH | {"authenticator": judge, "extensions": extensions}
    conversation = Conversation(handler=handler, **keywords)
    await conversation.say(EHLO)
    assert await conversation.say(b"AUTH LOGIN =\r\n") == b"334 UGFzc3dvcmQA\r\n"
    assert (await conversation.say(b"eA==\r\n")).startswith(b"535 5.7.8 ")
    assert claims == [("LOGIN", b"", b"x")]
    assert (await conversation.say(b"AUTH PLAIN =\r\n")) == b"501 5.5.2 Can't split auth value\r\n"
    await conversation.say(b"AUTH OWN =\r\n")
    assert handler.words == [["OWN", "="]]
    # An answer to a challenge is empty if it is empty.
    await conversation.say(b"AUTH LOGIN\r\n")
    assert (await conversation.say(b"=\r\n")) == b"501 5.5.2 Can't decode base64\r\n"
    await conversation.end()


@pytest.mark.parametrize("extensions", SETS)
@pytest.mark.parametrize("kind", [SMTP, LMTP])
async def test_auth_in_a_mail_transaction(extensions: str, kind: type[SMTP]) -> None:
    """It is refused with the modern extensions; 1.4 allows it."""
    auth = b"AUTH PLAIN " + SECRET + b"\r\n"
    conversation = Conversation(kind=kind, extensions=extensions, **AUTH)
    await conversation.say(EHLO if kind is SMTP else EHLO.replace(b"EHLO", b"LHLO"), MAIL)
    replies = await conversation.say(auth)
    if extensions == "classic":
        assert replies == b"235 2.7.0 Authentication successful\r\n"
    else:
        assert replies == b"503 5.5.1 Error: AUTH is not allowed in a mail transaction\r\n"
        # The transaction goes on.
        assert (await conversation.say(RCPT)).startswith(b"250 ")
        assert (await conversation.say(DATA)) == GO_AHEAD
        await conversation.say(b".\r\n")
        assert await conversation.say(auth) == b"235 2.7.0 Authentication successful\r\n"
    await conversation.end()
