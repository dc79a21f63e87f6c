"""A route at work in the courier."""

from __future__ import annotations

import asyncio
import math
import time

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
        self.error = "the route is down"
        self.bugs: set[type[BaseException]] = set()
        """The exceptions of the user's function that were logged with a traceback."""
        self.opening = asyncio.Lock()
        self.direct = asyncio.Semaphore(route.concurrency)

    @property
    def is_busy(self) -> bool:
        """True if no more tries may run now."""
        return self.room <= 0

    @property
    def room(self) -> int:
        """How many more tries may run now."""
        return min(self.route.concurrency - self.running, WRITING - self.writing)

    def has_tried(self) -> None:
        """Note that a try has ended, and that its result will be written."""
        self.running -= 1
        self.writing += 1

    def may_begin(self) -> bool:
        """Return True if a try may begin now."""
        # Breakers do not use the wall clock, which may be set back.
        return not self.is_busy and self.route.breaker.allows(time.monotonic())
