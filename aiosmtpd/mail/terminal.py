"""Text that strangers wrote, made fit for a terminal."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from shutil import get_terminal_size
from typing import NamedTuple, TextIO

# Joiners, which emoji and some scripts are written with, are no printable characters for Python.
_UNSAFE = re.compile(r"[^\n -~\u200c\u200d]")

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Terminal(NamedTuple):
    """What a stream can show: columns to wrap at (0: do not), colours, letters beyond ASCII."""

    columns: int = 0
    colours: bool = False
    unicode: bool = False

    def bold(self, text: str) -> str:
        """Return the text in bold, where there are colours."""
        return f"{_BOLD}{text}{_PLAIN}" if self.colours and text else text

    def dim(self, text: str) -> str:
        """Return the text dimmed, where there are colours."""
        return f"{_DIM}{text}{_PLAIN}" if self.colours and text else text

    def rule(self, title: str = "") -> str:
        """Return a line across."""
        line = "─" if self.unicode else "-"
        return self.dim(line * 2 + title + line * max((self.columns or 72) - len(title) - 2, 2))

    def wrapped(self, text: str, indent: int = 0) -> Iterator[str]:
        """Cut lines at blanks; what has none, such as a link, stays whole to be copied."""
        for line in text.split("\n"):
            if len(line) <= self.columns - indent or not self.columns:
                yield line
            else:
                yield from textwrap.wrap(
                    line,
                    max(self.columns - indent, 10),
                    break_long_words=False,
                    break_on_hyphens=False,
                    replace_whitespace=False,
                )


def terminal_of(stream: TextIO) -> Terminal:
    """Return what this stream can show: colours and wrapped lines on a terminal alone."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    unicode = encoding.replace("-", "").replace("_", "") == "utf8"
    if not stream.isatty():
        return Terminal(unicode=unicode)
    colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Terminal(get_terminal_size().columns, colours, unicode)


def safe(text: str) -> str:
    r"""Escape what would move the cursor, turn the text around or hide something: ``\x1b``.

    Line ends stay, tabs become blanks.
    """
    return _UNSAFE.sub(_escaped, text.expandtabs(4).replace("\r\n", "\n"))


def safe_line(text: str) -> str:
    """Do what :func:`safe` does, to one line."""
    return safe(" ".join(text.splitlines()))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    if character.isspace() and character not in "\v\f\x1c\x1d\x1e\x1f\r\x85\u2028\u2029":
        return " "
    return character.encode("unicode_escape").decode()
