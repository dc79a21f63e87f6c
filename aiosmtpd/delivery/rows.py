"""The rows of the spool: functions that the thread of the database runs in its transactions."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from heapq import nsmallest
from json.encoder import encode_basestring_ascii as quoted
from random import choice, uniform
from time import time
from typing import Any, BinaryIO, TypeVar

import attrs

from aiosmtpd.delivery.database import FRESH, NUMBER_BITS, Duplicate
from aiosmtpd.delivery.ids import OWN
from aiosmtpd.delivery.item import Arrival, Item, seen_by
from aiosmtpd.delivery.large import Large
from aiosmtpd.delivery.tally import Job, Tally
from aiosmtpd.delivery.writer import BYTES

T = TypeVar("T")

ERROR = 1000
"""Characters of an error that are kept."""

DIED = "the process ended during this try"
"""The error of a try that has no result."""


BY_ROUTE = (
    f"""
    select route, count(*) from (
        select route from delivery where dead = 0
        union all select route from message where {FRESH})
    group by route
    """,  # noqa: S608 - of our own words
    "select route, count(*) from delivery where dead = 1 group by route",
)


class Put:
    """A message to insert: the columns of its row after the id, and its deliveries.

    It is fresh, and has no rows in ``delivery``, if it has one route and is due since it arrived.
    Its queue id must be of :func:`new_queue_id`: that of a fresh message is not compared.
    """

    # fmt: off
    __slots__ = (
        "arrival", "content", "due", "held", "is_fresh", "message", "number", "parts", "sender",
        "size", "tally",
    )
    # fmt: on

    def __init__(
        self,
        tally: Tally,
        queue_id: str,
        sender: str,
        arrival: Arrival,
        content: bytes | Large,
        parts: Sequence[tuple[str, tuple[str, ...]]],
        due: float,
    ) -> None:
        self.tally = tally
        self.sender = sender
        self.arrival = arrival
        self.content = content
        self.parts = parts
        self.due = due
        self.number = 0
        body = content if isinstance(content, bytes) else None
        self.size = len(content) if isinstance(content, bytes) else content.size
        self.held = 0 if body is None else self.size
        arrived = float(arrival.time)
        envelope = f'{{"sender":{quoted(sender)},"arrival":{arrival.to_json()}}}'
        is_one = len(parts) == 1 and OWN.fullmatch(queue_id) is not None
        self.is_fresh = is_one and due == arrived <= time()
        route, to = (text_of(parts[0][0]), _encoded(parts[0][1])) if self.is_fresh else (None, None)
        self.message = (queue_id, arrived, envelope, self.size, route, to, body)

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Insert one that is not fresh."""
        queue_id, size = self.message[0], self.size
        if is_known(connection, queue_id):
            raise Duplicate(f"The spool has a message {queue_id} already")
        number = self.tally.next_number()
        connection.execute(_INSERT[1], (number, *self.message))
        connection.executemany(
            "insert into delivery(id, message, queue_id, size, route, recipients, due)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            [
                (row, number, queue_id, size, text_of(route), _encoded(to), self.due)
                for row, (route, to) in enumerate(self.parts, number << NUMBER_BITS)
            ],
        )
        self.tally.add(size)

    # For the courier, if it is fresh.

    @property
    def route(self) -> str:
        """The name of its route."""
        route: str = self.message[4] or ""
        return route

    def job(self) -> Job:
        """Return the job of its only delivery."""
        content, to = self.content, self.parts[0][1]
        item = Item(
            id=self.message[0],
            sender=self.sender,
            recipients=to,
            arrival=seen_by(self.arrival, to),
            size=self.size,
            content=content if isinstance(content, bytes) else content.open,
        )
        return Job(number=self.number << NUMBER_BITS, route=self.route, item=item, due=self.due)


