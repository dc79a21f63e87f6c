"""The log of ``aiosmtpd serve``: one JSON object in a line, or text, on the standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import attrs

if TYPE_CHECKING:
    from aiosmtpd.runner.tables import Log

EVENTS = "aiosmtpd.events"
"""The name of the logger of events."""

ENGINE = "mail.log"
"""The logger of sessions and deliveries. Its lines at INFO say the same as events."""

TOLD = {"told": True}
"""The *extra* of a line of the master that an event repeats."""

OWN = {"own": True}
"""The *extra* of a line about the addresses of this server, which are never hashed or left out."""

DIGITS = 12
"""Letters of the hash of an address."""

_MARKS = r"\s<>\"'(),;:\[\]"
# Only from the beginning of a word: from each of its characters, a long one would take seconds.
_MAIL = re.compile(rf"(?<![^{_MARKS}])[^{_MARKS}]+@(?:[^{_MARKS}]+|\[[^\[\]\s]*\])")
_HOST = re.compile(
    r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F.]*)"
)

events = logging.getLogger(EVENTS)


@attrs.frozen
class Addresses:
    """Writes addresses as the configuration says: ``plain``, by a ``hash``, or not at all.

    *key* is random: without it, a hash cannot be compared with that of a guessed address.
    """

    mode: str = "plain"
    key: bytes = b""

    def one(self, text: str) -> str | None:
        """Return an address, or None if it is to be left out."""
        if self.mode == "plain" or not text:
            return text
        return self._hash(text) if self.mode == "hash" else None

    def in_text(self, text: str) -> str:
        """Return a text with its addresses of mail and of hosts replaced."""
        if self.mode == "plain":
            return text
        return _HOST.sub(self._replaced, _MAIL.sub(self._replaced, text))

    def _replaced(self, match: re.Match[str]) -> str:
        return self._hash(match[0]) if self.mode == "hash" else "[...]"

    def _hash(self, text: str) -> str:
        from hashlib import blake2b  # with OpenSSL, which the master does without

        return blake2b(text.lower().encode("utf-8", "replace"), key=self.key).hexdigest()[:DIGITS]


class Lines(logging.Formatter):
    """Makes a line of each record; *slot* is that of the worker, None in the master."""

    def __init__(self, slot: int | None, addresses: Addresses, *, as_json: bool) -> None:
        super().__init__()
        self._slot = slot
        self._addresses = addresses
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break in it."""
        fields: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
        }
        fields["ts"] = fields["ts"].replace("+00:00", "Z")
        said = getattr(record, "fields", None)
        fields["event"] = record.getMessage() if said is not None else "log"
        if self._slot is not None:
            fields["slot"] = self._slot
        fields["pid"] = record.process
        if session := getattr(record, "session_id", ""):
            fields["session"] = session
        fields |= self._of_text(record) if said is None else said
        return json.dumps(fields) if self._as_json else _text(fields)

    def _of_text(self, record: logging.LogRecord) -> dict[str, Any]:
        message = record.getMessage()
        if not hasattr(record, "own"):
            message = self._addresses.in_text(message)
        fields = {"logger": record.name, "message": message}
        if record.exc_info:
            fields["error"] = self._addresses.in_text(self.formatException(record.exc_info))
        return fields


def _text(fields: dict[str, Any]) -> str:
    """Return the fields as text: the usual ones first, then ``name=value``."""
    rest = dict(fields)
    words = [rest.pop("ts"), rest.pop("level").upper()]
    if (event := rest.pop("event")) == "log":
        rest.pop("logger")
        error = rest.pop("error", "")
        message = rest.pop("message")
        shown = message if message.isprintable() else json.dumps(message)[1:-1]
        words += [f"[{rest.pop('pid')}]", shown]
        return " ".join([*words, error and json.dumps(error)]).rstrip()
    words += [f"[{rest.pop('pid')}]", event]
    return " ".join([*words, *(f"{name}={json.dumps(value)}" for name, value in rest.items())])


class NotTwice(logging.Filter):
    """Drops lines that say the same as an event, and in text the events of the master."""

    def __init__(self, slot: int | None, *, as_json: bool) -> None:
        super().__init__()
        self._is_worker = slot is not None
        self._as_json = as_json

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for a record that is to be written."""
        if not self._is_worker:
            return not hasattr(record, "told" if self._as_json else "fields")
        is_of_session = record.name == ENGINE and record.levelno == logging.INFO
        return not is_of_session or logging.getLogger().isEnabledFor(logging.DEBUG)


def set_up(
    log: Log, slot: int | None = None, key: bytes = b"", stream: TextIO | None = None
) -> Addresses:
    """Log as the configuration says, by default to the standard error; replaces an earlier log.

    *slot* is that of a worker. *key* is for hashes: with the same one, all workers write the same
    hash of an address. Returns how events are to write addresses.
    """
    addresses = Addresses(log.addresses, key)
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(Lines(slot, addresses, as_json=log.format == "json"))
    handler.addFilter(NotTwice(slot, as_json=log.format == "json"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(log.level)
    return addresses


def set_level(level: str) -> str:
    """Set the lowest level that is logged, such as ``"debug"``; raises ValueError. Return it."""
    number = LEVELS.get(level)
    if number is None:
        raise ValueError(f"a level is one of {', '.join(LEVELS)}, not {level!r}")
    logging.getLogger().setLevel(number)
    return level


LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def event(name: str, level: int = logging.INFO, /, session: str = "", **fields: Any) -> None:
    """Log an event; fields that are None are left out. ``from`` is called *sender* here."""
    if events.isEnabledFor(level):
        found = {
            "from" if key == "sender" else key: value
            for key, value in fields.items()
            if value is not None
        }
        events.log(level, name, extra={"fields": found, "session_id": session})
