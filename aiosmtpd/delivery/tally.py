"""The facts about the spool that are kept in memory: its counts, and its fresh messages."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Protocol

import attrs
from public import public

from aiosmtpd.delivery.database import FRESH, NUMBER_BITS, file_fresh
from aiosmtpd.delivery.item import Item

HELD = 1000
"""Fresh messages in memory, at most."""

HELD_BYTES = 8 << 20
"""Bytes of fresh messages in memory, at most, unless one is larger."""


@public
@attrs.frozen(kw_only=True, eq=False)
class Job:
    """A delivery: an item for the recipients of one route. ``due`` is in seconds since 1970."""

    number: int
    route: str
    item: Item
    due: float
    error: str = ""


class FreshMessage(Protocol):
    """A message that has one delivery, which is due."""

    @property
    def number(self) -> int:
        """The id of its row."""

    @property
    def route(self) -> str:
        """The name of its route."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def held(self) -> int:
        """Its bytes that are in memory."""

    def job(self) -> Job:
        """Return its delivery."""


class Fresh:
    """The messages that have no row in ``delivery`` yet, for the courier, by route.

    The thread of the spool adds them after their commit. If there are too many, the others are
    only in the database.
    """

    def __init__(self) -> None:
        self.unread = False
        """True if a delivery may be due that is only in the database."""
        self._lock = Lock()
        self._messages: dict[str, deque[FreshMessage]] = {}
        self.filed = 0
        """The id up to which all messages have rows, as far as this process knows."""
        self._number = self._bytes = 0

    def add(self, messages: Iterable[FreshMessage]) -> None:
        """Add messages that have been committed."""
        with self._lock:
            for message in messages:
                is_full = self._number >= HELD or self._bytes >= HELD_BYTES
                if is_full or message.number <= self.filed:
                    self.unread = True
                    continue
                self._messages.setdefault(message.route, deque()).append(message)
                self._number += 1
                self._bytes += message.held

    def take(self, route: str) -> Job | None:
        """Take the oldest job of a route, if there is one."""
        messages = self._messages.get(route)
        if not messages:
            return None
        with self._lock:
            # The other thread may have cleared it meanwhile.
            if not messages:
                return None
            message = messages.popleft()
            self._number -= 1
            self._bytes -= message.held
        return message.job()

    def routes(self) -> list[str]:
        """Return the names of routes that have messages here."""
        return [route for route, messages in list(self._messages.items()) if messages]

    def clear(self, filed: int) -> None:
        """Forget all messages: those up to the id *filed* have their rows now."""
        with self._lock:
            for messages in self._messages.values():
                messages.clear()
            self._number = self._bytes = 0
            self.filed = filed


_TOTALS = f"""
select count(*), coalesce(sum(size), 0) from (
    select max(size) as size from delivery group by message
    union all select size from message where {FRESH})
"""  # noqa: S608 - of our own words

_LAST = "select max(message, (select coalesce(max(id), 0) from message)) from filed"


class Tally:
    """The number and the bytes of the messages, and the fresh ones, kept in memory.

    The functions below note their changes, which count after the commit.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.fresh = Fresh()
        self.put = 0
        """The messages that this transaction has stored so far."""
        self._messages = 0
        self._bytes = 0
        self._last = 0
        self._filed = 0
        self._has_rows = False
        self._fresh: list[FreshMessage] = []
        self._files: list[str] = []

    def read(self, connection: sqlite3.Connection) -> None:
        """Count what is in the database, which has the changes of this transaction already."""
        messages, size = connection.execute(_TOTALS).fetchone()
        self.messages, self.bytes = messages - self._messages, size - self._bytes
        newest: int = connection.execute(_LAST).fetchone()[0]
        self._last = max(self._last, newest)

    def next_number(self) -> int:
        """Return the number of a new message, which no other has had in this process.

        SQLite would give the number of a message that was dropped again, while the result of its
        try is still to come.
        """
        self._last += 1
        return self._last

    def next_row(self) -> int:
        """Return a number above those of all deliveries."""
        return (self._last + 1) << NUMBER_BITS

    def add(self, size: int) -> None:
        """Count a message that has rows in ``delivery``."""
        self.put += 1
        self._messages += 1
        self._bytes += size
        self._has_rows = True

    def add_fresh(self, messages: Sequence[FreshMessage]) -> None:
        """Count messages that have none."""
        self.put += len(messages)
        self._messages += len(messages)
        self._bytes += sum([message.size for message in messages])
        self._fresh += messages

    def remove(self, messages: int, size: int, files: list[str]) -> None:
        self._messages -= messages
        self._bytes -= size
        self._files += files

    def apply(self) -> list[str]:
        """Count the changes of a commit; return the files in ``large/`` to remove."""
        self.messages += self._messages
        self.bytes += self._bytes
        if self._filed:
            self.fresh.clear(self._filed)
        self.fresh.add(self._fresh)
        if self._has_rows:
            self.fresh.unread = True
        files = self._files
        self._forget()
        return files

    def undo(self) -> None:
        """Forget the changes of a transaction that has failed."""
        self._forget()
        self.fresh.unread = True

    def file(self, connection: sqlite3.Connection) -> None:
        """Give all fresh messages their rows in ``delivery``."""
        known, before = self.filed, connection.total_changes
        filed = file_fresh(connection)
        if connection.total_changes != before:
            self._filed = filed
        elif filed > known:
            # The queue command has done it.
            self.fresh.clear(filed)

    def compare(self, connection: sqlite3.Connection) -> None:
        """Forget the fresh messages if the queue command has given them rows."""
        if connection.execute("select message from filed").fetchone()[0] > self.filed:
            self.file(connection)

    @property
    def filed(self) -> int:
        """The id up to which all messages have rows, as far as this transaction knows."""
        return max(self.fresh.filed, self._filed)

    def _forget(self) -> None:
        self.put = self._messages = self._bytes = self._filed = 0
        self._has_rows = False
        self._fresh = []
        self._files = []
