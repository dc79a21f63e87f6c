"""The database of the spool: its tables, how it is opened, and what its errors mean.

The server and ``aiosmtpd queue`` both stand on this module. The tables use nothing that SQLite 3.26
does not have: Python runs on it and on newer ones in the distributions of today.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from public import public

from aiosmtpd.delivery.disk import sync_directory

FORMAT = 2
"""The version of the tables; a spool of another version is not opened."""

APPLICATION = 0x61696F73
"""Marks the file as a spool: "aios" in ASCII."""

PAGE = 16384
"""Bytes of a page of the database."""

BUSY = 30.0
"""Seconds for which the server waits for another program that writes to the spool."""

CHECKED = 256 << 20
"""Bytes of the largest database whose every page is checked at the start: it takes a second."""

SCHEMA = f"""
begin immediate;
create table message (
    id integer primary key, queue_id text not null, arrived real not null,
    envelope text not null, size integer not null, route text, recipients text, body blob);
create table delivery (
    id integer primary key, message integer not null references message,
    queue_id text not null, size integer not null, route text not null, recipients text not null,
    due real not null, attempts integer not null default 0, error text,
    dead integer not null default 0);
create table filed (message integer not null);
create table retried (route text primary key) without rowid;
create index delivery_due on delivery(route, due) where dead = 0;
create index delivery_dead on delivery(route) where dead = 1;
create index delivery_queue_id on delivery(queue_id);
insert into filed values (0);
pragma application_id = {APPLICATION};
pragma user_version = {FORMAT};
commit;
"""  # noqa: S608 - of our own words
"""``body`` is null if the message is in ``large/``. ``delivery.id`` is the id of the message in the
upper bits and a number in the lower 16. ``queue_id`` and ``size`` are in both tables: counts and
searches read no bodies. ``retried`` has the routes that ``aiosmtpd queue retry`` has named since
the server looked. ``delivery_due`` begins with the route, so that a route with a long queue does
not delay others.

