"""The deprecated forms of 1.4, which a version 2.0 would delete."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from aiosmtpd.engine import hooks
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.session import MISSING

CLIENT_AUTH_B = re.compile(rb"(\s*AUTH\s+\S+[^\S\r\n]+)\S+((?:\r\n)?)", re.IGNORECASE)


def sanitize(text: bytes) -> bytes:
    """Return *text* with the argument of an AUTH command hidden."""
    return CLIENT_AUTH_B.sub(rb"\1********\2", text)


def sanitized_log(func: Callable[..., None], msg: str, *args: Any, **kwargs: Any) -> None:
    """Call a logging function with every bytes argument sanitized."""
    func(
        msg,
        *(sanitize(arg) if isinstance(arg, bytes) else arg for arg in args),
        **kwargs,
    )


def _deprecated(text: str, stacklevel: int = 3) -> None:
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)


async def ehlo_hook(server: Any) -> None:
    """Run a subclass's ``ehlo_hook``."""
    _deprecated("Use handler.handle_EHLO() instead of .ehlo_hook()")
    await server.ehlo_hook()


async def rset_hook(server: Any) -> None:
    """Run a subclass's ``rset_hook``."""
    if hasattr(server, "rset_hook"):
        _deprecated("Use handler.handle_RSET() instead of .rset_hook()")
        await server.rset_hook()


async def ehlo_lines(server: Any, hostname: str, lines: list[str]) -> list[str]:
    """Return the lines to send to EHLO: those of the handler's hook, if it has one."""
    hook = hooks.find(server.event_handler, "handle_EHLO")
    if hook is not None and is_of_four(hook):
        for line in lines[:-1]:
            await server.push(line)
        status = await server._call_handler_hook("EHLO", hostname)
        if status is MISSING:
            server.session.host_name = hostname
            return lines[-1:]
        return [replies.from_hook(status)]
    if hook is None:
        # As in 1.4, an override of _call_handler_hook() sees EHLO only if there is a hook.
        server.session.host_name = hostname
        return lines
    answer = await server._call_handler_hook("EHLO", hostname, lines)
    if not isinstance(answer, list | tuple) or not answer:
        raise TypeError("handle_EHLO returned no list of reply lines")
    return replies.lines_from_hook(answer)


async def process_message(server: Any) -> Any:
    """Hand the message to a handler of before 1.0; return MISSING if there is none."""
    handler, envelope = server.event_handler, server.envelope
    hook = hooks.find(handler, "process_message")
    if hook is None or hooks.find(handler, "handle_DATA") is not None:
        return MISSING
    _deprecated("Use handler.handle_DATA() instead of .process_message()")
    arguments = server.session.peer, envelope.mail_from, envelope.rcpt_tos, envelope.content
    status = await hooks.call(handler, hook, *arguments)
    return MISSING if status is None else status


def look_over(handler: Any) -> None:
    """Warn of an EHLO hook of the old form; raise RuntimeError for a form that never was one."""
    hook = hooks.find(handler, "handle_EHLO")
    if hook is not None and is_of_four(hook):
        _deprecated(
            "Use the 5-argument handle_EHLO() hook instead of the 4-argument handle_EHLO() "
            "hook; support for the 4-argument handle_EHLO() hook will be removed in "
            "version 2.0",
            stacklevel=5,
        )


def is_of_four(hook: Any) -> bool:
    """Return True if an EHLO hook has the old form; raise RuntimeError if it has neither."""
    # The function of a method: the cache must not keep the handler.
    function = getattr(hook, "__func__", None)
    if function is None:
        return _has_four(hook, 0)
    try:
        return _remembered(function)
    except TypeError:
        return _has_four(hook, 0)


def _has_four(hook: Any, bound: int) -> bool:
    try:
        parameters = list(inspect.signature(hook).parameters.values())
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return False
    if len(parameters) - bound not in (4, 5):
        raise RuntimeError("Unsupported EHLO Hook")
    return len(parameters) - bound == 4


@lru_cache(maxsize=64)
def _remembered(function: Callable[..., Any]) -> bool:
    return _has_four(function, 1)
