"""``--exit-after``: end the server after so many messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Refused

FAREWELL = 1.0
"""Seconds in which the client of the last message may say QUIT."""


class Countdown:
    """An observer that calls *end* after *count* messages, when the last one's client has gone."""

    def __init__(self, count: int, end: Callable[[], None]) -> None:
        self._to_take = self._to_answer = count
        self._end = end
        self._last: Any = None
        self._begun: set[Any] = set()

    async def before(self, server: Any, stage: str, argument: Any) -> None:
        """Let a message through, or refuse one too many."""
        if stage != "end-of-data" or argument not in (None, server.envelope.rcpt_tos[0]):
            # In LMTP each recipient comes by: the first one stands for the message.
            return
        if server in self._begun:
            # Its message before this one came to nothing.
            return
        if not self._to_take:
            raise Refused(replies.SHUTTING_DOWN)
        self._to_take -= 1
        self._begun.add(server)

    def taken(self, server: Any, *_: Any) -> None:
        """Count a message that was answered."""
        if server not in self._begun:
            return
        self._begun.discard(server)
        self._to_answer -= 1
        if not self._to_answer:
            self._last = server
            server.loop.call_later(FAREWELL, self.ended, server)

    def ended(self, server: Any, reason: str = "") -> None:
        """Note that a client has gone; its message may have come to nothing."""
        if server in self._begun:
            self._begun.discard(server)
            self._to_take += 1
        if server is self._last:
            self._last = None
            self._end()
