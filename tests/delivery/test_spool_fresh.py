"""Fresh messages: one row each, and in memory for the courier, until a try has not ended them."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Item, tally, writer
from aiosmtpd.delivery.backlog import Backlog, Selection
from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.spool import Duplicate, Job, Spool, SpoolFull
from tests.delivery.spooling import (
    MESSAGE,
    PATIENCE,
    RECIPIENTS,
    beside,
    due,
    large,
    opened,
    put,
    read,
    write_locked,
)
from tests.delivery.support import Place, delivering, given, route, send, until, until_left

NOW = Arrival(time=1.0)
PARTS = [("app", RECIPIENTS)]
NO_ROWS = """
create trigger no_rows before insert on delivery begin select raise(abort, 'a row'); end;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    with opened(folder) as spool:
        yield spool


def own(number: int) -> str:
    """Return a queue id of the form that the spool makes."""
    return f"{number:018}"


def put_fresh(spool: Spool, *numbers: int, **values: Any) -> None:
    values = {"parts": PARTS, "due": 1.0, "arrival": NOW, **values}
    for future in [put(spool, own(number), **values) for number in numbers]:
        future.result(PATIENCE)


def numbers(jobs: Sequence[Job]) -> list[int]:
    return [int(job.item.id) for job in jobs]


def rows(folder: Path, table: str = "delivery") -> int:
    with beside(folder) as connection:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])


def taken(spool: Spool, name: str = "app") -> list[int]:
    found = []
    while (job := spool.fresh.take(name)) is not None:
        found.append(int(job.item.id))
    return found


def test_it_is_in_memory_as_it_came(spool: Spool, folder: Path) -> None:
    arrival = Arrival(time=1.0, rcpt_options=dict.fromkeys(RECIPIENTS, ("NOTIFY=NEVER",)))
    put_fresh(spool, 1, sender="<>", arrival=arrival, parts=[("app", RECIPIENTS[:1])])
    assert (spool.fresh.routes(), spool.fresh.unread) == (["app"], False)
    job = spool.fresh.take("app")
    assert job is not None
    (again,) = due(spool)
    assert (job.number, job.route, job.due) == (again.number, again.route, again.due)
    assert (job.item.id, job.item.sender, job.item.recipients) == (own(1), "<>", RECIPIENTS[:1])
    assert job.item.arrival == again.item.arrival
    assert list(job.item.arrival.rcpt_options) == [RECIPIENTS[0]]
    assert read(job) == read(again) == MESSAGE


def test_its_end_needs_no_row(spool: Spool, folder: Path) -> None:
    put_fresh(spool, 1)
    put_fresh(spool, 2, content=large(spool, own(2), b"x"))
    with beside(folder) as connection:
        connection.executescript(NO_ROWS)
    for _ in range(2):
        job = spool.fresh.take("app")
        assert job is not None
        assert read(job)
        spool.done(job).result(PATIENCE)
    assert (rows(folder, "message"), list((folder / "large").iterdir())) == (0, [])
    assert spool.counts().result(PATIENCE).messages == 0


@pytest.mark.parametrize(
    "values",
    [
        {"parts": [("app", RECIPIENTS[:1]), ("archive", RECIPIENTS[1:])]},
        {"due": 2.0},
        {"due": 1e11, "arrival": Arrival(time=1e11)},
    ],
    ids=["two routes", "another time", "later"],
)
def test_others_have_rows_at_once(spool: Spool, folder: Path, values: Any) -> None:
    put_fresh(spool, 1, **values)
    assert rows(folder) == len(values.get("parts", PARTS))
    assert (spool.fresh.routes(), spool.fresh.unread) == ([], True)
    due(spool)
    assert not spool.fresh.unread


def test_a_result_gives_rows_to_all(spool: Spool, folder: Path) -> None:
    put_fresh(spool, 1, 2, 3)
    job = spool.fresh.take("app")
    assert job is not None
    spool.later(job, due=50.0, error="no", recipients=RECIPIENTS[1:]).result(PATIENCE)
    assert (rows(folder), taken(spool), spool.fresh.unread) == (3, [], True)
    assert numbers(due(spool)) == [2, 3]
    (again,) = due(spool, 50.0)[2:]
    assert (again.item.attempts, again.item.recipients) == (1, RECIPIENTS[1:])


