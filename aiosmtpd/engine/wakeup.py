"""The wait of the driver while its client is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any


class Disconnected(ConnectionResetError):
    """The client has gone, or the connection is being closed: the running command ends here."""


class Wakeup:
    """A future that can be awaited again and again, and whose result runs the task at once.

    An :class:`asyncio.Future` takes a turn of the event loop to wake its task, about 10 µs for
    each command. This one speaks the same protocol (``_asyncio_future_blocking`` makes an object a
    future, see :func:`asyncio.isfuture`; ``_loop`` is asked for, as there is no ``get_loop``), but
    :meth:`wake` steps the task directly if no other task is running. The task stays a real one,
    with its own context.
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
        self._asyncio_future_blocking = True
        # An iterator in C: a generator would cost 200 bytes per idle connection, and a call.
        return iter((self,))  # type: ignore[return-value]

    def wake(self) -> None:
        """Let the waiting task go on: now, or soon if another task is running."""
        if not self.waiting or self._callback is None or self._context is None:
            return
        self.waiting = False
        if asyncio.current_task(self._loop) is None:
            self._context.run(self._callback, self)
        else:
            self._loop.call_soon(self._callback, self, context=self._context)

    # The rest is the part of a future that a task calls.

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Take the task's own wake-up."""
        self._callback, self._context = callback, context
        self.waiting = True

    def result(self) -> None:
        """Return nothing; raise CancelledError if the waiting task was cancelled."""
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the wait of the task; return whether there was one."""
        if not self.waiting or self._callback is None:
            return False
        self.waiting = False
        self._cancelled = True
        self._loop.call_soon(self._callback, self, context=self._context)
        return True
