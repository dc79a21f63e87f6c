"""The query language of the inbox: a query becomes conditions of SQL.

A query is words and ``"phrases"``, all of which must match, each with ``-`` or ``!`` before it to
exclude its matches. Operators such as ``from:`` limit a word to one field. Any text is a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple, NoReturn

from attrs import frozen
from public import public

FIELDS = {
    "from": ("sender",),
    "to": ("recipient",),
    "cc": ("cc",),
    "bcc": ("bcc",),
    "reply-to": ("reply_to",),
    "addressed": ("sender", "recipient", "cc", "bcc", "reply_to"),
    "subject": ("subject",),
    "message-id": ("message_id",),
}
"""Operators, and the columns of the table ``field`` in which they search."""

SHORTEST = 3
"""Characters of a word that the trigram index can find."""

_STATES = {
    "is:read": "m.read = 1",
    "is:unread": "m.read = 0",
    "is:tagged": "m.tags <> ''",
    "has:attachment": "m.attachments > 0",
    "has:attachments": "m.attachments > 0",
    "has:inline": "m.inlines > 0",
    "has:inlines": "m.inlines > 0",
}
_VALUES = {
    "before": "2026-11-28",
    "after": "2026-11-28",
    "larger": "500k",
    "smaller": "500k",
}
_NAMES = (*FIELDS, "tag", "is", "has", *_VALUES)
_FILTER = re.compile(r"([A-Za-z][A-Za-z-]*):(?!//)")
_QUOTED = '; text with a colon needs quotation marks: "a:b"'
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|\Z))+')
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(kb?|mb?|b(?:ytes?)?)?", re.IGNORECASE)
_UNITS = {"k": 1 << 10, "m": 1 << 20}

_ROOM = dict.fromkeys([*range(32), *map(ord, '><",;()'), 127], " ")
_FOLDED = bytes(ord(_ROOM.get(byte, chr(byte).lower())) for byte in range(128)) + bytes(128)


def folded(text: str) -> str:
    """Return text as it is searched: case-folded, with single blanks in place of some marks."""
    if not text:
        return ""
    if text.isascii():
        # The fastest way, for nearly all texts.
        return " ".join(text.encode().translate(_FOLDED).decode().split())
    # Lone surrogates cannot be stored.
    text = text.encode("utf-8", "replace").decode().casefold()
    return " ".join(text.casefold().translate(_ROOM).split())


class Term(NamedTuple):
    """One condition of SQL with the values of its question marks."""

    sql: str
    values: tuple[object, ...] = ()


@public
@frozen
class Query:
    """The conditions of a query on the tables ``m`` (msg) and ``f`` (field); all must hold."""

    terms: list[Term]
    """Conditions that need no index."""
    words: list[str]
    """Folded texts that must occur in the search text."""
    unwanted: list[str]
    """Folded texts that must not occur there."""

    @property
    def number(self) -> int:
        """How many conditions there are."""
        return len(self.terms) + len(self.words) + len(self.unwanted)

    @property
    def is_empty(self) -> bool:
        """True if all messages match."""
        return not self.number


@public
def parse(text: str, zone: tzinfo | None = None) -> Query:
    """Return the conditions of a query; *zone* is that of its dates, by default the local one."""
    query = Query([], [], [])
    for word, negated in _words(text):
        operator, colon, value = word.partition(":")
        operator = operator.lower()
        if (state := _STATES.get(word.lower())) is not None:
            query.terms.append(Term(f"not ({state})" if negated else state))
        elif colon and operator in FIELDS:
            _add_field(query, FIELDS[operator], value, negated)
        elif colon and operator == "tag":
            _add_tag(query, value, negated)
        elif colon and operator == "login":
            _add_login(query, value, negated)
        elif colon and operator in ("before", "after"):
            _add_date(query, (operator == "before") is not negated, value, zone)
        elif colon and operator in ("larger", "smaller") and (size := _size(value)):
            sign = ">" if operator == "larger" else "<"
            sql = f"m.size {sign} ?"
            query.terms.append(Term(f"not ({sql})" if negated else sql, (size,)))
        elif (operator not in ("larger", "smaller") or value) and (found := folded(word)):
            (query.unwanted if negated else query.words).append(found)
    return query


class WrongFilter(ValueError):
    """A filter of a query does not exist, or its value cannot be; *hint* says what to write."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def check(text: str, more: Collection[str] = ()) -> None:
    """Raise WrongFilter for a query that :func:`parse` would read in another way than it looks.

    That is for queries which are written once and then used unseen. A search takes an unknown
    filter as text. *more* are filters that are allowed besides. A word with a quotation mark at its
    beginning is text.
    """
    for word in words_of(text):
        bare = word.lstrip("-!") if len(word) > 1 else word
        found = _FILTER.match(bare)
        if found is None or bare.replace('"', "").lower() in more:
            continue
        name, value = found[1].lower(), bare[found.end() :].replace('"', "").strip()
        if name in ("is", "has"):
            _check_state(f"{name}:{value.lower()}", more)
        elif name in _VALUES:
            if not value:
                raise WrongFilter(f"{name}: has no value", f"write {name}:{_VALUES[name]}")
            is_date = name in ("before", "after")
            if not (parse_date(value) if is_date else _size(value)):
                kind = "date" if is_date else "size"
                hint = f"write {name}:{_VALUES[name]}"
                raise WrongFilter(f"{value!r:.60} is not a {kind}", hint)
        elif name not in (*FIELDS, "tag"):
            _complain_of(f"{name}:", [f"{one}:" for one in _NAMES], _QUOTED)
        elif not folded(value):
            raise WrongFilter(f"{name}: has no value", f"write {name}:TEXT")


