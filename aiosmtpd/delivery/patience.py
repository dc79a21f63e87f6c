"""Waits that end after the same time, with one timer for all: a timer each costs more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")


class Patience(Generic[K]):
    """Calls *late* with each key that has begun *seconds* ago and has not ended, in *loop*."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, late: Callable[[K], object]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._late = late
        # In the order of their times.
        self._waiting: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, key: K) -> None:
        """Begin to wait for a key, which does not wait already."""
        self._waiting[key] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def end(self, key: K) -> bool:
        """Wait for a key no longer; return True if it was late."""
        return self._waiting.pop(key, None) is None

    def _look(self) -> None:
        self._timer = None
        while self._waiting:
            key, until = next(iter(self._waiting.items()))
            if until > self._loop.time():
                self._timer = self._loop.call_at(until, self._look)
                return
            del self._waiting[key]
            self._late(key)
