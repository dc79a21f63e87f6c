"""The database of the inbox: its tables, how it is opened, and what its errors mean.

Only the writer changes it; readers have connections of their own.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from aiosmtpd.delivery.lock import lock
from aiosmtpd.inbox.records import StoreError

APPLICATION = 0x61696F69
"""Marks the file as an inbox: "aioi" in ASCII."""

FORMAT = 2
"""The version of the tables; a store of another version is not opened."""

MESSAGE_TABLES = (
    "create table msg (n integer primary key, id text not null unique, created integer not null,"
    " read integer not null default 0, size integer not null, attachments integer not null,"
    " inlines integer not null, session integer not null, large integer not null,"
    " tags text not null default '')",
    "create table about (n integer primary key, row text not null, details text not null)",
    "create table field (n integer primary key, sender text not null, recipient text not null,"
    " cc text not null, bcc text not null, reply_to text not null, subject text not null,"
    " message_id text not null)",
    "create table txt (n integer primary key, t text not null)",
    "create table raw (n integer primary key, envelope text not null, content blob)",
    "create table tag (name text not null, n integer not null, primary key (name, n))"
    " without rowid",
)
"""``created`` is in milliseconds since 1970. The texts of ``field`` and ``txt`` are folded; those
of ``about`` and ``envelope`` are JSON. ``large`` is 1 if the message is a file, and then
``content`` is null. ``msg`` and ``field`` are small, so that they can be scanned."""

INDEX_TABLE = (
    "create virtual table word using fts5"
    "(t, content='txt', content_rowid='n', tokenize='trigram case_sensitive 1', detail=full)"
)
"""Has the messages up to the number ``indexed`` of ``state``."""

OTHER_TABLES = (
    "create table label (name text primary key, spelt text not null) without rowid",
    "create table session (s integer primary key, log blob not null)",
    "create table attempt (a integer primary key, session integer not null, at integer not null,"
    " words text not null, details text not null)",
    "create table gone (why text primary key, at integer not null, count integer not null)"
    " without rowid",
    "create table state (name text primary key, value integer not null) without rowid",
    "create index attempt_session on attempt(session)",
    "insert into state values ('indexed', 0)",
    "insert into state values ('arrived', 0)",
)

OTHER_INDEXES = ("create index msg_session on msg(session)", "create index tag_n on tag(n)")

BUSY = 30.0
"""Seconds to wait for another program that looks into the database."""


def locked(path: Path) -> BinaryIO:
    """Keep other processes from opening the same store, until the returned file is closed."""
    file = os.fdopen(os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR, 0o600), "r+b")
    try:
        lock(file.fileno())
    except BlockingIOError:
        file.close()
        raise StoreError(f"{path} is in use by another process: end it first") from None
    except BaseException:
        file.close()
        raise
    return file


def open_writer(path: Path, *, durable: bool, temporary: bool) -> sqlite3.Connection:
    """Open or make the database; raises StoreError. Any one thread at a time may use it."""
    if not path.exists():
        # SQLite gives its other files the rights of this one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = _connect(path)
    try:
        if not connection.execute("select count(*) from sqlite_master").fetchone()[0]:
            _make(connection)
        _check(connection, path)
        connection.execute("pragma journal_mode = wal")
        level = "full" if durable else "off" if temporary else "normal"
        connection.execute(f"pragma synchronous = {level}")
        # The writer makes the checkpoints when it has time.
        connection.execute("pragma wal_autocheckpoint = 0")
        connection.execute("pragma cache_size = -8000")
        # Some builds of SQLite overwrite all that is deleted, which needs as much room in the log.
        connection.execute("pragma secure_delete = fast")
    except sqlite3.Error as error:
        connection.close()
        raise explained(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write."""
    connection = _connect(path)
    connection.execute("pragma query_only = on")
    connection.execute("pragma cache_size = -8000")
    return connection


def has_index(connection: sqlite3.Connection) -> bool:
    """Return True if the database has the index of words."""
    return bool(
        connection.execute("select count(*) from sqlite_master where name = 'word'").fetchone()[0]
    )


def make_index(connection: sqlite3.Connection) -> bool:
    """Make the index of words; return False if this SQLite cannot."""
    try:
        connection.execute(INDEX_TABLE)
    except sqlite3.OperationalError:
        return False
    return True


def vacuum(connection: sqlite3.Connection) -> None:
    """Give back the free space of the file; on a full disk, it keeps its size."""
    with suppress(sqlite3.Error):
        connection.execute("vacuum")


def explained(error: sqlite3.Error, path: Path) -> StoreError:
    """Return an error of SQLite as one line that says what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"The disk of {path} is full: make room")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(f"Another program keeps {path} locked: end that program")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(f"{path} is damaged or not an inbox ({error}): name another file")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreError(f"Cannot write to {path} ({error}): check its owner and rights")
    return StoreError(f"{path}: {error}")


def unusable(error: OSError, path: Path) -> StoreError:
    """Return an error of the system as one line that says what to do."""
    folder = path.absolute().parent
    if not folder.is_dir():
        there = "is not a folder" if os.path.lexists(folder) else "does not exist"
        return StoreError(f"Cannot use {path}: the folder {folder} {there}")
    why = (error.strerror or str(error)).lower()
    where = error.filename if error.filename not in (None, str(path), f"{path}.lock") else path
    return StoreError(f"Cannot use {where}: {why}")


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explained(error, path) from error


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("pragma page_size = 8192")
    connection.execute("pragma auto_vacuum = incremental")
    connection.execute("begin immediate")
    for statement in MESSAGE_TABLES + OTHER_INDEXES + OTHER_TABLES:
        connection.execute(statement)
    make_index(connection)
    connection.execute(f"pragma application_id = {APPLICATION}")
    connection.execute(f"pragma user_version = {FORMAT}")
    connection.execute("commit")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("pragma application_id").fetchone()[0]
    version = connection.execute("pragma user_version").fetchone()[0]
    if application != APPLICATION:
        raise StoreError(f"{path} is not an inbox: name another file")
    if version != FORMAT:
        raise StoreError(
            f"{path} has format {version}, and this aiosmtpd knows format {FORMAT}: use the "
            "aiosmtpd that wrote it, or name another file"
        )
