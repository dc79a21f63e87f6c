"""The query language of the inbox: a query becomes a condition of SQL."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import NamedTuple

from public import public


@public
class Condition(NamedTuple):
    """A condition of SQL on the table ``msg``, and the values of its question marks."""

    sql: str
    values: tuple[object, ...]


@public
def parse_date(text: str, zone: tzinfo | None = None) -> datetime | None:
    """Return the time that a word of a query names, None if it does not name one.

    *zone* is for times that do not name theirs, by default the local zone.
    """
    raise NotImplementedError