def test_only_some_are_held(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "HELD", 2)
    put_fresh(spool, 1, 2, 3)
    assert spool.fresh.unread
    assert taken(spool) == [1, 2]
    assert numbers(due(spool)) == [1, 2, 3]
    assert taken(spool) == []


def test_only_some_bytes_are_held(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "HELD_BYTES", 1000)
    put_fresh(spool, 1, 2, content=bytes(1000))
    assert (spool.fresh.unread, taken(spool)) == (True, [1])
    put_fresh(spool, 3, 4, content=bytes(500))
    assert taken(spool) == [3, 4]


def test_without_fresh_ones(spool: Spool) -> None:
    put_fresh(spool, 1)
    put_fresh(spool, 2, due=5.0)
    jobs = spool.due(10.0, 9, fresh=False).result(PATIENCE)
    assert numbers(jobs) == [2]
    assert spool.dues().result(PATIENCE) == {"app": 5.0}
    assert taken(spool) == [1]


def test_ids_of_others_are_compared(spool: Spool) -> None:
    put_fresh(spool, 1)
    put(spool, "id1", parts=PARTS, due=1.0, arrival=NOW).result(PATIENCE)
    assert (taken(spool), spool.fresh.unread) == ([1], True)
    with pytest.raises(Duplicate):
        put(spool, "id1", parts=PARTS, due=1.0, arrival=NOW).result(PATIENCE)
    put_fresh(spool, 2)
    assert taken(spool) == [2]


def test_a_failed_commit_offers_nothing(spool: Spool, folder: Path) -> None:
    values: dict[str, Any] = {"parts": PARTS, "due": 1.0, "arrival": NOW}
    with write_locked(folder):
        first = put(spool, own(1), **values)
        until(first.running)
        second = put(spool, own(2), **values)
        wrong = spool.due(10.0, "wrong")  # type: ignore[arg-type]
    for error in second.exception(PATIENCE), wrong.exception(PATIENCE):
        assert isinstance(error, TypeError)
    assert (taken(spool), spool.fresh.unread) == ([1], True)
    assert numbers(due(spool)) == [1]


def test_a_start_gives_them_rows(folder: Path) -> None:
    with opened(folder) as spool:
        put_fresh(spool, 1, 2, content=bytes(500))
    assert rows(folder) == 0
    with opened(folder, max_bytes=1000) as spool:
        assert (rows(folder), spool.has_room()) == (2, False)
        for job in due(spool):
            spool.done(job).result(PATIENCE)
    with opened(folder) as spool:
        # Its number is above those that have rows, although the table was empty.
        put_fresh(spool, 3)
        assert (taken(spool), numbers(due(spool))) == ([3], [3])


def test_many_ends_in_one_commit(spool: Spool, folder: Path) -> None:
    both = [("app", RECIPIENTS[:1]), ("archive", RECIPIENTS[1:])]
    put_fresh(spool, *range(50), content=bytes(10))
    put_fresh(spool, 50, parts=both)
    for number in 51, 52:
        put_fresh(spool, number, content=large(spool, own(number), b"x"))
    jobs = [job for job in due(spool) if job.route == "app" and int(job.item.id) != 7]
    with write_locked(folder):
        ends = [spool.done(job) for job in jobs]
    assert [end.result(PATIENCE) for end in ends] == [None] * 52
    counts = spool.counts().result(PATIENCE)
    assert (counts.messages, counts.bytes) == (2, 10 + len(MESSAGE))
    assert numbers(due(spool)) == [7, 50]
    assert list((folder / "large").iterdir()) == []


def jobs_of(spool: Spool, number: int) -> list[Job]:
    """Take so many fresh messages."""
    found = [spool.fresh.take("app") for _ in range(number)]
    return [job for job in found if job is not None]


