"""Faults of a configuration file, each in one line: the place, the key, and the wanted value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import attrs

from aiosmtpd.runner.lines import Path

LOGIN = re.compile(r'(?<=://)[^\s"]*@')
"""A user and a password in a URL."""

LONGEST = 60
"""Characters of a value that are shown."""


@attrs.frozen
class Fault:
    """A fault, or a warning, with its place.

    *place* is the file, or the variable of the environment. *line* is None if the key is not in
    the file.
    """

    place: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        parts = [self.place if self.line is None else f"{self.place}:{self.line}"]
        if self.key:
            parts.append(self.key)
        line = ": ".join([*parts, self.text])
        return " ".join("".join(c if c.isprintable() else " " for c in line).split())


class WrongConfiguration(Exception):
    """A file cannot be used; :attr:`faults` has at least one fault.

    :attr:`partial` is the configuration with defaults for the keys that are wrong, or None.
    """

    def __init__(
        self, faults: Iterable[Fault], warnings: Iterable[Fault] = (), partial: Any = None
    ) -> None:
        self.faults = tuple(faults)
        self.warnings = tuple(warnings)
        self.partial = partial
        super().__init__("\n".join(map(str, self.faults)))


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Return faults by their lines; those without a line come last."""
    return sorted(faults, key=lambda one: (one.line is None, one.line or 0))


def spelled(path: Path) -> str:
    """Return a path as people write it: items of lists are counted from 1 on."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in path)


def shown(value: Any) -> str:
    """Return a value as TOML writes it, shortened; tables and logins may have secrets in them."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        return "a list of tables or lists"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = str(value)
    text = LOGIN.sub("***@", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def advice(name: str, known: Iterable[str]) -> str:
    """Return the names that are known, or only the closest one."""
    from difflib import get_close_matches  # seldom needed

    names = list(known)
    near = get_close_matches(name.lower(), names, 1)
    if not near:
        words = {*name.lower().split("_")}
        near = [one for one in names if words <= {*one.split("_")}]
    if near := near or get_close_matches(name.lower(), names, 1, 0.5):
        return f"did you mean {near[0]}?"
    return f"the keys here are {', '.join(names)}"
