"""Sessions and envelopes as hooks get them, and event loops."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

PEER = ("127.0.0.1", 4321)
PLAIN = b"Subject: x\r\n\r\nbody\r\n"
OURS = b"X-Peer: ('127.0.0.1', 4321)\nX-MailFrom: a@x\nX-RcptTo: b@y, c@z\n"


def session_of(peer: object = PEER) -> Any:
    return SimpleNamespace(peer=peer)


def envelope_of(content: object, **more: object) -> Any:
    values = {
        "content": content,
        "mail_from": "a@x",
        "rcpt_tos": ["b@y", "c@z"],
        "mail_options": [],
        "rcpt_options": [],
    }
    return SimpleNamespace(**{**values, **more})


async def data(handler: Any, content: object, *, peer: object = PEER, **more: object) -> str:
    reply = await handler.handle_DATA(None, session_of(peer), envelope_of(content, **more))
    assert isinstance(reply, str)
    return reply


@pytest.fixture
def loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Make two event loops."""
    made = [asyncio.new_event_loop() for _ in range(2)]
    yield made
    for loop in made:
        loop.close()
