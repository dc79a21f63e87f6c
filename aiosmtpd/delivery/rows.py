"""The rows of the spool: functions that the thread of the database runs in its transactions."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from heapq import nsmallest
from itertools import chain
from typing import Any, BinaryIO

import attrs
from public import public

from aiosmtpd.delivery.database import NUMBER_BITS, Duplicate
from aiosmtpd.delivery.item import Arrival, Item, seen_by
from aiosmtpd.delivery.writer import BYTES

ERROR = 1000
"""Characters of an error that are kept."""


@public
@attrs.frozen(kw_only=True, eq=False)
class Job:
    """A delivery: an item for the recipients of one route. ``due`` is in seconds since 1970."""

    number: int
    route: str
    item: Item
    due: float
    error: str = ""


DIED = "the process ended during this try"
"""The error of a try that has no result."""

BY_ROUTE = (
    "select route, count(*) from delivery where dead = 0 group by route",
    "select route, count(*) from delivery where dead = 1 group by route",
)


class Tally:
    """The number and the bytes of the messages, kept in memory.

    The functions below note their changes, which count after the commit.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.put = 0
        """The messages that this transaction has stored so far."""
        self._messages = 0
        self._bytes = 0
        self._last = 0
        self._files: list[str] = []

    def read(self, connection: sqlite3.Connection) -> None:
        query = (
            "select count(*), coalesce(sum(size), 0) "
            "from (select max(size) as size from delivery group by message)"
        )
        self.messages, self.bytes = connection.execute(query).fetchone()
        newest = connection.execute("select coalesce(max(id), 0) from message").fetchone()[0]
        self._last = max(self._last, newest)

    def add(self, size: int) -> int:
        """Count a message; return its number, which no other message has had in this process.

        SQLite would give the number of a message that was dropped again, while the result of its
        try is still to come.
        """
        self.put += 1
        self._messages += 1
        self._bytes += size
        self._last += 1
        return self._last

    def next_row(self) -> int:
        """Return a number above those of all deliveries."""
        return (self._last + 1) << NUMBER_BITS

    def remove(self, size: int, file: str | None) -> None:
        self._messages -= 1
        self._bytes -= size
        if file is not None:
            self._files.append(file)

    def apply(self) -> list[str]:
        """Count the changes of a commit; return the files in ``large/`` to remove."""
        self.messages += self._messages
        self.bytes += self._bytes
        files = self._files
        self.forget()
        return files

    def forget(self) -> None:
        self.put = self._messages = self._bytes = 0
        self._files = []


@attrs.frozen(eq=False)
class Put:
    """A message to insert: the columns of its row after the id, and of its deliveries."""

    tally: Tally
    message: tuple[str, float, str, int, bytes | None]
    deliveries: list[tuple[str, str, float]]

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Insert it alone."""
        number, size = self.add(), self.message[3]
        try:
            _insert(connection, _INSERT_MESSAGES, [(number, *self.message)])
        except sqlite3.IntegrityError as error:
            self.tally.remove(size, None)
            self.tally.put -= 1
            raise Duplicate(f"The spool has a message {self.message[0]} already") from error
        _insert(connection, _INSERT_DELIVERIES, self.rows(number))

    def add(self) -> int:
        return self.tally.add(self.message[3])

    def rows(self, number: int) -> list[tuple[Any, ...]]:
        size = self.message[3]
        return [
            (row, number, size, *columns)
            for row, columns in enumerate(self.deliveries, number << NUMBER_BITS)
        ]


def put_together(connection: sqlite3.Connection, puts: list[Put]) -> bool:
    """Insert messages with few statements; return False and insert nothing if one is a duplicate.

    Python gives its lock away in each statement, and has to wait to get it back while the event
    loop works.
    """
    connection.execute("savepoint puts")
    numbers = [put.add() for put in puts]
    numbered = list(zip(numbers, puts, strict=True))
    try:
        messages = [(number, *put.message) for number, put in numbered]
        _insert(connection, _INSERT_MESSAGES, messages)
        _insert(
            connection,
            _INSERT_DELIVERIES,
            [row for number, put in numbered for row in put.rows(number)],
        )
    except sqlite3.IntegrityError:
        for put in puts:
            put.tally.remove(put.message[3], None)
            put.tally.put -= 1
        connection.execute("rollback to puts")
        connection.execute("release puts")
        return False
    connection.execute("release puts")
    return True


_LOTS = (32, 8, 1)
"""Rows of one statement."""


def _inserts(columns: str) -> dict[int, str]:
    marks = ", ".join("?" for _ in columns.split(","))
    head = f"insert into {columns} values "  # noqa: S608 - of our own words
    return {lot: head + ", ".join([f"({marks})"] * lot) for lot in _LOTS}


_INSERT_MESSAGES = _inserts("message(id, queue_id, arrived, envelope, size, body)")
_INSERT_DELIVERIES = _inserts("delivery(id, message, size, route, recipients, due)")


def _insert(
    connection: sqlite3.Connection, statements: dict[int, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    begin = 0
    for lot, statement in statements.items():
        while begin + lot <= len(rows):
            values = list(chain.from_iterable(rows[begin : begin + lot]))
            connection.execute(statement, values)
            begin += lot


_ROUTES = """
with recursive found(route) as (
    select min(route) from delivery where dead = 0
    union all
    select (select min(route) from delivery where dead = 0 and route > found.route)
    from found where found.route is not null)
