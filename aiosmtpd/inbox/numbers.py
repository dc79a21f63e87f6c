"""The numbers of the store that are in memory, so that no one waits for the database."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from threading import Lock

from aiosmtpd.inbox import changes, database
from aiosmtpd.inbox.records import Counts
from aiosmtpd.inbox.writer import Change


class Numbers:
    """How many messages and tags there are; *gate* is held while the counts change."""

    def __init__(self, gate: Lock) -> None:
        self._gate = gate
        self.counts = Counts(*(0,) * len(Counts._fields))
        self.tags: Counter[str] = Counter()
        #: True if the database has the index of words.
        self.has_index = False
        #: Messages that are not yet in the index.
        self.pending = 0

    def load(self, connection: sqlite3.Connection) -> None:
        """Read the numbers from the database."""
        total, unread, size = connection.execute(
            "select count(*), coalesce(sum(read = 0), 0), coalesce(sum(size), 0) from msg"
        ).fetchone()
        attempts = connection.execute("select count(*) from attempt").fetchone()[0]
        pruned = connection.execute("select coalesce(sum(count), 0) from gone").fetchone()[0]
        self.counts = Counts(total, unread, size, attempts, 0, 0, 0, 0, 0, pruned)
        self.tags = changes.tag_counts(connection)
        self.has_index = database.has_index(connection)
        if self.has_index:
            indexed = changes.state(connection, "indexed")
            sql = "select count(*) from txt where n > ?"
            self.pending = connection.execute(sql, (indexed,)).fetchone()[0]

    def add(self, change: Change, stored: Callable[[int], None]) -> None:
        """Count a change after its commit; *stored* gets the number of arrivals in it."""
        counts = self.counts
        if change.everything:
            deleted = counts.total
            counts = counts._replace(total=0, unread=0, size=0)
            self.tags = Counter()
            self.pending = 0
        else:
            deleted = change.accepted - change.total
        counts = Counts(
            counts.total + change.total,
            counts.unread + change.unread,
            counts.size + change.size,
            counts.attempts + change.attempts,
            counts.accepted + change.accepted,
            counts.accepted_size + change.accepted_size,
            counts.rejected + change.rejected,
            counts.ignored + change.ignored,
            counts.deleted + deleted,
            counts.pruned + change.pruned,
        )
        with self._gate:
            # At once, so that no message counts twice or not at all.
            self.counts = counts
            stored(change.arrived)
        if change.tags:
            tags = self.tags.copy()
            tags.update(change.tags)
            self.tags = +tags
        if self.has_index:
            self.pending += change.accepted

    def index_some(
        self, connection: sqlite3.Connection, limit: int, stop: Callable[[], bool] = bool
    ) -> None:
        """Add messages to the index of words: see :func:`changes.index_some`."""
        if self.has_index:
            count = changes.index_some(connection, limit, stop)
            self.pending = max(self.pending - count, 0) if count else 0
