"""Helpers for the tests of programs that use this library or that send mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiosmtpd.mail.message import DecodedMail as DecodedMail
    from aiosmtpd.mail.mime import Attachment as Attachment, Headers as Headers
    from aiosmtpd.testing.inbox import (
        Inbox as Inbox,
        InboxKeywords as InboxKeywords,
        NoMessage as NoMessage,
        StartsInbox as StartsInbox,
    )
    from aiosmtpd.testing.outlets import check_outlet as check_outlet
    from aiosmtpd.testing.plugin import smtp_options as smtp_options

_MODULES = {
    "aiosmtpd.mail.message": "DecodedMail",
    "aiosmtpd.mail.mime": "Attachment Headers",
    "aiosmtpd.testing.inbox": "Inbox InboxKeywords NoMessage StartsInbox",
    "aiosmtpd.testing.outlets": "check_outlet",
    "aiosmtpd.testing.plugin": "smtp_options",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


if not TYPE_CHECKING:
    __all__ = sorted(_HOMES)

    # Imported on access: pytest imports the plugin in each run, even if no test uses it.

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
