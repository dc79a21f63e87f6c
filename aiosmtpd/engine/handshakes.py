"""A budget for TLS handshakes: many clients that begin at once keep no other client waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TypeVar
from weakref import WeakKeyDictionary, ref

T = TypeVar("T")

BUDGET = 0.004
"""Seconds of handshakes in one turn of the event loop; the last one may take longer."""


class Handshakes:
    """The handshakes of one event loop: they wait in a queue after the budget is spent."""

    __slots__ = ("_is_scheduled", "_spent", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._spent = 0.0
        self._is_scheduled = False

    def run(self, loop: asyncio.AbstractEventLoop, step: Callable[[T], None], one: T) -> None:
        """Call ``step(one)`` for a handshake now, or in a later turn after those before it."""
        try:
            if self._waiting or self._spent >= BUDGET:
                self._waiting.append(partial(step, one))
            else:
                began = monotonic()
                try:
                    step(one)
                finally:
                    self._spent += monotonic() - began
        finally:
            # A turn more takes 10 µs: not for each step, but if the budget is spent.
            if self._spent >= BUDGET and not self._is_scheduled:
                self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = True
        loop.call_soon(self._begin_turn, loop)

    def _begin_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        self._spent = 0.0
        try:
            while self._waiting and self._spent < BUDGET:
                step, began = self._waiting.popleft(), monotonic()
                try:
                    step()
                finally:
                    self._spent += monotonic() - began
        finally:
            if (self._waiting or self._spent >= BUDGET) and not self._is_scheduled:
                self._schedule(loop)


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Handshakes] = WeakKeyDictionary()


_latest: tuple[Callable[[], asyncio.AbstractEventLoop | None], Handshakes]
_latest = (lambda: None), Handshakes()
"""Those that were asked for last: most programs have one event loop."""


def handshakes_of(loop: asyncio.AbstractEventLoop) -> Handshakes:
    """Return the handshakes of an event loop."""
    global _latest
    latest, known = _latest
    if latest() is loop:
        return known
    if (found := _by_loop.get(loop)) is None:
        found = _by_loop[loop] = Handshakes()
    _latest = ref(loop), found
    return found