def put_fresh(connection: sqlite3.Connection, puts: Sequence[Put]) -> None:
    """Insert fresh messages with few statements.

    Python gives its lock away in each statement, and has to wait to get it back while the event
    loop works.
    """
    tally = puts[0].tally
    for put in puts:
        put.number = tally.next_number()
    for lot in _lots(puts):
        values = [value for put in lot for value in (put.number, *put.message)]
        # Not execute(): it gives the lock away once more, to ask for the id of the last row.
        connection.executemany(_INSERT[len(lot)], [values])
    tally.add_fresh(puts)


def _encoded(recipients: Iterable[str]) -> str:
    """Return a list of addresses as JSON. Encoding a list takes ten times as long as its texts."""
    return f"[{','.join(map(quoted, recipients))}]"


_LOTS = (32, 16, 8, 4, 2, 1)
"""Ids in one statement, which may be repeated."""

_ROWS = (64, 32, *range(16, 0, -1))
"""Rows that one statement inserts."""


def _lots(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the rows in as few lots as possible."""
    begin = 0
    for lot in _ROWS:
        while begin + lot <= len(rows):
            yield rows[begin : begin + lot]
            begin += lot


def _filled_lots(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the ids in lots of the largest size, or in one lot; the last id may be repeated."""
    for begin in range(0, len(ids), _LOTS[0]):
        some = ids[begin : begin + _LOTS[0]]
        lot = next(lot for lot in reversed(_LOTS) if lot >= len(some))
        yield [*some, *[some[-1]] * (lot - len(some))]


_INSERT = {
    lot: "insert into message(id, queue_id, arrived, envelope, size, route, recipients, body) "
    + ("values " + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * lot))
    for lot in _ROWS
}


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

_BEFORE = """
select due, id from delivery
where dead = 0 and route = ? and due <= ? order by due desc, id desc limit ?
"""

_NEWEST = """
select due, id from delivery
where dead = 0 and route = ? and due <= ? order by id desc limit ?
"""

_JOB = """
select delivery.id, delivery.route, delivery.recipients, delivery.due, delivery.attempts,
    coalesce(delivery.error, ''), message.queue_id, message.envelope, message.size, message.body
from delivery join message on message.id = delivery.message where delivery.id = ?
"""


def routes(connection: sqlite3.Connection, without: frozenset[str]) -> list[str]:
    return [route for (route,) in connection.execute(_ROUTES).fetchall() if route not in without]


def due_jobs(
    tally: Tally,
    large: str,
    now: float,
    limit: int,
    routes_not: frozenset[str],
    claimed: frozenset[int],
    probed: frozenset[str],
    connection: sqlite3.Connection,
) -> list[Job]:
    tally.compare(connection)
    found: list[tuple[float, int]] = []
    probes: list[tuple[float, int]] = []
    for route in routes(connection, routes_not):
        # More than the limit: those that are claimed are due too.
        rows = connection.execute(_DUE, (route, now, limit + len(claimed))).fetchall()
        free = [row for row in rows if row[1] not in claimed]
        found += free
        if free and route in probed:
            probes += _probe(connection, route, (free[0][0], now), claimed)
    jobs: list[Job] = []
    size = 0
    for _, number in dict.fromkeys([*probes, *nsmallest(limit, found)]):
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


def _probe(
    connection: sqlite3.Connection,
    route: str,
    between: tuple[float, float],
    claimed: frozenset[int],
) -> list[tuple[float, int]]:
    """Return the row with which a route is probed: the newest one, or one that chance chooses.

    The oldest ones may be those that make the route fail. The others must not wait for them.
    """
    choices = (_NEWEST, between[1]), (_BEFORE, uniform(*between))  # noqa: S311 - no secret
    query, until = choice(choices)  # noqa: S311 - no secret
    rows = connection.execute(query, (route, until, 1 + len(claimed))).fetchall()
    return [row for row in rows if row[1] not in claimed][:1]


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
    return min(dues(routes_not, claimed, connection).values(), default=None)