select route from found where route is not null
"""
"""Jumps from route to route in the index: with group by, it would read all rows."""

_DUE = """
select due, id from delivery
where dead = 0 and route = ? and due <= ? order by due, id limit ?
"""

_JOB = """
select delivery.id, delivery.route, delivery.recipients, delivery.due, delivery.attempts,
    coalesce(delivery.error, ''), message.queue_id, message.envelope, message.size, message.body
from delivery join message on message.id = delivery.message where delivery.id = ?
"""


def routes(connection: sqlite3.Connection, without: frozenset[str]) -> list[str]:
    return [route for (route,) in connection.execute(_ROUTES).fetchall() if route not in without]


def due_jobs(
    large: str,
    now: float,
    limit: int,
    routes_not: frozenset[str],
    claimed: frozenset[int],
    connection: sqlite3.Connection,
) -> list[Job]:
    found: list[tuple[float, int]] = []
    for route in routes(connection, routes_not):
        # More than the limit: those that are claimed are due too.
        rows = connection.execute(_DUE, (route, now, limit + len(claimed))).fetchall()
        found += [row for row in rows if row[1] not in claimed]
    jobs: list[Job] = []
    size = 0
    for _, number in nsmallest(limit, found):
        row = connection.execute(_JOB, (number,)).fetchone()
        try:
            job = _job(large, row)
        except (ValueError, TypeError, LookupError) as error:
            _bury(connection, number, f"The row cannot be read: {error!r}")
            continue
        jobs.append(job)
        size += len(row[9] or b"")
        if size >= BYTES:
            break
    return jobs


def _job(large: str, row: Any) -> Job:
    number, route, recipients, due, attempts, error, queue_id, envelope, size, body = row
    sender, arrival = envelope_from(envelope)
    to = tuple(json.loads(recipients))
    item = Item(
        id=queue_id,
        sender=sender,
        recipients=to,
        arrival=seen_by(arrival, to),
        size=size,
        attempts=attempts,
        content=partial(_open, os.path.join(large, queue_id)) if body is None else body,
    )
    return Job(number=number, route=route, item=item, due=due, error=error)


def envelope_from(text: str) -> tuple[str, Arrival]:
    """Return the sender and the facts of a row; raises ValueError, TypeError or LookupError."""
    values = json.loads(text)
    return str(values["sender"]), Arrival.from_json(json.dumps(values["arrival"]))


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


def next_due(
    routes_not: frozenset[str], claimed: frozenset[int], connection: sqlite3.Connection
) -> float | None:
    times = []
    for route in routes(connection, routes_not):
        rows = connection.execute(_DUE, (route, float("inf"), 1 + len(claimed))).fetchall()
        times += [due for due, number in rows if number not in claimed][:1]
    return min(times, default=None)


def done(tally: Tally, job: Job, connection: sqlite3.Connection) -> None:
    connection.execute("delete from delivery where id = ? and dead = 0", (job.number,))
    remove_delivered(connection, job.number >> NUMBER_BITS, tally.remove)


def remove_delivered(
    connection: sqlite3.Connection, message: int, removed: Callable[[int, str | None], None]
) -> None:
    """Remove a message without deliveries; call *removed* with its size and its file, if any."""
    row = connection.execute(
        "select size, case when body is null then queue_id end from message "
        "where id = ? and not exists (select 1 from delivery where id >= ? and id < ?)",
        (message, message << NUMBER_BITS, (message + 1) << NUMBER_BITS),
    ).fetchone()
    if row is not None:
        connection.execute("delete from message where id = ?", (message,))
        removed(*row)


def begin(
    number: int, due: float, attempts: int, error: str, connection: sqlite3.Connection
) -> None:
    connection.execute(
        "update delivery set due = ?, attempts = ?, error = ? where id = ? and dead = 0",
        (due, attempts, error, number),
    )


def give_up(
    number: int, attempts: int, recipients: str, error: str, connection: sqlite3.Connection
) -> None:
    connection.execute(
        "update delivery set recipients = ?, error = ?, attempts = ?, dead = 1 "
        "where id = ? and dead = 0",
        (recipients, error, attempts, number),
    )


def settle(
    number: int,
    attempts: int,
    waiting: tuple[str, float, float, str],
    dead: tuple[str, str] | None,
    connection: sqlite3.Connection,
) -> None:
    recipients, before, due, error = waiting
    # `aiosmtpd queue retry` may have set another time during the try: that one counts. A row that
    # begin() has changed has its time, and DIED.
    changed = connection.execute(
        "update delivery set recipients = ?, error = ?, attempts = ?, "
        "due = case when due = ? or error = ? then ? else due end where id = ? and dead = 0",
        (recipients, error, attempts, before, DIED, due, number),
    ).rowcount
    # A row that `aiosmtpd queue drop` has removed stays removed.
    if changed and dead is not None:
        _copy_dead(connection, number, *dead)


def split(
    number: int, rest: str, recipients: str, error: str, connection: sqlite3.Connection
) -> None:
    _copy_dead(connection, number, recipients, error)
    update = "update delivery set recipients = ? where id = ? and dead = 0"
    connection.execute(update, (rest, number))


def _copy_dead(connection: sqlite3.Connection, number: int, recipients: str, error: str) -> None:
    """Add a dead row beside a row, if that is still there, with the next free number."""
    connection.execute(
        "insert into delivery(id, message, size, route, recipients, due, attempts, error, dead) "
        "select (select max(id) + 1 from delivery where id < ?), "
        "message, size, route, ?, due, attempts, ?, 1 from delivery where id = ? and dead = 0",
        (((number >> NUMBER_BITS) + 1) << NUMBER_BITS, recipients, error, number),
    )


def _bury(connection: sqlite3.Connection, number: int, error: str) -> None:
    update = "update delivery set dead = 1, error = ? where id = ?"
    connection.execute(update, (error_of(error), number))


def retried(connection: sqlite3.Connection) -> frozenset[str]:
    routes = frozenset(route for (route,) in connection.execute("select route from retried"))
    if routes:
        connection.execute("delete from retried")
    return routes


def is_known(connection: sqlite3.Connection, queue_id: str) -> bool:
    query = "select 1 from message where queue_id = ?"
    return connection.execute(query, (queue_id,)).fetchone() is not None


def data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma data_version").fetchone()[0])


def error_of(text: str) -> str:
    """Return an error as it is stored."""
    return text_of(text)[:ERROR]


def text_of(value: str) -> str:
    """Return text that a database takes: without halves of surrogate pairs."""
    return value.encode("utf-8", "backslashreplace").decode()
