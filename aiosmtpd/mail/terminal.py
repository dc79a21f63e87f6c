"""Print untrusted text on a terminal: escape control characters, wrap, use colours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from shutil import get_terminal_size
from typing import Any, NamedTuple, TextIO

from aiosmtpd.mail.builder import TextBuilder

# Emoji and some scripts need the two joiners, which Python does not count as printable.
_UNSAFE = re.compile(r"[^\n -~\u200c\u200d]")

_PIECE = 1000
"""Characters that are escaped at once."""

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

    def rule(self) -> str:
        """Return a horizontal line."""
        line = "─" if self.unicode else "-"
        return self.dim(line * max(self.columns or 72, 4))

    def wrapped(self, text: str, indent: int = 0) -> Iterator[str]:
        """Yield the lines of *text*, wrapped at blanks only: a link stays whole, to be copied."""
        width = max(self.columns - indent, 10)
        position = 0
        while self.columns and position <= len(text):
            end = text.find("\n", position)
            end = len(text) if end < 0 else end
            yield from _wrapped(text, position, end, width)
            position = end + 1
        if not self.columns:
            yield text


def _wrapped(text: str, position: int, end: int, width: int) -> Iterator[str]:
    """Yield a line of *text* in pieces of *width* columns, if it has blanks."""
    if end - position <= width:
        yield text[position:end]
        return
    while end - position > width:
        cut = text.rfind(" ", position, position + width + 1)
        if cut < 0:
            cut = text.find(" ", position + width, end)
        if cut < 0:
            break
        if piece := text[position:cut].rstrip(" "):
            yield piece
        position = cut
        while text.startswith(" ", position, end):
            position += 1
    if rest := text[position:end].rstrip(" "):
        yield rest


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
    text = text.expandtabs(4).replace("\r\n", "\n")
    if len(text) <= _PIECE:
        return _UNSAFE.sub(_of_match, text)
    made = TextBuilder()
    for begin in range(0, len(text), _PIECE):
        piece = text[begin : begin + _PIECE]
        # A regular expression would need a string for each letter that is not ASCII.
        is_safe = piece.replace("\n", "").isprintable()
        made.add(piece if is_safe else _UNSAFE.sub(_of_match, piece))
    return made.text()


def safe_line(text: str) -> str:
    """Return *text* as one line, escaped like :func:`safe`."""
    return safe(" ".join(text.splitlines()))


def json_line(value: Any) -> str:
    """Return a value as JSON in one line of ASCII."""
    import json  # seldom needed

    # DEL is the one control character that JSON does not escape.
    return json.dumps(value).replace("\x7f", "\\u007f")


def _of_match(match: re.Match[str]) -> str:
    return _escaped(match[0])


@lru_cache(1000)
def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace() and character not in "\v\f\x1c\x1d\x1e\x1f\r\x85\u2028\u2029":
        return " "
    return character.encode("unicode_escape").decode()
