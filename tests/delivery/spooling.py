"""Helpers for the tests of the spool."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.large import Large
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.spool import Job, Spool

MESSAGE = b"Received: from here\r\nSubject: one\r\n\r\n.\0\xff\r\n"
RECIPIENTS = ("anna@example.com", "bert@example.com")
PATIENCE = 20.0


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Spool]:
    spool = Spool(folder, **options)
    spool.open()
    try:
        yield spool
    finally:
        spool.close()


def put(
    spool: Spool,
    queue_id: str,
    content: bytes | Large = MESSAGE,
    parts: Sequence[tuple[str, tuple[str, ...]]] = (("main", RECIPIENTS),),
    due: float = 0.0,
    **values: Any,
) -> Outcome[None]:
    facts = {"sender": "carl@example.com", "arrival": Arrival(time=1.0), **values}
    return spool.put(queue_id=queue_id, content=content, parts=parts, due=due, **facts)


def stored(spool: Spool, queue_id: str, *args: Any, **values: Any) -> Job:
    """Put a message for one route, and return its job."""
    put(spool, queue_id, *args, **values).result(PATIENCE)
    return next(job for job in due(spool) if job.item.id == queue_id)


def due(spool: Spool, now: float = 10.0, limit: int = 1000, **without: Any) -> list[Job]:
    return spool.due(now, limit, **without).result(PATIENCE)


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.item.id for job in jobs]


def large(spool: Spool, queue_id: str, content: bytes) -> Large:
    file = spool.large(queue_id)
    file.write(content)
    file.finish()
    return file


def read(job: Job) -> bytes:
    with job.item.open() as file:
        return file.read()


@contextmanager
def beside(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the database as another process would."""
    path = folder / "spool.db"
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        yield connection


@contextmanager
def write_locked(folder: Path) -> Iterator[None]:
    """Keep the spool from committing."""
    with beside(folder) as connection:
        connection.execute("begin immediate")
        yield
        connection.execute("rollback")
