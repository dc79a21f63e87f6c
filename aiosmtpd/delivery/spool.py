"""The spool: messages on the disk, each with its deliveries. Free of asyncio.

A 250 means that :meth:`Spool.put` has committed. One thread has the database (SQLite, write-ahead
log, ``synchronous = full``) and takes all work that waits into one commit, so that many messages
share one sync of the disk. The futures are resolved after that.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from heapq import nsmallest
from itertools import chain
from typing import Any, BinaryIO

import attrs
from public import public

from aiosmtpd.delivery.database import (
    ROWS,
    Duplicate as Duplicate,
    SpoolError as SpoolError,
    SpoolFull as SpoolFull,
    explained,
    open_database,
)
from aiosmtpd.delivery.ids import VALID
from aiosmtpd.delivery.item import Arrival, Item
from aiosmtpd.delivery.large import LARGE as LARGE, Large as Large, remove_orphans
from aiosmtpd.delivery.lock import FolderLock
from aiosmtpd.delivery.writer import BYTES, Task, Writer

LOOK = 0.5
"""Seconds for which the free space of the disk is remembered."""

ERROR = 1000
"""Characters of an error that are kept."""

MAX_WAIT = 86400.0
"""Seconds after which every delivery is due at the start, unless ``max_wait`` says another."""


@public
@attrs.frozen(kw_only=True, eq=False)
class Job:
    """A delivery: an item for the recipients of one route. ``due`` is in seconds since 1970."""

    number: int
    route: str
    item: Item
    due: float


@public
@attrs.frozen(kw_only=True)
class RouteCounts:
    """How many deliveries of a route wait, and how many were given up."""

    waiting: int = 0
    dead: int = 0


@public
@attrs.frozen(kw_only=True)
class Counts:
    """The content of a spool. ``oldest`` is seconds since 1970, None if it is empty."""

    messages: int
    bytes: int
    oldest: float | None
    dead: int
    routes: Mapping[str, RouteCounts]


@public
class Spool:
    """A folder of messages, used by one process at a time.

    *min_free* is in bytes of the disk, *max_bytes* in bytes of messages: see :meth:`has_room`.
    *max_wait* is in seconds: a delivery that is due later than that at the start is due at once,
    because the clock was set back.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        min_free: int = 0,
        max_bytes: int | None = None,
        max_wait: float = MAX_WAIT,
    ) -> None:
        self.folder = os.path.abspath(os.path.expanduser(folder))
        self.min_free = min_free
        self.max_bytes = max_bytes
        self.max_wait = max_wait
        self._large = os.path.join(self.folder, "large")
        self._lock = FolderLock(self.folder)
        self._writer: Writer | None = None
        self._failed: BaseException | None = None
        self._tally = _Tally()
        self._version = 0
        self._free = (0.0, True)

    def open(self) -> None:
        """Make the folder if there is none, lock it, check it and start the thread.

        Raises :exc:`SpoolError` with one line that says what to do; nothing is deleted then.
        """
        if self._writer is not None:
            raise SpoolError(f"The spool {self.folder} is open already")
        try:
            self._make_folders()
            if not self._lock.acquire():
                raise SpoolError(self._in_use())
            try:
                self._start(open_database(self.folder))
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise SpoolError(
                f"Cannot use {self.folder} as a spool: {error.strerror or error}; "
                "choose a local folder that this user may write"
            ) from error

    def close(self) -> None:
        """Wait for all that was put, close the database and give the lock back."""
        if self._writer is not None:
            self._writer.stop()
            self._failed = self._writer.failed
            self._writer = None
            self._lock.release()

    @property
    def failed(self) -> BaseException | None:
        """The error of the disk that has closed this spool for good, or None."""
        return self._failed if self._writer is None else self._writer.failed

    def has_room(self) -> bool:
        """Return True if a new message may come: ``min_free`` and ``max_bytes`` are kept."""
        if self.max_bytes is not None and self._tally.bytes >= self.max_bytes:
            return False
        return not self.min_free or self._disk_has_room()

    def large(self, queue_id: str) -> Large:
        """Return a new file for a message of more than :data:`LARGE` bytes.

        Raises OSError, or :exc:`SpoolError` after a failure of the disk.
        """
        if not VALID.fullmatch(queue_id):
            raise ValueError(f"not a queue id: {queue_id!r}")
        writer = self._writer
        if writer is None or writer.failed is not None:
            raise SpoolError(f"The spool {self.folder} is closed")
        return Large(self._large, queue_id, writer.fail)

    def put(
        self,
        *,
        queue_id: str,
        sender: str,
        arrival: Arrival,
        content: bytes | Large,
        parts: Sequence[tuple[str, tuple[str, ...]]],
        due: float,
    ) -> Future[None]:
        """Store a message with one delivery for each of *parts*: a route and its recipients.

        The future is resolved once all is on the disk. It fails with :exc:`SpoolFull`,
        :exc:`Duplicate` or :exc:`SpoolError`. If it is cancelled in time, the message is not
        stored. A :class:`Large` must be finished; it belongs to the spool from now on.
        """
        if not VALID.fullmatch(queue_id) or not parts:
            raise ValueError("a message needs a queue id and at least one route")
        body, size, dropped = (
            None,
            len(content) if isinstance(content, bytes) else content.size,
            None,
        )
        if isinstance(content, bytes):
            body = content
        else:
            if not content.finished:
                raise ValueError("the file of the message is not finished")
            content.given = True
            dropped = content.remove
        envelope = f'{{"sender":{json.dumps(sender)},"arrival":{arrival.to_json()}}}'
        message = (queue_id, float(arrival.time), envelope, size, body)
        rows = [(_text(route), json.dumps(recipients), float(due)) for route, recipients in parts]
        put = _Put(self._tally, message, rows)
        task = Task(put, len(body or b""), dropped=dropped, together=_put_together)
        return self._submit(task)

    def due(
        self,
        now: float,
        limit: int,
        routes_not: Collection[str] = (),
        claimed: Collection[int] = (),
    ) -> Future[list[Job]]:
        """Return the deliveries that are due, the oldest first: at most *limit* and 8 MiB.

        Routes in *routes_not* and rows in *claimed* (numbers of jobs) are left out.
        """
        work = partial(_due, self._large, now, limit, frozenset(routes_not), frozenset(claimed))
        return self._submit(Task(work))

    def next_due(
        self, routes_not: Collection[str] = (), claimed: Collection[int] = ()
    ) -> Future[float | None]:
        """Return the time of the next delivery, None if there is nothing to deliver."""
        work = partial(_next_due, frozenset(routes_not), frozenset(claimed))
        return self._submit(Task(work, writes=False))

    def done(self, job: Job) -> Future[None]:
        """Remove a delivery, and the message if that was its last one."""
        return self._submit(Task(partial(_done, self._tally, job)))

    def later(
        self, job: Job, *, due: float, error: str, recipients: tuple[str, ...]
    ) -> Future[None]:
        """Keep a delivery for *recipients* until *due*; the others have the message."""
        return self.settle(job, due=due, error=error, later=recipients)

    def dead(self, job: Job, *, error: str, recipients: tuple[str, ...]) -> Future[None]:
        """Give a delivery to *recipients* up and keep it; the others have the message."""
        return self.settle(job, dead=recipients, dead_error=error)

    def settle(
        self,
        job: Job,
        *,
        due: float = 0.0,
        error: str = "",
        later: tuple[str, ...] = (),
        dead: tuple[str, ...] = (),
        dead_error: str = "",
    ) -> Future[None]:
        """Write the results of one try.

        *later* are the recipients that wait until *due*, *dead* those that are given up; the others
        have the message.
        """
        if not later and not dead:
            return self.done(job)
        waiting = (json.dumps(later), float(due), _text(error)[:ERROR]) if later else None
        given_up = (json.dumps(dead), _text(dead_error)[:ERROR]) if dead else None
        return self._submit(Task(partial(_settle, job, waiting, given_up)))

    def split(self, job: Job, recipients: tuple[str, ...], *, error: str) -> Future[None]:
        """Give some *recipients* of a job up, in a row of their own; the job keeps the others."""
        rest = [one for one in job.item.recipients if one not in recipients]
        values = (json.dumps(rest), json.dumps(recipients), _text(error)[:ERROR])
        return self._submit(Task(partial(_split, job.number, *values)))

    def changed(self) -> Future[bool]:
        """Return True if another process has changed rows since the last call.

        This is how ``aiosmtpd queue`` works. Call :meth:`due` and :meth:`retried` then.
        """
        return self._submit(Task(self._look_for_changes, writes=False))

    def retried(self) -> Future[frozenset[str]]:
        """Return the routes that ``aiosmtpd queue retry`` has named since the last call.

        Try them at once, even if they are known not to work.
        """
        return self._submit(Task(_retried))

    def counts(self) -> Future[Counts]:
        """Count what is in the spool."""
        return self._submit(Task(self._count, writes=False))

    def _submit(self, task: Task) -> Future[Any]:
        writer = self._writer
        if writer is not None:
            return writer.submit(task)
        task.refuse(SpoolError(f"The spool {self.folder} is closed: open it"), undone=True)
        return task.future

    def _make_folders(self) -> None:
        os.makedirs(self.folder, 0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self._large, 0o700)

    def _in_use(self) -> str:
        holder = self._lock.holder()
        who = f"process {holder}" if holder else "another process"
        return f"The spool {self.folder} is in use by {who}: end that, or choose another folder"

    def _start(self, connection: sqlite3.Connection) -> None:
        try:
            self._correct(connection)
            self._version = _data_version(connection)
            self._tally.read(connection)
            remove_orphans(self._large, partial(_is_known, connection))
        except sqlite3.Error as error:
            connection.close()
            raise explained(error, self.folder) from error
        except BaseException:
            connection.close()
            raise
        self._failed = None
        self._writer = Writer(connection, self.folder, self._committed, self._tally.forget)
        self._writer.start()

    def _correct(self, connection: sqlite3.Connection) -> None:
        now = time.time()
        update = "update delivery set due = ? where dead = 0 and due > ?"
        connection.execute(update, (now, now + self.max_wait))

    def _committed(self) -> None:
        for queue_id in self._tally.apply():
            with suppress(OSError):
                os.unlink(os.path.join(self._large, queue_id))

    def _disk_has_room(self) -> bool:
        now = time.monotonic()
        if now > self._free[0]:
            self._free = (now + LOOK, shutil.disk_usage(self.folder).free >= self.min_free)
        return self._free[1]

    def _look_for_changes(self, connection: sqlite3.Connection) -> bool:
        version = _data_version(connection)
        if version == self._version:
            return False
        self._version = version
        self._tally.read(connection)
        return True

    def _count(self, connection: sqlite3.Connection) -> Counts:
        oldest = connection.execute("select arrived from message order by id limit 1").fetchone()
        waiting, dead = (dict(connection.execute(query).fetchall()) for query in _BY_ROUTE)
        return Counts(
            messages=self._tally.messages,
            bytes=self._tally.bytes,
            oldest=oldest[0] if oldest else None,
            dead=sum(dead.values()),
            routes={
                route: RouteCounts(waiting=waiting.get(route, 0), dead=dead.get(route, 0))
                for route in sorted(waiting.keys() | dead.keys())
            },
        )


