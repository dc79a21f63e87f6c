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
    number = (time.time_ns() // 1000 << 5 * _RANDOM) | random.getrandbits(5 * _RANDOM)
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]
_SHIFTS = range(5 * (_TIME + _RANDOM - 2), -1, -10)
