"""Helpers for the tests of programs that use this library or that send mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiosmtpd.testing.inbox import Inbox, NoMessage

__all__ = ["Inbox", "NoMessage"]


if not TYPE_CHECKING:
    # Imported on access: pytest imports the plugin in each run, even if no test uses it.

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from aiosmtpd.testing import inbox

        return getattr(inbox, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
