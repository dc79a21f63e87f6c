"""A look into a spool from outside: ``aiosmtpd queue`` beside the server that uses it.

Each read is short, so that the write-ahead log of the server can be emptied; each write is a
transaction of a few hundred rows. The server looks for changes once a second. It does not mind
that a row is gone: the result of a running try changes nothing then.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, BinaryIO

import attrs

from aiosmtpd.delivery.database import (
    FRESH,
    NUMBER_BITS,
    SpoolError,
    explained,
    file_fresh,
    open_beside,
)
from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.rows import envelope_from, remove_delivered

BUSY = 10.0
"""Seconds to wait for a commit of the server."""

PAGE = 200
"""Rows that are read or changed at a time."""

SHORTEST = 4
"""Letters of the shortest beginning of an id that names a message."""

REST = 0.01
"""Seconds between two transactions, in which the server may write."""


@attrs.frozen(kw_only=True)
class Selection:
    """Deliveries: those of a message, of a route, those that were given up; by default all."""

    queue_id: str | None = None
    route: str | None = None
    dead: bool = False


@attrs.frozen(kw_only=True)
class Delivery:
    """A row: a message for the recipients of one route. Times are in seconds since 1970."""

    number: int
    queue_id: str
    route: str
    recipients: tuple[str, ...]
    due: float
    attempts: int
    error: str
    dead: bool
    sender: str
    arrival: Arrival
    size: int


_PAGE = f"""
select * from (
    select delivery.id, message.queue_id, delivery.route, delivery.recipients, delivery.due,
        attempts, error, dead, envelope, message.size
    from delivery join message on message.id = delivery.message
    where delivery.id > :after and delivery.id < :end
        and (:route is null or delivery.route = :route)
        and (not :dead or delivery.dead)
    order by delivery.id limit :page)
union all select * from (
    select id << {NUMBER_BITS}, queue_id, route, recipients, arrived, 0, null, 0, envelope, size
    from message
    where {FRESH} and id > :after >> {NUMBER_BITS} and id << {NUMBER_BITS} < :end
        and (:route is null or route = :route)
        and not :dead
    order by id limit :page)
