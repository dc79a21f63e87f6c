"""Retention: how many messages the store keeps, and how it says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from attrs import evolve, frozen
from public import public

_SIZE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,3}))?\s*([KMGT])(?:i?B)?", re.IGNORECASE)
_AGE = re.compile(r"([0-9]{1,7})\s*([smhdw])")
_COUNT = re.compile(r"[0-9]{1,12}")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@public
@frozen
class Keep:
    """The messages that the store keeps; None means without limit. The oldest are removed first.

    *count* is a number of messages, *size* is in bytes of their sources, *age* in seconds. Raises
    ValueError for a limit that is not positive. The newest message stays, however large it is.
    """

    count: int | None = 5000
    size: int | None = 1 << 30
    age: float | None = None

    def __attrs_post_init__(self) -> None:
        for limit in self.count, self.size, self.age:
            if limit is not None and limit <= 0:
                raise ValueError(f"a limit is to be positive, not {limit}")

    def __str__(self) -> str:
        """Return the limits as :func:`parse_keep` reads them, such as ``5000,1G,30d``."""
        limits = []
        if self.count is not None:
            limits.append(str(self.count))
        if self.size is not None:
            limits.append(_size(self.size))
        if self.age is not None:
            limits.append(_age(self.age))
        return ",".join(limits) or "all"

    def describe(self) -> str:
        """Return the limits for people, such as ``at most 5,000 messages, 1G, 30d``."""
        others = evolve(self, count=None)
        limits = [] if self.count is None else [f"{self.count:,} messages"]
        if others != Keep(None, None, None):
            limits += str(others).split(",")
        return f"at most {', '.join(limits)}" if limits else "without limit"


@public
def parse_keep(text: str) -> Keep:
    """Return the limits of ``COUNT,SIZE,AGE``, such as ``5000,1G,30d``, in any order.

    A limit that is left out does not apply; ``all`` has none. A SIZE has a unit K, M, G or T (of
    1024), an AGE has s, m, h, d or w: ``3M`` is a size, and ``3m`` an age. Raises ValueError with a
    text of one line.
    """
    found: dict[str, float] = {}
    words = [word.strip() for word in text.split(",")]
    for word in words if text.strip().lower() != "all" else []:
        if _COUNT.fullmatch(word):
            name, value = "count", float(word)
        elif age := _AGE.fullmatch(word):
            name, value = "age", float(age[1]) * _SECONDS[age[2]]
        elif size := _SIZE.fullmatch(word):
            name, value = "size", float(f"{size[1]}.{size[2] or 0}") * _UNITS[size[3].upper()]
        else:
            raise ValueError(f"{word!r:.40} is not a limit: write COUNT,SIZE,AGE, as 5000,1G,30d")
        if name in found:
            raise ValueError(f"two limits of {name}: write COUNT,SIZE,AGE, as 5000,1G,30d")
        if value < 1:
            raise ValueError(f"the limit {word!r:.40} keeps nothing: write 1 or more")
        found[name] = value
    count, size_limit = found.get("count"), found.get("size")
    return Keep(
        None if count is None else int(count),
        None if size_limit is None else int(size_limit),
        found.get("age"),
    )


def _size(size: int) -> str:
    for unit in "TGMK":
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return f"{size / 1024:.3f}".rstrip("0").rstrip(".") + "K"


def _age(age: float) -> str:
    for unit in "wdhm":
        if age % _SECONDS[unit] == 0:
            return f"{age / _SECONDS[unit]:.0f}{unit}"
    return f"{age:.0f}s"


class Oldest(NamedTuple):
    """One of the oldest messages, as retention looks at it."""

    n: int
    size: int
    created: float
    """Seconds since 1970."""


def superfluous(
    keep: Keep, oldest: Sequence[Oldest], *, total: int, size: int, now: float
) -> tuple[list[int], str]:
    """Return the numbers of the messages to remove, and the limit that asks for it.

    *oldest* are the oldest messages in their order; *total* and *size* are those of all.
    """
    removed: list[int] = []
    limit = ""
    for one in oldest:
        if keep.count is not None and total > keep.count:
            why = str(keep.count)
        elif keep.size is not None and size > keep.size:
            why = _size(keep.size)
        elif keep.age is not None and one.created < now - keep.age:
            why = _age(keep.age)
        else:
            break
        if total <= 1 or why != (limit or why):
            break
        limit = why
        removed.append(one.n)
        total -= 1
        size -= one.size
    return removed, limit
