"""Worker threads of one outlet: one that hangs takes no thread of another route."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

_Job: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"

_numbers = itertools.count(1)


class Workers:
    """Runs plain functions in threads of its own, as many as there are calls at a time.

    The threads of a ``ThreadPoolExecutor`` keep the process from ending. These do not: a function
    that hangs when the server stops has not delivered, and its message is still in the spool.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return the function's result. A thread goes on if the caller is cancelled.

        StopIteration becomes RuntimeError, as in a coroutine.
        """
        future: Future[T] = Future()
        run = copy_context().run
        if not self._idle.acquire(blocking=False):
            name = f"{self._name}-{next(_numbers)}"
            # First: if the system has no more threads, the function must not run later.
            threading.Thread(
                target=_work, args=(self._jobs, self._idle), name=name, daemon=True
            ).start()
            self._started += 1
        self._jobs.put((future, lambda: run(function, *args)))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads, each after its function; do not wait for them."""
        for _ in range(self._started):
            self._jobs.put(None)
        self._begin()


def _work(jobs: SimpleQueue[_Job | None], idle: threading.Semaphore) -> None:
    while (job := jobs.get()) is not None:
        future, function = job
        if future.set_running_or_notify_cancel():
            try:
                result = function()
            except BaseException as error:
                # A future of asyncio takes no StopIteration: it would wait without an end.
                is_stop = isinstance(error, StopIteration)
                future.set_exception(_as_runtime_error(error) if is_stop else error)
            else:
                future.set_result(result)
                del result
        # An idle thread must not keep a message in memory.
        del job, future, function
        idle.release()


def _as_runtime_error(error: BaseException) -> RuntimeError:
    found = RuntimeError(f"the function raised {error!r}")
    found.__cause__ = error
    return found.with_traceback(error.__traceback__)
