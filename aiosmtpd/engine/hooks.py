"""Finding and calling a handler's hooks: coroutines in the loop, plain functions in a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

Hook = Callable[..., Any]
T = TypeVar("T")


def find(handler: Any, name: str) -> Hook | None:
    """Return the handler's attribute *name* if ``dir(handler)`` has it, else None.

    It is looked up anew each time, so that a method replaced on a class counts; ``dir()`` itself
    (50 µs) is asked only where the class answers to any name, as mocks do.
    """
    # Ask the handler first: in Python 3.11 a class takes four times as long to say no.
    if (
        hasattr(handler, "__getattr__")
        and hasattr(type(handler), "__getattr__")
        and name not in dir(handler)
    ):
        return None
    hook: Hook | None = getattr(handler, name, None)
    return hook


PLAIN = (lambda: None).__code__
"""The code of a plain function, for a hook that has no ``__code__``."""

ENGINE: tuple[type, ...] = (object,)
"""The classes below ``SMTP``. :func:`names` leaves them out: the verbs and mechanisms are methods
of ``SMTP`` and of its subclasses."""


def names(owner: Any, prefix: str) -> list[str]:
    """Return the names in ``dir(owner)`` that begin with *prefix*, in a thirtieth of its time.

    ``dir()`` sorts them all, 240 of a server; most are in classes that have no such names. Fall
    back to ``dir()`` for classes and for objects that define ``__dir__``.
    """
    kind: Any = type(owner)
    if isinstance(owner, type) or kind.__dir__ is not object.__dir__:
        return [name for name in dir(owner) if name.startswith(prefix)]
    every = [*getattr(owner, "__dict__", ())]
    # A cache of the classes would keep those of handlers for ever.
    for one in {*kind.__mro__}.difference(ENGINE):
        every += one.__dict__
    return list(_beginning_with(prefix, tuple(every)))


@lru_cache(maxsize=64)
def _beginning_with(prefix: str, every: tuple[str, ...]) -> tuple[str, ...]:
    # The names themselves are the key, so that a method which a class gets later is found.
    return tuple(sorted({name for name in every if name.startswith(prefix)}))


class Lifetime(NamedTuple):
    """The methods that begin and end a handler's work."""

    open: Callable[[], Awaitable[object]]
    close: Callable[[], Awaitable[object]]


def lifetime(handler: Any) -> Lifetime | None:
    """Return the handler's ``open`` and ``close`` if servers are to call them, else None.

    Both must be coroutine functions of its class that need no argument. Handlers for 1.4 may have
    methods of these names, which the program calls itself, with another meaning; as they have no
    use for coroutine functions there, those are left alone, and so is a mock's attribute.
    """
    kind = handler if inspect.isclass(handler) else type(handler)
    if kind is handler:
        return None
    for name in "open", "close":
        method = inspect.getattr_static(kind, name, None)
        if not inspect.iscoroutinefunction(method):
            return None
        try:
            inspect.signature(method).bind(handler)
        except TypeError:
            return None
    return Lifetime(handler.open, handler.close)


def is_async(function: Callable[..., Any]) -> bool:
    """Return True if calling *function* makes a coroutine."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True
    if code is not None and not getattr(function, "__dict__", True):
        # Neither marked nor wrapped, as most are: 3 µs faster than inspect.
        return False
    return inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


def raise_if_foreign(error: asyncio.CancelledError, name: str) -> None:
    """Raise RuntimeError for a cancellation that the running task was not asked for.

    It is that of a task or a future for which the function *name* has waited. To pass it on would
    end the connection without a reply and without a record in the log.
    """
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        raise RuntimeError(f"{name} waited for something that was cancelled") from error


async def call(handler: Any, hook: Hook, *args: Any) -> Any:
    """Call a hook and return its result.

    A plain function runs in a worker thread, as it may block, or in the loop if the handler says
    ``sync_in_loop = True``. An awaitable result is awaited.
    """
    if is_async(hook):
        return await hook(*args)
    if getattr(handler, "sync_in_loop", False) is True:
        result = hook(*args)
    else:
        result = await in_worker(hook, *args)
    if isinstance(result, Awaitable):
        return await result
    return result


def in_worker(function: Callable[..., T], *args: object) -> Awaitable[T]:
    """Run a plain function in a worker thread of the running loop's executor; return its result.

    The program that stops the loop ends the threads with ``loop.shutdown_default_executor()``.
    """
    # As asyncio.to_thread(), without its coroutine and its partial().
    run = copy_context().run
    return asyncio.get_running_loop().run_in_executor(None, run, function, *args)
