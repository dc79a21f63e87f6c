"""The thread that alone changes the database: it takes all work that waits into one commit."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from attrs import define, field

from aiosmtpd.inbox.database import explained
from aiosmtpd.inbox.records import Event, StoreError

T = TypeVar("T")

BATCH = 64
"""Tasks of one commit, at most."""

QUIET = 0.05
"""Seconds without work before the thread tidies up."""


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
    accepted_size: int = 0
    ignored: int = 0
    pruned: int = 0
    everything: bool = False
    """True if no message is left: the numbers begin at 0."""


Work = Callable[[sqlite3.Connection, Change], T]


class Task:
    """One piece of work, and the future of its result; *undo* is called before it fails."""

    __slots__ = ("change", "future", "undo", "value", "work")

    def __init__(
        self,
        work: Work[Any],
        future: Future[Any] | None = None,
        undo: Callable[[], None] | None = None,
    ) -> None:
        self.work = work
        self.undo = undo
        self.future: Future[Any] = Future() if future is None else future
        self.change = Change()
        self.value: Any = None

    def fail(self, error: Exception) -> None:
        """Let the future raise an error."""
        if self.undo is not None:
            self.undo()
        self.future.set_exception(error)


class Writer:
    """Runs tasks in the order in which they come, many in one transaction.

    *committed* is called with the change of each task after its commit, before its future has its
    result. *tidy* is called with True when there is no work, else after each commit; it returns
    True if there is more to tidy up.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        committed: Callable[[Change], None],
        tidy: Callable[[sqlite3.Connection, bool], bool],
    ) -> None:
        self._connection = connection
        self._path = path
        self._committed = committed
        self._tidy = tidy
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._ended = False
        self._untidy = True
        self._thread = threading.Thread(target=self._run, name="aiosmtpd inbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(
        self,
        work: Work[T],
        future: Future[T] | None = None,
        undo: Callable[[], None] | None = None,
    ) -> Future[T]:
        """Add work; *future* gets its result. After :meth:`stop`, it fails at once."""
        task = Task(work, future, undo)
        with self._gate:
            if not self._ended:
                self._tasks.put(task)
                return task.future
        task.fail(StoreError("The store is closed"))
        return task.future

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

    def try_now(self, work: Work[T]) -> T | None:
        """Run work in a transaction of its own, only in this thread; return None if it fails."""
        task = Task(work)
        self._commit([task])
        return None if task.future.exception() else task.future.result()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._commit(batch)
            self._untidy = True
            self._tidied(idle=False)
        with suppress(sqlite3.Error):
            self._connection.close()

    def _next_batch(self) -> list[Task]:
        """Wait for work and return all that waits; an empty list ends the thread."""
        task = self._wait()
        batch: list[Task] = []
        while task is not None:
            if task.future.running() or task.future.set_running_or_notify_cancel():
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
        while self._untidy:
            try:
                return self._tasks.get(timeout=pause)
            except Empty:
                self._untidy = self._tidied(idle=True)
                # More to do now begins at once, unless there is work.
                pause = 0.0
        return self._tasks.get()

    def _tidied(self, *, idle: bool) -> bool:
        try:
            return self._tidy(self._connection, idle)
        except (sqlite3.Error, OSError):
            # It is tried again later; a commit that fails tells why.
            with suppress(sqlite3.Error):
                self._connection.rollback()
            return False

    def _commit(self, batch: list[Task]) -> None:
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
            if len(batch) > 1:
                # One of them may be to blame.
                for task in batch:
                    self._commit([task])
            else:
                batch[0].fail(self._reason(error))
            return
        for task in batch:
            self._committed(task.change)
        for task in batch:
            task.future.set_result(task.value)

    def _reason(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return explained(error, self._path)
        if isinstance(error, OSError):
            return StoreError(f"{self._path}: {error}")
        return error
