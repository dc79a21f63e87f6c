"""What a version 2.0 would delete: the deprecated forms of 1.4, in one place."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiosmtpd.engine import hooks
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.session import MISSING

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP

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


def _deprecated(text: str) -> None:
    warnings.warn(text, DeprecationWarning, stacklevel=5)


class Legacy:
    """The deprecated forms that one server and its handler use; none, as a rule."""

    __slots__ = ("_ehlo_of_four", "_process_message")

    def __init__(self, process_message: Callable[..., Any] | None, ehlo_of_four: bool) -> None:
        self._process_message = process_message
        self._ehlo_of_four = ehlo_of_four

    # It does not keep the server, which keeps it: only the garbage collector would free them.

    async def ehlo_hook(self, server: SMTP) -> None:
        """Run a subclass's ``ehlo_hook``."""
        if hasattr(server, "ehlo_hook"):
            await server.ehlo_hook()

    async def rset_hook(self, server: SMTP) -> None:
        """Run a subclass's ``rset_hook``."""
        if hasattr(server, "rset_hook"):
            await server.rset_hook()

    async def ehlo_lines(self, server: SMTP, hostname: str, lines: list[str]) -> list[str]:
        """Return the lines to send to EHLO: those of the handler's hook, if it has one."""
        if self._ehlo_of_four:
            for line in lines[:-1]:
                await server.push(line)
            status = await server._call_handler_hook("EHLO", hostname)
            if status is MISSING:
                server.session.host_name = hostname
                return lines[-1:]
            return [replies.from_hook(status)]
        is_hooked = hooks.find(server.event_handler, "handle_EHLO") is not None
        if not is_hooked:
            server.session.host_name = hostname
        answer = await server._call_handler_hook("EHLO", hostname, lines)
        if answer is MISSING and not is_hooked:
            return lines
        if not isinstance(answer, list | tuple) or not answer:
            raise TypeError("handle_EHLO returned no list of reply lines")
        return replies.lines_from_hook(answer)

    async def process_message(self, server: SMTP) -> Any:
        """Hand the message to a handler of before 1.0; MISSING where there is none."""
        if self._process_message is None:
            return MISSING
        status = await hooks.call(
            server.event_handler,
            self._process_message,
            server.session.peer,
            server.envelope.mail_from,
            server.envelope.rcpt_tos,
            server.envelope.content,
        )
        return MISSING if status is None else status


_NONE = Legacy(None, False)


def legacy_of(server: SMTP) -> Legacy:
    """Return the deprecated forms that *server* and its handler use, and warn of them."""
    handler = server.event_handler
    if hasattr(server, "ehlo_hook"):
        _deprecated("Use handler.handle_EHLO() instead of .ehlo_hook()")
    if hasattr(server, "rset_hook"):
        _deprecated("Use handler.handle_RSET() instead of .rset_hook()")
    process_message = None
    if hooks.find(handler, "handle_DATA") is None:
        process_message = hooks.find(handler, "process_message")
        if process_message is not None:
            _deprecated("Use handler.handle_DATA() instead of .process_message()")
    hook = hooks.find(handler, "handle_EHLO")
    ehlo_of_four = hook is not None and _is_of_four(hook)
    if ehlo_of_four:
        _deprecated(
            "Use the 5-argument handle_EHLO() hook instead of the 4-argument handle_EHLO() "
            "hook; support for the 4-argument handle_EHLO() hook will be removed in "
            "version 2.0"
        )
    if process_message is None and not ehlo_of_four:
        # One for all, for it would be in each idle connection.
        return _NONE
    return Legacy(process_message, ehlo_of_four)


def _is_of_four(hook: Any) -> bool:
    """Tell whether an EHLO hook has the old form; raises RuntimeError where it has neither."""
    try:
        parameters = list(inspect.signature(hook).parameters.values())
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return False
    if len(parameters) not in (4, 5):
        raise RuntimeError("Unsupported EHLO Hook")
    return len(parameters) == 4
