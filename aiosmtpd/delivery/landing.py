"""Results of another thread on their way into an event loop, many with one wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Landing:
    """Brings the results of futures of other threads into *loop*.

    A commit of the spool resolves the futures of many messages at once. ``asyncio.wrap_future()``
    would write to the loop's own socket for each of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._is_due = False

    def wait(self, future: Future[T]) -> asyncio.Future[T]:
        """Return a future of the loop with the same result. Cancelling it leaves *future* alone."""
        here: asyncio.Future[T] = self.loop.create_future()
        future.add_done_callback(partial(self._land, here))
        return here

    def _land(self, here: asyncio.Future[Any], future: Future[Any]) -> None:
        """Called in the thread that has the result."""
        self._arrived.append((here, future))
        if not self._is_due:
            self._is_due = True
            try:
                self.loop.call_soon_threadsafe(self._hand_out)
            except RuntimeError:
                # The loop is closed, and with it all that waited.
                pass

    def _hand_out(self) -> None:
        # In this order: a result that comes from now on asks for another turn.
        self._is_due = False
        while self._arrived:
            here, future = self._arrived.popleft()
            if here.done():
                continue
            if future.cancelled():
                here.cancel()
            elif (error := future.exception()) is not None:
                here.set_exception(error)
            else:
                here.set_result(future.result())