_BY_ROUTE = (
    "select route, count(*) from delivery where dead = 0 group by route",
    "select route, count(*) from delivery where dead = 1 group by route",
)


class _Tally:
    """The number and the bytes of the messages, kept in memory.

    The functions below note their changes, which count after the commit.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
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
        self._messages += 1
        self._bytes += size
        self._last += 1
        return self._last

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
        self._messages = self._bytes = 0
        self._files = []


@attrs.frozen(eq=False)
class _Put:
    """A message to insert: the columns of its row after the id, and of its deliveries."""

    tally: _Tally
    message: tuple[str, float, str, int, bytes | None]
    deliveries: list[tuple[str, str, float]]

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Insert it alone."""
        number, size = self.add(), self.message[3]
        try:
            _insert(connection, _INSERT_MESSAGES, [(number, *self.message)])
        except sqlite3.IntegrityError as error:
            self.tally.remove(size, None)
            raise Duplicate(f"The spool has a message {self.message[0]} already") from error
        _insert(connection, _INSERT_DELIVERIES, self.rows(number))

    def add(self) -> int:
        return self.tally.add(self.message[3])

    def rows(self, number: int) -> list[tuple[Any, ...]]:
        size = self.message[3]
        return [
            (row, number, size, *columns)
            for row, columns in enumerate(self.deliveries, number << ROWS)
        ]


