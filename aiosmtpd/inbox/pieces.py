"""Work on long texts in pieces: one call of a C function would stop all other threads."""

from __future__ import annotations

import re
from collections.abc import Iterator

PIECE = 1 << 18
"""Characters or bytes of a piece."""

_LONGEST_MATCH = 1000
"""Characters of the longest match that :func:`search` finds for certain."""


def replace_tags(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    """Return ``pattern.sub()`` of a text, for a pattern whose matches have one ``<``, in front."""
    return "".join(pattern.sub(replacement, piece) for piece in _cut_at_tags(text))


def _cut_at_tags(text: str) -> Iterator[str]:
    begin = 0
    while begin < len(text):
        end = text.find("<", begin + PIECE)
        end = len(text) if end < 0 else end
        yield text[begin:end]
        begin = end


def search(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the first match in a text."""
    begin = 0
    while begin < len(text):
        end = begin + PIECE
        found = pattern.search(text, begin, end + _LONGEST_MATCH)
        if found is None or found.start() >= end:
            begin = end
        elif certain := pattern.match(text, found.start()):
            return certain
        else:
            # It was one at the end of the piece only.
            begin = found.start() + 1
    return None


def tag_pieces(text: str) -> Iterator[str]:
    """Yield the pieces of a text; each but the first begins with ``<``."""
    return _cut_at_tags(text)