order by 1 limit :page
"""  # noqa: S608 - of our own words
"""One page of deliveries, with those of fresh messages, which have no row in ``delivery``."""

_NAMED = f"""
select queue_id from delivery where queue_id between :first and :last
union select queue_id from message where {FRESH} and queue_id between :first and :last
limit 2
"""  # noqa: S608 - of our own words

_NUMBER = f"""
select message from delivery where queue_id = :queue_id
union select id from message where {FRESH} and queue_id = :queue_id
limit 1
"""  # noqa: S608 - of our own words


class Backlog:
    """The deliveries of a spool. Each method raises :exc:`SpoolError` if the spool is unusable."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(os.path.expanduser(folder))
        _check_rights(self.folder)
        self._connection = open_beside(self.folder, BUSY)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def deliveries(self, selection: Selection) -> Iterator[Delivery]:
        """Yield the selected deliveries, the oldest first."""
        for page in self._pages(selection):
            yield from map(_delivery, page)

    def retry(self, selection: Selection, to: str | None = None) -> int:
        """Make the selected deliveries due, by the route *to* if it is given; return how many."""
        changed = 0
        for page in self._pages(selection):
            with self._writing() as connection:
                for number, _, route, *_ in page:
                    connection.execute(
                        "update delivery set due = ?, dead = 0, route = ? where id = ?",
                        (time.time(), to or route, number),
                    )
                    connection.execute("insert or ignore into retried values (?)", (to or route,))
            changed += len(page)
        return changed

    def drop(self, selection: Selection) -> int:
        """Remove the selected deliveries, and messages that have no other; return how many."""
        dropped = 0
        for page in self._pages(selection):
            numbers = [row[0] for row in page]
            with self._writing() as connection:
                connection.executemany("delete from delivery where id = ?", zip(numbers))
                messages = [number >> NUMBER_BITS for number in numbers]
                _, _, files = remove_delivered(connection, messages)
            for file in files:
                with suppress(OSError):
                    os.unlink(os.path.join(self.folder, "large", file))
            dropped += len(page)
        return dropped

    def named(self, text: str) -> list[str]:
        """Return the message with this id, or two at most whose ids begin with this text."""
        found = self._read(_NAMED, {"first": text, "last": text})
        if not found and len(text) >= SHORTEST:
            found = self._read(_NAMED, {"first": text, "last": text + chr(sys.maxunicode)})
        return [queue_id for (queue_id,) in found]

    def has_route(self, name: str) -> bool:
        """Return True if there is a delivery by this route."""
        return any(self._pages(Selection(route=name)))

    def messages(self) -> Iterator[str]:
        """Yield the ids of all messages, the oldest first."""
        after = 0
        query = "select id, queue_id from message where id > ? order by id limit ?"
        while page := self._read(query, (after, PAGE)):
            yield from [queue_id for _, queue_id in page]
            after = page[-1][0]

    def content(self, queue_id: str) -> bytes | BinaryIO | None:
        """Return a message, or its open file if it is large; None if there is no such message."""
        rows = self._read("select body from message where id = ?", (self._number(queue_id),))
        if not rows:
            return None
        body: bytes | None = rows[0][0]
        if body is not None:
            return body
        try:
            return open(os.path.join(self.folder, "large", os.path.basename(queue_id)), "rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SpoolError(f"{error.filename}: {error.strerror}; check its rights") from error

    def _pages(self, selection: Selection) -> Iterator[list[Any]]:
        values = {"route": selection.route, "dead": selection.dead, "page": PAGE}
        after, end = 0, 1 << 62
        if selection.queue_id is not None:
            message = self._number(selection.queue_id)
            after, end = (message << NUMBER_BITS) - 1, (message + 1) << NUMBER_BITS
        while page := self._read(_PAGE, {**values, "after": after, "end": end}):
            yield page
            after = page[-1][0]

    def _number(self, queue_id: str) -> int:
        """Return the number of a message in the database, -1 if there is none."""
        found = self._read(_NUMBER, {"queue_id": queue_id})
        return found[0][0] if found else -1

    def _read(self, query: str, values: Any) -> list[Any]:
        """Return all rows at once: a reader that stays would keep the server's log from ending."""
        try:
            with closing(self._connection.execute(query, values)) as cursor:
                return cursor.fetchall()
        except UnicodeEncodeError:
            # No id or route has such a name.
            return []
        except sqlite3.Error as error:
            raise explained(error, self.folder) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            connection.execute("begin immediate")
            try:
                file_fresh(connection)
                yield connection
                connection.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.rollback()
                raise
        except sqlite3.Error as error:
            raise explained(error, self.folder) from error
        time.sleep(REST)


def _check_rights(folder: str) -> None:
    """Raise :exc:`SpoolError` if this user may not read the spool that the folder has."""
    path = os.path.join(folder, "spool.db")
    try:
        os.stat(path)
    except PermissionError:
        readable = False
    except OSError:
        return
    else:
        readable = os.access(path, os.R_OK)
    if not readable:
        owner = _owner(folder)
        raise SpoolError(
            f"Permission denied: run it as the owner of the folder{', ' + owner if owner else ''}"
        )


def _owner(folder: str) -> str:
    """Return the name of the owner of a folder, or an empty text if it is unknown."""
    try:
        import pwd  # not on Windows

        return pwd.getpwuid(os.stat(folder).st_uid).pw_name
    except (ImportError, KeyError, OSError):
        return ""


def _delivery(row: Any) -> Delivery:
    number, queue_id, route, recipients, due, attempts, error, dead, envelope, size = row
    try:
        sender, arrival = envelope_from(envelope)
        to = tuple(json.loads(recipients))
    except (ValueError, TypeError, LookupError):
        # The server gives such a row up, and it can be dropped here.
        sender, arrival, to = "?", Arrival(), ()
    return Delivery(
        number=number,
        queue_id=queue_id,
        route=route,
        recipients=to,
        due=due,
        attempts=attempts,
        error=error or "",
        dead=bool(dead),
        sender=sender,
        arrival=arrival,
        size=size,
    )
