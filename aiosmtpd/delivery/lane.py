"""A route at work in the courier: it gives messages to the outlet, one try at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from aiosmtpd.delivery.item import Item, Later, Misconfigured, Never, in_private
from aiosmtpd.delivery.ledger import failed, line_of, text_of
from aiosmtpd.delivery.outlets.python import PythonOutlet
from aiosmtpd.delivery.patience import Patience
from aiosmtpd.delivery.route import Route

WRITING = 64
"""Results of one route, at most, that wait for a commit while more tries begin."""

UNREACHABLE = "451 4.4.1 Next hop unavailable, try again later"
REJECTED = "550 5.7.1 Recipient refused"

log = logging.getLogger("mail.log")


class Tried(NamedTuple):
    """The result of a try: the failures by recipient, and whether the route itself failed."""

    failures: Mapping[str, Later | Never]
    is_down: bool = False


class Lane:
    """A route at work: its tries that run, and its outlet once it is open."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.running = self.writing = self.ending = 0
        self.due = math.inf
        """When its next row is due, in seconds since 1970, as of the last look at the spool."""
        self.failure: Later | Never = Later("the route is down")
        """The last failure of the route itself."""
        self.turns = asyncio.Semaphore(route.concurrency)
        """Held by each try: direct deliveries and those of the spool share the concurrency."""
        self._is_open = False
        self._opening = asyncio.Lock()
        self._bugs: set[type[BaseException]] = set()
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

    def has_tried(self) -> None:
        """Note that a try has ended, and that its result will be written."""
        self.running -= 1
        self.writing += 1

    def may_begin(self) -> bool:
        """Return True if a try may begin now."""
        # Breakers do not use the wall clock, which may be set back.
        return not self.is_busy and self.route.breaker.allows(time.monotonic())

    async def open(self) -> None:
        """Open the outlet, unless it is open; raises what it raises."""
        if not self._is_open and self.route.outlet is not None:
            async with self._opening:
                if not self._is_open:
                    await self.route.outlet.open()
                    self._is_open = True

    async def close(self, timeout: float) -> None:
        """Close the outlet, within *timeout* seconds."""
        if self._is_open and self.route.outlet is not None:
            try:
                async with asyncio.timeout(timeout):
                    await self.route.outlet.close()
            except Exception as error:
                log.warning("Route %s: cannot close it: %s", self.route.name, line_of(error))

    async def deliver(self, item: Item, timeout: float) -> Tried:
        """Give a message to the outlet; *timeout* is in seconds.

        If the task is cancelled for another reason, nothing is known of the result.
        """
        outlet, late = self.route.outlet, False
        if outlet is None:
            return Tried(failed(item, Never(REJECTED)))
        patience, task = (
            self._patience_of(timeout),
            cast("asyncio.Task[Any]", asyncio.current_task()),
        )
        # Not asyncio.timeout(), which takes as long as the rest of a try.
        patience.begin(task)
        try:
            try:
                if not self._is_open:
                    await self.open()
                return Tried(_checked(item, await outlet.put(item)))
            finally:
                if late := patience.end(task):
                    task.uncancel()
        except Never as error:
            return Tried(failed(item, error))
        except Later as error:
            return Tried(failed(item, error), is_down=True)
        except Misconfigured as error:
            log.error("Route %s: %s", self.route.name, error)
            return Tried(failed(item, in_private(Later(), str(error))), is_down=True)
        except GeneratorExit:
            # The courier has ended without this try, and nothing may be written any more.
            raise
        except BaseException as error:
            # A function of the user may also end with SystemExit: the other routes go on.
            if isinstance(error, asyncio.CancelledError) and task.cancelling():
                raise
            if late and isinstance(error, asyncio.CancelledError | TimeoutError):
                text = f"no answer within {timeout:g} seconds"
            else:
                text = self._noted(item, error)
            failure = in_private(Later(reply=UNREACHABLE), text)
            return Tried(failed(item, failure), is_down=True)

    def _patience_of(self, seconds: float) -> Patience[asyncio.Task[Any]]:
        """Return what cancels the tasks of tries that take longer."""
        found = self._patience.get(seconds)
        if found is None:
            found = Patience(asyncio.get_running_loop(), seconds, asyncio.Task.cancel)
            self._patience[seconds] = found
        return found

    def _noted(self, item: Item, error: BaseException) -> str:
        """Log an error of the outlet, and return it as a line.

        An error of the user's function has a place in it, and a traceback the first time.
        """
        text = line_of(error)
        if not isinstance(self.route.outlet, PythonOutlet):
            log.debug("%s: route %s: %s", item.id, self.route.name, text, exc_info=error)
            return text
        text = f"{_place_of(error)}: {text}"
        seen = type(error) in self._bugs
        self._bugs.add(type(error))
        message = "%s: route %s: %s"
        log.warning(message, item.id, self.route.name, text, exc_info=None if seen else error)
        return text


def _checked(item: Item, results: object) -> dict[str, Later | Never]:
    """Return the failures that an outlet's answer names, for recipients of this try."""
    if results is None:
        return {}
    if not isinstance(results, Mapping):
        raise TypeError(f"put() returned {results!r}: return None or the failures by recipient")
    failures: dict[str, Later | Never] = {}
    for recipient in item.recipients:
        if recipient in results:
            failure = results[recipient]
            if not isinstance(failure, Later | Never):
                failure = Later(str(failure))
            failures[recipient] = failure
    if others := [str(name) for name in results if name not in item.recipients]:
        text = "%s: put() has named %r, which are not among the recipients that it got"
        log.error(text, item.id, others)
    return failures


def _place_of(error: BaseException) -> str:
    """Return the file and the line that raised an exception."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{os.path.basename(last.filename)}:{last.lineno}"