def _put_together(connection: sqlite3.Connection, puts: list[_Put]) -> bool:
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
    message.queue_id, message.envelope, message.size, message.body
from delivery join message on message.id = delivery.message where delivery.id = ?
"""


def _routes(connection: sqlite3.Connection, without: frozenset[str]) -> list[str]:
    return [route for (route,) in connection.execute(_ROUTES).fetchall() if route not in without]


def _due(
    large: str,
    now: float,
    limit: int,
    routes_not: frozenset[str],
    claimed: frozenset[int],
    connection: sqlite3.Connection,
) -> list[Job]:
    found: list[tuple[float, int]] = []
    for route in _routes(connection, routes_not):
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
            _give_up(connection, number, f"The row cannot be read: {error!r}")
            continue
        jobs.append(job)
        size += len(row[8] or b"")
        if size >= BYTES:
            break
    return jobs


def _job(large: str, row: Any) -> Job:
    number, route, recipients, due, attempts, queue_id, envelope, size, body = row
    sender, arrival = envelope_from(envelope)
    item = Item(
        id=queue_id,
        sender=sender,
        recipients=tuple(json.loads(recipients)),
        arrival=arrival,
        size=size,
        attempts=attempts,
        content=partial(_open, os.path.join(large, queue_id)) if body is None else body,
    )
    return Job(number=number, route=route, item=item, due=due)


def envelope_from(text: str) -> tuple[str, Arrival]:
    """Return the sender and the facts of a row; raises ValueError, TypeError or LookupError."""
    values = json.loads(text)
    return str(values["sender"]), Arrival.from_json(json.dumps(values["arrival"]))


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


def _next_due(
    routes_not: frozenset[str], claimed: frozenset[int], connection: sqlite3.Connection
) -> float | None:
    times = []
    for route in _routes(connection, routes_not):
        rows = connection.execute(_DUE, (route, float("inf"), 1 + len(claimed))).fetchall()
        times += [due for due, number in rows if number not in claimed][:1]
    return min(times, default=None)


def _done(tally: _Tally, job: Job, connection: sqlite3.Connection) -> None:
    connection.execute("delete from delivery where id = ? and dead = 0", (job.number,))
    remove_delivered(connection, job.number >> ROWS, tally.remove)


def remove_delivered(
    connection: sqlite3.Connection, message: int, removed: Callable[[int, str | None], None]
) -> None:
    """Remove a message without deliveries; call *removed* with its size and its file, if any."""
    row = connection.execute(
        "select size, case when body is null then queue_id end from message "
        "where id = ? and not exists (select 1 from delivery where id >= ? and id < ?)",
        (message, message << ROWS, (message + 1) << ROWS),
    ).fetchone()
    if row is not None:
        connection.execute("delete from message where id = ?", (message,))
        removed(*row)


def _settle(
    job: Job,
    waiting: tuple[str, float, str] | None,
    dead: tuple[str, str] | None,
    connection: sqlite3.Connection,
) -> None:
    if waiting is None:
        assert dead is not None
        connection.execute(
            "update delivery set recipients = ?, error = ?, attempts = attempts + 1, dead = 1 "
            "where id = ? and dead = 0",
            (*dead, job.number),
        )
        return
    changed = connection.execute(
        "update delivery set recipients = ?, due = ?, error = ?, attempts = attempts + 1 "
        "where id = ? and dead = 0",
        (*waiting, job.number),
    ).rowcount
    # A row that `aiosmtpd queue drop` has removed stays removed.
    if changed and dead is not None:
        _copy_dead(connection, job.number, *dead)


def _split(
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
        (((number >> ROWS) + 1) << ROWS, recipients, error, number),
    )


def _give_up(connection: sqlite3.Connection, number: int, error: str) -> None:
    update = "update delivery set dead = 1, error = ? where id = ?"
    connection.execute(update, (_text(error)[:ERROR], number))


def _retried(connection: sqlite3.Connection) -> frozenset[str]:
    routes = frozenset(route for (route,) in connection.execute("select route from retried"))
    if routes:
        connection.execute("delete from retried")
    return routes


def _is_known(connection: sqlite3.Connection, queue_id: str) -> bool:
    query = "select 1 from message where queue_id = ?"
    return connection.execute(query, (queue_id,)).fetchone() is not None


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma data_version").fetchone()[0])


def _text(value: str) -> str:
    """Return text that a database takes: without halves of surrogate pairs."""
    return value.encode("utf-8", "backslashreplace").decode()
