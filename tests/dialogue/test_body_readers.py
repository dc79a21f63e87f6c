"""A task of the handler reads a message, and the hook does not wait for it."""

import asyncio
from typing import Any

import pytest

from aiosmtpd.smtp import SMTP, BodyStream, IncompleteBody
from tests.dialogue.observing import DATA, EHLO, MAIL, OK, PATIENCE, RCPT, Conversation, said


class Leaves:
    """Returns while its task waits for more."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.tasks: list[asyncio.Task[bytes]] = []
        self.bodies: list[BodyStream] = []

    async def read(self, body: BodyStream) -> bytes:
        return b"".join([piece async for piece in body])

    async def handle_BODY(self, _: SMTP, session: Any, envelope: Any, body: BodyStream) -> str:
        self.bodies.append(body)
        self.tasks.append(asyncio.create_task(self.read(body)))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return "250 taken"


@pytest.mark.parametrize(
    ("error", "reply"), [(None, b"250 taken\r\n"), (LookupError(), b"451 4.3.0 Internal error")]
)
async def test_a_reader_ends_when_the_hook_has_returned(
    error: Exception | None, reply: bytes
) -> None:
    handler = Leaves(error)
    conversation = Conversation(handler=handler)
    sent = await conversation.say(EHLO, MAIL, RCPT, DATA, b"one\r\n", b"two\r\n.\r\n", b"NOOP\r\n")
    assert reply in sent
    assert sent.endswith(OK)
    with pytest.raises(IncompleteBody):
        await asyncio.wait_for(handler.tasks[0], PATIENCE)
    with pytest.raises(IncompleteBody):
        await handler.bodies[0].read()
    await conversation.end()


async def test_a_reader_that_is_cancelled_leaves_the_rest() -> None:
    class Cancels:
        async def handle_BODY(self, _: SMTP, session: Any, envelope: Any, body: BodyStream) -> str:
            first = await body.read()
            reader = asyncio.create_task(body.read())
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait([reader])
            assert reader.cancelled()
            rest = b"".join([piece async for piece in body])
            return f"250 {(first + rest).decode().strip()}"

    sent = await said([EHLO, MAIL, RCPT, DATA, b"o", b"ne\r\n.\r\n"], handler=Cancels())
    assert sent.endswith(b"250 one\r\n")