def dues(
    routes_not: frozenset[str], claimed: frozenset[int], connection: sqlite3.Connection
) -> dict[str, float]:
    found = {}
    for route in routes(connection, routes_not):
        rows = connection.execute(_DUE, (route, float("inf"), 1 + len(claimed))).fetchall()
        free = [due for due, number in rows if number not in claimed]
        if free:
            found[route] = free[0]
    return found


@attrs.frozen(eq=False)
class Done:
    """A delivery to remove, with its message if that was its last one."""

    tally: Tally
    job: Job


def end(connection: sqlite3.Connection, ends: Sequence[Done]) -> None:
    """Remove deliveries with few statements."""
    tally = ends[0].tally
    jobs = {end.job.number: end.job for end in ends}
    fresh = [number for number in jobs if number >> NUMBER_BITS > tally.filed]
    for lot in _filled_lots(fresh):
        gone = {number: jobs[number] for number in lot}
        if _end_fresh(connection, lot, len(gone)):
            items = [jobs.pop(number).item for number in gone]
            files = [item.id for item in items if not isinstance(item.content, bytes)]
            tally.remove(len(items), sum([item.size for item in items]), files)
    numbers = list(jobs)
    for lot in _filled_lots(numbers):
        connection.execute(_END[len(lot)], lot)
    if numbers:
        tally.remove(*remove_delivered(connection, [one >> NUMBER_BITS for one in numbers]))


def _end_fresh(connection: sqlite3.Connection, numbers: Sequence[int], different: int) -> bool:
    """Remove messages if all are there and fresh: they have no rows in ``delivery``."""
    values = (*[number >> NUMBER_BITS for number in numbers], different)
    return connection.executemany(_END_FRESH[len(numbers)], [values]).rowcount == different


def remove_delivered(
    connection: sqlite3.Connection, messages: Sequence[int]
) -> tuple[int, int, list[str]]:
    """Remove those messages that have no deliveries; return their number, bytes and files."""
    number, size = 0, 0
    files: list[str] = []
    for lot in _filled_lots(messages):
        found = connection.execute(_DELIVERED[len(lot)], lot).fetchone()
        if found[0]:
            connection.execute(_REMOVE[len(lot)], lot)
            number += found[0]
            size += found[1]
            files += found[2].split(",") if found[2] else []
    return number, size, files


def _for_lots(statement: str) -> dict[int, str]:
    return {lot: statement.format(", ".join("?" * lot)) for lot in _LOTS}


_WITHOUT_ROWS = f"""
from message where id in ({{}}) and not exists (
    select 1 from delivery where delivery.id >= message.id << {NUMBER_BITS}
    and delivery.id < (message.id + 1) << {NUMBER_BITS})
"""  # noqa: S608 - of our own words
_FRESH_LOT = f"""
delete from message where id in ({{0}})
and ?{{1}} = (select count(*) from message where id in ({{0}}) and {FRESH})
"""  # noqa: S608 - of our own words
_END_FRESH = {
    lot: _FRESH_LOT.format(", ".join(f"?{number}" for number in range(1, lot + 1)), lot + 1)
    for lot in _LOTS
}
_END = _for_lots("delete from delivery where id in ({}) and dead = 0")
_DELIVERED = _for_lots(
    "select count(*), sum(size), group_concat(case when body is null then queue_id end)"
    + _WITHOUT_ROWS
)
_REMOVE = _for_lots("delete" + _WITHOUT_ROWS)


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
        "insert into delivery(id, message, queue_id, size, route, recipients, due, attempts, "
        "error, dead) select (select max(id) + 1 from delivery where id < ?), "
        "message, queue_id, size, route, ?, due, attempts, ?, 1 "
        "from delivery where id = ? and dead = 0",
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
    query = "select 1 from delivery where queue_id = ?"
    return connection.execute(query, (queue_id,)).fetchone() is not None


def data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma data_version").fetchone()[0])


def error_of(text: str) -> str:
    """Return an error as it is stored."""
    return text_of(text)[:ERROR]


def text_of(value: str) -> str:
    """Return text that a database takes: without halves of surrogate pairs."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