def test_many_ends_without_rows(spool: Spool, folder: Path) -> None:
    put_fresh(spool, *range(40), content=bytes(10))
    put_fresh(spool, 40, content=large(spool, own(40), b"x"))
    put_fresh(spool, 41)
    jobs = jobs_of(spool, 41)
    with write_locked(folder):
        ends = [spool.done(job) for job in [*jobs, jobs[5]]]
    assert [end.result(PATIENCE) for end in ends] == [None] * 42
    spool.done(jobs[6]).result(PATIENCE)
    counts = spool.counts().result(PATIENCE)
    assert (counts.messages, counts.bytes) == (1, len(MESSAGE))
    assert (rows(folder, "message"), list((folder / "large").iterdir())) == (1, [])


class TestQueue:
    """The queue command beside a server."""

    def test_it_sees_them(self, spool: Spool, folder: Path) -> None:
        put_fresh(spool, *range(450))
        names = [own(number) for number in range(450)]
        with closing(Backlog(str(folder))) as backlog:
            found = list(backlog.deliveries(Selection()))
            assert [(one.queue_id, one.route) for one in found] == [(one, "app") for one in names]
            (one,) = backlog.deliveries(Selection(queue_id=own(7), route="app"))
            assert (one.recipients, one.due, one.attempts, one.dead) == (RECIPIENTS, 1.0, 0, False)
            assert backlog.content(own(7)) == MESSAGE
            assert backlog.named(own(7)) == [own(7)]
            assert backlog.named(own(7)[:17]) == [own(0), own(1)]
            assert (backlog.named("0000x"), backlog.content(own(999))) == ([], None)
            assert backlog.has_route("app")
            assert not list(backlog.deliveries(Selection(route="other")))
            assert not list(backlog.deliveries(Selection(dead=True)))
        assert rows(folder) == 0

    def test_it_changes_them(self, spool: Spool, folder: Path) -> None:
        put_fresh(spool, 1, 2, 3)
        with closing(Backlog(str(folder))) as backlog:
            assert backlog.retry(Selection(queue_id=own(2)), "other") == 1
            assert backlog.drop(Selection(queue_id=own(3))) == 1
        assert spool.changed().result(PATIENCE)
        jobs = due(spool, time.time())
        assert [(job.item.id, job.route) for job in jobs] == [(own(1), "app"), (own(2), "other")]
        assert spool.fresh.routes() == []
        assert spool.counts().result(PATIENCE).messages == 2

    def test_one_of_many_is_dropped_before_its_end(self, spool: Spool, folder: Path) -> None:
        put_fresh(spool, *range(10))
        jobs = jobs_of(spool, 9)
        with closing(Backlog(str(folder))) as backlog:
            assert backlog.drop(Selection(queue_id=own(3))) == 1
            assert backlog.retry(Selection(queue_id=own(9))) == 1
        with write_locked(folder):
            ends = [spool.done(job) for job in jobs]
        assert [end.result(PATIENCE) for end in ends] == [None] * 9
        assert spool.changed().result(PATIENCE)
        assert spool.counts().result(PATIENCE).messages == 1
        assert (rows(folder), rows(folder, "message")) == (1, 1)

    def test_a_row_is_not_in_memory_too(self, spool: Spool, folder: Path) -> None:
        put_fresh(spool, 1, 2)
        with closing(Backlog(str(folder))) as backlog:
            backlog.retry(Selection(queue_id=own(1)))
        jobs = spool.due(time.time(), 9, fresh=False).result(PATIENCE)
        assert (numbers(jobs), taken(spool)) == ([2, 1], [])


class TestCompany:
    """The ends of deliveries, which wait for a commit of others."""

    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer, "COMPANY", 2 * PATIENCE)

    def test_an_end_waits_for_a_message(self, spool: Spool) -> None:
        put_fresh(spool, 1)
        job = spool.fresh.take("app")
        assert job is not None
        before, ended = spool.commits, spool.done(job)
        with pytest.raises(TimeoutError):
            ended.result(0.05)
        put_fresh(spool, 2)
        ended.result(PATIENCE)
        assert spool.commits == before + 1
        assert spool.counts().result(PATIENCE).messages == 1

    def test_an_end_waits_for_no_read(self, spool: Spool) -> None:
        put_fresh(spool, 1)
        job = spool.fresh.take("app")
        assert job is not None
        ended = spool.done(job)
        spool.counts().result(PATIENCE)
        ended.result(PATIENCE)

    def test_the_stop_waits_for_no_company(self, spool: Spool) -> None:
        put_fresh(spool, 1)
        job = spool.fresh.take("app")
        assert job is not None
        ended = spool.done(job)
        spool.close()
        ended.result(0)


