"""Where blocking code runs: in worker threads, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_worker(function: Callable[..., T], *args: object) -> T:
    """Run a plain function in a worker thread of the running loop's executor; return its result.

    Whoever stops the loop ends the threads with ``loop.shutdown_default_executor()``.
    """
    return await asyncio.to_thread(function, *args)
