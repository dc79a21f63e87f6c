"""Read the database of the inbox, beside its writer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from queue import LifoQueue
from typing import NamedTuple

from aiosmtpd.inbox.changes import JOINED, conditions, marks, slices
from aiosmtpd.inbox.database import explained, open_reader
from aiosmtpd.inbox.packing import addressed, local, read_attempt, read_log
from aiosmtpd.inbox.records import (
    Attempt,
    Attempts,
    Gone,
    SessionLog,
    StoreError,
    Summary,
    TooManyConditions,
)
from aiosmtpd.inbox.rows import complete, extended
from aiosmtpd.inbox.search import SHORTEST, Query, folded

CONNECTIONS = 2
"""Readers at the same time; others wait for one of them."""

MOST_CONDITIONS = 500
"""Conditions of one query: SQLite takes at most 1,000, and each costs a look at all messages."""


STREAMED = 500
"""Rows of one piece of a stream."""


class Page(NamedTuple):
    """Rows of a list, and how many messages match; None if that was not asked for."""

    rows: list[str]
    matches: int
    unread: int


class Found(NamedTuple):
    """The columns of a message."""

    row: str
    created: datetime
    read: bool
    tags: list[str]
    session: int
    size: int
    details: dict[str, object]
    content: bytes | None


class Readers:
    """Connections that read; each is used by one thread at a time."""

    def __init__(self, path: Path, *, index: bool) -> None:
        self._path = path
        self._index = index
        self._idle: LifoQueue[sqlite3.Connection | None] = LifoQueue()
        self._all = [open_reader(path) for _ in range(CONNECTIONS)]
        for connection in self._all:
            self._idle.put(connection)

    def close(self) -> None:
        """Close the connections, after their last use."""
        for _ in self._all:
            if (connection := self._idle.get()) is not None:
                connection.close()
        # Wakes the threads that still wait for a connection, one after the other.
        self._idle.put(None)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = self._idle.get()
        try:
            if connection is None:
                raise StoreError("The store is closed")
            yield connection
        except sqlite3.Error as error:
            raise explained(error, self._path) from error
        finally:
            self._idle.put(connection)

    def page(
        self,
        query: Query,
        *,
        start: int,
        limit: int,
        below: str | None,
        counted: bool,
        envelope: bool = False,
    ) -> Page:
        """Return rows of the messages that match, newest first.

        Without *counted*, the numbers are 0. With *envelope*, the rows have its recipients.
        """
        with self._connection() as connection, _snapshot(connection):
            selection = _Selection(query, index=self._index)
            matches = unread = 0
            if counted:
                matches, unread = selection.counts(connection)
            place = _number(connection, below) if below is not None else None
            rows: list[str] = []
            if limit and not (counted and start >= matches):
                numbers = selection.numbers(connection, start, limit, place)
                rows = (_own_rows if envelope else _rows)(connection, numbers)
            return Page(rows, matches, unread)

    def ids(self, query: Query, limit: int = -1) -> list[str]:
        """Return the ids of the messages that match, newest first."""
        with self._connection() as connection, _snapshot(connection):
            selection = _Selection(query, index=self._index)
            numbers = selection.numbers(connection, 0, limit, None)
            found: dict[int, str] = {}
            for some in slices(numbers):
                sql = f"select n, id from msg where n in ({marks(some)})"
                found.update(connection.execute(sql, some).fetchall())
            return [found[n] for n in numbers]

    def has(self, id: str, query: Query) -> bool:
        """Return True if a message matches; it needs no index."""
        _check_number(query.number)
        terms, values = conditions(query)
        sql = f"select 1 {JOINED} where m.id = ?"
        with self._connection() as connection:
            found = connection.execute(" and ".join([sql, *terms]), [id, *values])
            return found.fetchone() is not None

    def rows(self, ids: Collection[str]) -> list[str]:
        """Return the rows of messages, newest first."""
        with self._connection() as connection, _snapshot(connection):
            numbers = []
            for some in slices(ids):
                sql = f"select n from msg where id in ({marks(some)})"
                numbers += [n for (n,) in connection.execute(sql, some)]
            return _rows(connection, sorted(numbers, reverse=True))

    def number(self, id: str) -> int | None:
        """Return the number of a message, None if there is no such message."""
        with self._connection() as connection:
            found = connection.execute("select n from msg where id = ?", (id,)).fetchone()
        return int(found[0]) if found else None

    def after(self, number: int, ids: Collection[str]) -> set[str]:
        """Return those of some ids whose messages have larger numbers."""
        with self._connection() as connection, _snapshot(connection):
            found = set()
            for some in slices(ids):
                sql = f"select id from msg where n > ? and id in ({marks(some)})"
                found |= {str(id) for (id,) in connection.execute(sql, [number, *some])}
            return found

    def later(self, id: str) -> tuple[list[str], int] | None:
        """Return the ids of the messages after one, and the earliest of their times of arrival.

        The clock may have been set back: the times need not be in their order.
        """
        sql = "select id, created from msg where n > ? order by n desc"
        with self._connection() as connection, _snapshot(connection):
            number = connection.execute("select n from msg where id = ?", (id,)).fetchone()
            if number is None:
                return None
            found = connection.execute(sql, number).fetchall()
        return [id for id, _ in found], min((created for _, created in found), default=0)

    def stream(self, empty: Summary) -> Iterator[str]:
        """Yield the JSON of a page with all rows, in pieces; *empty* is the page without rows."""
        # The count of the rows comes after them: it is not known before.
        yield empty.json().replace('"count":0,', "", 1).removesuffix("]}")
        count, below = 0, 1 << 62
        while rows := self._rows_below(below):
            yield ("," if count else "") + ",".join(rows.values())
            count += len(rows)
            below = min(rows)
        yield f'],"count":{count}}}'

    def _rows_below(self, number: int) -> dict[int, str]:
        """Return rows of messages with smaller numbers, by their numbers."""
        sql = "select n from msg where n < ? order by n desc limit ?"
        with self._connection() as connection, _snapshot(connection):
            numbers = [n for (n,) in connection.execute(sql, (number, STREAMED))]
            return dict(zip(numbers, _rows(connection, numbers), strict=True))

    def message(self, id: str) -> Found | None:
        """Return the columns of a message."""
        sql = (
            "select row, created, read, tags, session, size, envelope, details, content"
            " from msg m join about using (n) join raw using (n) where m.id = ?"
        )
        with self._connection() as connection:
            found = connection.execute(sql, (id,)).fetchone()
        if found is None:
            return None
        row, created, read, tags, session, size, envelope, details, content = found
        return Found(
            complete(row, bool(read), tags),
            local(created),
            bool(read),
            json.loads(tags) if tags else [],
            session,
            size,
            {**json.loads(envelope), **json.loads(details)},
            content,
        )

    # Sessions and attempts.

    def session(self, number: int) -> SessionLog | None:
        """Return a session that was saved."""
        with self._connection() as connection:
            found = connection.execute("select log from session where s = ?", (number,)).fetchone()
        return read_log(number, found[0]) if found else None

    def session_messages(self, number: int) -> tuple[str, ...]:
        """Return the ids of the messages of a session, oldest first."""
        sql = "select id from msg where session = ? order by n"
        with self._connection() as connection:
            return tuple(id for (id,) in connection.execute(sql, (number,)))

    def attempts(self, query: str, start: int, limit: int) -> Attempts:
        """Return refused attempts in which all words of a query occur, newest first."""
        words = [folded(word) for word in query.split() if folded(word)]
        _check_number(len(words))
        where = " and ".join(["instr(words, ?) > 0"] * len(words)) or "true"
        with self._connection() as connection, _snapshot(connection):
            sql = f"select count(*) from attempt where {where}"
            total = connection.execute(sql, words).fetchone()[0]
            sql = (
                f"select a, at, details from attempt where {where} order by a desc limit ? offset ?"
            )
            found = connection.execute(sql, [*words, limit, start]).fetchall()
        return Attempts(total, [read_attempt(*one) for one in found])

    def attempt(self, number: int) -> Attempt | None:
        """Return a refused attempt."""
        sql = "select a, at, details from attempt where a = ?"
        with self._connection() as connection:
            found = connection.execute(sql, (number,)).fetchone()
        return read_attempt(*found) if found else None

    def gone(self) -> list[Gone]:
        """Return what retention removed, the last first."""
        with self._connection() as connection:
            found = connection.execute("select at, count, why from gone order by at desc")
            return [Gone(local(at), count, why) for at, count, why in found]


class _Selection:
    """The SQL for the messages that a query matches."""

    def __init__(self, query: Query, *, index: bool) -> None:
        _check_number(query.number)
        words = [word for word in query.words if index and len(word) >= SHORTEST]
        unwanted = [word for word in query.unwanted if index and len(word) >= SHORTEST]
        rest = Query(
            query.terms,
            [word for word in query.words if word not in words],
            [word for word in query.unwanted if word not in unwanted],
        )
        self._match = " AND ".join(map(_phrase, words))
        if self._match and unwanted:
            self._match = f"({self._match})" + "".join(f" NOT {_phrase(one)}" for one in unwanted)
            unwanted = []
        terms, values = conditions(rest)
        for one in unwanted:
            terms.append("m.n not in (select rowid from word where word match ?)")
            values.append(_phrase(one))
        self._terms, self._values = terms, values
        used = " ".join(terms)
        # The table that is scanned: small ones first.
        first = next((alias for alias in "mfx" if f"{alias}." in used), "m")
        self._key = "word.rowid" if self._match else f"{first}.n"

    def counts(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return the number of messages that match, and of those that are unread."""
        if self._match and not self._terms:
            sql = "select count(*) from word where word match ?"
            matches = int(connection.execute(sql, (self._match,)).fetchone()[0])
            return matches, self._unread(connection, matches)
        sql, values = self._sql("count(*), coalesce(sum(m.read = 0), 0)", self._terms)
        matches, unread = connection.execute(sql, values).fetchone()
        return int(matches), int(unread)

    def _unread(self, connection: sqlite3.Connection, matches: int) -> int:
        # Mostly all or none are unread, and the rest is a scan of few.
        total, unread = connection.execute(
            "select count(*), coalesce(sum(read = 0), 0) from msg"
        ).fetchone()
        if not unread or not matches:
            return 0
        if unread == total:
            return matches
        sql = (
            "select count(*) from msg where read = ? and"
            " n in (select rowid from word where word match ?)"
        )
        # The smaller of the two groups is looked up.
        state = int(unread > total // 2)
        found = int(connection.execute(sql, (state, self._match)).fetchone()[0])
        return matches - found if state else found

    def numbers(
        self, connection: sqlite3.Connection, start: int, limit: int, below: int | None
    ) -> list[int]:
        """Return the numbers of the messages that match, newest first."""
        terms, more = self._terms, []
        if below is not None:
            terms, more = [*terms, f"{self._key} < ?"], [below]
        sql, values = self._sql(self._key, terms)
        sql += f" order by {self._key} desc limit ? offset ?"
        return [n for (n,) in connection.execute(sql, [*values, *more, limit, start])]

    def _sql(self, columns: str, terms: list[str]) -> tuple[str, list[object]]:
        # The joins are in this order, so that the first table leads to the others.
        values = list(self._values)
        where = list(terms)
        used = " ".join([columns, *terms])
        if self._match:
            tables = ["word"]
            where.insert(0, "word match ?")
            values.insert(0, self._match)
        else:
            first = self._key[0]
            tables = [f"{_ALIASES[first]} {first}"]
        for alias, table in _ALIASES.items():
            if f"{alias}." in used and not self._key.startswith(alias + "."):
                tables.append(f"{table} {alias} on {alias}.n = {self._key}")
        sql = f"select {columns} from {' cross join '.join(tables)}"
        return f"{sql} where {' and '.join(where) or 'true'}", values


_ALIASES = {"m": "msg", "f": "field", "x": "txt"}


def _check_number(conditions: int) -> None:
    if conditions > MOST_CONDITIONS:
        raise TooManyConditions(f"the query has more than {MOST_CONDITIONS} words")


def _phrase(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let all statements of the block see the same state."""
    connection.execute("begin")
    try:
        yield
    finally:
        connection.execute("commit")


def _number(connection: sqlite3.Connection, id: str) -> int:
    found = connection.execute("select n from msg where id = ?", (id,)).fetchone()
    # Of a message that is deleted, the place in the list is not known: begin anew.
    return int(found[0]) if found else 1 << 62


def _rows(connection: sqlite3.Connection, numbers: list[int]) -> list[str]:
    """Return the rows of messages in the order of their numbers, which falls."""
    rows: list[str] = []
    for some in slices(numbers):
        sql = (
            "select row, read, tags from msg join about using (n)"
            f" where n in ({marks(some)}) order by n desc"
        )
        rows += [
            complete(row, bool(read), tags) for row, read, tags in connection.execute(sql, some)
        ]
    return rows


def _own_rows(connection: sqlite3.Connection, numbers: list[int]) -> list[str]:
    """Return the rows as :func:`_rows` does, with the recipients of their envelopes."""
    members: dict[int, str] = {}
    for some in slices(numbers):
        sql = f"select n, envelope from raw where n in ({marks(some)})"
        for n, envelope in connection.execute(sql, some):
            members[n] = addressed(envelope)
    rows = _rows(connection, numbers)
    return [extended(row, members[n]) for n, row in zip(numbers, rows, strict=True)]
