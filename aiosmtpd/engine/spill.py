"""Large messages in temporary files, for several readers."""

from __future__ import annotations

import io
import threading
import weakref
from typing import IO, Any


class Spill:
    """Mail data in a temporary file, removed when the last reference to this object goes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = size
        # Not __del__(): of a cycle that is collected, the file's own __del__() may come first, and
        # warns of a file that nothing has closed.
        weakref.finalize(self, file.close)

    def read_at(self, position: int, size: int) -> bytes:
        """Return at most *size* bytes from a position."""
        with self._lock:
            self._file.seek(position)
            return self._file.read(size)

    def open(self) -> io.BufferedReader:
        """Return a reader of its own, at the beginning."""
        return io.BufferedReader(_Reader(self))


class _Reader(io.RawIOBase):
    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._spill.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        piece = self._spill.read_at(self._position, len(buffer))
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)
