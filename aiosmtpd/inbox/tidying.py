"""The work of the store that can wait: retention, the index, copies of sessions, free space."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from time import monotonic, time

from attrs import define

from aiosmtpd.inbox import changes
from aiosmtpd.inbox.keep import Keep
from aiosmtpd.inbox.numbers import Numbers
from aiosmtpd.inbox.reserve import Reserve
from aiosmtpd.inbox.sessions import Sessions
from aiosmtpd.inbox.taking import Taker
from aiosmtpd.inbox.writer import Change, Writer

INDEXED_AT_ONCE = 100
"""Messages that are added to the index in one commit."""

MOST_PENDING = 5000
"""Messages that wait for the index before it is brought up to date in spite of other work."""

LOG = 32 << 20
"""Bytes of the write-ahead log after which it is copied to the database in spite of other work."""

LOG_IF_LOW = 1 << 19
"""The same if the disk is nearly full."""

MOST_OVER = 200
"""Messages over the limit before retention removes some in spite of other work."""

OLD = 60.0
"""Seconds after which retention looks for messages that have become old, if no others come."""

FREE_PAGES = 256
"""Free pages that stay in the file, and that are given back at a time."""

FREE_PAGES_IF_LOW = 16
"""The same if the disk is nearly full: moving pages needs room, too."""


@define(eq=False)
class Tidier:
    """Tidies up in the writer's thread, while that has no other work or after its commits."""

    path: Path
    folder: Path
    keep: Keep
    numbers: Numbers
    sessions: Sessions
    taker: Taker
    reserve: Reserve
    _next_check: float = 0.0

    @property
    def rest(self) -> float | None:
        """Seconds after which there may be more to tidy up although nothing has happened."""
        return None if self.keep.age is None else min(self.keep.age, OLD)

    def tidy(self, writer: Writer, connection: sqlite3.Connection, idle: bool) -> bool:
        """Do some of the work; return True if there is more."""
        # Before new messages take the room.
        self.reserve.make()
        if self._prune(writer, slack=0 if idle else MOST_OVER):
            return True
        if not idle:
            if (over := self.numbers.pending - MOST_PENDING) >= 0:
                # All that are too many: one commit may have stored more than that at once.
                self._index(writer, over + INDEXED_AT_ONCE)
            self._check_log(connection)
            return True
        if self.numbers.pending:
            self._index(writer, INDEXED_AT_ONCE)
            return True
        self.sessions.snapshot(writer)
        self.taker.empty_now()
        if writer.try_now(lambda on, _: changes.drop_some(on), frees=True):
            self._check_log(connection)
            return True
        return self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> bool:
        is_low = self.reserve.is_low()
        free = connection.execute("pragma freelist_count").fetchone()[0]
        if free > (FREE_PAGES_IF_LOW if is_low else FREE_PAGES):
            some = FREE_PAGES_IF_LOW if is_low else FREE_PAGES
            connection.executescript(f"pragma incremental_vacuum({some})")
            self._check_log(connection)
            return True
        if is_low:
            self.reserve.shorten(connection)
        else:
            connection.execute("pragma wal_checkpoint(passive)")
        return False

    def _index(self, writer: Writer, limit: int) -> None:
        stop = bool if self.numbers.pending >= MOST_PENDING else writer.has_work
        writer.try_now(lambda on, _: self.numbers.index_some(on, limit, stop))

    def _check_log(self, connection: sqlite3.Connection) -> None:
        """Keep the write-ahead log small while there is always work."""
        is_low = self.reserve.is_low()
        if (now := monotonic()) < self._next_check and not is_low:
            return
        self._next_check = now + 0.5
        if os.path.getsize(f"{self.path}-wal") > (LOG_IF_LOW if is_low else LOG):
            connection.execute("pragma wal_checkpoint(passive)")

    def _prune(self, writer: Writer, slack: int) -> bool:
        """Remove messages that are over a limit; return True if some were."""
        keep, counts = self.keep, self.numbers.counts
        over = keep.count is not None and counts.total > keep.count + min(slack, keep.count // 10)
        over = over or (keep.size is not None and counts.size > keep.size)
        if (keep.age is not None or over) and counts.total > 1:
            return bool(writer.try_now(self._prune_some, frees=True))
        return False

    def _prune_some(self, connection: sqlite3.Connection, change: Change) -> int:
        counts = self.numbers.counts
        return changes.prune(
            connection, change, self.keep, self.folder, counts.total, counts.size, time()
        )
