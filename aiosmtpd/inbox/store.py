"""The store of the inbox: messages, sessions and refused attempts in SQLite.

Reading methods block for milliseconds: call them with ``asyncio.to_thread()``. Writing methods
return a future at once; its result is there after the commit, and its exception is a
:exc:`StoreError`. All methods may be called from any thread.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from attrs import evolve
from public import public

from aiosmtpd.inbox import (
    changes,
    database,
    labels,
    reading,
    search as language,
    temporary,
    wire,
)
from aiosmtpd.inbox.adding import Adder, described
from aiosmtpd.inbox.keep import Keep as Keep, parse_keep as parse_keep
from aiosmtpd.inbox.large import LARGE as LARGE
from aiosmtpd.inbox.numbers import Numbers
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
from aiosmtpd.inbox.reserve import Reserve
from aiosmtpd.inbox.sessions import Sessions
from aiosmtpd.inbox.stored import (
    ListedPart as ListedPart,
    StoredMail as StoredMail,
    Trees,
)
from aiosmtpd.inbox.taking import Taker
from aiosmtpd.inbox.tidying import Tidier
from aiosmtpd.inbox.writer import Change, Writer

T = TypeVar("T")
P = TypeVar("P")
log = logging.getLogger("mail.log")

INDEXED_FOR_SEARCH = 500
"""Messages that are added in one commit if a search waits for the index."""


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
        self._writer: Writer | None = None
        self._readers: reading.Readers | None = None
        self._taker: Taker | None = None
        self._adder: Adder | None = None
        self._reserve: Reserve | None = None
        self._trees = Trees()
        self._gate = threading.Lock()
        self._callbacks: tuple[Callable[[Event], None], ...] = ()
        self._numbers = Numbers(self._gate)
        self._sessions = Sessions()
        self._filters = [(language.parse(query), tags) for query, tags in self.tagging.filters]

    def open(self) -> None:
        """Open or make the database and start the threads; raises StoreError."""
        if self._writer is not None:
            return
        if self.path is None:
            self.path = temporary.make()
            self._temporary = self.path.parent
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
        self._lock_file = database.locked(path)
        temporary.mark(self._lock_file, kept=self._temporary is None)
        self._folder = path.with_name(path.name + ".large")
        reserve = self._reserve = Reserve(path)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        describe = partial(described, self.tagging)
        self._taker = Taker(path, self._gate, describe, self._filters)
        connection = database.open_writer(
            path, durable=self.durable, temporary=self._temporary is not None
        )
        try:
            self._load(connection)
            self._readers = reading.Readers(path, index=self._numbers.has_index)
        except sqlite3.Error as error:
            connection.close()
            raise database.explained(error, path) from error
        reserve.make()
        tidier = Tidier(
            path, self._folder, self.keep, self._numbers, self._sessions, self._taker, reserve
        )
        self._writer = Writer(
            connection, path, self._committed, tidier.tidy, reserve.give_up, tidier.rest
        )
        self._adder = Adder(
            self._folder,
            self._gate,
            self._taker,
            self._writer,
            reserve,
            describe,
            self._filters,
            durable=self.durable,
            ignore_duplicates=self.ignore_duplicates,
        )
        self._writer.start()

    def _load(self, connection: sqlite3.Connection) -> None:
        """Read the numbers that are kept in memory; remove files without a message."""
        for query, _ in self._filters:
            # An error now is better than one for each message.
            changes.has(connection, 0, query)
        taker = self._opened(self._taker)
        taker.load(connection)
        self._numbers.load(connection)
        last, session = connection.execute("select max(n), max(session) from msg").fetchone()
        known = changes.state(connection, "indexed"), changes.state(connection, "arrived")
        taker.start_after(max(last or 0, *known))
        refused = connection.execute("select max(session) from attempt").fetchone()[0]
        saved = connection.execute("select max(s) from session").fetchone()[0]
        self._sessions.start_after(max(session or 0, refused or 0, saved or 0))
        if self.ignore_duplicates:
            connection.execute("create index if not exists field_id on field(message_id)")
        found = connection.execute("select id from msg where large")
        kept = {str(id) for (id,) in found}
        for file in self._folder.iterdir():
            if file.name not in kept:
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
        if self._writer is None or self._readers is None or self._adder is None:
            return
        self._adder.close()
        for session in self._sessions.all():
            self.save_session(session)
        self._readers.close()
        # Last, so that it copies the write-ahead log to the database.
        self._writer.stop()
        self._opened(self._reserve).close()
        self._writer = self._readers = self._adder = self._reserve = None
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
        return self._opened(self._adder).add(received)

    def take(self, received: Received) -> Future[str]:
        """Store a message as :meth:`add` does, but give the result as soon as it is safe.

        It is in the lists a moment later: its event comes within 0.3 s, see :meth:`hurry`. Methods
        that read or change messages first wait for it. :meth:`counts` has it at once.
        """
        return self._opened(self._adder).take(received)

    def new_file(self) -> BinaryIO:
        """Return a new file for the content of a large message, open for writing.

        ``Path(file.name)`` is for :attr:`Received.content`, after the file is closed. To give it
        up, remove the file. Raises StoreError.
        """
        return self._opened(self._adder).new_file()

    def new_session(self) -> int:
        """Return the number of a new session."""
        return self._sessions.new_number()

    def watch_session(self, session: SessionLog) -> None:
        """Let :meth:`session` return this log, which may still grow, until it is saved."""
        self._sessions.watch(session)

    def save_session(self, session: SessionLog) -> Future[int]:
        """Store a session that has ended; the result is its number."""
        # After its messages, which may be late.
        return self._opened(self._writer).postpone(self._sessions.saving(session))

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
            index = self._numbers.has_index
            return self._free(
                lambda on, change: changes.delete_all(on, change, self._folder, index=index)
            )
        return self._free(lambda on, change: changes.delete(on, change, ids, self._folder))

    def delete_attempts(self) -> Future[int]:
        """Delete all refused attempts; the result is their number."""
        return self._free(changes.delete_attempts)

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
            self._numbers.index_some(connection, -1)
            change.afterwards.append(lambda: database.vacuum(connection))

        return self._write(compact)

    def _write(
        self, work: Callable[[sqlite3.Connection, Change], T], future: Future[T] | None = None
    ) -> Future[T]:
        return self._opened(self._writer).submit(work, future)

    def _free(self, work: Callable[[sqlite3.Connection, Change], int]) -> Future[int]:
        return self._opened(self._writer).submit(work, frees=True)

    def _opened(self, part: P | None) -> P:
        if part is None:
            raise StoreError("The store is not open")
        return part

    # The writer's thread.

    def _committed(self, committed: list[Change]) -> None:
        """Count the changes of a commit, and tell of them."""
        for change in committed:
            self._numbers.add(change, self._opened(self._taker).stored)
            if change.everything:
                self._trees.clear()
            for file in change.unlinked:
                with suppress(OSError):
                    file.unlink()
            for do in change.afterwards:
                do()
            for event in change.events:
                self.publish(event)
        changed = any(one.total or one.unread or one.everything for one in committed)
        if changed and self._callbacks:
            counts = self._numbers.counts
            numbers = {"Total": counts.total, "Unread": counts.unread}
            self.publish(Event("stats", wire.dump(numbers)))

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
        envelope: bool = False,
    ) -> Summary:
        """Return a page of all messages. *limit* is at least 0, and 0 gives no rows.

        *before* leaves out messages that arrived then or later; the numbers stay those of all.
        *below* begins after the message with this id, which is faster than *start*. With
        *envelope*, rows have ``Recipient``, the first one of the envelope, and ``Recipients``,
        their number.
        """
        readers = self._current()
        counts = self._numbers.counts
        query = language.parse("")
        if before is not None:
            query.terms.append(language.before(before))
        page = readers.page(
            query, start=start, limit=limit, below=below, counted=False, envelope=envelope
        )
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
        envelope: bool = False,
    ) -> Summary:
        """Return a page of the messages that match *query*; any text is a query.

        *zone* is that of dates in the query, by default the local one. Here, *before* changes the
        numbers, too. Messages that have just arrived are found. *envelope* is as in
        :meth:`summary`.
        """
        readers, parsed = self._current(), language.parse(query, zone)
        if before is not None:
            parsed.terms.append(language.before(before))
        self._be_current(parsed)
        page = readers.page(
            parsed, start=start, limit=limit, below=below, counted=True, envelope=envelope
        )
        counts = self._numbers.counts
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
        left = self._numbers.pending if query.words or query.unwanted else 0
        while left > 0:
            # Others write between the pieces.
            self._write(lambda on, _: self._numbers.index_some(on, INDEXED_FOR_SEARCH)).result()
            left -= INDEXED_FOR_SEARCH

    def _tag_names(self) -> list[str]:
        return labels.ordered(self._numbers.tags)

    def stream(self) -> Iterator[str]:
        """Yield the JSON of a MessagesSummary with all messages, in pieces.

        Each step blocks for some milliseconds. Messages that arrive meanwhile are not in it.
        """
        readers, empty = self._current(), self.summary(limit=0)
        yield from readers.stream(empty)

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

    def number(self, id: str | None = None) -> int | None:
        """Return the number of a message, None if there is no such message.

        Without *id*, return that of the last one, without blocking. Later ones have larger numbers.
        """
        if id is not None:
            return self._current().number(id)
        with self._gate:
            return self._opened(self._taker).last_number()

    def after(self, number: int, ids: Collection[str]) -> set[str]:
        """Return the ids of those messages whose numbers are larger."""
        return self._current().after(number, ids)

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
        tags = self._numbers.tags
        return {tag: tags[tag] for tag in labels.ordered(tags)}

    def counts(self) -> Counts:
        """Return numbers that are in memory; it never blocks."""
        with self._gate:
            counts, new = self._numbers.counts, len(self._taker or ())
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
