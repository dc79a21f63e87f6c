"""The result of a task of the spool, for any thread that waits for it. Free of asyncio."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from threading import Event, Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_WAITING, _RUNNING, _CANCELLED, _DONE = range(4)

_CHANGING = Lock()
"""Held for a change of any outcome: never long enough that one waits for another."""


class Outcome(Generic[T]):
    """A light ``concurrent.futures.Future``, with the same methods.

    A future has a lock and a condition of its own. They take longer to make than the rest of a
    message's way to the thread of the spool and back.
    """

    __slots__ = ("_callbacks", "_error", "_state", "_value", "bell")

    def __init__(self) -> None:
        self.bell: Callable[[], object] | None = None
        """The thread that has the task calls this once for all results of a commit."""
        self._state = _WAITING
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Outcome[T]], object]] | None = None

    # For those who wait.

    def done(self) -> bool:
        """Return True if there is a result or an exception, or if it was cancelled."""
        return self._state >= _CANCELLED

    def running(self) -> bool:
        """Return True while the task runs."""
        return self._state == _RUNNING

    def cancelled(self) -> bool:
        """Return True if :meth:`cancel` came before the task began."""
        return self._state == _CANCELLED

    def cancel(self) -> bool:
        """Cancel the task unless it has begun; return True if it is cancelled."""
        with _CHANGING:
            if self._state == _CANCELLED:
                return True
            if self._state != _WAITING:
                return False
            self._state = _CANCELLED
        self._tell()
        return True

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it; raise the exception of the task.

        Raises TimeoutError after *timeout* seconds, and CancelledError.
        """
        if (error := self.exception(timeout)) is not None:
            raise error
        value: T = self._value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the result; return the exception of the task, None if it has raised none.

        Raises TimeoutError after *timeout* seconds, and CancelledError.
        """
        if self._state < _CANCELLED:
            has_ended = Event()
            self.add_done_callback(lambda _: has_ended.set())
            if not has_ended.wait(timeout):
                raise TimeoutError
        if self._state == _CANCELLED:
            raise CancelledError
        return self._error

    def add_done_callback(self, callback: Callable[[Outcome[T]], object]) -> None:
        """Call *callback*, which raises nothing, with this outcome: when it is done, or now."""
        with _CHANGING:
            if self._state < _CANCELLED:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback(self)

    # For the thread that has the task.

    def set_running_or_notify_cancel(self) -> bool:
        """Note that the task begins; return False if it was cancelled."""
        with _CHANGING:
            if self._state == _CANCELLED:
                return False
            self._state = _RUNNING
        return True

    def set_result(self, result: T) -> None:
        """Take the result of the task."""
        with _CHANGING:
            self._value = result
            self._state = _DONE
        self._tell()

    def set_exception(self, exception: BaseException | None) -> None:
        """Take the exception that the task has raised."""
        with _CHANGING:
            self._error = exception
            self._state = _DONE
        self._tell()

    def _tell(self) -> None:
        # Nothing is added any more.
        if self._callbacks is not None:
            for callback in self._callbacks:
                callback(self)
