"""Describe how a message differs from the expected one, for people to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import ndiff
from typing import Any


def differences(name: str, found: Any, expected: Any) -> Iterator[str]:
    """Yield lines that say how *found* differs from *expected*; none if it does not.

    A compiled regular expression is searched for, any other *expected* compared for equality.
    """
    if isinstance(expected, re.Pattern):
        if expected.search(found) is None:
            yield f"{name} has no /{expected.pattern}/ in it:"
            yield from (f"    {line}" for line in found.splitlines() or ["(nothing)"])
    elif found != expected:
        if not (isinstance(found, str) and isinstance(expected, str) and "\n" in found + expected):
            yield f"{name} is {found!r}, not {expected!r}"
            return
        yield f"{name} differs; - marks expected lines, + marks received lines:"
        yield from (f"    {line}" for line in _compared(expected, found))


def _compared(expected: str, found: str) -> Iterator[str]:
    # Lines are spelt as in Python, so that a missing blank or line end is visible.
    return (line.rstrip() for line in ndiff(_lines(expected), _lines(found)))


def _lines(text: str) -> list[str]:
    return [repr(line)[1:-1] for line in text.splitlines(keepends=True)]
