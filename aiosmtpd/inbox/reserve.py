"""Room on the disk that only deletions use: on a full disk, SQLite could not delete messages.

The room is a file beside the database. It is given up for a deletion that the disk refuses, and
made again when there is room. Long before that, the write-ahead log is kept short: it cannot be
copied to a database that cannot grow.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from time import monotonic

SIZE = 1 << 20
"""Bytes of the file."""

LOW = 64 << 20
"""Free bytes of a disk that is nearly full."""

_AGAIN = 0.5
"""Seconds before the free bytes are looked up again."""

_BUSY = 200
"""Milliseconds to wait for readers that need the write-ahead log."""


class Reserve:
    """The file. One that an older process left is removed first: opening the store needs room."""

    def __init__(self, path: Path) -> None:
        self._file = Path(f"{path}-reserve")
        self._is_there = self._is_low = False
        self._next_look = 0.0
        self.close()

    def make(self) -> None:
        """Make the file if it is missing and there is room for it."""
        if self._is_there or self._free() < SIZE:
            return
        try:
            with self._file.open("wb") as file:
                self._file.chmod(0o600)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, SIZE)
                else:
                    file.write(bytes(SIZE))
            self._is_there = True
        except OSError:
            self.close()

    def give_up(self, connection: sqlite3.Connection) -> bool:
        """Make room for a deletion; return False if there is nothing to give up."""
        if not self._is_there:
            return False
        self.close()
        self.shorten(connection)
        return True

    def shorten(self, connection: sqlite3.Connection) -> None:
        """Copy the write-ahead log to the database and give back its room, if no reader uses it."""
        with suppress(sqlite3.Error):
            before = connection.execute("pragma busy_timeout").fetchone()[0]
            connection.execute(f"pragma busy_timeout = {_BUSY}")
            try:
                connection.execute("pragma wal_checkpoint(truncate)")
            finally:
                connection.execute(f"pragma busy_timeout = {before}")

    def is_low(self) -> bool:
        """Return True if the disk is nearly full."""
        if (now := monotonic()) >= self._next_look:
            self._next_look = now + _AGAIN
            self._is_low = self._free() < LOW
        return self._is_low

    def close(self) -> None:
        """Remove the file."""
        self._is_there = False
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self._file.parent).free
        except OSError:
            return 0
