"""The thread that alone changes the database: it takes all work that waits into one commit."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

from attrs import define, field

from aiosmtpd.inbox.database import explained
from aiosmtpd.inbox.records import Event, StoreError

T = TypeVar("T")
log = logging.getLogger("mail.log")

BATCH = 64
"""Tasks of one commit, at most."""

QUIET = 0.05
"""Seconds without work before the thread tidies up."""

PAUSE = 0.02
"""Seconds without more late work before it is done."""

LATEST = 0.25
"""Seconds by which work may be late, at most: the more tasks in one commit, the less each takes."""

SOON = 0.004
"""Seconds by which it may be late while a client waits for its events."""

AGAIN = 1.0
"""Seconds before late work is tried again which the disk has refused."""


@define
class Change:
    """The effects of a task, which count only after its commit."""

    total: int = 0
    unread: int = 0
    size: int = 0
    attempts: int = 0
    rejected: int = 0
    tags: Counter[str] = field(factory=Counter)
    """How many messages more, or fewer, have each tag; by spelling."""
    events: list[Event] = field(factory=list)
    unlinked: list[Path] = field(factory=list)
    """Files of messages that are deleted."""
    afterwards: list[Callable[[], None]] = field(factory=list)
    """Called after the commit."""
    arrived: int = 0
    """Messages that were among the arrivals, and are in the database now."""
    accepted: int = 0
    accepted_size: int = 0
    ignored: int = 0
    pruned: int = 0
    everything: bool = False
    """True if no message is left: the numbers begin at 0."""

    def add(self, other: Change) -> None:
        """Add messages that were inserted."""
        self.total += other.total
        self.unread += other.unread
        self.size += other.size
        self.accepted += other.accepted
        self.accepted_size += other.accepted_size
        self.tags.update(other.tags)
        self.events += other.events


Work = Callable[[sqlite3.Connection, Change], T]


class Task:
    """One piece of work, and the future of its result; *undo* is called before it fails.

    *late* work may wait, and is tried again. If the disk is full, work that *frees* room gets some.
    """

    __slots__ = ("change", "frees", "future", "late", "undo", "value", "work")

    def __init__(
        self,
        work: Work[Any],
        future: Future[Any] | None = None,
        undo: Callable[[], None] | None = None,
        *,
        late: bool = False,
        frees: bool = False,
    ) -> None:
        self.work = work
        self.frees = frees
        self.undo = undo
        self.late = late
        self.future: Future[Any] = Future() if future is None else future
        self.change = Change()
        self.value: Any = None

    def is_wanted(self) -> bool:
        """Return False if its future was cancelled before it began."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def fail(self, error: Exception) -> None:
        """Let the future raise an error."""
        if self.undo is not None:
            self.undo()
        self.future.set_exception(error)


_WAKE = Task(lambda *_: None)
"""Tells the thread that there are late tasks."""


