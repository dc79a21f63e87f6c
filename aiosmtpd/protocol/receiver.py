"""Bytes from the wire, and command lines cut from them.

One :class:`Receiver` belongs to one connection. Bytes wait in it until the running command asks
for a line, for mail data or for a number of octets; nothing else in the house holds input.
"""

from __future__ import annotations

LINE_FLOOD = 65536
"""Octets of one over-long command line that are read and dropped before the session ends."""

TLS_HANDSHAKE = b"\x16"
"""What a TLS client begins with (RFC 8446 section 5.1), and no command."""

AUTH_LINE = 12288
"""Octets of an AUTH command, or of an answer to its challenges: RFC 4954 section 4.

It says so of the answers; tokens as long come as initial responses too.
"""


class LineTooLong(Exception):
    """A command line was over the limit; it has been dropped, the next one can be read."""


class LineFlood(Exception):
    """An over-long command line went on for more than LINE_FLOOD octets."""


def _is_over(limit: int, buffer: bytes, start: int, end: int) -> bool:
    octets = end - start
    return octets > limit and (octets > AUTH_LINE or buffer[start : start + 5].upper() != b"AUTH ")


class Receiver:
    """The octets that have arrived and that no command has taken yet."""

    __slots__ = ("_dropped", "_position", "_searched", "waiting")

    waiting: bytes
    """The bytes from the first one that waits, after some that were taken; empty if none waits."""

    def __init__(self) -> None:
        self.waiting = b""
        self._position = 0
        self._searched = 0
        self._dropped = 0

    def __len__(self) -> int:
        """Octets waiting."""
        return len(self.waiting) - self._position

    def feed(self, data: bytes) -> None:
        """Append what the socket gave."""
        if self._position < len(self.waiting):
            self.waiting = self.waiting[self._position :] + data
            self._searched -= self._position
        else:
            # Nothing waits, as is usual: the bytes of the read are the buffer, uncopied.
            self.waiting = data
            self._searched = 0
        self._position = 0

    def clear(self) -> None:
        """Forget all that waits: what was sent in the clear must not be run inside TLS."""
        self.waiting = b""
        self._position = self._searched = self._dropped = 0

    def starts_with(self, octets: bytes) -> bool:
        """Tell whether what waits begins so."""
        return self.waiting.startswith(octets, self._position)

    def has_line(self) -> bool:
        """Tell whether a complete command line waits."""
        return self.waiting.find(b"\n", self._position) >= 0

    def line(self, limit: int) -> bytes | None:
        """Take the next command line, without its line end; None where it is not complete.

        A line ends at LF or CRLF. *limit* is in octets before the LF, and at least 12,288 for an
        AUTH command. Raises :exc:`LineTooLong` once a longer line has come to its end (its octets
        are not kept meanwhile), and :exc:`LineFlood` where it does not come to one.
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
            # An idle connection is not to hold the socket's last read: it takes a page of memory.
            self.waiting = b""
            self._position = self._searched = 0
        if dropped or _is_over(limit, buffer, start, end):
            raise LineTooLong
        if end > start and buffer[end - 1] == 0x0D:
            end -= 1
        return buffer[start:end]

    def _drop(self, octets: int) -> None:
        self._dropped += octets
        self.waiting = b""
        self._position = self._searched = 0
        if self._dropped > LINE_FLOOD:
            raise LineFlood

    def take(self, octets: int) -> bytes:
        """Take at most *octets* octets of those that wait."""
        start = self._position
        if start == 0 and octets >= len(self.waiting):
            data, self.waiting = self.waiting, b""
            self._searched = 0
            return data
        data = self.waiting[start : start + octets]
        self._position = start + len(data)
        if self._position == len(self.waiting):
            self.waiting = b""
            self._position = self._searched = 0
        return data

    def put_back(self, data: bytes) -> None:
        """Return the rest of what :meth:`take` gave, to be taken next."""
        self.waiting = data + self.waiting[self._position :]
        self._position = self._searched = 0
