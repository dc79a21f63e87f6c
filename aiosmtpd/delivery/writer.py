"""The thread that alone uses the database: it takes all work that waits into one commit."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any, Protocol

from aiosmtpd.delivery.database import (
    BUSY,
    PAGE,
    SpoolError,
    explained,
    is_full,
    primary,
)

ROWS = 512
"""Tasks of one commit, at most."""

BYTES = 8 << 20
"""Bytes of messages in one commit, unless one is larger."""

CHECKPOINT = 10 << 20
"""Estimated bytes in the write-ahead log after which they are copied to the database. Messages
wait meanwhile: 16 MB take 55 to 65 ms, 10 MB take 45."""

ROW = 4096
"""Bytes of the log that a task is estimated to need beside its message."""

COMMIT = 2 * PAGE
"""Bytes of the log that each commit is estimated to need beside its tasks."""

LOG = 64 << 20
"""Bytes of the log after which it is copied in any case."""

UNSYNCED = 1.0
"""Seconds, at most, of commits that no sync has followed."""

COMPANY = 0.001
"""Seconds for which tasks that are not urgent wait for others to be committed with."""

GATHER = 0.002
"""Seconds to wait for more messages if more are usual, and again while more come."""

SHARE, LONGEST_GATHER = 0.001, 0.012
"""Seconds of that, at most: for each message that is usual above two, and in all."""

PART = 0.8
"""The part of the messages on their way that is usual in a commit. The event loop works on the
others while the disk works on these: if it had all, the loop would have nothing to do."""

IDLE = 1.0
"""Seconds without a change before the thread gives all space back."""

PAUSE = 0.005
"""Seconds between two steps of that."""

LOOK = 0.05
"""Seconds between two looks at the free space while there is work."""

KEPT, BUSY_KEPT = 256, 4096
"""Free pages that stay in the file for new messages, without and with work."""

STEP, BUSY_STEP = 1024, 64
"""Pages that are given back at a time, without and with work. 1000 take 10 ms."""


Together = Callable[[sqlite3.Connection, list[Any]], None]
"""Does the works of several tasks."""


class Receiver(Protocol):
    """An object that gets the result of a task, in the thread: an Outcome, or a Parcel."""

    bell: Callable[[], object] | None
    """Called after the result has come, once for all of a commit that have the same one."""

    def set_running_or_notify_cancel(self) -> bool:
        """Return False if the task is not wanted any more: it is not run then."""

    def set_result(self, result: Any, /) -> None:
        """Take the result."""

    def set_exception(self, exception: BaseException | None, /) -> None:
        """Take the exception that the task has raised."""


class Task:
    """One piece of work: a function of the connection, and the receiver of its result.

    *size* is in bytes. *dropped* is called if the work has certainly not been done. With
    *together*, this is called for all such tasks of a commit, before the work of the others; it
    begins with a statement that changes rows. A task
    that is not *urgent* waits a moment for others. It may be undone if the power fails soon after
    its commit.
    """

    __slots__ = (
        "dropped",
        "error",
        "receiver",
        "size",
        "together",
        "urgent",
        "value",
        "work",
        "writes",
    )

    def __init__(
        self,
        receiver: Receiver,
        work: Any,
        size: int = 0,
        writes: bool = True,
        dropped: Callable[[], None] | None = None,
        together: Together | None = None,
        urgent: bool = True,
    ) -> None:
        self.receiver = receiver
        self.work = work
        self.size = size
        self.writes = writes
        self.dropped = dropped
        self.together = together
        self.urgent = urgent
        self.value: Any = None
        self.error: Exception | None = None

    def refuse(self, error: BaseException, *, undone: bool) -> None:
        """Fail with *error*; *undone* says that nothing of it is in the database."""
        if undone and self.dropped:
            self.dropped()
        self.receiver.set_exception(error)


def ring(tasks: Iterable[Task]) -> None:
    """Call the bells of these tasks, which have their results."""
    # Only now: a bell may be given while the task runs.
    for bell in {task.receiver.bell for task in tasks}:
        if bell is not None:
            bell()


class Writer:
    """Runs tasks in the order in which they come, many in one transaction.

    *on_commit* and *on_rollback* are called in the thread after a transaction with changes.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        folder: str,
        on_commit: Callable[[], None],
        on_rollback: Callable[[], None],
    ) -> None:
        self.failed: BaseException | None = None
        self._connection = connection
        self._folder = folder
        self._on_commit = on_commit
        self._on_rollback = on_rollback
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._ended = False
        self._log = os.path.join(folder, "spool.db-wal")
        self._flying = 0
        self._submitted = self._collected = 0
        self._syncs = True
        self._next_sync = 0.0
        self._written = 0
        self._next_look = 0.0
        self._untidy = True
        self._tidy_at = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiosmtpd spool", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Add a task; after a failure, or after :meth:`stop`, it fails at once."""
        with self._gate:
            if not self._ended:
                self._submitted += task.urgent
                self._tasks.put(task)
                return
        task.refuse(self._refusal(), undone=True)
        ring([task])

    def stop(self) -> None:
        """Wait for the tasks that were added, and close the database."""
        with self._gate:
            self._ended = True
            self._tasks.put(None)
        self._done.wait()

    def fail(self, error: BaseException) -> None:
        """Refuse all tasks from now on: the disk cannot be trusted. Any thread may call this."""
        with self._gate:
            self._ended = True
            if self.failed is None:
                self.failed = error
            self._tasks.put(None)

    def _refusal(self) -> SpoolError:
        if isinstance(self.failed, sqlite3.Error):
            return explained(self.failed, self._folder)
        if self.failed is not None:
            return SpoolError(
                f"The spool {self._folder} is closed after an error of its disk ({self.failed}): "
                "check the disk, then start again"
            )
        return SpoolError(f"The spool {self._folder} is closed: open it again")

    def _run(self) -> None:
        connection = self._connection
        del self._connection
        # The first statement that changes rows begins a transaction: see _begin().
        connection.isolation_level = "IMMEDIATE"
        try:
            while batch := self._next_batch(connection):
                self._commit(connection, batch)
                self._after(connection)
        except Exception as error:
            self.fail(error)
        self._refuse_rest()
        closable = self.failed is None or _without_sync(connection)
        if closable:
            connection.close()
        self._done.set()
        if not closable:
            # The frame of a daemon thread keeps the connection from being closed, also at the end
            # of the process: Python 3.11 cannot close a database without a sync.
            threading.Event().wait()

    def _refuse_rest(self) -> None:
        with suppress(Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None and task.receiver.set_running_or_notify_cancel():
                    self._refuse([task], self._refusal(), undone=True)

    def _next_batch(self, connection: sqlite3.Connection) -> list[Task]:
        """Wait for work and return all that waits, within limits; an empty list ends the thread.

        The sessions whose messages were committed together send their next ones together too. The
        first of these would be alone in a commit, while the others wait for its sync. Each commit
        also stops the event loop several times, because Python has one lock for all threads.
        """
        batch: list[Task] = []
        task = self._wait(connection)
        while task is not None and not batch:
            self._collect(batch, task)
            if not batch:
                task = self._wait(connection)
        usual, urgent = round(self._flying * PART), _urgent(batch)
        if not urgent:
            self._seek_company(batch)
            urgent = _urgent(batch)
        if urgent and 2 < usual > urgent:
            # A crash repeats deliveries whose ends are not committed: these wait for one step.
            longest = LONGEST_GATHER if urgent == len(batch) else GATHER
            self._gather(batch, usual, min((usual - 2) * SHARE, longest))
        return batch

    def _gather(self, batch: list[Task], usual: int, left: float) -> None:
        """Wait for more tasks, at most so many seconds, and only while more messages come."""
        before = 0
        while left > 0 and before < _urgent(batch) < usual and len(batch) < ROWS:
            before = _urgent(batch)
            # Not a wait for each task: to wake up costs more than the work for one.
            sleep(min(GATHER, left))
            left -= GATHER
            with suppress(Empty):
                self._collect(batch, self._tasks.get_nowait())

    def _seek_company(self, batch: list[Task]) -> None:
        """Wait a moment for more tasks, unless one of the batch is urgent."""
        until = monotonic() + COMPANY
        while 0 < len(batch) < ROWS and not any(task.urgent for task in batch):
            try:
                task = self._tasks.get(timeout=max(until - monotonic(), 0.0))
            except Empty:
                return
            self._collect(batch, task)
            if task is None:
                return

    def _collect(self, batch: list[Task], task: Task | None) -> None:
        """Add *task* and those that follow it to a batch, within limits."""
        size = sum(one.size for one in batch)
        while task is not None:
            self._collected += task.urgent
            if task.receiver.set_running_or_notify_cancel():
                batch.append(task)
                size += task.size
            elif task.dropped:
                task.dropped()
            if len(batch) >= ROWS or size >= BYTES:
                return
            try:
                task = self._tasks.get_nowait()
            except Empty:
                return
        # The end comes after this batch.
        self._tasks.put(None)

    def _wait(self, connection: sqlite3.Connection) -> Task | None:
        while self._untidy:
            try:
                # Not more than that, or a clock that was set back would be an OverflowError.
                return self._tasks.get(timeout=min(max(self._tidy_at - monotonic(), 0.0), IDLE))
            except Empty:
                self._tidy_at = monotonic() + self._tidy(connection)
        return self._tasks.get()

    def _commit(self, connection: sqlite3.Connection, batch: list[Task]) -> None:
        if self.failed is not None:
            self._refuse(batch, self._refusal(), undone=True)
            return
        before = connection.total_changes
        undone = True
        try:
            self._choose_sync(connection, batch)
            _begin(connection, batch)
            _work(connection, batch)
            undone = False
            # In one step, where execute() takes three: Python gives its lock away in each.
            connection.commit()
        except Exception as error:
            self._roll_back(connection, batch, error, undone=undone or is_full(error))
            return
        if connection.total_changes != before:
            self._on_commit()
            self._untidy = True
            self._tidy_at = monotonic() + IDLE
            self._written += sum([task.size for task in batch]) + ROW * len(batch) + COMMIT
        self._count_flying(batch)
        for task in batch:
            if task.error is None:
                task.receiver.set_result(task.value)
            else:
                task.refuse(task.error, undone=True)
        ring(batch)

    def _count_flying(self, batch: list[Task]) -> None:
        """Note how many messages are on their way: in this commit, and come meanwhile."""
        if urgent := _urgent(batch):
            flying = urgent + self._submitted - self._collected
            self._flying = max(flying, self._flying - self._flying // 4)

    def _choose_sync(self, connection: sqlite3.Connection, batch: list[Task]) -> None:
        """Let the next commit wait for a sync of the disk if a task of it needs that.

        A sync is of the whole log: it makes the commits before it last, too.
        """
        now = monotonic()
        syncs = now >= self._next_sync or any(task.writes and task.urgent for task in batch)
        if syncs:
            self._next_sync = now + UNSYNCED
        if syncs != self._syncs:
            # This pragma acts when it is compiled: execute() would do so once, and remember it.
            connection.executescript(f"pragma synchronous = {'full' if syncs else 'normal'}")
            self._syncs = syncs

    def _roll_back(
        self, connection: sqlite3.Connection, batch: list[Task], error: Exception, *, undone: bool
    ) -> None:
        if _for_good(error):
            self.fail(error)
        if is_full(error):
            # A log that has been copied is written from its beginning again: that needs no room.
            self._written = CHECKPOINT
        with suppress(sqlite3.Error):
            connection.rollback()
        self._on_rollback()
        reason = error
        if self.failed is not None:
            reason = self._refusal()
        elif isinstance(error, sqlite3.Error):
            reason = explained(error, self._folder)
        self._refuse(batch, reason, undone=undone)

    def _refuse(self, batch: list[Task], error: Exception, *, undone: bool) -> None:
        for task in batch:
            task.refuse(error, undone=undone)
        ring(batch)

    def _after(self, connection: sqlite3.Connection) -> None:
        """Keep the files small while there is work."""
        if self.failed is not None:
            return
        now = monotonic()
        if now > self._next_look:
            self._next_look = now + LOOK
            self._vacuum(connection, BUSY_STEP, BUSY_KEPT)
            with suppress(OSError):
                if os.path.getsize(self._log) > LOG:
                    self._written = CHECKPOINT
        if self._written >= CHECKPOINT:
            self._written = 0
            self._try(connection, "pragma wal_checkpoint(passive)")

    def _tidy(self, connection: sqlite3.Connection) -> float:
        """Give space back while there is no work; return the seconds to wait before more of it."""
        if self.failed is not None:
            return IDLE
        if self._vacuum(connection, STEP, KEPT):
            return PAUSE
        # A reader beside us may keep the log from being emptied: do not wait for it.
        self._try(connection, "pragma busy_timeout = 20")
        self._try(connection, "pragma wal_checkpoint(truncate)")
        self._try(connection, f"pragma busy_timeout = {BUSY * 1000:.0f}")
        self._written = 0
        self._untidy = False
        return IDLE

    def _vacuum(self, connection: sqlite3.Connection, pages: int, kept: int) -> bool:
        """Give back *pages* free pages at most, if more than *kept* are free; return True if so."""
        free = self._try(connection, "pragma freelist_count")
        if not free or free[0] <= kept:
            return False
        # execute() would take one step, which gives back one page.
        script = f"pragma incremental_vacuum({min(pages, free[0] - kept)})"
        try:
            connection.executescript(script)
        except sqlite3.Error as error:
            self._note(error)
            return False
        self._written += pages * PAGE
        return True

    def _try(self, connection: sqlite3.Connection, statement: str) -> Any:
        try:
            return connection.execute(statement).fetchone()
        except sqlite3.Error as error:
            self._note(error)
            return None

    def _note(self, error: sqlite3.Error) -> None:
        if _for_good(error):
            self.fail(error)


_NO_CHECKPOINT_ON_CLOSE = 1006
"""SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, which Python 3.12 has given a name."""


def _urgent(batch: list[Task]) -> int:
    return sum([task.urgent for task in batch])


def _begin(connection: sqlite3.Connection, batch: list[Task]) -> None:
    """Begin a transaction, unless the first statement of the batch does it."""
    if not any(task.writes for task in batch):
        connection.execute("begin")
    elif all(task.together is None for task in batch):
        connection.execute("begin immediate")


def _work(connection: sqlite3.Connection, batch: list[Task]) -> None:
    kinds: dict[Together, list[Any]] = {}
    others = []
    for task in batch:
        if task.together is None:
            others.append(task)
        else:
            kinds.setdefault(task.together, []).append(task.work)
    for together, works in kinds.items():
        together(connection, works)
    for task in others:
        try:
            task.value = task.work(connection)
        except SpoolError as error:
            task.error = error


def _for_good(error: Exception) -> bool:
    """Return True if the database cannot be trusted after this error."""
    codes = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return primary(error) in codes and not is_full(error)


def _without_sync(connection: sqlite3.Connection) -> bool:
    """Let the connection be closed without a sync of its files; return False if it cannot."""
    if not hasattr(connection, "setconfig"):
        return False
    connection.setconfig(_NO_CHECKPOINT_ON_CLOSE, True)
    return True
