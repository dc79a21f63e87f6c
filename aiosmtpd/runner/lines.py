"""The lines of the keys in a TOML file that :mod:`tomllib` has read without an error."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The names of tables and keys from the top; a number, from 0 on, is a place in a list."""

_SPACE = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}\n#]*")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def lines_of(text: str) -> Mapping[Path, int]:
    """Return the line, from 1 on, at which each table, key and item of a list begins."""
    scanner = _Scanner(text)
    scanner.run()
    return scanner.lines


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """Return the line of a key, or that of the nearest table around it."""
    for length in range(len(path), 0, -1):
        if (line := lines.get(path[:length])) is not None:
            return line
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._position = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._counts: dict[Path, int] = {}

    def run(self) -> None:
        table: Path = ()
        while True:
            self._skip(_SPACE_AND_COMMENTS)
            if self._position >= len(self._text):
                return
            if self._text.startswith("[", self._position):
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._position)
        if found is None:
            raise ValueError(f"not TOML at character {self._position}")
        self._position = found.end()
        return found[0]

    def _note(self, path: Path) -> None:
        line = bisect_right(self._starts, self._position)
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _header(self) -> Path:
        is_list = self._text.startswith("[[", self._position)
        self._position += 2 if is_list else 1
        start, keys = self._position, self._keys()
        path: Path = ()
        for number, name in enumerate(keys, 1):
            path += (name,)
            if is_list and number == len(keys):
                self._counts[path] = self._counts.get(path, 0) + 1
            if path in self._counts:
                path += (self._counts[path] - 1,)
        end, self._position = self._position, start
        self._note(path)
        self._position = end + (2 if is_list else 1)
        return path

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self._text[self._position] in "\"'":
                keys.append(_unquoted(self._skip(_STRING)))
            else:
                keys.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if not self._text.startswith(".", self._position):
                return keys
            self._position += 1

    def _pair(self, table: Path) -> None:
        start = self._position
        path = (*table, *self._keys())
        end, self._position = self._position, start
        self._note(path)
        self._position = end + 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        first = self._text[self._position]
        if first in "\"'":
            self._skip(_STRING)
        elif first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _list(self, path: Path) -> None:
        self._position += 1
        number = 0
        while True:
            self._skip(_SPACE_AND_COMMENTS)
            if self._text[self._position] in ",]":
                self._position += 1
                if self._text[self._position - 1] == "]":
                    return
                continue
            self._note((*path, number))
            self._value((*path, number))
            number += 1

    def _inline_table(self, path: Path) -> None:
        self._position += 1
        while True:
            self._skip(_SPACE_AND_COMMENTS)
            if self._text[self._position] in ",}":
                self._position += 1
                if self._text[self._position - 1] == "}":
                    return
                continue
            self._pair(path)


def _unquoted(key: str) -> str:
    if key.startswith("'"):
        return key[1:-1]

    def character(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)

    return _ESCAPE.sub(character, key[1:-1])
