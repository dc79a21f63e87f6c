"""``--exit-after``: so many messages, and then the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiosmtpd.engine.body import GivenUp
from aiosmtpd.engine.connection import Disconnected
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Refused
from aiosmtpd.smtp import SMTP

FAREWELL = 1.0
"""Seconds in which the client of the last message may say QUIT."""


class Countdown:
    """Calls *end* when *count* messages were answered and the last one's client has gone."""

    def __init__(self, count: int, end: Callable[[], None]) -> None:
        self._to_take = self._to_answer = count
        self._end = end
        self._last: SMTP | None = None

    def take(self) -> None:
        """Let a message begin; raises Refused for one too many."""
        if not self._to_take:
            raise Refused(replies.SHUTTING_DOWN)
        self._to_take -= 1

    def give_back(self) -> None:
        """Take note that a message has come to nothing."""
        self._to_take += 1

    def answered(self, server: SMTP) -> None:
        """Take note of a reply to a message."""
        self._to_answer -= 1
        if not self._to_answer:
            self._last = server
            server.loop.call_later(FAREWELL, self.gone, server)

    def gone(self, server: SMTP) -> None:
        """Take note that a client has gone."""
        if server is self._last:
            self._last = None
            self._end()


def counted(protocol: type[SMTP], countdown: Countdown) -> type[SMTP]:
    """Return a subclass whose messages are counted."""

    class Counted(protocol):  # type: ignore[misc, valid-type]
        async def _take_message(self, source: Any, envelope: Any) -> Any:
            self._is_counted = False
            countdown.take()
            self._is_counted = True
            try:
                return await super()._take_message(source, envelope)
            except (Disconnected, GivenUp):
                countdown.give_back()
                raise

        async def _answer_data(self, status: Any, envelope: Any) -> None:
            try:
                await super()._answer_data(status, envelope)
            finally:
                if self._is_counted:
                    countdown.answered(self)

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            countdown.gone(self)

    return Counted
