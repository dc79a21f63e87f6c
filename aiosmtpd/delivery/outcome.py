"""The result of a task of the spool, for any thread that waits for it. Free of asyncio."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Outcome(Future[T]):
    """A future that can have a bell."""

    bell: Callable[[], object] | None = None
    """The thread that has the task calls this once for all results of a commit."""
