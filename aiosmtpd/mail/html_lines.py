"""Write texts and breaks as lines, as the layout of HTML asks for them."""

from __future__ import annotations

import re

_BLANKS = re.compile(r"[ \t\n\f\r]+")
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+|([\ud800-\udfff])")

# Blanks of all widths except the ideographic one, and characters without any width.
_PADDING = re.compile(
    "[ \t\n\f\r\xa0\u2000-\u200a\u202f\u205f\u2800\xad\u034f\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b-\u200d\u2060-\u2064\u206a-\u206f\u3164\ufeff\uffa0]+"
)
_WIDE = re.compile("[ \t\n\f\r\xa0\u2000-\u200a\u202f\u205f\u2800]")
_LINE = re.compile(r"\n[^\n]*+|[^\n]++")
_AT_END = " \t\xa0"
_JOINERS = re.compile("[^\u200c\u200d]+")

_SHORT = 9
"""Pieces, at most, of a short text."""

_MOST_PIECES = 5000
"""Pieces that wait before they are joined."""

_DEEPEST = 40
"""Columns of an indent to which no deeper list or quotation adds."""


def cleaned(text: str) -> str:
    """Return *text* without control characters, and with U+FFFD in place of lone surrogates."""
    return _NO_TEXT.sub(_replaced, text)


def _replaced(match: re.Match[str]) -> str:
    return "\ufffd" if match[1] else ""


def _narrowed(match: re.Match[str]) -> str:
    # Mails fill the preview of mail programs with hundreds of &zwnj;&nbsp;
    run = match[0]
    if _WIDE.search(run):
        return run if len(run) == 1 else " "
    # Joiners between letters or emoji change how these look; other characters are not seen.
    return _JOINERS.sub("", run)


class Lines:
    """Lines of text that grow at their end.

    A blank or a break waits until more text comes. ``number`` counts the lines with text.
    """

    def __init__(self) -> None:
        self.number = 0
        self._pieces: list[str] = []
        # Pieces at the begin that were joined, and by how many they became fewer.
        self._packed = self._gone = 0
        self._breaks = 1
        self._blank = False
        self._new_cell = self._joined = False
        self._rows: list[int] = []
        self._indents: list[str] = [""]
        self._first: str | None = None

    def text(self, text: str) -> None:
        """Write a text in which each run of blanks is one blank."""
        if text.isspace() and text.isascii():
            self._blank = True
            return
        spacer = False
        if not text.isprintable():
            spacer = "\xa0" in text
            text = cleaned(_BLANKS.sub(" ", _PADDING.sub(_narrowed, text)))
        if "  " in text:
            text = _BLANKS.sub(" ", text)
        words = text.strip(" ")
        if words.strip(" \xa0\u200c\u200d"):
            self._blank = self._blank or text[0] == " "
            self._write(words.lstrip("\xa0") if self._breaks else words)
            self._blank = text[-1] == " "
        elif spacer and self._breaks and not self._new_cell:
            # A line of &nbsp; alone is an empty line.
            self._breaks = 2
        elif text:
            self._blank = True

    def preformatted(self, text: str) -> None:
        """Write a text with its blanks and line ends."""
        for found in _LINE.finditer(cleaned(text)):
            line = found[0].removeprefix("\n")
            if line != found[0]:
                self.line_end()
            if line and (not self._breaks or line.strip(_AT_END)):
                self._write(line)

    def _write(self, text: str) -> None:
        if self._breaks:
            if self._pieces:
                self._strip()
                self._pieces.append("\n" * self._breaks)
            self._pieces.append(self._indents[-1] if self._first is None else self._first)
            self._first = None
            self._breaks = 0
            self.number += 1
        elif self._blank:
            self._pieces.append(" ")
        self._blank = self._new_cell = self._joined = False
        self._pieces.append(text)
        if len(self._pieces) > self._packed + _MOST_PIECES:
            self._pack()

    def _pack(self) -> None:
        # Small strings need ten times as much memory as their text.
        pieces = self._pieces[self._packed : -_SHORT]
        self._pieces[self._packed : -_SHORT] = ["".join(pieces)]
        self._packed += 1
        self._gone += len(pieces) - 1

    def line_end(self) -> None:
        """End the line, or write an empty line if it has already ended."""
        self._breaks = min(self._breaks + 1, 2)
        self._joined = False

    def block(self, breaks: int, *, firm: bool = False) -> None:
        """Begin or end a block: the next text begins a line, with *breaks* line ends before it.

        At the begin of a cell that goes on with the line of its row, only a *firm* block does so.
        """
        if breaks > self._breaks and (firm or not self._joined):
            self._breaks = breaks

    def row(self) -> None:
        """Begin a row of a table."""
        self._breaks = max(self._breaks, 1)
        self._rows.append(self.number + 1)

    def row_end(self) -> None:
        """End the row."""
        self._rows.pop()
        self._joined = False
        self._breaks = max(self._breaks, 1)

    def cell(self) -> None:
        """Begin a cell: on the row's line, if the cells before it are a line without breaks."""
        self._new_cell, self._blank = True, True
        if not self._rows or self.number < self._rows[-1]:
            return
        self._joined = self.number == self._rows[-1]
        self._breaks = 0 if self._joined else max(self._breaks, 1)

    def indent(self, first: str | None, others: str) -> None:
        """Indent the next lines by *others*, the first of them by *first* if it is not None."""
        outer = self._indents[-1]
        self._first = None if first is None else outer + first
        self._indents.append(outer + others if len(outer) < _DEEPEST else outer)

    def outdent(self) -> None:
        """End the indent."""
        self._indents.pop()
        self._first = None

    def place(self) -> int:
        """Return a place for :meth:`since`."""
        return self._gone + len(self._pieces)

    def since(self, place: int) -> str:
        """Return a short text since a place; ``""`` if it is long."""
        number = self._gone + len(self._pieces) - place
        return "".join(self._pieces[-number:]).strip() if 0 < number < _SHORT else ""

    def _strip(self) -> None:
        """Drop the blanks at the end of the line."""
        while self._pieces:
            self._pieces[-1] = self._pieces[-1].rstrip(_AT_END)
            if self._pieces[-1]:
                break
            self._pieces.pop()

    def __str__(self) -> str:
        self._strip()
        return "".join(self._pieces)
