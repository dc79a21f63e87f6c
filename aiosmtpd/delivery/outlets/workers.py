"""Worker threads of one outlet: one that hangs takes no thread of another route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

MOST = 100
"""Threads of an outlet, at most; the route's concurrency keeps it well below."""


class Workers:
    """Runs plain functions in threads of its own; the threads are started when needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return the function's result. A thread goes on if the caller is cancelled."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MOST, thread_name_prefix=self._name)
        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._pool, run, function, *args)

    def close(self) -> None:
        """End the threads, each after its function; do not wait for them."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
