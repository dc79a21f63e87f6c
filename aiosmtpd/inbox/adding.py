"""Add messages to the store: a small one in the writer's thread, a large one by way of a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from attrs import evolve

from aiosmtpd.inbox import changes, packing
from aiosmtpd.inbox.large import Large
from aiosmtpd.inbox.records import Received, Tagging
from aiosmtpd.inbox.reserve import Reserve
from aiosmtpd.inbox.rows import Description, describe
from aiosmtpd.inbox.search import Query
from aiosmtpd.inbox.taking import QUICK, Taker
from aiosmtpd.inbox.writer import Change, Writer
from aiosmtpd.mail.source import InFile, InMemory


class Adder:
    """Brings each message into the database, in one of the ways that the store documents.

    *gate* is that of the taker. *describe* reads a message.
    """

    def __init__(
        self,
        folder: Path,
        gate: Lock,
        taker: Taker,
        writer: Writer,
        reserve: Reserve,
        describe: Callable[[Received], Description],
        filters: Sequence[tuple[Query, Sequence[str]]],
        *,
        durable: bool,
        ignore_duplicates: bool,
    ) -> None:
        self._folder = folder
        self._gate = gate
        self._taker = taker
        self._writer = writer
        self._reserve = reserve
        self._describe = describe
        self._filters = filters
        self._durable = durable
        self._ignore_duplicates = ignore_duplicates
        self._large = Large(folder, describe, self._insert_large, durable=durable)

    def add(self, received: Received) -> Future[str]:
        """Store a message; see :meth:`.Store.add`."""
        received, future = _dated(received), Future[str]()
        content = received.content
        if not isinstance(content, bytes) or len(content) > QUICK:
            self._large.add(received, future)
            return future

        def add(connection: sqlite3.Connection, change: Change) -> str:
            return self._insert(connection, change, received, self._describe(received))

        return self._writer.submit(add, future)

    def take(self, received: Received) -> Future[str]:
        """Make a message safe, and store it a moment later; see :meth:`.Store.take`."""
        is_slow = self._durable or self._ignore_duplicates or not self._taker.can_take(received)
        # One commit of many messages might not fit on a disk that is nearly full.
        if is_slow or self._reserve.is_low():
            return self.add(received)
        return self._taker.take(_dated(received), self._writer)

    def new_file(self) -> BinaryIO:
        """Return a new file for a large message, open for writing; raises StoreError."""
        return self._large.new_file()

    def close(self) -> None:
        """Read the large messages that wait; the writer stores them before it ends."""
        self._large.close()

    def _insert_large(
        self, received: Received, found: Description, future: Future[str], is_file: bool
    ) -> None:
        def add(connection: sqlite3.Connection, change: Change) -> str:
            return self._insert(connection, change, received, found, is_file=is_file)

        def undo() -> None:
            (self._folder / found.id).unlink(missing_ok=True)

        self._writer.submit(add, future, undo if is_file else None)

    def _insert(
        self,
        connection: sqlite3.Connection,
        change: Change,
        received: Received,
        found: Description,
        *,
        is_file: bool = False,
    ) -> str:
        if self._ignore_duplicates and (known := changes.duplicate(connection, found)):
            if is_file:
                change.unlinked.append(self._folder / found.id)
            change.ignored += 1
            return known
        content = received.content if isinstance(received.content, bytes) else None
        envelope = packing.packed_envelope(received, found.id)
        with self._gate:
            n = self._taker.new_number()
        message = changes.Message(n, envelope, received.session, found, content)
        changes.insert(connection, change, [message], self._filters)
        return found.id


def described(tagging: Tagging, received: Received, id: str = "") -> Description:
    """Read a message; *id* is its id, or it gets one."""
    content = received.content
    source = InMemory(content) if isinstance(content, bytes) else InFile(lambda: content.open("rb"))
    created = received.created or datetime.now().astimezone()
    return describe(source, received, created, tagging, id)


def _dated(received: Received) -> Received:
    if received.created is None:
        return evolve(received, created=datetime.now().astimezone())
    return received
