"""The TLS handshakes of an event loop: their budget, and the clients that are silent after them.

With the budget, many clients that begin at once keep no other client waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

T = TypeVar("T")

BUDGET = 0.004
"""Seconds of handshakes in one turn of the event loop; the last one may take longer."""


SILENCE = 0.5
"""Seconds that a client has, at most, to say something after its handshake."""


class Handshakes:
    """The handshakes of one event loop: they wait in a queue after the budget is spent."""

    __slots__ = ("_is_scheduled", "_silent", "_spent", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._spent = 0.0
        self._is_scheduled = False
        self._silent: list[tuple[Callable[[Any], None], ref[Any]]] = []

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

    def when_silent(
        self, loop: asyncio.AbstractEventLoop, look: Callable[[T], None], one: T
    ) -> None:
        """Call ``look(one)`` within half a second, unless *one* is gone by then."""
        if not self._silent:
            # One timer for all that come until then.
            loop.call_later(SILENCE, self._look)
        self._silent.append((look, ref(one)))

    def _look(self) -> None:
        silent, self._silent = self._silent, []
        for look, one in silent:
            if (found := one()) is not None:
                look(found)


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
