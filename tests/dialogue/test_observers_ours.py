"""The package's own observers over a transport in memory: the transcript and the countdown."""

import io
import re
from typing import Any

import pytest

from aiosmtpd.lmtp import LMTP
from aiosmtpd.observers.countdown import Countdown
from aiosmtpd.observers.transcript import Dialogue
from aiosmtpd.smtp import SMTP
from aiosmtpd.testing.faults import Faults
from tests.dialogue.observing import (
    AUTH,
    BANNER,
    BODY,
    DATA,
    EHLO,
    MAIL,
    MESSAGE,
    OK,
    QUIT,
    RCPT,
    SMALL,
    Asked,
    Conversation,
    plain,
    said,
)

LHLO = EHLO.replace(b"EHLO", b"LHLO")
SHUTTING_DOWN = b"421 4.3.2 Service shutting down, closing connection\r\n"


async def shown(pieces: list[bytes], *others: Any, **keywords: Any) -> list[str]:
    """Return the lines of a transcript, without numbers and times."""
    screen = io.StringIO()
    await said(pieces, Dialogue(screen), *others, **keywords)
    text = re.sub(r"^#1 +\d+\.\d{3} ", "", screen.getvalue(), flags=re.MULTILINE)
    return re.sub(r"\d\d:\d\d:\d\d ", "", text).splitlines()


WORDS = (
    *[EHLO, b"\xff\x1b\r\n", b"AUTH PLAIN " + plain(b"right") + b"\r\n"],
    *[b"AUTH LOGIN\r\n", b"junk x\r\n", b"hidden\r\n", MAIL, RCPT, RCPT, DATA, BODY, QUIT],
)
TRANSCRIPT = [
    "-- connection from 192.0.2.7:50025",
    "S: 220 mx.test test",
    "C: EHLO client.test",
    *["S: 250-mx.test", "S: 250-8BITMIME", "S: 250-AUTH LOGIN PLAIN", "S: 250 HELP"],
    *["C: \\xff\\x1b", "S: 500 Error: bad syntax"],
    *["C: AUTH PLAIN ********", "S: 235 2.7.0 Authentication successful"],
    *["C: AUTH LOGIN", "S: 503 Already authenticated"],
    *["C: ********", "S: 500 ********"],
    *["C: ********", "S: 500 ********"],
    *["C: MAIL FROM:<a@example.com>", "S: 250 OK"],
    *["C: RCPT TO:<b@example.com>", "S: 250 OK"] * 2,
    *["C: DATA", "S: 354 End data with <CR><LF>.<CR><LF>"],
    *["-- 17 bytes of mail data", "S: 250 OK"],
    *["C: QUIT", "S: 221 Bye"],
    "-- disconnected: QUIT",
]


@pytest.mark.parametrize("others", [[], [Asked()]], ids=["fast path", "driver"])
async def test_a_transcript_does_not_depend_on_how_bytes_arrive(others: list[Any]) -> None:
    words = b"".join(WORDS)
    ways = [[words[:cut], words[cut:]] for cut in range(len(words))]
    for pieces in [list(WORDS), *ways, [bytes([octet]) for octet in words]]:
        assert await shown(pieces, *others, **SMALL, **AUTH) == TRANSCRIPT, pieces


async def test_a_transcript_has_the_data_of_a_message_that_breaks_off() -> None:
    lines = await shown([EHLO, MAIL, RCPT, DATA, b"half of it"])
    assert lines[-2:] == ["-- 10 bytes of mail data", "-- disconnected: closed by the client"]


async def test_a_transcript_has_the_data_before_the_handler_runs() -> None:
    screen = io.StringIO()

    class Reads:
        async def handle_DATA(self, *_: Any) -> str:
            self.seen = screen.getvalue()
            return "250 OK"

    handler = Reads()
    await said([EHLO, MESSAGE], Dialogue(screen), handler=handler)
    assert handler.seen.endswith("-- 17 bytes of mail data\n")


async def test_a_countdown_counts_a_message_that_is_too_large() -> None:
    over: list[int] = []
    countdown = Countdown(2, lambda: over.append(1))
    large = MAIL + RCPT + DATA + b"x" * 40 + b"\r\n.\r\n"
    conversation = Conversation(countdown, data_size_limit=30)
    sent = await conversation.say(EHLO, large, MESSAGE, MESSAGE)
    assert b"552 Error: Too much mail data\r\n" in sent
    assert sent.endswith(OK * 2 + b"354 End data with <CR><LF>.<CR><LF>\r\n" + SHUTTING_DOWN)
    await conversation.over()
    assert over == [1]


@pytest.mark.parametrize("kind", [SMTP, LMTP])
async def test_a_message_too_many_does_not_reach_the_handler(kind: type[SMTP]) -> None:
    class Catches:
        def __init__(self) -> None:
            self.caught: list[list[str]] = []

        async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
            self.caught.append(envelope.rcpt_tos)
            return "250 OK"

    over: list[int] = []
    countdown, handler = Countdown(1, lambda: over.append(1)), Catches()
    conversation = Conversation(countdown, kind=kind, handler=handler)
    greeting = LHLO if kind is LMTP else EHLO
    two = MAIL + RCPT + RCPT.replace(b"b@", b"c@") + DATA + BODY
    sent = await conversation.say(greeting, two, two)
    await conversation.over()
    assert sent.endswith(SHUTTING_DOWN)
    assert sent.count(SHUTTING_DOWN) == 1
    assert handler.caught == [["b@example.com", "c@example.com"]]
    assert over == [1]


async def test_a_fault_s_line_may_look_like_the_first_of_several() -> None:
    async def sleep(seconds: float) -> None:
        pass

    conversation = Conversation(Faults(["ehlo: say 250-more", "ehlo: drip"], sleep=sleep))
    # Each of its bytes takes some turns of the loop.
    assert await conversation.say(EHLO, *[b""] * 20) == BANNER + b"250-more\r\n"
    await conversation.end()
