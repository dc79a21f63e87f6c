"""Calls and results between threads and event loops, many with one wake-up."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.patience import Patience

P = ParamSpec("P")
T = TypeVar("T")

Call = tuple[Callable[..., object], tuple[Any, ...]]


class Landing:
    """Brings calls, and the outcomes of tasks of other threads, into *loop*.

    A commit of the spool has the outcomes of many messages at once. ``asyncio.wrap_future()``
    would write to the loop's own socket for each of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float = math.inf) -> None:
        self.loop = loop
        self.bell: Callable[[], None] = self.ring
        """:meth:`ring`, the same object each time."""
        self._arrived: deque[Call] = deque()
        self._is_due = False
        self.patience: Patience[asyncio.Future[Any]] = Patience(loop, patience, _give_up)

    def expect(self) -> Parcel:
        """Return a parcel; its ``here`` raises TimeoutError after *patience* seconds."""
        parcel = Parcel(self)
        self.patience.begin(parcel.here)
        return parcel

    def wait(self, outcome: Outcome[T]) -> asyncio.Future[T]:
        """Return a future of the loop with the result. Cancelling it leaves *outcome* alone."""
        here: asyncio.Future[T] = self.loop.create_future()
        outcome.bell = self.bell
        outcome.add_done_callback(partial(self._land, here))
        if outcome.done():
            # It may have been before it got the bell.
            self.ring()
        return here

    def _land(self, here: asyncio.Future[Any], outcome: Outcome[Any]) -> None:
        """Called in the thread that has the result."""
        self.leave(settle, here, outcome)

    def leave(self, function: Callable[..., object], *args: object) -> None:
        """Let the loop make a call, which raises nothing, after the next :meth:`ring`."""
        self._arrived.append((function, args))

    def ring(self) -> None:
        """Wake the loop for the calls that were left; do nothing if it is closed."""
        try:
            self.call([])
        except RuntimeError:
            # With the loop, all that waited has ended.
            pass

    def call(self, calls: list[Call]) -> None:
        """Let the loop make these calls, which raise nothing; RuntimeError if it is closed."""
        self._arrived.extend(calls)
        if self._arrived and not self._is_due:
            self._is_due = True
            try:
                self.loop.call_soon_threadsafe(self._hand_out)
            except RuntimeError:
                # The next call raises too, and does not wait for this one.
                self._is_due = False
                self._arrived.clear()
                raise

    def _hand_out(self) -> None:
        # In this order: a call that comes from now on asks for another turn.
        self._is_due = False
        while self._arrived:
            function, arguments = self._arrived.popleft()
            function(*arguments)


class Parcel:
    """A result on its way into a future of the loop, ``here``.

    It is what a task of the spool knows of an :class:`Outcome`, which would take longer to make
    than the rest of the way: each has a lock of its own.
    """

    __slots__ = ("_is_wanted", "_landing", "bell", "here")

    def __init__(self, landing: Landing) -> None:
        self.here: asyncio.Future[Any] = landing.loop.create_future()
        self.bell: Callable[[], object] | None = landing.bell
        self._landing = landing
        self._is_wanted = True

    def cancel(self) -> None:
        """Tell a task that has not begun that it is not wanted any more."""
        self._is_wanted = False

    # In the other thread.

    def set_running_or_notify_cancel(self) -> bool:
        return self._is_wanted

    def set_result(self, result: Any) -> None:
        self._landing.leave(self._arrive, result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        self._landing.leave(self._arrive, None, exception)

    # In the loop.

    def _arrive(self, result: Any, error: BaseException | None) -> None:
        here = self.here
        self._landing.patience.end(here)
        if here.done():
            return
        if error is not None:
            here.set_exception(error)
        else:
            here.set_result(result)


class Ferry:
    """Runs coroutines of the loop of *there* for the loop of *here*.

    Those that begin in one turn of a loop cross together, and so do results. A wake-up for each
    costs more than a delivery: both threads would wait for each other's interpreter lock.
    """

    def __init__(self, here: Landing, there: Landing) -> None:
        self.here = here
        self.there = there
        self._leaving: list[Call] = []
        self._returning: list[Call] = []
        self._waiting: set[asyncio.Future[Any]] = set()

    async def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **keywords: P.kwargs
    ) -> T:
        """Return the result of *function* in the other loop; cancelling this cancels it there.

        Raises RuntimeError if the other loop has ended.
        """
        trip = _Trip(self.here.loop.create_future(), partial(function, *args, **keywords))
        self._waiting.add(trip.result)
        self._leave(self._begin, trip)
        try:
            result: T = await trip.result
        except asyncio.CancelledError:
            self._leave(trip.cancel)
            raise
        finally:
            self._waiting.discard(trip.result)
        return result

    def _leave(self, function: Callable[..., object], *args: object) -> None:
        if not self._leaving:
            self.here.loop.call_soon(self._cross)
        self._leaving.append((function, args))

    def _cross(self) -> None:
        calls, self._leaving = self._leaving, []
        try:
            self.there.call(calls)
        except RuntimeError as error:
            for future in self._waiting:
                if not future.done():
                    future.set_exception(error)

    # In the other loop.

    def _begin(self, trip: _Trip) -> None:
        trip.task = asyncio.ensure_future(trip.start(), loop=self.there.loop)
        trip.task.add_done_callback(partial(self._has_ended, trip))

    def _has_ended(self, trip: _Trip, task: asyncio.Future[Any]) -> None:
        if not self._returning:
            self.there.loop.call_soon(self._return)
        self._returning.append((_bring, (trip.result, task)))

    def _return(self) -> None:
        calls, self._returning = self._returning, []
        try:
            self.here.call(calls)
        except RuntimeError:
            # The loop that waited is closed.
            pass


class _Trip:
    """A coroutine in the other loop, and the future of this one that waits for its result."""

    def __init__(self, result: asyncio.Future[Any], start: Callable[[], Awaitable[Any]]) -> None:
        self.result = result
        self.start = start
        self.task: asyncio.Future[Any] | None = None

    def cancel(self) -> None:
        """Called in the other loop, after the coroutine has begun."""
        if self.task is not None:
            self.task.cancel()


def _give_up(here: asyncio.Future[Any]) -> None:
    if not here.done():
        here.set_exception(TimeoutError())


def _bring(here: asyncio.Future[Any], task: asyncio.Future[Any]) -> None:
    """Give *here* the result of a task; one that its own loop has cancelled will not go on."""
    if task.cancelled() and not here.done():
        here.set_exception(RuntimeError("the other loop ends"))
    else:
        settle(here, task)


def settle(here: asyncio.Future[Any], ended: Outcome[Any] | asyncio.Future[Any]) -> None:
    """Give *here* the result of a future that is done, unless nothing waits for it any more."""
    if here.done():
        return
    if ended.cancelled():
        here.cancel()
    elif (error := ended.exception()) is not None:
        here.set_exception(error)
    else:
        here.set_result(ended.result())
