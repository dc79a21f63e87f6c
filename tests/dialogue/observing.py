"""Observers that record their calls, and conversations over a transport in memory."""

import asyncio
import contextlib
import logging
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import (
    SMTP,
    AuthResult,
    Refused,
)
from tests.dialogue.harness import connect, settle
from tests.dialogue.transport import MemoryTransport

PATIENCE = 30.0
BANNER = b"220 mx.test test\r\n"
EHLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"
DATA = b"DATA\r\n"
BODY = b"Subject: x\r\n\r\nx\r\n.\r\n"
QUIT = b"QUIT\r\n"
MESSAGE = MAIL + RCPT + DATA + BODY
OK = b"250 OK\r\n"
GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
BYE = b"221 Bye\r\n"

SMALL: dict[str, Any] = {"data_size_limit": 0}
VERBS = {f"SMTP.smtp_{verb}" for verb in ("EHLO", "MAIL", "RCPT", "DATA", "QUIT")}
EVENTS = ("began", "refused", "tls", "auth", "line", "reply", "sent", "data", "taken", "ended")


class Seen:
    """An observer that keeps all of its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.servers: list[SMTP] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in EVENTS:
            raise AttributeError(name)

        def keep(server: SMTP, *args: Any) -> None:
            self.servers.append(server)
            self.calls.append((name, *args))

        return keep

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the calls of these methods."""
        return [call for call in self.calls if call[0] in names]

    def plain(self) -> list[tuple[Any, ...]]:
        """Return all calls; of `taken` only the parts that each run has, bytes sent joined."""
        calls: list[tuple[Any, ...]] = []
        for name, *args in self.calls:
            if name == "taken":
                args = [args[0].size, args[0].replies]
            if name == "sent" and calls[-1][0] == "sent":
                args = [calls.pop()[1] + args[0]]
            calls.append((name, *args))
        return calls


class Asked:
    """An observer with `before` alone; it keeps the stages, and calls their functions."""

    def __init__(self, **acts: Callable[[SMTP], Any]) -> None:
        self.stages: list[tuple[str, str | None]] = []
        self.acts = acts

    async def before(self, server: SMTP, stage: str, argument: str | None) -> None:
        self.stages.append((stage, argument))
        act = self.acts.get(stage.replace("-", "_"))
        if act is not None and (answer := act(server)) is not None:
            await answer


class Conversation:
    """A server, and a client that feeds it."""

    def __init__(
        self, *observers: Any, kind: type[SMTP] = SMTP, handler: Any = None, **keywords: Any
    ) -> None:
        keywords = {"hostname": "mx.test", "ident": "test", **keywords}
        self.server = kind(handler or Sink(), observers=observers, **keywords)
        self.network: MemoryTransport = connect(lambda: self.server)
        self._read = 0

    async def say(self, *pieces: bytes) -> bytes:
        """Feed each piece when the server has done all it can; return its output since then."""
        await settle()
        for piece in pieces:
            self.network.feed(piece)
            await settle()
        sent = bytes(self.network.sent)
        before, self._read = self._read, len(sent)
        return sent[before:]

    async def end(self) -> None:
        """Let the client go, and wait for the end."""
        await settle()
        self.network.feed_eof()
        await self.over()

    async def over(self) -> None:
        """Wait for the end."""
        await asyncio.wait_for(self.server.ended(), PATIENCE)


async def said(pieces: Sequence[bytes], *observers: Any, **keywords: Any) -> bytes:
    """Hold a whole conversation; return all that the server sent."""
    conversation = Conversation(*observers, **keywords)
    await conversation.say(*pieces)
    await conversation.end()
    return bytes(conversation.network.sent)


@contextlib.contextmanager
def driven() -> Iterator[Counter[str]]:
    """Count the verbs' methods that run: the fast path runs none of them."""
    ran: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_qualname
        if event == "call" and name in VERBS:
            ran[name.removeprefix("SMTP.smtp_")] += 1

    sys.setprofile(count)
    try:
        yield ran
    finally:
        sys.setprofile(None)


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "observer" in record.getMessage()]


def judge(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data.password == b"right")


def plain(password: bytes) -> bytes:
    return b64encode(b"\0joe\0" + password)


AUTH: dict[str, Any] = {"authenticator": judge, "auth_require_tls": False, "auth_required": False}


def refuse(_: SMTP) -> None:
    raise Refused("550 5.7.1 No")
