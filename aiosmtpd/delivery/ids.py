"""Queue ids: short names of messages that grow with time."""

from __future__ import annotations

import random
import re
import time

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
"""The digits of base 32, without letters that are read as digits; ASCII order is their order."""

_TIME, _RANDOM = 11, 7
"""How many letters have the time in microseconds, and how many are random."""

VALID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
"""Ids that may be the name of a file, in logs and in replies."""

OWN = re.compile(f"[{_LETTERS}]{{{_TIME + _RANDOM}}}")
"""Ids that :func:`new_queue_id` has made: there is no second message with one of these."""


def new_queue_id() -> str:
    """Return a new id of 18 letters and digits. A later id sorts after an earlier one."""
    # Not a secret: it need only differ from the ids of the same microsecond.
    now, pairs = time.time_ns() // 1000, _PAIRS
    high, low = now >> 5, (now & 31) << 5 * _RANDOM | random.getrandbits(5 * _RANDOM)
    # A loop, or a number of all 90 bits, would take twice as long.
    return (
        f"{pairs[high >> 40]}{pairs[high >> 30 & 1023]}{pairs[high >> 20 & 1023]}"
        f"{pairs[high >> 10 & 1023]}{pairs[high & 1023]}{pairs[low >> 30]}"
        f"{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
    )


_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]
