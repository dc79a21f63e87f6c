"""Where blocking code runs: in worker threads, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def in_worker(function: Callable[..., T], *args: object) -> Awaitable[T]:
    """Run a plain function in a worker thread of the running loop's executor; return its result.

    Whoever stops the loop ends the threads with ``loop.shutdown_default_executor()``.
    """
    # As asyncio.to_thread(), without its coroutine and its partial().
    run = copy_context().run
    return asyncio.get_running_loop().run_in_executor(None, run, function, *args)
