"""``aiosmtpd inbox``: a mail catcher with a page in the browser and an API.

``inbox_app`` and ``WebOptions`` need the extra ``inbox``. The others are in the base install.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiosmtpd.inbox.app import inbox_app as inbox_app
    from aiosmtpd.inbox.intake import Intake as Intake
    from aiosmtpd.inbox.keep import Keep as Keep, parse_keep as parse_keep
    from aiosmtpd.inbox.services import WebOptions as WebOptions
    from aiosmtpd.inbox.store import Store as Store

_MODULES = {
    "aiosmtpd.inbox.app": "inbox_app",
    "aiosmtpd.inbox.intake": "Intake",
    "aiosmtpd.inbox.keep": "Keep parse_keep",
    "aiosmtpd.inbox.services": "WebOptions",
    "aiosmtpd.inbox.store": "Store",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


if not TYPE_CHECKING:
    __all__ = sorted(_HOMES)

    # Imported on access: the store needs nothing of the page.

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
