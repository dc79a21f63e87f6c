"""Build a text from very many pieces."""

from __future__ import annotations

_MOST_PIECES = 5000
_MOST_CHARACTERS = 1 << 16
"""Pieces, and characters of them, that wait before they are joined."""


class TextBuilder:
    """Joins pieces now and then, and needs little more memory than their text.

    A list of small pieces, or ``io.StringIO``, may need ten times as much, and joining all at the
    end twice as much.
    """

    def __init__(self) -> None:
        self._text = ""
        self._chunks: list[str] = []
        self._chunks_size = 0
        self._pieces: list[str] = []
        self._pieces_size = 0

    def add(self, piece: str) -> None:
        """Add a piece at the end."""
        self._pieces.append(piece)
        self._pieces_size += len(piece)
        if self._pieces_size >= _MOST_CHARACTERS or len(self._pieces) >= _MOST_PIECES:
            self._pack()

    def _pack(self) -> None:
        self._chunks.append("".join(self._pieces))
        self._pieces.clear()
        self._chunks_size += self._pieces_size
        self._pieces_size = 0
        # Each time the text grows by an eighth, so that its copies take linear time.
        if self._chunks_size * 8 >= len(self._text):
            self._merge()

    def _merge(self) -> None:
        text, self._text = self._text, ""
        # A local name with the only reference: Python resizes the string in place.
        text += "".join(self._chunks)
        self._text = text
        self._chunks.clear()
        self._chunks_size = 0

    def text(self) -> str:
        """Return all pieces as one text, and forget them."""
        self._pack()
        self._merge()
        text, self._text = self._text, ""
        return text
