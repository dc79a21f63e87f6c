"""The store of the inbox: messages, sessions and refused attempts in SQLite.

Reading methods block for milliseconds: call them with ``asyncio.to_thread()``. Writing methods
return a future at once; its result is there after the commit, and its exception is a
:exc:`StoreError`. All methods may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from datetime import datetime, tzinfo
from pathlib import Path
from typing import BinaryIO, Self

from public import public

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
from aiosmtpd.inbox.stored import ListedPart as ListedPart, StoredMail as StoredMail


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

    def open(self) -> None:
        """Open or make the database and start the threads; raises StoreError."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish the writing that was asked for, and end the threads. Again: does nothing."""
        raise NotImplementedError

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
        raise NotImplementedError

    def new_file(self) -> BinaryIO:
        """Return a new file for the content of a large message, open for writing.

        ``Path(file.name)`` is for :attr:`Received.content`, after the file is closed. To give it
        up, remove the file. Raises StoreError.
        """
        raise NotImplementedError

    def new_session(self) -> int:
        """Return the number of a new session."""
        raise NotImplementedError

    def watch_session(self, session: SessionLog) -> None:
        """Let :meth:`session` return this log, which may still grow, until it is saved."""
        raise NotImplementedError

    def save_session(self, session: SessionLog) -> Future[int]:
        """Store a session that has ended; the result is its number."""
        raise NotImplementedError

    def add_attempt(self, attempt: Attempt) -> Future[int]:
        """Store a refused attempt; the result is its number."""
        raise NotImplementedError

    def set_read(self, ids: Collection[str] | None, read: bool) -> Future[int]:
        """Mark messages as read or unread, None for all; the result is how many changed.

        Unknown ids are ignored, here and below.
        """
        raise NotImplementedError

    def delete(self, ids: Collection[str] | None) -> Future[int]:
        """Delete messages, None for all; the result is their number.

        With all messages go the sessions, but not the refused attempts.
        """
        raise NotImplementedError

    def delete_attempts(self) -> Future[int]:
        """Delete all refused attempts; the result is their number."""
        raise NotImplementedError

    def set_tags(self, ids: Collection[str], tags: Collection[str]) -> Future[int]:
        """Replace the tags of messages; the result is the number of messages.

        Tags are cleaned: other characters than ``a-z A-Z 0-9 - . _ @`` and blanks become blanks. A
        tag that exists keeps its spelling.
        """
        raise NotImplementedError

    def rename_tag(self, old: str, new: str) -> Future[None]:
        """Rename a tag on all messages.

        The future raises LookupError for an unknown tag, ValueError for a new name that has no
        allowed character or that another tag has.
        """
        raise NotImplementedError

    def delete_tag(self, name: str) -> Future[None]:
        """Remove a tag from all messages; the future raises LookupError for an unknown tag."""
        raise NotImplementedError

    def compact(self) -> Future[None]:
        """Index all messages, and give back free space in the file."""
        raise NotImplementedError

    # Reading.

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
        raise NotImplementedError

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
        raise NotImplementedError

    def stream(self) -> Iterator[str]:
        """Yield the JSON of a MessagesSummary with all messages, in pieces.

        Each step blocks for some milliseconds. Messages that arrive meanwhile are not in it.
        """
        raise NotImplementedError

    def find(self, query: str, *, zone: tzinfo | None = None) -> list[str]:
        """Return the ids of all messages that match *query*, newest first."""
        raise NotImplementedError

    def matches(self, id: str, query: str, *, zone: tzinfo | None = None) -> bool:
        """Return True if a message matches *query*; False if there is no such message."""
        raise NotImplementedError

    def message(self, id: str) -> StoredMail | None:
        """Return a message, None if there is no such message."""
        raise NotImplementedError

    def newest(self, query: str = "", *, zone: tzinfo | None = None) -> str | None:
        """Return the id of the newest message that matches *query*, None if none does."""
        raise NotImplementedError

    def rows(self, ids: Collection[str]) -> list[str]:
        """Return the rows of these messages, newest first."""
        raise NotImplementedError

    def attempts(self, *, start: int = 0, limit: int = 50, query: str = "") -> Attempts:
        """Return a page of refused attempts: those in which each word of *query* occurs."""
        raise NotImplementedError

    def attempt(self, number: int) -> Attempt | None:
        """Return a refused attempt, None if there is no such attempt."""
        raise NotImplementedError

    def session(self, number: int) -> SessionLog | None:
        """Return a session, also one that still runs; None if there is no such session."""
        raise NotImplementedError

    def tags(self) -> dict[str, int]:
        """Return all tags, sorted in any case, with the number of their messages."""
        raise NotImplementedError

    def counts(self) -> Counts:
        """Return numbers that are in memory; it never blocks."""
        raise NotImplementedError

    def gone(self) -> list[Gone]:
        """Return what retention removed, the last first."""
        raise NotImplementedError

    def database_size(self) -> int:
        """Return the bytes of the database and of the files beside it."""
        raise NotImplementedError

    # Watching.

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call *callback* after each change; return a function that ends it.

        It is called in the writer's thread, after the commit and before the future's result, in
        the order of the changes. It must not block and not call methods of the store that wait.
        """
        raise NotImplementedError

    def publish(self, event: Event) -> None:
        """Pass an event to the callbacks, in this thread."""
        raise NotImplementedError
