"""Helpers for the tests of programs that use the library, or that send mail to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiosmtpd.testing.inbox import Inbox, NoMessage

__all__ = ["Inbox", "NoMessage"]


if not TYPE_CHECKING:
    # The plugin for pytest is imported in every run, of programs that never use it too.

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from aiosmtpd.testing import inbox

        return getattr(inbox, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
