"""The kinds of values in a configuration file: how each is written, read and described."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from aiosmtpd.delivery.schedule import seconds
from aiosmtpd.protocol import networks

_SIZE = re.compile(r"(?ai)([0-9]{1,15})([kmgt]?)(?:i?b)?")
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_WHOLE = re.compile(r"(?a)-?[0-9]{1,15}")
_NAME = re.compile("[!-~]{1,255}")


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of value.

    *wanted* describes a good value: it stands in errors and in the documentation. *read* returns
    the value that a value of TOML means. *from_text* returns the TOML value for a text of the
    environment; None if there is none. Both raise ValueError; its text, if any, is more exact than
    *wanted*. *table* is the class of a table, or of each table in a list if *many* is True; *words*
    are values that may stand in place of a table. A path (*is_path*) is relative to the folder of
    the file.
    """

    wanted: str
    read: Callable[[Any], Any]
    from_text: Callable[[str], Any] | None = None
    table: type[Any] | None = None
    many: bool = False
    words: Mapping[str, Any] = attrs.field(factory=dict)
    is_path: bool = False


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _flag_of(text: str) -> Any:
    word = text.strip().lower()
    return word in _TRUE if word in _TRUE | _FALSE else text


def number_of(text: str) -> Any:
    """Return the number that a text is, or the text."""
    return int(text) if _WHOLE.fullmatch(text.strip()) else text


def _many_of(text: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text) if word]


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError
    return int(found[1]) << _UNITS[found[2].lower()]


def _seconds(value: Any) -> float:
    try:
        return seconds(value)
    except ValueError:
        # Its text has no "wanted".
        raise ValueError from None


def _pause(value: Any) -> float:
    found = _seconds(value)
    if not found or not math.isfinite(found):
        raise ValueError
    return found


def _hostname(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError
    return value


def _account(value: Any) -> str:
    text = _text(value)
    if not text.isprintable() or any(mark in text for mark in "/:%"):
        raise ValueError
    return text


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise ValueError
    return tuple(map(_text, texts))


def _networks(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise ValueError
    for text in texts:
        try:
            networks.parse(_text(text))
        except ValueError as error:
            if isinstance(text, str) and "has host bits set" in str(error):
                raise ValueError(
                    f"a network ends in zeros, such as 10.0.0.0/8, not {text!r}"
                ) from None
            raise ValueError from None
    return tuple(texts)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError
    return dict(value)


TEXT = Kind(wanted="a text", read=_text, from_text=str)
PATH = Kind(wanted="the path of a file or folder", read=_text, from_text=str, is_path=True)
HOST_NAME = Kind(wanted='a host name such as "mx.example.org"', read=_hostname, from_text=str)
ACCOUNT = Kind(wanted='a name such as "mail"', read=_account, from_text=str)
FLAG = Kind(wanted="true or false", read=_flag, from_text=_flag_of)
SIZE = Kind(wanted='a size such as "500K", "25M" or "1G"', read=_size, from_text=str)
SECONDS = Kind(wanted='a time such as "30s", "5m", "2h" or "5d"', read=_seconds, from_text=str)
PAUSE = Kind(wanted='a time above 0, such as "30s", "5m", "2h" or "5d"', read=_pause, from_text=str)
TEXTS = Kind(wanted="a text or a list of texts", read=_texts, from_text=_many_of)
NETWORKS = Kind(
    wanted='a list of networks such as ["10.0.0.0/8", "2001:db8::/32"]',
    read=_networks,
    from_text=_many_of,
)
MAPPING = Kind(wanted="a table of names and values", read=_mapping)


def count(low: int = 0, high: int = 10**9) -> Kind:
    """Return the kind of a whole number from *low* to *high*."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    upper = f" to {high}" if high < 10**9 else " on"
    return Kind(wanted=f"a whole number from {low}{upper}", read=read, from_text=number_of)


def _fraction(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not low <= value <= high:
            raise ValueError
        return float(value)

    return read


FACTOR = Kind(wanted="a number from 1 to 1000", read=_fraction(1, 1000))
SHARE = Kind(wanted="a number from 0 to 1", read=_fraction(0, 1))
LIMIT = attrs.evolve(count(), wanted="a whole number; 0 for no limit")


def choice(*words: str) -> Kind:
    """Return the kind of one of some words."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    *first, last = (f'"{word}"' for word in words)
    wanted = f"{', '.join(first)} or {last}" if first else last
    return Kind(wanted=wanted, read=read, from_text=str)


def table(cls: type[Any], wanted: str = "a table", **words: Any) -> Kind:
    """Return the kind of a table with the keys of an attrs class, or one of some words."""
    return Kind(wanted=wanted, read=_mapping, table=cls, words=words)


def tables(cls: type[Any], wanted: str) -> Kind:
    """Return the kind of a list of tables with the keys of an attrs class."""
    return Kind(wanted=wanted, read=list, table=cls, many=True)


def spell_size(size: int) -> int | str:
    """Return a size as a file writes it."""
    for unit, shift in ("T", 40), ("G", 30), ("M", 20), ("K", 10):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return size


def spell_seconds(time: float) -> float | str:
    """Return a time as a file writes it."""
    for unit, length in ("d", 86400), ("h", 3600), ("m", 60), ("s", 1):
        if time and time % length == 0:
            return f"{int(time) // length}{unit}"
    return time


def setting(kind: Kind, text: str, example: Any, default: Any = attrs.NOTHING) -> Any:
    """Return the attrs field of a key; *text* is one sentence about it."""
    return attrs.field(default=default, metadata={"kind": kind, "help": text, "example": example})


def kind_of(field: attrs.Attribute[Any]) -> Kind | None:
    """Return the kind of a field, or None for a field that a file cannot set."""
    kind = field.metadata.get("kind")
    return kind if isinstance(kind, Kind) else None


def keys_of(cls: type[Any]) -> Mapping[str, attrs.Attribute[Any]]:
    """Return the fields of a class that are keys of the file, by name."""
    return {field.name: field for field in attrs.fields(cls) if kind_of(field) is not None}
