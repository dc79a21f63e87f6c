"""Print untrusted text on a terminal: escape control characters, wrap, use colours."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from shutil import get_terminal_size
from typing import NamedTuple, TextIO

# Emoji and some scripts need the two joiners, which Python does not count as printable.
_UNSAFE = re.compile(r"[^\n -~\u200c\u200d]")

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Terminal(NamedTuple):
    """The abilities of a stream: columns to wrap at (0: do not wrap), colours, Unicode."""

    columns: int = 0
    colours: bool = False
    unicode: bool = False

    def bold(self, text: str) -> str:
        """Return the text in bold, if there are colours."""
        return f"{_BOLD}{text}{_PLAIN}" if self.colours and text else text

    def dim(self, text: str) -> str:
        """Return the text dimmed, if there are colours."""
        return f"{_DIM}{text}{_PLAIN}" if self.colours and text else text

    def rule(self, title: str = "") -> str:
        """Return a horizontal line, with *title* in it."""
        line = "─" if self.unicode else "-"
        return self.dim(line * 2 + title + line * max((self.columns or 72) - len(title) - 2, 2))

    def wrapped(self, text: str, indent: int = 0) -> Iterator[str]:
        """Yield the lines of *text*, wrapped at blanks only: a link stays whole, to be copied."""
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
    """Return the abilities of *stream*; only a terminal has colours and wrapped lines."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    unicode = encoding.replace("-", "").replace("_", "") == "utf8"
    if not stream.isatty():
        return Terminal(unicode=unicode)
    colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Terminal(get_terminal_size().columns, colours, unicode)


def safe(text: str) -> str:
    r"""Escape characters that move the cursor, reverse the text or hide a part of it: ``\x1b``.

    Line ends are kept, tabs become blanks.
    """
    return _UNSAFE.sub(_escaped, text.expandtabs(4).replace("\r\n", "\n"))


def safe_line(text: str) -> str:
    """Return *text* as one line, escaped like :func:`safe`."""
    return safe(" ".join(text.splitlines()))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    if character.isspace() and character not in "\v\f\x1c\x1d\x1e\x1f\r\x85\u2028\u2029":
        return " "
    return character.encode("unicode_escape").decode()
