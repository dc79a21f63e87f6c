"""Take messages: each is safe at once, in a file, and in the database a moment later."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from aiosmtpd.inbox import changes, packing
from aiosmtpd.inbox.arrivals import Arrivals, Record
from aiosmtpd.inbox.records import Received, StoreError
from aiosmtpd.inbox.rows import Description, new_id
from aiosmtpd.inbox.search import Query
from aiosmtpd.inbox.writer import Change, Writer

log = logging.getLogger("mail.log")

MOST_ARRIVED = 1000
"""Messages that wait for the database before the next one waits, too."""

QUICK = 1 << 16
"""Bytes of the largest message that is taken so."""


class _Arrival(NamedTuple):
    """A message that is among the arrivals and not yet in the database."""

    number: int
    id: str
    envelope: str
    received: Received
    content: bytes


class Taker:
    """Has the messages that are not in the database yet, and gives all messages their numbers.

    *describe* reads a message. The caller of :meth:`new_number`, :meth:`last_number`,
    :meth:`stored` and ``len()`` holds *gate*, so that these agree with its own numbers. Making it
    raises OSError.
    """

    def __init__(
        self,
        path: Path,
        gate: Lock,
        describe: Callable[[Received, str], Description],
        filters: Sequence[tuple[Query, Sequence[str]]],
    ) -> None:
        self._files = Arrivals(path)
        self._gate = gate
        self._describe = describe
        self._filters = filters
        self._next = 1
        self._arrived: list[_Arrival] = []
        # True if the writer has a task that has not begun to add them.
        self._is_awaited = False

    def __len__(self) -> int:
        """Return the number of messages that are not yet in the database."""
        return len(self._arrived)

    def load(self, connection: sqlite3.Connection) -> None:
        """Add the messages that had just arrived when the process was killed."""
        known = changes.state(connection, "arrived")
        connection.execute("begin immediate")
        found = []
        for one in self._files.read():
            if one.number > known:
                id, received = packing.read_envelope(one.envelope, one.content)
                found.append(_Arrival(one.number, id, one.envelope, received, one.content))
        if found:
            self._add_all(connection, Change(), found)
            changes.set_state(connection, "arrived", found[-1].number)
        connection.execute("commit")
        self._files.empty()

    def start_after(self, number: int) -> None:
        """Give the next messages numbers above this one."""
        self._next = number + 1

    def last_number(self) -> int:
        """Return the number of the last message; those that come from now on have larger ones."""
        return self._next - 1

    def new_number(self) -> int:
        """Return the number of a new message. It is not used again, also after a rollback."""
        self._next += 1
        return self._next - 1

    def can_take(self, received: Received) -> bool:
        """Return True if this message need not wait for the database."""
        content = received.content
        is_quick = isinstance(content, bytes) and len(content) <= QUICK
        return is_quick and len(self._arrived) < MOST_ARRIVED

    def take(self, received: Received, writer: Writer) -> Future[str]:
        """Make a message safe; the result is its id."""
        id, future = new_id(), Future[str]()
        envelope = packing.packed_envelope(received, id)
        assert isinstance(received.content, bytes)
        with self._gate:
            arrival = _Arrival(self._next, id, envelope, received, received.content)
            try:
                self._files.add(Record(self._next, envelope, received.content))
            except OSError as error:
                future.set_exception(StoreError(f"Cannot keep a message: {error}"))
                return future
            self._next += 1
            self._arrived.append(arrival)
            if self._is_awaited:
                writer.linger()
            else:
                self._is_awaited = True
                writer.postpone(self._add_arrived)
        future.set_result(id)
        return future

    def stored(self, count: int) -> None:
        """Note that the database has the next messages, in the order in which they came."""
        self._files.stored(count)
        del self._arrived[:count]

    def empty_now(self) -> None:
        """Cut the files that have no message which is not yet in the database."""
        with self._gate:
            self._files.empty()

    def close(self) -> None:
        """Close the files. Messages that a full disk has kept from the database stay in them."""
        self._files.close()

    # The writer's thread.

    def _add_arrived(self, connection: sqlite3.Connection, change: Change) -> None:
        """Add all messages that have arrived."""
        # Some may have been added in this transaction.
        known = changes.state(connection, "arrived")
        with self._gate:
            self._is_awaited = False
            arrived = [one for one in self._arrived if one.number > known]
        if arrived:
            self._add_all(connection, change, arrived)
            changes.set_state(connection, "arrived", arrived[-1].number)
            change.arrived = len(arrived)

    def _add_all(
        self, connection: sqlite3.Connection, change: Change, arrived: list[_Arrival]
    ) -> None:
        messages = [
            changes.Message(
                one.number,
                one.envelope,
                one.received.session,
                self._describe(one.received, one.id),
                one.content,
            )
            for one in arrived
        ]
        made = Change()
        connection.execute("savepoint arrived")
        try:
            changes.insert(connection, made, messages, self._filters)
        except (sqlite3.OperationalError, OSError):
            raise
        except Exception as error:
            connection.execute("rollback to arrived")
            if len(arrived) > 1:
                # One of them may be to blame.
                for one in arrived:
                    self._add_all(connection, change, [one])
            else:
                log.error("The inbox cannot store a message", exc_info=error)
        else:
            change.add(made)
        connection.execute("release arrived")