Most messages have one route and are delivered at once. So a new one is a single row: its ``route``
and ``recipients`` are in ``message``, and it is due since it arrived. It is *fresh* while its id is
above ``filed.message``. :func:`file_fresh` gives all fresh messages rows in ``delivery``, before
anything but the end of a delivery is written. ``message.route`` is null if these rows were there
from the beginning. ``message`` has no index, which would be a second page in each commit."""

NUMBER_BITS = 16
"""Bits of the number of a delivery in its id."""

FRESH = "route is not null and id > (select message from filed)"
"""The condition for a row of ``message`` that has no row in ``delivery`` yet."""

_NEWEST = "select coalesce((select max(id) from message), 0), message from filed"

_FILE = f"""
insert into delivery(id, message, queue_id, size, route, recipients, due)
select id << {NUMBER_BITS}, id, queue_id, size, route, recipients, arrived
from message where {FRESH}
"""  # noqa: S608 - of our own words

PRAGMAS = """
pragma synchronous = full;
pragma fullfsync = on;
pragma checkpoint_fullfsync = on;
pragma secure_delete = off;
pragma wal_autocheckpoint = 0;
pragma journal_size_limit = 67108864;
pragma cache_size = -4096;
pragma cache_spill = off;
pragma temp_store = memory;
"""
"""Settings of the server's connection. ``fullfsync`` has an effect on macOS only. The writer makes
the checkpoints, after it has resolved its futures. A commit of several megabytes stays in memory
until it is complete: otherwise its pages would be written more than once. So do the pages that a
savepoint may restore."""

_FULL_CODES = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


@public
class SpoolError(Exception):
    """The spool cannot be used; the text is one line that says what to do."""


@public
class SpoolFull(SpoolError):
    """The disk has no room for this message; others may fit."""


@public
class Duplicate(SpoolError):
    """A message with this queue id is in the spool."""


def open_database(folder: str) -> sqlite3.Connection:
    """Open the spool of a server, whose lock this process has; make it if there is none.

    Raises :exc:`SpoolError`. The connection may be used by any one thread at a time.
    """
    path = os.path.join(folder, "spool.db")
    new = _is_missing(folder, path)
    if new:
        # SQLite gives its other files the rights of this one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = _connect(folder, BUSY)
    try:
        if _is_empty(connection):
            connection.execute(f"pragma page_size = {PAGE}")
            connection.execute("pragma auto_vacuum = incremental")
            connection.execute("pragma journal_mode = wal")
            connection.executescript(PRAGMAS + SCHEMA)
            sync_directory(folder)
        else:
            check_format(connection, folder)
            connection.execute("pragma journal_mode = wal")
            connection.executescript(PRAGMAS)
            if not new and os.path.getsize(path) <= CHECKED:
                _check_pages(connection, folder)
    except sqlite3.Error as error:
        connection.close()
        raise explained(error, folder) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_beside(folder: str, busy: float) -> sqlite3.Connection:
    """Open an existing spool beside its server, and wait *busy* seconds at most for its commits.

    Raises :exc:`SpoolError`.
    """
    path = os.path.join(folder, "spool.db")
    if not os.path.isfile(path):
        raise SpoolError(f"{folder} has no spool.db: name the folder of a spool")
    connection = _connect(folder, busy)
    try:
        check_format(connection, folder)
        connection.executescript("pragma synchronous = full; pragma secure_delete = off;")
    except sqlite3.Error as error:
        connection.close()
        raise explained(error, folder) from error
    except BaseException:
        connection.close()
        raise
    return connection


def check_format(connection: sqlite3.Connection, folder: str) -> None:
    """Raise :exc:`SpoolError` unless the tables are those of this version."""
    application, version = (
        _pragma(connection, "application_id"),
        _pragma(connection, "user_version"),
    )
    if application != APPLICATION:
        raise SpoolError(f"{folder}/spool.db is not a spool: name another folder")
    if version != FORMAT:
        raise SpoolError(
            f"{folder} has a spool of format {version}, and this aiosmtpd knows format {FORMAT}: "
            "use the aiosmtpd that wrote it until it is empty, or name another folder"
        )


def file_fresh(connection: sqlite3.Connection) -> int:
    """Give all fresh messages their rows; return the id above which messages are fresh."""
    newest, filed = connection.execute(_NEWEST).fetchone()
    if newest <= filed:
        return int(filed)
    connection.execute(_FILE)
    connection.execute("update filed set message = ?", (newest,))
    return int(newest)


def explained(error: sqlite3.Error, folder: str) -> SpoolError:
    """Return the error of SQLite as one line that says what to do."""
    code = primary(error)
    if is_full(error):
        return SpoolFull(f"The disk of {folder} is full: make room")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return SpoolError(f"Another program keeps {folder}/spool.db locked: end that program")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return SpoolError(
            f"{folder}/spool.db is damaged ({error}): move the folder away and start with an empty "
            "one; 'sqlite3 spool.db .recover' can read what is left"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return SpoolError(
            f"Cannot write to {folder}/spool.db ({error}): check its owner and rights"
        )
    return SpoolError(f"{folder}/spool.db: {error}: check the disk, then start again")


def primary(error: BaseException) -> int:
    """Return the primary result code of an error of SQLite, 0 for other errors."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_full(error: BaseException) -> bool:
    """Return True if a write has failed for want of room, and was undone.

    SQLite reports a full quota and a limit of the process like a failed write. That one harms
    nothing either: the commit did not happen, and the next one writes again.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    return code in _FULL_CODES


def _connect(folder: str, busy: float) -> sqlite3.Connection:
    path = os.path.join(folder, "spool.db")
    try:
        return sqlite3.connect(path, timeout=busy, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explained(error, folder) from error


def _is_missing(folder: str, path: str) -> bool:
    """Return True if there is no database; raises :exc:`SpoolError` if only that is gone."""
    if os.path.exists(path) and os.path.getsize(path):
        return False
    if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
        lost = "spool.db-wal"
    elif any(not entry.startswith(".") for entry in os.listdir(os.path.join(folder, "large"))):
        lost = "large"
    else:
        return True
    raise SpoolError(
        f"{path} is missing, but {folder}/{lost} has messages: restore spool.db, or move the "
        "folder away and start with an empty one"
    )


def _is_empty(connection: sqlite3.Connection) -> bool:
    # A crash may have left the file without tables.
    return not connection.execute("select count(*) from sqlite_master").fetchone()[0]


def _check_pages(connection: sqlite3.Connection, folder: str) -> None:
    with closing(connection.execute("pragma quick_check(1)")) as cursor:
        finding = str(cursor.fetchone()[0])
    if finding != "ok":
        line = " ".join(finding.split())
        raise SpoolError(
            f"{folder}/spool.db is damaged ({line}): move the folder away and start with an empty "
            "one; 'sqlite3 spool.db .recover' can read what is left"
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"pragma {name}").fetchone()[0])
