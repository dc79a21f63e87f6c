"""A route at work in the courier."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from aiosmtpd.delivery.item import Later, Never
from aiosmtpd.delivery.ledger import text_of
from aiosmtpd.delivery.patience import Patience
from aiosmtpd.delivery.route import Route

WRITING = 64
"""Results of one route, at most, that wait for a commit while more tries begin."""


class Lane:
    """A route at work: its tries that run, and its outlet once it is open."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.running = self.writing = self.ending = 0
        self.due = math.inf
        """When its next row is due, in seconds since 1970, as of the last look at the spool."""
        self.is_open = False
        self.failure: Later | Never = Later("the route is down")
        """The last failure of the route itself."""
        self.bugs: set[type[BaseException]] = set()
        """The exceptions of the user's function that were logged with a traceback."""
        self.opening = asyncio.Lock()
        self.turns = asyncio.Semaphore(route.concurrency)
        """Held by each try: direct deliveries and those of the spool share the concurrency."""
        self._patience: dict[float, Patience[asyncio.Task[Any]]] = {}

    @property
    def error(self) -> str:
        """The text of the last failure of the route itself."""
        return text_of(self.failure)

    @property
    def is_busy(self) -> bool:
        """True if no more tries may run now."""
        return self.room <= 0

    @property
    def room(self) -> int:
        """How many more tries may run now."""
        return min(self.route.concurrency - self.running, WRITING - self.writing)

    def patience(self, seconds: float) -> Patience[asyncio.Task[Any]]:
        """Return what cancels the tasks of tries that take longer than *seconds*."""
        found = self._patience.get(seconds)
        if found is None:
            found = Patience(asyncio.get_running_loop(), seconds, asyncio.Task.cancel)
            self._patience[seconds] = found
        return found

    def has_tried(self) -> None:
        """Note that a try has ended, and that its result will be written."""
        self.running -= 1
        self.writing += 1

    def may_begin(self) -> bool:
        """Return True if a try may begin now."""
        # Breakers do not use the wall clock, which may be set back.
        return not self.is_busy and self.route.breaker.allows(time.monotonic())
