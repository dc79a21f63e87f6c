"""SMTP and LMTP servers for asyncio.

The names that most programs need can be imported from here. Each is loaded when it is asked for.

PYTEST_DONT_REWRITE: pytest rewrites the assertions of a package that has a plugin, and would warn
if a program has imported it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosmtpd._version import __version__ as __version__

if TYPE_CHECKING:
    import asyncio

    from aiosmtpd.controller import (
        Controller as Controller,
        UnixSocketController as UnixSocketController,
        UnixSocketUnthreadedController as UnixSocketUnthreadedController,
        UnthreadedController as UnthreadedController,
    )
    from aiosmtpd.engine.callables import (
        Mail as Mail,
    )
    from aiosmtpd.handlers import (
        AsyncMessage as AsyncMessage,
        Debugging as Debugging,
        Handler as Handler,
        Mailbox as Mailbox,
        Message as Message,
        Proxy as Proxy,
        Sink as Sink,
    )
    from aiosmtpd.lmtp import (
        LMTP as LMTP,
    )
    from aiosmtpd.server import (
        Server as Server,
    )
    from aiosmtpd.smtp import (
        ALL as ALL,
        CLASSIC as CLASSIC,
        MISSING as MISSING,
        MODERN as MODERN,
        SMTP as SMTP,
        AuthResult as AuthResult,
        BodyStream as BodyStream,
        DeliverBy as DeliverBy,
        Envelope as Envelope,
        Extension as Extension,
        IncompleteBody as IncompleteBody,
        Limits as Limits,
        LoginPassword as LoginPassword,
        Observer as Observer,
        OriginalRecipient as OriginalRecipient,
        Recipient as Recipient,
        Refused as Refused,
        Reply as Reply,
        Session as Session,
        Settings as Settings,
        SMTPKeywords as SMTPKeywords,
        TLSSetupException as TLSSetupException,
        ValidSince as ValidSince,
        auth_mechanism as auth_mechanism,
        syntax as syntax,
        xclient as xclient,
        xforward as xforward,
    )
    from aiosmtpd.testing import (
        DecodedMail as DecodedMail,
        Inbox as Inbox,
        NoMessage as NoMessage,
    )
    from aiosmtpd.testing.faults import (
        Fault as Fault,
        Faults as Faults,
    )

_MODULES = {
    "controller": (
        "Controller UnixSocketController UnixSocketUnthreadedController UnthreadedController"
    ),
    "engine.callables": "Mail",
    "handlers": "AsyncMessage Debugging Handler Mailbox Message Proxy Sink",
    "lmtp": "LMTP",
    "server": "Server",
    "smtp": (
        "ALL CLASSIC MISSING MODERN SMTP AuthResult BodyStream DeliverBy Envelope Extension "
        "IncompleteBody Limits LoginPassword Observer OriginalRecipient Recipient Refused "
        "Reply SMTPKeywords Session Settings TLSSetupException ValidSince auth_mechanism "
        "syntax xclient xforward"
    ),
    "testing": "DecodedMail Inbox NoMessage",
    "testing.faults": "Fault Faults",
}
"""All public names of this module, by the module that has them."""

_HOMES = {
    name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names.split()
}

if not TYPE_CHECKING:
    __all__ = ["__version__", *sorted(_HOMES)]

    # Type checkers would take it for a promise that every name exists.

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        # Not kept here: if a program's test replaces the name in its module, it counts here too.
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def _get_or_new_eventloop() -> asyncio.AbstractEventLoop:
    """Return this thread's event loop, a new one if need be: a name of 1.4."""
    from aiosmtpd.engine.loops import current_or_new_loop

    return current_or_new_loop()
