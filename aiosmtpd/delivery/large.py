"""Messages of the spool that are too large for a row of its database: a file each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from public import public

from aiosmtpd.delivery.database import Duplicate, SpoolFull
from aiosmtpd.delivery.disk import NO_ROOM, sync_directory, sync_file

LARGE = 256 * 1024
"""Bytes of the largest message that is stored in a row."""

ORPHAN_AGE = 3600.0
"""Seconds after which a file without a row is removed at the next start."""


@public
class Large:
    """A message that is written to a file while it comes.

    Its name begins with a dot until :meth:`finish`. Raises :exc:`Duplicate` if there is a file of
    that name. All methods block; each raises
    :exc:`SpoolFull` if the disk is full, and OSError if it fails. *on_error* gets an error of a
    sync, unless the disk is full.
    """

    def __init__(self, folder: str, name: str, on_error: Callable[[OSError], None]) -> None:
        self.folder = folder
        self.path = os.path.join(folder, name)
        self.size = 0
        self.given = False
        """True once ``put()`` has the file: only the spool removes it from then on."""
        self._temporary = os.path.join(folder, "." + name)
        self._on_error = on_error
        if os.path.lexists(self.path):
            # Before the file is made: finish() would replace the message of another.
            raise Duplicate(f"The spool has a message {name} already")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self._temporary, flags, 0o600)
        except OSError as error:
            self._raise_if_full(error)
            raise
        self._file: BinaryIO | None = os.fdopen(descriptor, "wb", 0)

    def write(self, data: bytes) -> None:
        """Add *data* to the message."""
        if self._file is None:
            raise ValueError("the message is finished")
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self._raise_if_full(error)
            raise
        self.size += len(data)

    def finish(self) -> None:
        """Write the message and its name to the disk; ``put()`` needs that."""
        file, self._file = self._file, None
        if file is None:
            raise ValueError("the message is finished")
        try:
            with file:
                sync_file(file.fileno())
            os.rename(self._temporary, self.path)
            sync_directory(self.folder)
        except OSError as error:
            self._raise_if_full(error)
            self._on_error(error)
            raise

    def _raise_if_full(self, error: OSError) -> None:
        if error.errno in NO_ROOM:
            raise SpoolFull(f"The disk of {self.folder} is full: make room") from error

    @property
    def finished(self) -> bool:
        """True if the message is complete and on the disk."""
        return self._file is None and os.path.exists(self.path)

    def discard(self) -> None:
        """Remove the file. This does nothing after ``put()``."""
        if not self.given:
            self.remove()

    def remove(self) -> None:
        """Remove the file in any case."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for path in (self._temporary, self.path):
            with suppress(OSError):
                os.unlink(path)

    def open(self) -> BinaryIO:
        """Return the finished message as a binary file."""
        return open(self.path, "rb")


def remove_orphans(folder: str, known: Callable[[str], bool]) -> None:
    """Remove the files that are not *known* by name and are older than :data:`ORPHAN_AGE`."""
    latest = time.time() - ORPHAN_AGE
    with os.scandir(folder) as entries:
        for entry in entries:
            # The spool makes no name that is not UTF-8.
            with suppress(OSError, UnicodeEncodeError):
                if entry.stat().st_mtime < latest and not known(entry.name):
                    os.unlink(entry.path)
