"""A budget for TLS handshakes: many clients that begin at once keep no other client waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from weakref import WeakKeyDictionary

BUDGET = 0.004
"""Seconds of handshakes in one turn of the event loop; the last one may take longer."""


class Handshakes:
    """The handshakes of one event loop: they wait in a queue after the budget is spent."""

    __slots__ = ("_is_scheduled", "_spent", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._spent = 0.0
        self._is_scheduled = False

    def run(self, loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
        """Run a step of a handshake now, or in a later turn after those that came before."""
        self._waiting.append(step)
        if len(self._waiting) == 1:
            self._run_some(loop)

    def _run_some(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._waiting and self._spent < BUDGET:
                began = monotonic()
                try:
                    self._waiting[0]()
                finally:
                    self._waiting.popleft()
                    self._spent += monotonic() - began
        finally:
            # A turn more takes 10 µs: not for each step, but if the budget is spent.
            if (self._waiting or self._spent >= BUDGET) and not self._is_scheduled:
                self._is_scheduled = True
                loop.call_soon(self._begin_turn, loop)

    def _begin_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        self._spent = 0.0
        self._run_some(loop)


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Handshakes] = WeakKeyDictionary()


def handshakes_of(loop: asyncio.AbstractEventLoop) -> Handshakes:
    """Return the handshakes of an event loop."""
    if (found := _by_loop.get(loop)) is None:
        found = _by_loop[loop] = Handshakes()
    return found
