"""A circuit breaker: a route that fails again and again is tried seldom. Free of asyncio."""

from __future__ import annotations

from aiosmtpd.delivery.schedule import Retry

LIMIT = 5
"""Failures in a row after which a route is down."""


class Breaker:
    """Decides whether a route may be tried now.

    While the route is up, every try is allowed. After *limit* failures in a row it is down: only
    one try at a time is allowed, the probe. After each failed probe comes a pause, which gets
    longer as *retry* says. A success ends this. Times are in seconds, of one clock.
    """

    def __init__(self, retry: Retry, limit: int = LIMIT) -> None:
        self._retry = retry
        self._limit = limit
        self._failures = 0
        self._probes = 0
        self._probing = False
        self.again = 0.0
        """The time of the next probe, if the route is down."""

    @property
    def is_down(self) -> bool:
        """True after *limit* failures in a row."""
        return self._failures >= self._limit

    def allows(self, now: float) -> bool:
        """Return True if a try may begin now; call :meth:`begin` when it does."""
        return not self.is_down or (not self._probing and now >= self.again)

    def begin(self) -> None:
        """Note that a try begins."""
        self._probing = self.is_down

    def succeed(self) -> None:
        """Note that the route has answered."""
        self._failures = self._probes = 0
        self._probing = False

    def fail(self, now: float, random: float = 0.5) -> bool:
        """Note that the route has failed; return True if it is down since this failure.

        Tries that began before the route went down end later: they do not make the pause longer.
        """
        was_down, was_probe = self.is_down, self._probing
        self._failures += 1
        if was_down and not was_probe:
            return False
        self._probing = False
        if self.is_down:
            self._probes += 1
            pause = self._retry.jittered(self._retry.delay(self._probes), random)
            self.again = now + pause
        return self.is_down and not was_down

    def abandon(self) -> None:
        """Note that a try has ended without a result."""
        self._probing = False

    def wake(self) -> None:
        """Allow a probe now: the operator has asked for it."""
        self.again = 0.0
