"""Build a text from very many small pieces."""

from __future__ import annotations

_MOST_PIECES = 5000


class TextBuilder:
    """Joins pieces now and then: a list of them, or ``io.StringIO``, may need ten times as much."""

    def __init__(self) -> None:
        self._joined: list[str] = []
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        """Add a piece at the end."""
        self._pieces.append(piece)
        if len(self._pieces) >= _MOST_PIECES:
            self._joined.append("".join(self._pieces))
            self._pieces.clear()

    def text(self) -> str:
        """Return all pieces as one text."""
        return "".join(self._joined) + "".join(self._pieces)
