"""How messages, recipients and links are looked for: a piece of text, a glob, a regular expression.

Without imports of ours, so that whoever only names a pattern pays for nothing else.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

Pattern = str | re.Pattern[str]
"""A string, compared in any case, in which ``*``, ``?`` and ``[...]`` may stand for others; or a
compiled regular expression, which is searched."""


def found(pattern: Pattern, text: str) -> bool:
    """Return whether *pattern* is a piece of *text*, or a glob for one."""
    if not isinstance(pattern, str):
        return pattern.search(text) is not None
    folded = pattern.casefold()
    return folded in text.casefold() or fnmatchcase(text.casefold(), f"*{folded}*")


def is_address(pattern: Pattern, address: str) -> bool:
    """Return whether *pattern* is this mail address, or a glob for it."""
    if not isinstance(pattern, str):
        return pattern.search(address) is not None
    folded = pattern.casefold()
    return folded == address.casefold() or fnmatchcase(address.casefold(), folded)


def spelt(pattern: Pattern) -> str:
    """Return a pattern as its author wrote it."""
    return repr(pattern) if isinstance(pattern, str) else f"/{pattern.pattern}/"
