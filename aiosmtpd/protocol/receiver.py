"""Input of a connection: bytes from the wire, cut into command lines.

Each connection has one :class:`Receiver`. Bytes wait in it until the running command takes a line,
mail data or a number of bytes. Input is buffered nowhere else.
"""

from __future__ import annotations

import re

LINE_FLOOD = 65536
"""Bytes of an over-long command line to read and drop before the session ends."""

TLS_HANDSHAKE = b"\x16"
"""First byte from a TLS client (RFC 8446 section 5.1); no command begins with it."""

AUTH_LINE = 12288
"""Limit, in bytes, of an AUTH command and of an answer to its challenges.

RFC 4954 section 4 has this number for the answers. Initial responses can carry tokens of the same
length.
"""


_LONGER = rb"(?i)AUTH[ \t]"


class LineTooLong(Exception):
    """A command line was over the limit. It has been dropped, and the next can be read."""


class LineFlood(Exception):
    """A command line was longer than ``LINE_FLOOD`` bytes."""


def _is_over(limit: int, buffer: bytes, start: int, end: int) -> bool:
    size = end - start
    return size > limit and (size > AUTH_LINE or not re.match(_LONGER, buffer[start : start + 5]))


class Receiver:
    """The bytes that have arrived and that no command has taken yet."""

    __slots__ = ("_dropped", "_position", "_searched", "waiting")

    waiting: bytes
    """The bytes from the first one that waits, after some that were taken; empty if none waits."""

    def __init__(self) -> None:
        self.waiting = b""
        self._position = 0
        self._searched = 0
        self._dropped = 0

    def __len__(self) -> int:
        """Return the number of bytes that wait."""
        return len(self.waiting) - self._position

    def feed(self, data: bytes) -> None:
        """Append bytes read from the socket."""
        if self._position < len(self.waiting):
            self.waiting = self.waiting[self._position :] + data
            self._searched -= self._position
        else:
            # Usually nothing waits: keep the bytes as the buffer, without a copy.
            self.waiting = data
            self._searched = 0
        self._position = 0

    def clear(self) -> None:
        """Drop all input: commands sent before TLS must not run inside it."""
        self.waiting = b""
        self._position = self._searched = self._dropped = 0

    def starts_with(self, prefix: bytes) -> bool:
        """Return True if the waiting bytes begin with *prefix*."""
        return self.waiting.startswith(prefix, self._position)

    def has_line(self) -> bool:
        """Return True if a complete command line waits."""
        return self.waiting.find(b"\n", self._position) >= 0

    def line(self, limit: int) -> bytes | None:
        """Take the next command line, without its line end; return None if it is incomplete.

        A line ends at LF or CRLF. *limit* is in bytes before the LF, and at least 12,288 for an
        AUTH command. A longer line is dropped as it arrives: its end raises :exc:`LineTooLong`.
        Raises :exc:`LineFlood` if it does not end.
        """
        buffer, start, dropped = self.waiting, self._position, self._dropped
        if not buffer:
            return None
        end = buffer.find(b"\n", self._searched if self._searched > start else start)
        if end < 0:
            self._searched = len(buffer)
            if dropped or _is_over(limit, buffer, start, len(buffer)):
                self._drop(len(buffer) - start)
            return None
        self._position, self._dropped = end + 1, 0
        if end + 1 == len(buffer):
            # Release the buffer: it is a whole read, a page of memory for each idle connection.
            self.waiting = b""
            self._position = self._searched = 0
        if dropped or (end - start > limit and _is_over(limit, buffer, start, end)):
            raise LineTooLong
        if end > start and buffer[end - 1] == 0x0D:
            end -= 1
        return buffer[start:end]

    def _drop(self, size: int) -> None:
        self._dropped += size
        self.waiting = b""
        self._position = self._searched = 0
        if self._dropped > LINE_FLOOD:
            raise LineFlood

    def take(self, size: int) -> bytes:
        """Take at most *size* of the bytes that wait."""
        start = self._position
        if start == 0 and size >= len(self.waiting):
            data, self.waiting = self.waiting, b""
            self._searched = 0
            return data
        data = self.waiting[start : start + size]
        self._position = start + len(data)
        if self._position == len(self.waiting):
            self.waiting = b""
            self._position = self._searched = 0
        return data

    def put_back(self, data: bytes) -> None:
        """Put back bytes that :meth:`take` returned; they are taken next."""
        self.waiting = data + self.waiting[self._position :]
        self._position = self._searched = 0
