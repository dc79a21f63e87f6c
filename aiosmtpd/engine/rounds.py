"""One look at the deadlines of all connections every half minute, in place of a timer for each.

A connection has a timer of its own only if its deadline comes before the next look. A timer takes
eight calls of functions, and most connections end before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Protocol
from weakref import WeakKeyDictionary, ref

from aiosmtpd.engine.alarm import Alarm, Cancellable, call_after

LOOK = 30.0
"""Seconds between two looks. It is no longer than the patience with a TLS handshake or with mail
data, or each of them would need a timer of its own."""


class Member(Protocol):
    """A connection with a deadline."""

    _deadline: float

    def _set_timer(self) -> None:
        """Have the deadline looked at in time."""

    def _timer_fired(self) -> None:
        """Look at the deadline."""


class Round:
    """The connections of one event loop, until none is left at the time of a look."""

    __slots__ = ("__weakref__", "_timer", "due", "members")

    _timer: Callable[[], Cancellable | None]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.members: set[Member] = set()
        self.due: float
        """The time of the next look; 0 after the last."""
        self._wait(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self.due = monotonic() + LOOK
        # Only the event loop keeps this object, and so its connections.
        timer = call_after(loop, LOOK, partial(self._look, loop))
        # Not even an alarm keeps it, whose descriptor would stay open after the loop is closed.
        self._timer = ref(timer) if isinstance(timer, Alarm) else lambda: timer

    def end(self) -> None:
        """Look no more."""
        # An alarm has gone with its loop.
        if (timer := self._timer()) is not None:  # pragma: no branch
            timer.cancel()
        self.due = 0.0

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.members:
            self.due = 0.0
            return
        self._wait(loop)
        now = monotonic()
        for member in self.members:
            if member._deadline <= now:
                loop.call_soon(member._timer_fired)
            else:
                member._set_timer()


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[Round]] = WeakKeyDictionary()

_latest: tuple[Callable[[], asyncio.AbstractEventLoop | None], Callable[[], Round | None]]
_latest = (lambda: None), (lambda: None)
"""The round that was asked for last: most programs have one event loop."""


def round_of(loop: asyncio.AbstractEventLoop) -> Round:
    """Return the round of an event loop."""
    global _latest
    latest, known = _latest
    if latest() is loop and (found := known()) is not None and found.due:
        return found
    kept = _by_loop.get(loop)
    if kept is None or (found := kept()) is None or not found.due:
        found = Round(loop)
        kept = _by_loop[loop] = ref(found)
    _latest = ref(loop), kept
    return found


def end_round(loop: asyncio.AbstractEventLoop) -> None:
    """Leave no timer in an event loop that has no connections."""
    kept = _by_loop.get(loop)
    if kept is not None and (found := kept()) is not None and not found.members:
        found.end()