def test_a_message_waits_for_as_many_as_usual(
    spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GATHER", 0.2)
    monkeypatch.setattr(writer, "SHARE", 0.2)
    monkeypatch.setattr(writer, "LONGEST_GATHER", 0.2)
    with write_locked(folder):
        futures = [put(spool, own(number)) for number in range(30)]
    for future in futures:
        future.result(PATIENCE)
    # The first of these would be alone in its commit.
    for future in [put(spool, own(100 + number)) for number in range(8)]:
        future.result(PATIENCE)
    assert spool.batches[8] == 1


class TestCourier:
    def test_a_delivery_writes_no_row(self, tmp_path: Path) -> None:
        with opened(tmp_path / "spool"), beside(tmp_path / "spool") as connection:
            connection.executescript(
                "create table written(id); create trigger note after insert on delivery"
                " begin insert into written values (new.id); end"
            )
        with delivering(tmp_path, route(Place())) as (handler, controller):
            send(controller, "bo@b.test")
            until_left(handler, messages=0)
            before = rows(tmp_path / "spool", "written")
            for _ in range(3):
                send(controller, "bo@b.test")
            until_left(handler, messages=0)
            assert rows(tmp_path / "spool", "written") == before

    def test_a_full_spool_delivers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        looked = threading.Event()

        def full(spool: Spool, *_: Any) -> Outcome[Any]:
            # As after a transaction that was undone: each turn of the courier looks again.
            spool.fresh.unread = True
            looked.set()
            future: Outcome[Any] = Outcome()
            future.set_exception(SpoolFull("make room"))
            return future

        with delivering(tmp_path, route(Place())) as (handler, controller):
            # The first look of the courier gives rows to all messages: it is over after this one.
            send(controller, "bo@b.test")
            until_left(handler, messages=0)
            monkeypatch.setattr(Spool, "due", full)
            assert looked.wait(PATIENCE)
            send(controller, "bo@b.test")
            until_left(handler, messages=0)

    def test_more_than_memory_holds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tally, "HELD", 2)
        go_on = threading.Event()

        class Slow(Place):
            async def put(self, item: Item) -> Any:
                await asyncio.to_thread(go_on.wait)
                return await super().put(item)

        place = Slow()
        with delivering(tmp_path, route(place, concurrency=1)) as (handler, controller):
            replies = [send(controller, "bo@b.test") for _ in range(8)]
            go_on.set()
            until_left(handler, messages=0)
        assert sorted(place.item().id for _ in replies) == sorted(
            one.split()[-1] for one in replies
        )
        assert place.items.empty()

    def test_a_dropped_one_of_a_down_route_is_not_tried(self, tmp_path: Path) -> None:
        place = Place(*[OSError("down")] * 5, None)
        with delivering(tmp_path, route(place, retry={"first": 3600})) as (handler, controller):
            for _ in range(5):
                send(controller, "bo@b.test")
            until(lambda: place.tried == 5)
            send(controller, "cy@b.test")
            with closing(Backlog(str(tmp_path / "spool"))) as backlog:
                dropped = [one for one in backlog.deliveries(Selection()) if not one.attempts]
                name = max(one.queue_id for one in dropped)
                assert backlog.drop(Selection(queue_id=name)) == 1
                assert backlog.retry(Selection()) == 5
            until_left(handler, messages=0)
        assert {place.item().recipients for _ in range(5)} == {("bo@b.test",)}
        assert place.items.empty()

    def test_a_try_that_fails_makes_a_row(self, tmp_path: Path) -> None:
        place = Place(OSError("down"), None)
        with given(tmp_path, route(place, retry={"first": 3600})) as handler:
            until(lambda: rows(tmp_path / "spool") == 1)
            with closing(Backlog(str(tmp_path / "spool"))) as backlog:
                until(lambda: [one.attempts for one in backlog.deliveries(Selection())] == [1])
                assert backlog.retry(Selection()) == 1
            until_left(handler, messages=0)
