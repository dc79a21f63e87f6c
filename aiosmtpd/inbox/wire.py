"""JSON and times as the API writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from aiosmtpd.inbox.pieces import PIECE

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


def dump(value: Any) -> str:
    """Return a value as JSON without blanks. Lone surrogates become U+FFFD."""
    text = _ENCODER.encode(value)
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def dump_pieces(values: dict[str, Any]) -> Iterator[str]:
    """Yield an object as JSON; long texts in it are made in pieces, so that others wait less."""
    mark = "{"
    for name, value in values.items():
        yield f'{mark}"{name}":'
        mark = ","
        if not isinstance(value, str) or len(value) <= PIECE:
            yield dump(value)
            continue
        yield '"'
        for at in range(0, len(value), PIECE):
            yield dump(value[at : at + PIECE])[1:-1]
        yield '"'
    yield "}"


def time(moment: datetime | None, digits: int = 3) -> str:
    """Return a time by RFC 3339 with at most *digits* of a second, or ``""`` for None.

    Zeros at the end of the fraction are left out, and UTC is ``Z``.
    """
    if moment is None:
        return ""
    text = moment.isoformat(timespec="microseconds")
    fraction = text[20:26][:digits].rstrip("0")
    offset = text[26:32]
    zone = "Z" if offset in ("", "+00:00") else offset
    return f"{text[:19]}.{fraction}{zone}" if fraction else text[:19] + zone
