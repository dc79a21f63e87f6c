"""Measure the spool beside a bare SQLite loop with the same pragmas, and beside DurableMaildir.

``python benchmarks/delivery.py`` prints messages per second with so many in flight. The floor
inserts the same bodies into one table, as many in a commit as the spool may have in flight. It has
no thread, no receipt, no envelope and no delivery. ``same rows`` is such a loop with the row of a
new message in the spool, which has an envelope and a route too. All take turns in short rounds; the
ratio is the median of the rounds. ``--backlog N`` measures the memory and the files of a long
queue.
"""

import argparse
import gc
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import attrs

from aiosmtpd.delivery.database import PAGE, SCHEMA
from aiosmtpd.delivery.ids import new_queue_id
from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.maildir import DurableMaildir
from aiosmtpd.delivery.spool import Spool

ROUNDS = 9
SECONDS = 0.5
"""Seconds that one contestant runs in a round, about."""

ARRIVAL = Arrival(
    client="192.0.2.1",
    port=4711,
    helo="client.example.com",
    tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
    mail_options=("SIZE=4096", "BODY=8BITMIME"),
    hostname="mx.example.com",
    protocol="ESMTPS",
)

Run = Callable[[int], list[float]]
"""Stores so many messages; returns the seconds that each one took."""


@attrs.frozen
class Row:
    """Bodies of *size* bytes, *flight* at a time."""

    title: str
    size: int
    flight: int
    wanted: float


ROWS = (
    Row("4 KB, 100 in flight", 4096, 100, 0.5),
    Row("4 KB, 1 in flight", 4096, 1, 0.6),
    Row("100 KB, 10 in flight", 102_400, 10, 0.6),
)


def database(folder: Path, schema: str) -> sqlite3.Connection:
    """Make a database with the pragmas of the spool."""
    folder.mkdir()
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.executescript(
        f"pragma page_size={PAGE}; pragma auto_vacuum=incremental; pragma journal_mode=wal;"
        "pragma synchronous=full; pragma secure_delete=off; pragma wal_autocheckpoint=1000;"
        + schema
    )
    return connection


