"""What the driver awaits while its client is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any


class Wakeup:
    """A future that can be awaited again and again, and whose result runs the task at once.

    An :class:`asyncio.Future` takes a turn of the event loop to wake its task, about 10 µs for
    each command. This one speaks the same protocol (``_asyncio_future_blocking`` is what makes
    a future, see :func:`asyncio.isfuture`), but :meth:`wake` steps the task directly where no
    other task is running: the task stays a real one, with its own context.
    """

    # fmt: off
    __slots__ = (
        "_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_loop", "waiting",
    )
    # fmt: on

    waiting: bool
    """True while a task awaits this."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting = False
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._cancelled = False

    def __await__(self) -> Generator[Any, Any, None]:
        self._callback = None
        # Itself, for a generator would be 200 octets of each idle connection.
        return self  # type: ignore[return-value]

    def __next__(self) -> Wakeup:
        if self._callback is not None:
            raise StopIteration
        self._asyncio_future_blocking = True
        return self

    def wake(self) -> None:
        """Let the waiting task go on: now, or soon where another task is running."""
        callback, context = self._callback, self._context
        if not self.waiting or callback is None or context is None:
            return
        self.waiting = False
        if asyncio.current_task(self._loop) is None:
            context.run(callback, self)
        else:
            self._loop.call_soon(callback, self, context=context)

    # The rest is what a task asks of whatever it awaits.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop whose tasks may await this."""
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Take the task's own wake-up."""
        self._callback, self._context = callback, context
        self.waiting = True

    def result(self) -> None:
        """Return nothing, or raise CancelledError where the waiting task was cancelled."""
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the wait of the task; return whether there was one."""
        callback = self._callback
        if not self.waiting or callback is None:
            return False
        self.waiting = False
        self._cancelled = True
        self._loop.call_soon(callback, self, context=self._context)
        return True
