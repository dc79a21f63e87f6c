"""The times of the tries of a delivery. Free of asyncio and of clocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs
from public import public

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = r"(?a)([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd]?)"


def seconds(value: float | str, name: str = "") -> float:
    """Return a duration in seconds: a number, or a text such as ``"30s"``, ``"5m"``, ``"2h"``.

    The units are s, m, h and d; a text without a unit is in seconds. Raises ValueError, with *name*
    in front of its text.
    """
    name = f"{name}: " if name else ""
    if isinstance(value, str):
        found = re.fullmatch(_DURATION, value.strip())
        if found is None:
            raise ValueError(f"{name}{value!r} is not a duration such as 30s, 5m, 2h or 5d")
        return float(found[1]) * _UNITS[found[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e10:
        raise ValueError(f"{name}{value!r} is not a duration in seconds")
    return float(value)


def _first(value: float | str) -> float:
    return seconds(value, "first")


def _max(value: float | str) -> float:
    return seconds(value, "max")


def _give_up(value: float | str) -> float:
    return seconds(value, "give_up")


@public
@attrs.frozen(kw_only=True)
class Retry:
    """The times between the tries of a delivery: each is *factor* times the one before.

    *first* is the time after the first try, *max* the longest one. *give_up* is the age of a
    message after which it is not tried again. These three are seconds, or texts such as ``"30s"``,
    ``"5m"``, ``"2h"`` and ``"5d"``. *jitter* is the part of each time, from 0 to 1, by which it may
    be longer or shorter, so that many messages are not tried at the same moment. Raises ValueError.
    """

    first: float = attrs.field(default=5.0, converter=_first)
    factor: float = attrs.field(default=2.0, converter=float)
    max: float = attrs.field(default=3600.0, converter=_max)
    give_up: float = attrs.field(default=5 * 86400.0, converter=_give_up)
    jitter: float = attrs.field(default=0.2, converter=float)

    def __attrs_post_init__(self) -> None:
        if not 0 < self.first <= self.max:
            raise ValueError("retry: first must be more than 0, and at most max")
        if not 1 <= self.factor <= 1000:
            raise ValueError("retry: factor must be from 1 to 1000")
        if not 0 <= self.jitter <= 1:
            raise ValueError("retry: jitter must be from 0 to 1")

    def delay(self, attempt: int) -> float:
        """Return the seconds after a try, without jitter; *attempt* is 1 for the first try."""
        delay = self.first
        for _ in range(attempt - 1):
            if delay >= self.max or self.factor == 1:
                break
            delay *= self.factor
        return min(delay, self.max)

    def jittered(self, delay: float, random: float) -> float:
        """Return *delay* made longer or shorter; *random* is from 0 to 1."""
        return delay * (1 + self.jitter * (2 * random - 1))

    def next_due(
        self, attempt: int, now: float, arrived: float, random: float = 0.5
    ) -> float | None:
        """Return the time of the next try, or None if there is none.

        *attempt* is 1 after the first try, *arrived* the time when the message came, *random* a
        number from 0 to 1. The last try is made when the message has the age of ``give_up``. Times
        are in seconds, of one clock.
        """
        end = arrived + self.give_up
        if now >= end:
            return None
        return min(now + self.jittered(self.delay(attempt), random), end)


PRESETS = {
    "local": Retry(),
    # RFC 5321 section 4.5.4.1: to remote hosts, half an hour between tries, for four to five days.
    "remote": Retry(first="5m", max="4000s"),
}
"""``local`` is for programs and servers of one's own, ``remote`` for servers of others."""

RetryLike: TypeAlias = Retry | str | Mapping[str, Any]
"""The name of a preset, a :class:`Retry`, or its fields."""


def retry_of(value: RetryLike) -> Retry:
    """Return the :class:`Retry` that *value* stands for; raises ValueError."""
    if isinstance(value, Retry):
        return value
    if isinstance(value, str):
        if value not in PRESETS:
            raise ValueError(f"retry: {value!r} is not one of {', '.join(PRESETS)}")
        return PRESETS[value]
    try:
        return Retry(**value)
    except TypeError as error:
        known = ", ".join(field.name for field in attrs.fields(Retry))
        raise ValueError(f"retry: expected some of {known}: {error}") from error
