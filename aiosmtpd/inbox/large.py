"""Large messages: each is read in a thread of its own, one after the other, and kept as a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from attrs import evolve

from aiosmtpd.delivery.disk import sync_directory, sync_file
from aiosmtpd.inbox.records import Received, StoreError
from aiosmtpd.inbox.rows import Description

LARGE = 1_000_000
"""Bytes of the largest message that is kept in the database and not in a file."""

Insert = Callable[[Received, Description, Future[str], bool], None]
"""Puts a message into the database, which has been read; True if it is a file."""


class Large:
    """The folder of the large messages, and the thread that reads them."""

    def __init__(
        self,
        folder: Path,
        describe: Callable[[Received], Description],
        insert: Insert,
        *,
        durable: bool,
    ) -> None:
        self._folder = folder
        self._describe = describe
        self._insert = insert
        self._durable = durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aiosmtpd inbox large")

    def new_file(self) -> BinaryIO:
        """Return a new file for a message, open for writing; raises StoreError."""
        try:
            return tempfile.NamedTemporaryFile(dir=self._folder, prefix="new-", delete=False)  # type: ignore[return-value]
        except OSError as error:
            raise StoreError(f"Cannot make a file in {self._folder}: {error}") from error

    def add(self, received: Received, future: Future[str]) -> None:
        """Store a message; *future* gets its id."""
        try:
            self._thread.submit(self._add, received, future)
        except RuntimeError:
            future.set_exception(StoreError("The store is closed"))

    def close(self) -> None:
        """Read the messages that wait, and end the thread."""
        self._thread.shutdown()

    def _add(self, received: Received, future: Future[str]) -> None:
        content, is_file = received.content, False
        if not future.set_running_or_notify_cancel():
            if isinstance(content, Path):
                content.unlink(missing_ok=True)
            return
        try:
            if isinstance(content, bytes) and len(content) > LARGE:
                with self.new_file() as file:
                    file.write(content)
                    content = Path(file.name)
            received = evolve(received, content=content)
            found = self._describe(received)
            if isinstance(content, Path):
                if self._durable:
                    _sync(content)
                content = content.rename(self._folder / found.id)
                if self._durable:
                    sync_directory(str(self._folder))
                is_file = True
        except Exception as error:
            if isinstance(content, Path):
                content.unlink(missing_ok=True)
            future.set_exception(StoreError(f"Cannot store a large message: {error}"))
            return
        self._insert(received, found, future, is_file)


def _sync(path: Path) -> None:
    # Windows refuses this for a file that is open for reading only.
    with path.open("r+b") as file:
        sync_file(file.fileno())
