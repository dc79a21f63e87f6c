"""SMTP and LMTP servers for asyncio.

The names that most programs need are importable from here, and nothing is imported before one of
them is asked for.

PYTEST_DONT_REWRITE: pytest rewrites the assertions of a package that has a plugin, and would warn
if a program has imported it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosmtpd._version import __version__ as __version__

if TYPE_CHECKING:
    import asyncio

    from aiosmtpd.controller import (
        Controller,
        Server,
        UnixSocketController,
        UnixSocketUnthreadedController,
        UnthreadedController,
    )
    from aiosmtpd.engine.callables import Mail
    from aiosmtpd.handlers import AsyncMessage, Debugging, Handler, Mailbox, Message, Proxy, Sink
    from aiosmtpd.lmtp import LMTP
    from aiosmtpd.smtp import (
        MISSING,
        SMTP,
        AuthResult,
        Envelope,
        LoginPassword,
        Session,
        auth_mechanism,
        syntax,
    )


__all__ = [
    "LMTP",
    "MISSING",
    "SMTP",
    "AsyncMessage",
    "AuthResult",
    "Controller",
    "Debugging",
    "Envelope",
    "Handler",
    "LoginPassword",
    "Mail",
    "Mailbox",
    "Message",
    "Proxy",
    "Server",
    "Session",
    "Sink",
    "UnixSocketController",
    "UnixSocketUnthreadedController",
    "UnthreadedController",
    "__version__",
    "auth_mechanism",
    "syntax",
]

_MODULES = {
    "controller": (
        "Controller",
        "Server",
        "UnixSocketController",
        "UnixSocketUnthreadedController",
        "UnthreadedController",
    ),
    "engine.callables": ("Mail",),
    "handlers": ("AsyncMessage", "Debugging", "Handler", "Mailbox", "Message", "Proxy", "Sink"),
    "lmtp": ("LMTP",),
    "smtp": (
        "MISSING",
        "SMTP",
        "AuthResult",
        "Envelope",
        "LoginPassword",
        "Session",
        "auth_mechanism",
        "syntax",
    ),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:
    # Type checkers would take it for a promise that every name exists.

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        # Not kept here: what a program's test replaces in the module is what everybody gets.
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _get_or_new_eventloop() -> asyncio.AbstractEventLoop:
    """Return this thread's event loop, a new one if need be: a name of 1.4."""
    from aiosmtpd.engine.loops import current_or_new_loop

    return current_or_new_loop()
