"""A hook waits for something that is cancelled, while nothing has cancelled the hook itself."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, BodyStream
from tests.dialogue.observing import (
    BODY,
    DATA,
    EHLO,
    GO_AHEAD,
    MAIL,
    OK,
    RCPT,
    Conversation,
    plain,
    said,
)

LHLO = EHLO.replace(b"EHLO", b"LHLO")
MASKED = b"451 4.3.0 Internal error (ref *)\r\n"


async def cancelled() -> Any:
    """Wait for a future that another part of the program cancels, such as a shared query."""
    loop = asyncio.get_running_loop()
    shared = loop.create_future()
    loop.call_soon(shared.cancel)
    await shared


class Waits:
    """Its hooks wait in vain; RSET works, and shows that the session goes on."""

    async def handle_NOOP(self, *_: Any) -> str:
        await cancelled()
        return "250 never"

    async def handle_RCPT(
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, *_: Any) -> str:
        await cancelled()
        return "250 never"


class Streams(Waits):
    """Reads a part of the message only."""

    async def handle_BODY(self, _: SMTP, session: Any, envelope: Any, body: BodyStream) -> str:
        await body.read()
        await cancelled()
        return "250 never"


def masked(sent: bytes) -> bytes:
    """Return replies without the references of internal errors."""
    lines = sent.splitlines(keepends=True)
    return b"".join(MASKED if line.startswith(b"451 4.3.0 Int") else line for line in lines)


async def test_a_command_gets_its_reply(caplog: pytest.LogCaptureFixture) -> None:
    sent = await said([EHLO, b"NOOP\r\n", b"RSET\r\n"], handler=Waits())
    assert masked(sent).endswith(MASKED + OK)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "handle_NOOP waited" in str(record.exc_info[1])


@pytest.mark.parametrize("handler", [Waits, Streams])
@pytest.mark.parametrize(("kind", "number"), [(SMTP, 1), (LMTP, 2)])
async def test_a_message_gets_its_replies(
    kind: type[SMTP], number: int, handler: Callable[[], Any]
) -> None:
    rest = b"MAIL FROM:<not@a.command>\r\n.\r\n"
    greeting = LHLO if kind is LMTP else EHLO
    words = [greeting, MAIL + RCPT + RCPT + DATA, BODY[:-3], rest, b"RSET\r\n"]
    sent = await said(words, kind=kind, handler=handler())
    assert masked(sent).endswith(GO_AHEAD + MASKED * number + OK)


async def test_an_authenticator_that_waits_in_vain() -> None:
    async def judge(*_: Any) -> AuthResult:
        await cancelled()
        return AuthResult(success=True)

    words = [EHLO, b"AUTH PLAIN %s\r\n" % plain(b"right"), b"RSET\r\n"]
    sent = await said(words, authenticator=judge, auth_require_tls=False)
    assert masked(sent).endswith(MASKED + OK)


async def test_a_hook_whose_own_task_is_cancelled_has_no_reply() -> None:
    class Ends:
        async def handle_NOOP(self, *_: Any) -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await cancelled()
            return "250 never"

    conversation = Conversation(handler=Ends())
    sent = await conversation.say(EHLO, b"NOOP\r\n")
    await conversation.over()
    assert sent.endswith(b"250 HELP\r\n")


async def test_a_cancelled_authenticator_has_no_reply() -> None:
    async def judge(*_: Any) -> AuthResult:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await cancelled()
        return AuthResult(success=True)

    conversation = Conversation(authenticator=judge, auth_require_tls=False)
    sent = await conversation.say(EHLO, b"AUTH PLAIN %s\r\n" % plain(b"right"))
    await conversation.over()
    assert sent.endswith(b"250 HELP\r\n")
