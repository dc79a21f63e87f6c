"""Hooks that accept most commands without waiting: the fast path then needs no task for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Check = Callable[[Any, Any, Any, str], bool]
"""Gets the object of the hook, the server, the envelope and the address of a command without
parameters."""

F = TypeVar("F", bound=Callable[..., Any])

CHECKS: dict[Any, Check] = {}
"""The checks by the function of their hook: a function that wraps the hook has none."""


def accepts_if(check: Check) -> Callable[[F], F]:
    """Declare that a hook returns MISSING, and does nothing else, if *check* returns True.

    The hook is called only if it returns False, or if the command takes the way of the driver.
    """

    def decorate(hook: F) -> F:
        CHECKS[hook] = check
        return hook

    return decorate