class Writer:
    """Runs tasks in the order in which they come, many in one transaction.

    Late tasks run within 0.3 s, or before the next other task: waking the thread for each of them
    would take longer than the task.

    *committed* is called with the changes of the tasks after their commit, before their futures
    have their results. *tidy* is called with True when there is no work, else after each commit; it
    returns True if there is more to tidy up. *make_room* is called for work that frees room if the
    disk refuses it; it returns False if it cannot. After *rest* seconds without work, it tidies up
    again; None means that it need not.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        committed: Callable[[list[Change]], None],
        tidy: Callable[[Writer, sqlite3.Connection, bool], bool],
        make_room: Callable[[sqlite3.Connection], bool],
        rest: float | None = None,
    ) -> None:
        self._connection = connection
        self._path = path
        self._committed = committed
        self._tidy = tidy
        self._make_room = make_room
        self._rest = rest
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._ended = False
        self._untidy = True
        self._late: list[Task] = []
        # When to run the late tasks, and the end of the patience with the first of them.
        self._due = self._latest = 0.0
        self._hurries = 0
        self._thread = threading.Thread(target=self._run, name="aiosmtpd inbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(
        self,
        work: Work[T],
        future: Future[T] | None = None,
        undo: Callable[[], None] | None = None,
        *,
        frees: bool = False,
    ) -> Future[T]:
        """Add work; *future* gets its result. After :meth:`stop`, it fails at once."""
        task = Task(work, future, undo, frees=frees)
        with self._gate:
            if not self._ended:
                self._tasks.put(task)
                return task.future
        task.fail(StoreError("The store is closed"))
        return task.future

    def postpone(self, work: Work[T]) -> Future[T]:
        """Add work that may be late; it is tried again as long as the disk refuses it."""
        task = Task(work, late=True)
        # It will be done in any case: from now on, no one can cancel it.
        task.future.set_running_or_notify_cancel()
        with self._gate:
            if self._ended:
                task.future.set_exception(StoreError("The store is closed"))
                return task.future
            now, is_first = monotonic(), not self._late
            self._late.append(task)
            if is_first:
                self._latest = now + self._patience()
            self._due = min(now + PAUSE, self._latest)
        if is_first:
            self._tasks.put(_WAKE)
        return task.future

    def linger(self) -> None:
        """Begin the pause before the late tasks anew: one of them has got more to do."""
        with self._gate:
            self._due = min(monotonic() + PAUSE, self._latest)

    def _patience(self) -> float:
        return min(SOON, LATEST) if self._hurries else LATEST

    def hurry(self, by: int) -> None:
        """Count the clients that wait for events of late work: 1 for a new one, -1 at its end."""
        with self._gate:
            self._hurries += by
            self._latest = min(self._latest, monotonic() + self._patience())
            self._due = min(self._due, self._latest)
        self._tasks.put(_WAKE)

    def stop(self) -> None:
        """Wait for the work that was added, end the thread, and close the connection."""
        with self._gate:
            if not self._ended:
                self._ended = True
                self._tasks.put(None)
        self._thread.join()

    def is_current_thread(self) -> bool:
        """Return True in the writer's thread."""
        return threading.current_thread() is self._thread

    def has_work(self) -> bool:
        """Return True if tasks wait."""
        return not self._tasks.empty()

    def is_late(self) -> bool:
        """Return True if late tasks wait: each waits until its commit."""
        return bool(self._late)

    def try_now(self, work: Work[T], *, frees: bool = False) -> T | None:
        """Run work in a transaction of its own, only in this thread; return None if it fails."""
        task = Task(work, frees=frees)
        self._commit([task])
        return None if task.future.exception() else task.future.result()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._catch_up()
            self._commit(batch)
            self._untidy = True
            self._tidied(idle=False)
        self._catch_up()
        for task in self._late:
            task.future.set_exception(StoreError("The store is closed"))
        with suppress(sqlite3.Error):
            self._connection.close()

    def _next_batch(self) -> list[Task]:
        """Wait for work and return all that waits; an empty list ends the thread."""
        task = self._wait()
        batch: list[Task] = []
        while task is not None:
            if task is not _WAKE and task.is_wanted():
                batch.append(task)
            if len(batch) >= BATCH:
                return batch
            try:
                task = self._tasks.get_nowait()
            except Empty:
                if batch:
                    return batch
                task = self._wait()
        if batch:
            self._tasks.put(None)
        return batch

    def _wait(self) -> Task | None:
        pause = QUIET
        while self._late or self._untidy:
            try:
                return self._tasks.get(timeout=self._left() if self._late else pause)
            except Empty:
                if self._late:
                    # Others may have come, and their pause is not over.
                    if not self._left():
                        self._catch_up()
                        self._tidied(idle=False)
                        self._untidy = True
                    continue
                self._untidy = self._tidied(idle=True)
                # More to do now begins at once, unless there is work.
                pause = 0.0
        try:
            return self._tasks.get(timeout=self._rest)
        except Empty:
            self._untidy = True
            return _WAKE

    def _left(self) -> float:
        """Return the seconds until late tasks are due: none if a test has set the clock back."""
        left = self._due - monotonic()
        return left if 0.0 < left <= max(LATEST, AGAIN) else 0.0

    def _tidied(self, *, idle: bool) -> bool:
        try:
            return self._tidy(self, self._connection, idle)
        except (sqlite3.Error, OSError):
            # It is tried again later; a commit that fails tells why.
            with suppress(sqlite3.Error):
                self._connection.rollback()
            return False

    def _catch_up(self) -> None:
        """Run the late tasks that wait now."""
        left = len(self._late)
        while left:
            some = self._late[: min(left, BATCH)]
            done = self._commit(some)
            # Not before the commit, so that readers know of them.
            with self._gate:
                del self._late[:done]
                now, refused = monotonic(), done < len(some)
                self._latest = now + (AGAIN if refused else self._patience())
                self._due = self._latest if refused else min(now + PAUSE, self._latest)
            left = 0 if refused else left - done

    def _commit(self, batch: list[Task]) -> int:
        """Run tasks in a transaction; return how many are done, with success or without.

        The rest are late tasks that the disk refuses for now.
        """
        connection = self._connection
        try:
            connection.execute("begin immediate")
            for task in batch:
                task.change = Change()
                task.value = task.work(connection, task.change)
            connection.execute("commit")
        except Exception as error:
            with suppress(sqlite3.Error):
                connection.rollback()
            if len(batch) == 1:
                if batch[0].frees and _is_full(error) and self._make_room(connection):
                    return self._commit(batch)
                return self._failed(batch[0], error)
            # One of them may be to blame.
            for number, task in enumerate(batch):
                if not self._commit([task]):
                    return number
            return len(batch)
        self._committed([task.change for task in batch])
        for task in batch:
            task.future.set_result(task.value)
        return len(batch)

    def _failed(self, task: Task, error: Exception) -> bool:
        """Tell the future of a task that it failed; return False to try it again."""
        if task.late:
            if isinstance(error, (sqlite3.OperationalError, OSError)):
                return False
            log.error("The inbox has lost work: %s", error, exc_info=error)
        task.fail(self._reason(error))
        return True

    def _reason(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return explained(error, self._path)
        if isinstance(error, OSError):
            return StoreError(f"{self._path}: {error}")
        return error


def _is_full(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # A limit on the size of files is an error of writing.
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
