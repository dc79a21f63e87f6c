"""The bytes of a message, in memory or in a file, and a search that reads them in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

PIECE = 1 << 18
"""Bytes that are read at once from a file, and decoded at once."""


LONGEST_MATCH = 2000
"""Bytes that a pattern may match."""


class Source(Protocol):
    """Mail data that can be read from any position; ``Stored`` of the protocol is one, too."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    def read_at(self, position: int, size: int) -> bytes:
        """Return *size* bytes from *position* on, fewer at the end."""


class InMemory:
    """A message that is bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read_at(self, position: int, size: int) -> bytes:
        """Return a slice of the message."""
        return self.content[position : position + size]

    def view_at(self, position: int, size: int) -> memoryview:
        """Return a slice of the message that shares its memory."""
        return memoryview(self.content)[position : position + size]


class InFile:
    """A message in a file: *open* returns a new reader, so that several threads may read."""

    def __init__(self, open: Callable[[], BinaryIO]) -> None:
        self._open = open
        with open() as file:
            self.size = file.seek(0, 2)

    def read_at(self, position: int, size: int) -> bytes:
        """Read a part of the file."""
        with self._open() as file:
            file.seek(position)
            return file.read(size)


def pieces(source: Source, position: int, size: int) -> Iterator[bytes]:
    """Yield the bytes of a range of *source* in pieces."""
    end = position + size
    for begin in range(position, end, PIECE):
        yield source.read_at(begin, min(PIECE, end - begin))


class Searcher:
    """Searches a source for lines from front to back; of a file, it keeps one piece in memory.

    A pattern must match ``LONGEST_MATCH`` bytes at most.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._begin = 0
        self._piece = source.content if isinstance(source, InMemory) else b""

    def search(self, pattern: re.Pattern[bytes], position: int) -> tuple[int, bytes] | None:
        """Return the position and the bytes of the first match from *position* on, or None."""
        while position < self._source.size:
            self._load(position)
            end = self._begin + len(self._piece)
            match = pattern.search(self._piece, position - self._begin)
            if match is not None and (match.end() < len(self._piece) or end >= self._source.size):
                return self._begin + match.start(), match[0]
            if end >= self._source.size:
                return None
            # The end of the piece may have cut a match.
            position = self._begin + match.start() if match else max(position, end - LONGEST_MATCH)
            self._begin, self._piece = position, self._source.read_at(position, PIECE)
        return None

    def _load(self, position: int) -> None:
        if not self._begin <= position < self._begin + len(self._piece):
            self._begin, self._piece = position, self._source.read_at(position, PIECE)
