"""The wait of the driver while its client is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any


class Disconnected(ConnectionResetError):
    """The client has gone, or the connection is being closed: the running command ends here."""


class Wakeup:
    """Like a future, but a task can await it many times, and :meth:`wake` runs the task at once.

    An :class:`asyncio.Future` takes a turn of the event loop to wake its task, about 10 µs for
    each command. If no other task is running, :meth:`wake` runs the task directly instead, in the
    task's own context. asyncio takes an object for a future if it has ``_asyncio_future_blocking``
    (see :func:`asyncio.isfuture`), and reads ``_loop`` if the object has no ``get_loop``.
    """

    # fmt: off
    __slots__ = (
        "_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_loop", "waiting",
    )
    # fmt: on

    waiting: bool
    """True while a task awaits this, and before it begins if it has nothing else to do."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting = False
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._cancelled = False

    def __await__(self) -> Generator[Any, Any, None]:
        self._asyncio_future_blocking = True
        # An iterator in C: a generator would cost 200 bytes per idle connection, and a call.
        return iter((self,))  # type: ignore[return-value]

    def wake(self) -> None:
        """Let the waiting task go on: now, or soon if another task is running."""
        if not self.waiting:
            return
        self.waiting = False
        if self._callback is None or self._context is None:
            # The task has not begun: it looks at all that has come when it does.
            return
        if asyncio.current_task(self._loop) is None:
            self._context.run(self._callback, self)
        else:
            self._loop.call_soon(self._callback, self, context=self._context)

    @property
    def is_used(self) -> bool:
        """True once a task has awaited this."""
        return self._callback is not None

    # A task calls these methods of a future.

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Keep the callback with which the task goes on."""
        self._callback, self._context = callback, context
        self.waiting = True

    def result(self) -> None:
        """Return nothing; raise CancelledError if the waiting task was cancelled."""
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the wait of the task; return True if a task was waiting."""
        if not self.waiting or self._callback is None:
            return False
        self.waiting = False
        self._cancelled = True
        self._loop.call_soon(self._callback, self, context=self._context)
        return True
