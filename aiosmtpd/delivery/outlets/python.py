"""Deliver to a Python function: ``python:shop.mail:receive``."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

from public import public

from aiosmtpd.delivery.item import Item, Outlet, Results, checked
from aiosmtpd.delivery.mail import Mail
from aiosmtpd.delivery.outlets.workers import Workers

Function = Callable[[Mail], Any]


def from_url(url: str) -> Outlet:
    """Return the outlet of a ``python:`` URL; raises ValueError if it names nothing to call.

    The name may be a function, or an outlet: a class, which is called without arguments, or an
    object.
    """
    module_name, colon, name = url.partition(":")[2].partition(":")
    if not (module_name and colon and name):
        raise ValueError("write python:MODULE:FUNCTION")
    found = _find(module_name, name)
    if inspect.isclass(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise ValueError(f"cannot make {name}: {type(error).__name__}: {error}") from None
    if hasattr(found, "put"):
        return checked(found)
    return PythonOutlet(found)


@public
class PythonOutlet:
    """Calls *function* with each message, a :class:`~aiosmtpd.delivery.mail.Mail`.

    A coroutine function runs in the courier's event loop, which is not that of the server; a plain
    function runs in a worker thread. The message is delivered when the function returns; it may
    return failures by recipient (a dict of Later or Never), or raise Later or Never for all. Any
    other exception counts as Later.
    """

    def __init__(self, function: Function) -> None:
        if not callable(function):
            raise ValueError(f"{function!r} is not a function")
        self.function = function
        self._is_async = _is_async(function)
        self._workers = Workers("python")

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def put(self, item: Item) -> Results:
        """Call the function."""
        mail = Mail(item)
        if self._is_async:
            result = await self.function(mail)
        else:
            result = await self._workers.run(self.function, mail)
            if isinstance(result, Awaitable):
                result = await result
        if isinstance(result, Exception):
            # A Later that is returned means the same as one that is raised.
            raise result
        # A function may return anything: only failures by recipient have a meaning.
        return result if isinstance(result, Mapping) else None

    async def close(self) -> None:
        """End the threads."""
        self._workers.close()


def _find(module_name: str, name: str) -> Any:
    if "" not in sys.path and os.getcwd() not in sys.path and not sys.flags.safe_path:
        # At the end, so that nothing in the folder hides an installed module.
        sys.path.append(os.getcwd())
    try:
        found: Any = import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import {module_name}: {type(error).__name__}: {error}") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name} has no {name}")
        found = getattr(found, part)
    return found


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )
