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
        # In LMTP each recipient comes by. A message before this one may have come to nothing.
        if stage != "end-of-data" or server in self._begun:
            return
        if not self._to_take:
            raise Refused(replies.SHUTTING_DOWN)
        self._to_take -= 1
        self._begun.add(server)

    def taken(self, server: Any, message: Any) -> None:
        """Count a message that was answered."""
        if server not in self._begun:
            # Refused before its end, or one too many.
            if not self._to_take:
                return
            self._to_take -= 1
        self._begun.discard(server)
        self._to_answer -= 1
        if not self._to_answer:
            self._last = server
            server.loop.call_later(FAREWELL, self._gone, server)

    def ended(self, server: Any, reason: str) -> None:
        """Note that a client has gone; its message may have come to nothing."""
        if server in self._begun:
            self._begun.discard(server)
            self._to_take += 1
        self._gone(server)

    def _gone(self, server: Any) -> None:
        if server is self._last:
            self._last = None
            self._end()