@contextmanager
def bare_loop(folder: Path, row: Row) -> Iterator[Run]:
    """A loop of inserts and commits."""
    connection = database(folder, "create table message(id integer primary key, body blob)")
    body = os.urandom(row.size)

    def run(messages: int) -> list[float]:
        taken: list[float] = []
        for _ in range(-(-messages // row.flight)):
            begin = time.perf_counter()
            connection.execute("begin immediate")
            for _ in range(row.flight):
                connection.execute("insert into message(body) values (?)", (body,))
            connection.execute("commit")
            taken += [time.perf_counter() - begin] * row.flight
        connection.execute("delete from message")
        return taken

    yield run
    connection.close()


@contextmanager
def same_rows(folder: Path, row: Row) -> Iterator[Run]:
    """A loop of inserts and commits that writes the row of the spool."""
    connection = database(folder, SCHEMA)
    body, envelope = os.urandom(row.size), ARRIVAL.to_json()
    numbers = count(1)

    def insert() -> None:
        number = next(numbers)
        connection.execute(
            "insert into message(id, queue_id, arrived, envelope, size, route, recipients, body)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, new_queue_id(), 0.0, envelope, row.size, "app", '["anna@example.com"]', body),
        )

    def run(messages: int) -> list[float]:
        taken: list[float] = []
        for _ in range(-(-messages // row.flight)):
            begin = time.perf_counter()
            connection.execute("begin immediate")
            for _ in range(row.flight):
                insert()
            connection.execute("commit")
            taken += [time.perf_counter() - begin] * row.flight
        connection.execute("delete from message")
        return taken

    yield run
    connection.close()


class Receipt:
    """Gets the result of one message, as light as what the handler uses in the event loop."""

    __slots__ = ("_begin", "_taken")

    bell: Callable[[], object] | None = None

    def __init__(self, taken: SimpleQueue[float | BaseException | None]) -> None:
        self._begin = time.perf_counter()
        self._taken = taken

    def set_running_or_notify_cancel(self) -> bool:
        return True

    def set_result(self, result: Any) -> None:
        self._taken.put(time.perf_counter() - self._begin)

    def set_exception(self, exception: BaseException | None) -> None:
        self._taken.put(exception)


@contextmanager
def spool(folder: Path, row: Row) -> Iterator[Run]:
    """The spool: ids, envelopes, deliveries and all."""
    spool = Spool(folder)
    spool.open()
    body = os.urandom(row.size)
    taken: SimpleQueue[float | BaseException | None] = SimpleQueue()

    def put() -> None:
        parts = [("app", ("anna@example.com",))]
        queue_id = new_queue_id()
        spool.put_for(
            Receipt(taken), queue_id, "carl@example.com", ARRIVAL, body, parts, ARRIVAL.time
        )

    def seconds() -> float:
        one = taken.get()
        assert isinstance(one, float), one
        return one

    def run(messages: int) -> list[float]:
        for _ in range(row.flight):
            put()
        found = []
        for _ in range(messages - row.flight):
            found.append(seconds())
            put()
        return found + [seconds() for _ in range(row.flight)]

    yield run
    spool.close()


@contextmanager
def maildir(folder: Path, row: Row) -> Iterator[Run]:
    """DurableMaildir, with a thread for each message in flight."""
    box = DurableMaildir(folder)
    body = os.urandom(row.size)

    def add(_: int) -> float:
        begin = time.perf_counter()
        box.add(body)
        return time.perf_counter() - begin

    with ThreadPoolExecutor(row.flight) as threads:
        yield lambda messages: list(threads.map(add, range(messages)))


CONTESTANTS = {
    "bare loop": bare_loop,
    "same rows": same_rows,
    "spool": spool,
    "DurableMaildir": maildir,
}


@attrs.define
class Figures:
    """The rounds of one contestant."""

    rates: list[float] = attrs.field(factory=list)
    cpu: list[float] = attrs.field(factory=list)
    delays: list[float] = attrs.field(factory=list)

    def p99(self) -> float:
        return statistics.quantiles(self.delays, n=100)[98]


def measure(row: Row, run: Run, messages: int, figures: Figures) -> None:
    gc.collect()
    begin, cpu = time.perf_counter(), time.process_time()
    figures.delays += run(messages)
    figures.rates.append(messages / (time.perf_counter() - begin))
    figures.cpu.append((time.process_time() - cpu) / messages * 1e6)


def compare(row: Row, folder: Path, rounds: int) -> dict[str, Figures]:
    """Let all contestants take turns."""
    found = {name: Figures() for name in CONTESTANTS}
    for number in range(rounds):
        for name, contestant in CONTESTANTS.items():
            place = folder / f"{row.size}-{row.flight}-{number}-{name.replace(' ', '-')}"
            with contestant(place, row) as run:
                first = run(max(row.flight * 2, 50))
                # As many as fit into the time of a round, from the pace of the first ones.
                pace = statistics.median(first) / row.flight
                messages = max(int(SECONDS / pace), row.flight * 3) // row.flight * row.flight
                measure(row, run, min(messages, 20_000), found[name])
    return found


def print_row(row: Row, found: dict[str, Figures]) -> None:
    floor = found["bare loop"]
    print(row.title)
    for name, figures in found.items():
        ratios = [own / base for own, base in zip(figures.rates, floor.rates, strict=True)]
        wanted = f"  (wanted: {row.wanted})" if name == "spool" else ""
        print(
            f"  {name:15}{statistics.median(figures.rates):10,.0f}/s"
            f"{statistics.median(figures.cpu):8.0f} µs CPU  p99 {figures.p99() * 1000:7.1f} ms"
            f"   {statistics.median(ratios):5.2f} of the floor{wanted}"
        )


def memory() -> float:
    """Return the resident memory in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def used(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("spool.db*")) / 1e6


def backlog(folder: Path, messages: int) -> None:
    """Fill a spool, deliver all of it, and wait for its space."""
    row = Row("", 4096, 100, 0)
    say = partial(print, "  ", sep="")
    print(f"Backlog of {messages:,} messages of 4 KB")
    with spool(folder, row) as run:
        run(2000)
        before = memory()
        begin = time.perf_counter()
        run(messages)
        say(
            f"put in {time.perf_counter() - begin:.1f} s, memory {before:.0f} -> {memory():.0f} MB,"
            f" files {used(folder):.0f} MB"
        )
    queue = Spool(folder)
    begin = time.perf_counter()
    queue.open()
    say(f"opened again in {time.perf_counter() - begin:.2f} s")
    begin, delays = time.perf_counter(), []
    while jobs := queue.due(1e12, 100).result():
        asked = time.perf_counter()
        for future in [queue.done(job) for job in jobs]:
            future.result()
        delays.append(time.perf_counter() - asked)
    say(f"delivered in {time.perf_counter() - begin:.1f} s, memory {memory():.0f} MB")
    begin = time.perf_counter()
    while used(folder) > 20 and time.perf_counter() - begin < 30:
        time.sleep(0.05)
    say(f"files {used(folder):.1f} MB after {time.perf_counter() - begin:.1f} s")
    queue.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--backlog", type=int, default=100_000)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        for row in ROWS:
            print_row(row, compare(row, folder, settings.rounds))
        if settings.backlog:
            backlog(folder / "backlog", settings.backlog)


if __name__ == "__main__":
    main()