def _check_state(filter: str, more: Collection[str]) -> None:
    if filter not in _STATES:
        name = filter.partition(":")[0] + ":"
        _complain_of(filter, [one for one in (*_STATES, *more) if one.startswith(name)], "")


def _complain_of(filter: str, known: list[str], more: str) -> NoReturn:
    from difflib import get_close_matches  # seldom needed

    near = get_close_matches(filter, known, 1, 0.5)
    start = f"did you mean {near[0]}? " if near else ""
    raise WrongFilter(
        f"there is no filter {filter:.60}", f"{start}there are {', '.join(known)}{more}"
    )


def words_of(text: str) -> list[str]:
    """Return the words of a query as they are written, each a query of its own."""
    return _WORD.findall(text)


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a query without quotation marks, and True if they are excluded."""
    for match in _WORD.finditer(text):
        word = match[0].replace('"', "").strip()
        if len(word) > 1 and word[0] in "-!":
            yield word[1:], True
        elif word:
            yield word, False


def _add_field(query: Query, columns: tuple[str, ...], value: str, negated: bool) -> None:
    if wanted := folded(value):
        sql = " or ".join(f"instr(f.{column}, ?) > 0" for column in columns)
        sql = f"not ({sql})" if negated else f"({sql})"
        query.terms.append(Term(sql, (wanted,) * len(columns)))


def _add_tag(query: Query, value: str, negated: bool) -> None:
    if name := " ".join(value.split()).casefold():
        sql = "m.n in (select n from tag where name = ?)"
        query.terms.append(Term(f"not ({sql})" if negated else sql, (name,)))


def _add_login(query: Query, value: str, negated: bool) -> None:
    if name := value.strip():
        sql = (
            "m.n in (select n from about where json_extract(row, '$.Username') = ? collate nocase)"
        )
        query.terms.append(Term(f"not ({sql})" if negated else sql, (name,)))


def _add_date(query: Query, before: bool, value: str, zone: tzinfo | None) -> None:
    if (date := parse_date(value, zone)) is not None:
        sign = "<=" if before else ">="
        query.terms.append(Term(f"m.created {sign} ?", (milliseconds(date),)))


def _size(value: str) -> float:
    """Return the bytes that a size names, 0 if it does not name one."""
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        return 0
    return float(found[1]) * _UNITS.get((found[2] or "b")[0].lower(), 1)


# Dates.

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK = (
    r"(?:(?:[T ]|, )(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r" ?(?P<zone>Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}
_SHAPES = [
    re.compile(shape + _CLOCK, re.IGNORECASE)
    for shape in (
        r"(?P<year>[0-9]{4})(?:[-/.](?P<month>[0-9]{1,2})(?:[-/.](?P<day>[0-9]{1,2}))?)?",
        r"(?P<first>[0-9]{1,2})[/.-](?P<then>[0-9]{1,2})[/.-](?P<year>[0-9]{4})",
        r"(?P<name>[a-z]{3,9})\.? (?P<day>[0-9]{1,2})(?:st|nd|rd|th)?,? (?P<year>[0-9]{4})",
        r"(?P<day>[0-9]{1,2})[ -](?P<name>[a-z]{3,9})\.?,?[ -](?P<year>[0-9]{4})",
    )
]
_SECONDS = re.compile(r"[0-9]{9,11}")
_THOUSANDTHS = re.compile(r"[0-9]{12,14}")


@public
def parse_date(text: str, zone: tzinfo | None = None) -> datetime | None:
    """Return the time that a word of a query names, None if it does not name one.

    *zone* is for times that do not name theirs, by default the local zone.
    """
    text = " ".join(text.split())
    try:
        if _SECONDS.fullmatch(text):
            return _EPOCH + timedelta(seconds=int(text))
        if _THOUSANDTHS.fullmatch(text):
            return _EPOCH + timedelta(milliseconds=int(text))
        for shape in _SHAPES:
            if found := shape.fullmatch(text):
                return _moment(found.groupdict(), zone)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _moment(parts: dict[str, str | None], zone: tzinfo | None) -> datetime:
    number: Callable[[str, int], int] = lambda name, default: int(parts.get(name) or default)  # noqa: E731
    month, day = number("month", 1), number("day", 1)
    if name := parts.get("name"):
        month = _MONTHS.get(name[:3].lower(), 0)
    elif parts.get("first"):
        month, day = number("first", 1), number("then", 1)
        if month > 12:
            month, day = day, month
    fraction = (parts.get("fraction") or "").ljust(6, "0")[:6]
    moment = datetime(
        number("year", 1),
        month,
        day,
        number("hour", 0),
        number("minute", 0),
        number("second", 0),
        int(fraction),
        tzinfo=_offset(parts.get("zone"), zone),
    )
    return moment if moment.tzinfo else moment.astimezone()


def _offset(text: str | None, zone: tzinfo | None) -> tzinfo | None:
    if text is None:
        return zone
    if text[0] not in "+-":
        return UTC
    return datetime.strptime(text, "%z").tzinfo


def before(moment: datetime) -> Term:
    """Return the condition that a message came before a time."""
    return Term("m.created < ?", (milliseconds(moment),))


def milliseconds(moment: datetime) -> int:
    """Return a time as the store keeps it: milliseconds since 1970, cut."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
