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
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
from public import public

from aiosmtpd.delivery import rows
from aiosmtpd.delivery.database import (
    Duplicate as Duplicate,
    SpoolError as SpoolError,
    SpoolFull as SpoolFull,
    explained,
    open_database,
)
from aiosmtpd.delivery.disk import make_folder
from aiosmtpd.delivery.ids import VALID
from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.large import LARGE as LARGE, Large as Large, remove_orphans
from aiosmtpd.delivery.lock import FolderLock
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.rows import DIED as DIED
from aiosmtpd.delivery.tally import Fresh as Fresh, Job as Job, Tally
from aiosmtpd.delivery.writer import Receiver, Task, Writer, ring

LOOK = 0.5
"""Seconds for which the free space of the disk is remembered."""

MAX_WAIT = 86400.0
"""Seconds after which every delivery is due at the start, unless ``max_wait`` says another."""


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

    *min_free* is in bytes of the disk, *max_bytes* in bytes of messages: see :meth:`has_room`. Keep
    some megabytes free: even the removal of a message has to be written before it gives room.
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
        self.commits = 0
        """Transactions that have changed the database, since this object was made."""
        self.on_stored: Callable[[], object] | None = None
        """Called in the thread of the spool after a transaction that has stored messages."""
        self.batches: dict[int, int] = {}
        """How many transactions have stored so many messages, by that number."""
        self._large = os.path.join(self.folder, "large")
        self._database = os.path.join(self.folder, "spool.db")
        self._lock = FolderLock(self.folder)
        self._writer: Writer | None = None
        self._failed: BaseException | None = None
        self._tally = Tally()
        self._version = 0
        self._suspects = 0
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
        """Return True if a new message may come: ``min_free`` and ``max_bytes`` are kept.

        The spool fails if its database was moved or deleted: a commit would be lost with it.
        """
        self._look_at_disk()
        if self.max_bytes is not None and self._tally.bytes >= self.max_bytes:
            return False
        return self._free[1]

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
    ) -> Outcome[None]:
        """Store a message with one delivery for each of *parts*: a route and its recipients.

        The future is resolved once all is on the disk. It fails with :exc:`SpoolFull`,
        :exc:`Duplicate` or :exc:`SpoolError`. If it is cancelled in time, the message is not
        stored. A :class:`Large` must be finished; it belongs to the spool from now on.
        """
        outcome: Outcome[None] = Outcome()
        self.put_for(outcome, queue_id, sender, arrival, content, parts, due)
        return outcome

    def put_for(
        self,
        receiver: Receiver,
        queue_id: str,
        sender: str,
        arrival: Arrival,
        content: bytes | Large,
        parts: Sequence[tuple[str, tuple[str, ...]]],
        due: float,
    ) -> None:
        """Store a message like :meth:`put`; *receiver* gets the result."""
        if not VALID.fullmatch(queue_id) or not parts:
            raise ValueError("a message needs a queue id and at least one route")
        dropped = None
        if not isinstance(content, bytes):
            if not content.finished:
                raise ValueError("the file of the message is not finished")
            content.given = True
            dropped = content.remove
        put = rows.Put(self._tally, queue_id, sender, arrival, content, parts, float(due))
        together = rows.put_fresh if put.is_fresh else None
        self._submit(Task(receiver, put, put.held, True, dropped, together))

    def due(
        self,
        now: float,
        limit: int,
        routes_not: Collection[str] = (),
        claimed: Collection[int] = (),
        fresh: bool = True,
        probed: Collection[str] = (),
    ) -> Outcome[list[Job]]:
        """Return the deliveries that are due, the oldest first: at most *limit* and 8 MiB.

        Routes in *routes_not* and rows in *claimed* (numbers of jobs) are left out. Without
        *fresh*, so are those that :attr:`fresh` has; with it, that has none of them afterwards.
        Before all others comes one of each route in *probed*, by chance.
        """
        without = frozenset(routes_not), frozenset(claimed), frozenset(probed)
        work = partial(rows.due_jobs, self._tally, self._large, now, limit, *without)
        return self._change(work, is_read=True) if fresh else self._ask(work)

    def next_due(
        self, routes_not: Collection[str] = (), claimed: Collection[int] = ()
    ) -> Outcome[float | None]:
        """Return the time of the next delivery, None if there is nothing to deliver."""
        without = frozenset(routes_not), frozenset(claimed)
        return self._change(partial(rows.next_due, *without))

    def dues(self, claimed: Collection[int] = ()) -> Outcome[dict[str, float]]:
        """Return the time of the next delivery of each route, without those in :attr:`fresh`."""
        work = partial(rows.dues, frozenset(), frozenset(claimed))
        return self._ask(work, writes=False)

    @property
    def fresh(self) -> Fresh:
        """The messages that were put a moment ago: they can be tried without :meth:`due`."""
        return self._tally.fresh

    def done(self, job: Job) -> Outcome[None]:
        """Remove a delivery, and the message if that was its last one.

        If the power fails within a second, the delivery may be back.
        """
        outcome: Outcome[None] = Outcome()
        self.done_for(outcome, job)
        return outcome

    def done_for(self, receiver: Receiver, job: Job) -> None:
        """Remove a delivery like :meth:`done`; *receiver* gets the result."""
        # Not without the sync if this removes a file, or the row might be back without the file.
        urgent = not isinstance(job.item.content, bytes)
        done = rows.Done(self._tally, job)
        self._submit(Task(receiver, done, together=rows.end, urgent=urgent))

    def is_suspect(self, job: Job) -> bool:
        """Return True if this delivery may have ended the process before this one.

        That process did not close the spool, and the delivery was there at the start.
        """
        return job.number < self._suspects

    def begin(self, job: Job, *, due: float) -> Outcome[None]:
        """Count a try before it is made, and let the next one be at *due*, if none ends it."""
        values = (job.number, float(due), job.item.attempts + 1, DIED)
        return self._change(partial(rows.begin, *values))

    def put_back(self, job: Job) -> Outcome[None]:
        """Undo :meth:`begin`: the try was not made to its end."""
        values = (job.number, job.due, job.item.attempts, job.error)
        return self._change(partial(rows.begin, *values))

    def later(
        self, job: Job, *, due: float, error: str, recipients: tuple[str, ...]
    ) -> Outcome[None]:
        """Keep a delivery for *recipients* until *due*; the others have the message."""
        return self.settle(job, due=due, error=error, later=recipients)

    def dead(self, job: Job, *, error: str, recipients: tuple[str, ...]) -> Outcome[None]:
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
    ) -> Outcome[None]:
        """Write the results of one try.

        *later* are the recipients that wait until *due*, *dead* those that are given up; the others
        have the message.
        """
        if not later and not dead:
            return self.done(job)
        # Not one more than the row has: begin() may have counted this try.
        tries = job.item.attempts + 1
        given_up = (json.dumps(dead), rows.error_of(dead_error))
        if not later:
            return self._change(partial(rows.give_up, job.number, tries, *given_up))
        waiting = (json.dumps(later), job.due, float(due), rows.error_of(error))
        return self._change(
            partial(rows.settle, job.number, tries, waiting, given_up if dead else None)
        )

    def split(self, job: Job, recipients: tuple[str, ...], *, error: str) -> Outcome[None]:
        """Give some *recipients* of a job up, in a row of their own; the job keeps the others."""
        rest = [one for one in job.item.recipients if one not in recipients]
        values = (json.dumps(rest), json.dumps(recipients), rows.error_of(error))
        return self._change(partial(rows.split, job.number, *values))

    def changed(self) -> Outcome[bool]:
        """Return True if another process has changed rows since the last call.

        This is how ``aiosmtpd queue`` works. Call :meth:`due` and :meth:`retried` then.
        """
        return self._ask(self._look_for_changes, writes=False)

    def routes(self) -> Outcome[list[str]]:
        """Return the names of routes for which deliveries wait, without those in :attr:`fresh`."""
        return self._ask(partial(rows.routes, without=frozenset()), writes=False)

    def retried(self) -> Outcome[frozenset[str]]:
        """Return the routes that ``aiosmtpd queue retry`` has named since the last call.

        Try them at once, even if they are known not to work.
        """
        return self._ask(rows.retried)

    def counts(self) -> Outcome[Counts]:
        """Count what is in the spool."""
        return self._ask(self._count, writes=False)

    def _change(
        self, work: Callable[[sqlite3.Connection], Any], *, is_read: bool = False
    ) -> Outcome[Any]:
        """Do something with the rows of ``delivery``, which fresh messages get before.

        *is_read* says that the work reads all rows that are due.
        """

        def file_and_work(connection: sqlite3.Connection) -> Any:
            self._tally.file(connection)
            self._tally.fresh.unread = not is_read
            return work(connection)

        return self._ask(file_and_work)

    def _ask(self, work: Any, **values: Any) -> Outcome[Any]:
        """Submit a task; return its outcome."""
        outcome: Outcome[Any] = Outcome()
        self._submit(Task(outcome, work, **values))
        return outcome

    def _submit(self, task: Task) -> None:
        writer = self._writer
        if writer is not None:
            writer.submit(task)
        else:
            task.refuse(SpoolError(f"The spool {self.folder} is closed: open it"), undone=True)
            ring([task])

    def _make_folders(self) -> None:
        make_folder(self.folder)
        make_folder(self._large)

    def _in_use(self) -> str:
        holder = self._lock.holder()
        who = f"process {holder}" if holder else "another process"
        advice = "end that"
        if holder == str(os.getpid()):
            who, advice = f"{who}, which is this process", "open it once"
        return f"The spool {self.folder} is in use by {who}: {advice}, or choose another folder"

    def _start(self, connection: sqlite3.Connection) -> None:
        try:
            self._opened = os.stat(self._database)
            connection.execute("begin immediate")
            self._tally.file(connection)
            self._correct(connection)
            connection.execute("commit")
            self._tally.apply()
            self._version = rows.data_version(connection)
            self._tally.read(connection)
            self._suspects = self._tally.next_row() if self._lock.was_left else 0
            remove_orphans(self._large, partial(rows.is_known, connection))
        except sqlite3.Error as error:
            connection.close()
            raise explained(error, self.folder) from error
        except BaseException:
            connection.close()
            raise
        self._failed = None
        self._writer = Writer(connection, self.folder, self._committed, self._tally.undo)
        self._writer.start()

    def _correct(self, connection: sqlite3.Connection) -> None:
        now = time.time()
        update = "update delivery set due = ? where dead = 0 and due > ?"
        connection.execute(update, (now, now + self.max_wait))

    def _committed(self) -> None:
        # Only the thread of the spool adds here.
        self.commits += 1
        if number := self._tally.put:
            self.batches[number] = self.batches.get(number, 0) + 1
        for queue_id in self._tally.apply():
            with suppress(OSError):
                os.unlink(os.path.join(self._large, queue_id))
        if number and self.on_stored is not None:
            self.on_stored()

    def _look_at_disk(self) -> None:
        writer, now = self._writer, time.monotonic()
        if writer is None or now <= self._free[0]:
            return
        try:
            in_place = os.path.samestat(os.stat(self._database), self._opened)
            free = shutil.disk_usage(self.folder).free if self.min_free else 0
        except FileNotFoundError:
            in_place, free = False, 0
        if not in_place:
            writer.fail(SpoolError("spool.db was moved or deleted"))
        self._free = (now + LOOK, free >= self.min_free)

    def _look_for_changes(self, connection: sqlite3.Connection) -> bool:
        version = rows.data_version(connection)
        if version == self._version:
            return False
        self._version = version
        self._tally.read(connection)
        return True

    def _count(self, connection: sqlite3.Connection) -> Counts:
        oldest = connection.execute("select arrived from message order by id limit 1").fetchone()
        waiting, dead = (dict(connection.execute(query).fetchall()) for query in rows.BY_ROUTE)
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
