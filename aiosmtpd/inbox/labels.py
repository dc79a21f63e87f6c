"""Tags of messages: their characters and their sources."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 100
"""Tags of one message."""

LONGEST = 100
"""Characters of a tag."""

_OTHERS = re.compile(r"[^a-zA-Z0-9\-._@ ]+")


def cleaned(text: str) -> str:
    """Return a tag with blanks in place of characters that are not allowed; it may be ``""``."""
    return " ".join(_OTHERS.sub(" ", text[:10_000]).split())[:LONGEST].strip()


def unique(texts: Iterable[str]) -> list[str]:
    """Return cleaned tags, sorted, of those that differ only in case the first."""
    found: dict[str, str] = {}
    for text in texts:
        if (tag := cleaned(text)) and len(found) < MOST:
            found.setdefault(tag.casefold(), tag)
    return ordered(found.values())


def ordered(tags: Iterable[str]) -> list[str]:
    """Sort tags in any case."""
    return sorted(tags, key=lambda tag: (tag.casefold(), tag))


def of_address(address: str) -> list[str]:
    """Return the tags in an address: x and y of ``a+x+y@example.com``."""
    return address.rpartition("@")[0].split("+")[1:]
