"""The store of the inbox: messages, sessions and refused attempts in SQLite.

Reading methods block for milliseconds: call them with ``asyncio.to_thread()``. Writing methods
return a future at once; its result is there after the commit, and its exception is a
:exc:`StoreError`. All methods may be called from any thread.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import BinaryIO, Self, TypeVar

from attrs import evolve
from public import public

from aiosmtpd.inbox import changes, database, labels, packing, reading, search as language, wire
from aiosmtpd.inbox.keep import Keep as Keep, parse_keep as parse_keep
from aiosmtpd.inbox.records import (
    Attempt as Attempt,
    Attempts as Attempts,
    Counts as Counts,
    Event as Event,
    Gone as Gone,
    Line as Line,
    Received as Received,
    SessionLog as SessionLog,
    StoreError as StoreError,
    Summary as Summary,
    Tagging as Tagging,
)
from aiosmtpd.inbox.rows import Description, describe
from aiosmtpd.inbox.stored import (
    ListedPart as ListedPart,
    StoredMail as StoredMail,
    Trees,
)
from aiosmtpd.inbox.taking import QUICK, Taker
from aiosmtpd.inbox.writer import Change, Writer
from aiosmtpd.mail.source import InFile, InMemory

T = TypeVar("T")
P = TypeVar("P")
log = logging.getLogger("mail.log")

LARGE = 1_000_000
"""Bytes of the largest message that is kept in the database and not in a file."""

INDEXED_AT_ONCE = 100
"""Messages that are added to the index in one commit."""

INDEXED_FOR_SEARCH = 500
"""Messages that are added in one commit if a search waits for the index."""

MOST_PENDING = 5000
"""Messages that wait for the index before it is brought up to date in spite of other work."""

LOG = 32 << 20
"""Bytes of the write-ahead log after which it is copied to the database in spite of other work."""

SNAPSHOT = 2.0
"""Seconds between two copies of the sessions that still run."""

MOST_OVER = 200
"""Messages over the limit before retention removes some in spite of other work."""

FREE_PAGES = 256
"""Free pages that stay in the file, and that are given back at a time."""

STREAMED = 500
"""Rows of one piece of a stream."""


@public
class Store:
    """Keeps what the inbox has received.

    *path* is the database; None makes a temporary one, which :meth:`close` removes. Messages of
    more than 1 MB are files in a folder beside it. *keep* says what is removed, and when.
    *durable* survives a power cut, not only the end of the process. *tagging* gives tags on
    arrival. With *ignore_duplicates*, a message whose Message-ID is stored is not stored again.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        keep: Keep | None = None,
        durable: bool = False,
        tagging: Tagging | None = None,
        ignore_duplicates: bool = False,
    ) -> None:
        self.path = path
        self.keep = Keep() if keep is None else keep
        self.durable = durable
        self.tagging = Tagging() if tagging is None else tagging
        self.ignore_duplicates = ignore_duplicates
        self._temporary: Path | None = None
        self._folder = Path()
        self._lock_file: BinaryIO | None = None
        self._index = False
        self._writer: Writer | None = None
        self._readers: reading.Readers | None = None
        self._taker: Taker | None = None
        self._large: ThreadPoolExecutor | None = None
        self._trees = Trees()
        self._gate = threading.Lock()
        self._callbacks: tuple[Callable[[Event], None], ...] = ()
        self._counts = Counts(*(0,) * len(Counts._fields))
        self._tags: Counter[str] = Counter()
        self._sessions: dict[int, SessionLog] = {}
        self._saved: dict[int, int] = {}
        self._next_session = 1
        self._pending = 0
        self._filters = [(language.parse(query), tags) for query, tags in self.tagging.filters]
        self._next_snapshot = self._next_check = 0.0

    def open(self) -> None:
        """Open or make the database and start the threads; raises StoreError."""
        if self._writer is not None:
            return
        if self.path is None:
            # Only its owner may look into this folder.
            self._temporary = Path(tempfile.mkdtemp(prefix="aiosmtpd-inbox-"))
            self.path = self._temporary / "inbox.db"
        try:
            self._open(self.path)
        except OSError as error:
            self._abandon()
            raise database.unusable(error, self.path) from error
        except BaseException:
            self._abandon()
            raise

    def _open(self, path: Path) -> None:
        if path.is_dir():
            raise StoreError(f"{path} is a folder: name a file, which may be in it")
        self._lock(path)
        self._folder = path.with_name(path.name + ".large")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._taker = Taker(path, self._gate, self._describe, self._filters)
        connection = database.open_writer(
            path, durable=self.durable, temporary=self._temporary is not None
        )
        try:
            self._load(connection)
            self._readers = reading.Readers(path, index=self._index)
        except sqlite3.Error as error:
            connection.close()
            raise database.explained(error, path) from error
        self._large = ThreadPoolExecutor(1, thread_name_prefix="aiosmtpd inbox large")
        self._writer = Writer(connection, path, self._committed, self._tidy)
        self._writer.start()

    def _lock(self, path: Path) -> None:
        """Keep other processes from opening the same store."""
        try:
            import fcntl  # not on Windows
        except ImportError:
            return
        self._lock_file = os.fdopen(os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR, 0o600), "r+b")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{path} is in use by another process: end it first") from None

    def _load(self, connection: sqlite3.Connection) -> None:
        """Read the numbers that are kept in memory; remove files without a message."""
        for query, _ in self._filters:
            # An error now is better than one for each message.
            changes.has(connection, 0, query)
        taker = self._opened(self._taker)
        taker.load(connection)
        first = connection.execute(
            "select count(*), coalesce(sum(read = 0), 0), coalesce(sum(size), 0),"
            " coalesce(max(n), 0), coalesce(max(session), 0) from msg"
        ).fetchone()
        attempts = connection.execute("select count(*), max(session) from attempt").fetchone()
        sessions = connection.execute("select max(s) from session").fetchone()
        pruned = connection.execute("select coalesce(sum(count), 0) from gone").fetchone()
        indexed = changes.state(connection, "indexed")
        self._index = database.has_index(connection)
        waiting = connection.execute("select count(*) from txt where n > ?", (indexed,)).fetchone()
        self._pending = waiting[0] if self._index else 0
        taker.start_after(max(first[3], indexed, changes.state(connection, "arrived")))
        self._next_session = max(first[4], attempts[1] or 0, sessions[0] or 0) + 1
        self._counts = Counts(first[0], first[1], first[2], attempts[0], 0, 0, 0, 0, 0, pruned[0])
        self._tags = changes.tag_counts(connection)
        if self.ignore_duplicates:
            connection.execute("create index if not exists field_id on field(message_id)")
        found = connection.execute("select id from msg where large")
        known = {str(id) for (id,) in found}
        for file in self._folder.iterdir():
            if file.name not in known:
                file.unlink()

    def _abandon(self) -> None:
        with self._gate:
            if self._taker is not None:
                self._taker.close()
                self._taker = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = self.path = None

    def close(self) -> None:
        """Finish the writing that was asked for, and end the threads. Again: does nothing."""
        if self._writer is None or self._readers is None or self._large is None:
            return
        self._large.shutdown()
        self._save_logs()
        self._readers.close()
        # Last, so that it copies the write-ahead log to the database.
        self._writer.stop()
        self._writer = self._readers = self._large = None
        self._trees.clear()
        self._abandon()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Writing.

    def add(self, received: Received) -> Future[str]:
        """Store a message, whatever it is; the result is its id.

        With a duplicate that is ignored, the id of the stored message.
        """
        received, future = _dated(received), Future[str]()
        if self._is_quick(received):

            def add(connection: sqlite3.Connection, change: Change) -> str:
                return self._insert(connection, change, received, self._describe(received))

            return self._write(add, future)
        large = self._opened(self._large)
        try:
            large.submit(self._add_large, received, future)
        except RuntimeError:
            future.set_exception(StoreError("The store is closed"))
        return future

    def take(self, received: Received) -> Future[str]:
        """Store a message as :meth:`add` does, but give the result as soon as it is safe.

        It is in the lists a moment later: its event comes within 0.3 s, see :meth:`hurry`. Methods
        that read or change messages first wait for it. :meth:`counts` has it at once.
        """
        taker, writer = self._opened(self._taker), self._opened(self._writer)
        if self.durable or self.ignore_duplicates or not taker.can_take(received):
            return self.add(received)
        return taker.take(_dated(received), writer)

    def _is_quick(self, received: Received) -> bool:
        return isinstance(received.content, bytes) and len(received.content) <= QUICK

    def _describe(self, received: Received, id: str = "") -> Description:
        content = received.content
        source = (
            InMemory(content) if isinstance(content, bytes) else InFile(partial(_open, content))
        )
        created = received.created or datetime.now().astimezone()
        return describe(source, received, created, self.tagging, id)

    def _add_large(self, received: Received, future: Future[str]) -> None:
        """Read a message in a thread of its own, then pass it to the writer."""
        content, is_file = received.content, False
        if not future.set_running_or_notify_cancel():
            if isinstance(content, Path):
                content.unlink(missing_ok=True)
            return
        try:
            if isinstance(content, bytes) and len(content) > LARGE:
                with self.new_file() as file:
                    file.write(content)
                    content = Path(file.name)
            received = evolve(received, content=content)
            found = self._describe(received)
            if isinstance(content, Path):
                if self.durable:
                    _sync(content)
                content.rename(self._folder / found.id)
                is_file = True
        except Exception as error:
            if isinstance(content, Path):
                content.unlink(missing_ok=True)
            future.set_exception(StoreError(f"Cannot store a large message: {error}"))
            return

        def add(connection: sqlite3.Connection, change: Change) -> str:
            return self._insert(connection, change, received, found, is_file=is_file)

        def undo() -> None:
            (self._folder / found.id).unlink(missing_ok=True)

        self._opened(self._writer).submit(add, future, undo if is_file else None)

    def _insert(
        self,
        connection: sqlite3.Connection,
        change: Change,
        received: Received,
        found: Description,
        *,
        is_file: bool = False,
    ) -> str:
        if self.ignore_duplicates and (known := changes.duplicate(connection, found)):
            if is_file:
                change.unlinked.append(self._folder / found.id)
            change.ignored += 1
            return known
        content = received.content if isinstance(received.content, bytes) else None
        envelope = packing.packed_envelope(received, found.id)
        with self._gate:
            n = self._opened(self._taker).new_number()
        message = changes.Message(n, envelope, received.session, found, content)
        changes.insert(connection, change, [message], self._filters)
        return found.id

    def new_file(self) -> BinaryIO:
        """Return a new file for the content of a large message, open for writing.

        ``Path(file.name)`` is for :attr:`Received.content`, after the file is closed. To give it
        up, remove the file. Raises StoreError.
        """
        self._opened(self._writer)
        try:
            return tempfile.NamedTemporaryFile(dir=self._folder, prefix="new-", delete=False)  # type: ignore[return-value]
        except OSError as error:
            raise StoreError(f"Cannot make a file in {self._folder}: {error}") from error

    def new_session(self) -> int:
        """Return the number of a new session."""
        with self._gate:
            self._next_session += 1
            return self._next_session - 1

    def watch_session(self, session: SessionLog) -> None:
        """Let :meth:`session` return this log, which may still grow, until it is saved."""
        self._sessions[session.number] = session

    def save_session(self, session: SessionLog) -> Future[int]:
        """Store a session that has ended; the result is its number."""

        def save(connection: sqlite3.Connection, change: Change) -> int:
            changes.save_session(connection, session.number, packing.packed_log(session))
            change.afterwards.append(forget)
            return session.number

        def forget() -> None:
            self._sessions.pop(session.number, None)
            self._saved.pop(session.number, None)

        # After its messages, which may be late.
        return self._opened(self._writer).postpone(save)

    def add_attempt(self, attempt: Attempt) -> Future[int]:
        """Store a refused attempt; the result is its number."""
        if attempt.at is None:
            attempt = evolve(attempt, at=datetime.now().astimezone())

        def add(connection: sqlite3.Connection, change: Change) -> int:
            return changes.add_attempt(connection, change, attempt)

        # It keeps its place among the messages that are late.
        return self._opened(self._writer).postpone(add)

    def set_read(self, ids: Collection[str] | None, read: bool) -> Future[int]:
        """Mark messages as read or unread, None for all; the result is how many changed.

        Unknown ids are ignored, here and below.
        """
        return self._write(lambda on, change: changes.set_read(on, change, ids, read))

    def delete(self, ids: Collection[str] | None) -> Future[int]:
        """Delete messages, None for all; the result is their number.

        With all messages go the sessions, but not the refused attempts.
        """
        if ids is None:
            return self._write(
                lambda on, change: changes.delete_all(on, change, self._folder, index=self._index)
            )
        return self._write(lambda on, change: changes.delete(on, change, ids, self._folder))

    def delete_attempts(self) -> Future[int]:
        """Delete all refused attempts; the result is their number."""
        return self._write(changes.delete_attempts)

    def set_tags(self, ids: Collection[str], tags: Collection[str]) -> Future[int]:
        """Replace the tags of messages; the result is the number of messages.

        Tags are cleaned: other characters than ``a-z A-Z 0-9 - . _ @`` and blanks become blanks. A
        tag that exists keeps its spelling.
        """
        return self._write(lambda on, change: changes.set_tags(on, change, ids, tags))

    def rename_tag(self, old: str, new: str) -> Future[None]:
        """Rename a tag on all messages.

        The future raises LookupError for an unknown tag, ValueError for a new name that has no
        allowed character or that another tag has.
        """
        return self._write(lambda on, change: changes.rename_tag(on, change, old, new))

    def delete_tag(self, name: str) -> Future[None]:
        """Remove a tag from all messages; the future raises LookupError for an unknown tag."""
        return self._write(lambda on, change: changes.delete_tag(on, change, name))

    def compact(self) -> Future[None]:
        """Index all messages, and give back free space in the file."""

        def compact(connection: sqlite3.Connection, change: Change) -> None:
            while changes.drop_some(connection):
                pass
            self._index_some(connection, -1)
            change.afterwards.append(lambda: _vacuum(connection))

        return self._write(compact)

    def _write(
        self, work: Callable[[sqlite3.Connection, Change], T], future: Future[T] | None = None
    ) -> Future[T]:
        return self._opened(self._writer).submit(work, future)

    def _opened(self, part: P | None) -> P:
        if part is None:
            raise StoreError("The store is not open")
        return part

    # The writer's thread.

    def _committed(self, committed: list[Change]) -> None:
        """Count the changes of a commit, and tell of them."""
        for change in committed:
            self._count(change)
            for file in change.unlinked:
                with suppress(OSError):
                    file.unlink()
            for do in change.afterwards:
                do()
            for event in change.events:
                self.publish(event)
        changed = any(one.total or one.unread or one.everything for one in committed)
        if changed and self._callbacks:
            numbers = {"Total": self._counts.total, "Unread": self._counts.unread}
            self.publish(Event("stats", wire.dump(numbers)))

    def _count(self, change: Change) -> None:
        counts = self._counts
        if change.everything:
            deleted = counts.total
            counts = counts._replace(total=0, unread=0, size=0)
            self._tags = Counter()
            self._pending = 0
            self._trees.clear()
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
            self._counts = counts
            self._opened(self._taker).stored(change.arrived)
        if change.tags:
            tags = self._tags.copy()
            tags.update(change.tags)
            self._tags = +tags
        if self._index:
            self._pending += change.accepted

    def _tidy(self, connection: sqlite3.Connection, idle: bool) -> bool:
        """Do what can wait: retention, the index, free space; return True if there is more."""
        if self._prune(slack=0 if idle else MOST_OVER):
            return True
        if not idle:
            if self._pending >= MOST_PENDING:
                self._index_now(INDEXED_AT_ONCE)
            self._check_log(connection)
            return True
        if self._pending:
            self._index_now(INDEXED_AT_ONCE)
            return True
        if self._snapshot():
            return True
        with self._gate:
            self._opened(self._taker).empty()
        if self._opened(self._writer).try_now(lambda on, _: changes.drop_some(on)):
            return True
        free = connection.execute("pragma freelist_count").fetchone()[0]
        if free > FREE_PAGES:
            connection.executescript(f"pragma incremental_vacuum({FREE_PAGES})")
            return True
        connection.execute("pragma wal_checkpoint(passive)")
        return False

    def _index_now(self, limit: int) -> None:
        writer = self._opened(self._writer)
        stop = bool if self._pending >= MOST_PENDING else writer.has_work
        writer.try_now(lambda on, _: self._index_some(on, limit, stop))

    def _index_some(
        self, connection: sqlite3.Connection, limit: int, stop: Callable[[], bool] = bool
    ) -> None:
        if self._index:
            count = changes.index_some(connection, limit, stop)
            self._pending = max(self._pending - count, 0) if count else 0

    def _check_log(self, connection: sqlite3.Connection) -> None:
        """Keep the write-ahead log small while there is always work."""
        if (now := monotonic()) < self._next_check:
            return
        self._next_check = now + 0.5
        if os.path.getsize(f"{self.path}-wal") > LOG:
            connection.execute("pragma wal_checkpoint(passive)")

    def _prune(self, slack: int) -> bool:
        """Remove messages that are over a limit; return True if some were."""
        keep, counts = self.keep, self._counts
        over = keep.count is not None and counts.total > keep.count + min(slack, keep.count // 10)
        over = over or (keep.size is not None and counts.size > keep.size)
        if (keep.age is not None or over) and counts.total > 1:
            return bool(self._opened(self._writer).try_now(self._prune_some))
        return False

    def _prune_some(self, connection: sqlite3.Connection, change: Change) -> int:
        counts = self._counts
        return changes.prune(
            connection, change, self.keep, self._folder, counts.total, counts.size, time()
        )

    def _snapshot(self) -> bool:
        """Save the sessions that still run, in case that the process is killed."""
        if (now := monotonic()) < self._next_snapshot:
            return False
        self._next_snapshot = now + SNAPSHOT
        grown = [
            session
            for session in list(self._sessions.values())
            if self._saved.get(session.number) != len(session.lines)
        ]

        def save(connection: sqlite3.Connection, _: Change) -> None:
            for session in grown:
                self._saved[session.number] = len(session.lines)
                changes.save_session(connection, session.number, packing.packed_log(session))

        if grown:
            self._opened(self._writer).try_now(save)
        return False

    def _save_logs(self) -> None:
        for session in list(self._sessions.values()):
            self.save_session(session)

    # Reading.

    def _current(self) -> reading.Readers:
        """Return the readers, after all messages and attempts that came are in the lists."""
        writer = self._opened(self._writer)
        if (self._taker or writer.is_late()) and not writer.is_current_thread():
            writer.submit(lambda *_: None).result()
        return self._opened(self._readers)

    def summary(
        self,
        *,
        start: int = 0,
        limit: int = 50,
        before: datetime | None = None,
        below: str | None = None,
    ) -> Summary:
        """Return a page of all messages. *limit* is at least 0, and 0 gives no rows.

        *before* leaves out messages that arrived then or later; the numbers stay those of all.
        *below* begins after the message with this id, which is faster than *start*.
        """
        readers = self._current()
        counts = self._counts
        query = language.parse("")
        if before is not None:
            query.terms.append(language.before(before))
        page = readers.page(query, start=start, limit=limit, below=below, counted=False)
        return Summary(
            counts.total,
            counts.unread,
            counts.total,
            counts.unread,
            start,
            self._tag_names(),
            page.rows,
        )

    def search(
        self,
        query: str,
        *,
        start: int = 0,
        limit: int = 50,
        before: datetime | None = None,
        below: str | None = None,
        zone: tzinfo | None = None,
    ) -> Summary:
        """Return a page of the messages that match *query*; any text is a query.

        *zone* is that of dates in the query, by default the local one. Here, *before* changes the
        numbers, too. Messages that have just arrived are found.
        """
        readers, parsed = self._current(), language.parse(query, zone)
        if before is not None:
            parsed.terms.append(language.before(before))
        self._be_current(parsed)
        page = readers.page(parsed, start=start, limit=limit, below=below, counted=True)
        counts = self._counts
        return Summary(
            counts.total,
            counts.unread,
            page.matches,
            page.unread,
            start,
            self._tag_names(),
            page.rows,
        )

    def _be_current(self, query: language.Query) -> None:
        """Wait until the index has all messages, if a query needs it."""
        left = self._pending if query.words or query.unwanted else 0
        while left > 0:
            # Others write between the pieces.
            self._write(lambda on, _: self._index_some(on, INDEXED_FOR_SEARCH)).result()
            left -= INDEXED_FOR_SEARCH

    def _tag_names(self) -> list[str]:
        return labels.ordered(self._tags)

    def stream(self) -> Iterator[str]:
        """Yield the JSON of a MessagesSummary with all messages, in pieces.

        Each step blocks for some milliseconds. Messages that arrive meanwhile are not in it.
        """
        readers, empty = self._current(), self.summary(limit=0)
        pages = self._streamed(readers)
        # The count of the rows comes after them: it is not known before.
        head = empty.json().replace('"count":0,', "", 1).removesuffix("]}")
        yield head
        count = 0
        for rows in pages:
            yield ("," if count else "") + ",".join(rows)
            count += len(rows)
        yield f'],"count":{count}}}'

    def _streamed(self, readers: reading.Readers) -> Iterator[list[str]]:
        below: int | None = None
        while True:
            rows, below = readers.rows_below(below, STREAMED)
            if not rows:
                return
            yield rows

    def find(self, query: str, *, zone: tzinfo | None = None) -> list[str]:
        """Return the ids of all messages that match *query*, newest first."""
        readers, parsed = self._current(), language.parse(query, zone)
        self._be_current(parsed)
        return readers.ids(parsed)

    def later(self, id: str) -> tuple[list[str], int] | None:
        """Return the ids of the messages that came after one, None if there is no such message.

        The number is the earliest of their times of arrival, in milliseconds since 1970.
        """
        return self._current().later(id)

    def matches(self, id: str, query: str, *, zone: tzinfo | None = None) -> bool:
        """Return True if a message matches *query*; False if there is no such message."""
        return self._current().has(id, language.parse(query, zone))

    def message(self, id: str) -> StoredMail | None:
        """Return a message, None if there is no such message."""
        found = self._current().message(id)
        return StoredMail(id, found, self._folder / id, self._trees) if found else None

    def newest(self, query: str = "", *, zone: tzinfo | None = None) -> str | None:
        """Return the id of the newest message that matches *query*, None if none does."""
        readers, parsed = self._current(), language.parse(query, zone)
        self._be_current(parsed)
        found = readers.ids(parsed, 1)
        return found[0] if found else None

    def rows(self, ids: Collection[str]) -> list[str]:
        """Return the rows of these messages, newest first."""
        return self._current().rows(ids)

    def attempts(self, *, start: int = 0, limit: int = 50, query: str = "") -> Attempts:
        """Return a page of refused attempts: those in which each word of *query* occurs."""
        return self._current().attempts(query, start, limit)

    def attempt(self, number: int) -> Attempt | None:
        """Return a refused attempt, None if there is no such attempt."""
        return self._current().attempt(number)

    def session(self, number: int) -> SessionLog | None:
        """Return a session, also one that still runs; None if there is no such session."""
        readers = self._current()
        found = self._sessions.get(number) or readers.session(number)
        if found is None:
            return None
        messages = readers.session_messages(number)
        return evolve(found, lines=list(found.lines), messages=messages)

    def tags(self) -> dict[str, int]:
        """Return all tags, sorted in any case, with the number of their messages."""
        self._current()
        tags = self._tags
        return {tag: tags[tag] for tag in labels.ordered(tags)}

    def counts(self) -> Counts:
        """Return numbers that are in memory; it never blocks."""
        with self._gate:
            counts, new = self._counts, len(self._taker or ())
        if not new:
            return counts
        total, unread, accepted = counts.total, counts.unread, counts.accepted
        return counts._replace(total=total + new, unread=unread + new, accepted=accepted + new)

    def gone(self) -> list[Gone]:
        """Return what retention removed, the last first."""
        return self._opened(self._readers).gone()

    def database_size(self) -> int:
        """Return the bytes of the database and of the files beside it."""
        path, size = self._opened(self.path), 0
        for file in path, Path(f"{path}-wal"), *self._folder.iterdir():
            with suppress(OSError):
                size += file.stat().st_size
        return size

    # Watching.

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call *callback* after each change; return a function that ends it.

        It is called in the writer's thread, after the commit and before the future's result, in
        the order of the changes. It must not block and not call methods of the store that wait.
        """
        with self._gate:
            self._callbacks = (*self._callbacks, callback)

        def end() -> None:
            with self._gate:
                self._callbacks = tuple(one for one in self._callbacks if one is not callback)

        return end

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Let the events of new messages come within some 10 ms until the block ends."""
        writer = self._opened(self._writer)
        writer.hurry(1)
        try:
            yield
        finally:
            writer.hurry(-1)

    def publish(self, event: Event) -> None:
        """Pass an event to the callbacks, in this thread."""
        for callback in self._callbacks:
            try:
                callback(event)
            except Exception:
                log.exception("A callback of the inbox's store failed")


def _dated(received: Received) -> Received:
    if received.created is None:
        return evolve(received, created=datetime.now().astimezone())
    return received


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _vacuum(connection: sqlite3.Connection) -> None:
    # On a full disk, the file keeps its size.
    with suppress(sqlite3.Error):
        connection.execute("vacuum")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
