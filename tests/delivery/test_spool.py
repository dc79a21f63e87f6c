"""The spool in one process: messages, deliveries, room, rights."""

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery.ids import VALID, new_queue_id
from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.spool import Counts, Duplicate, RouteCounts, Spool, SpoolError
from tests.delivery.spooling import (
    MESSAGE,
    PATIENCE,
    RECIPIENTS,
    beside,
    due,
    ids,
    large,
    opened,
    put,
    read,
    stored,
    write_locked,
)

ARRIVAL = Arrival(
    client="192.0.2.1",
    port=4711,
    helo="client.example.com",
    tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
    user="carl",
    mail_options=("BODY=8BITMIME", "RET=HDRS"),
    rcpt_options={"anna@example.com": ("NOTIFY=NEVER",)},
    smtp_utf8=True,
    time=1234.5,
    hostname="mx.example.com",
    protocol="UTF8SMTPSA",
)

posix = pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    with opened(folder) as spool:
        yield spool


class TestMessages:
    def test_message_comes_back_whole(self, spool: Spool) -> None:
        job = stored(spool, "id1", sender="<>", arrival=ARRIVAL, due=7.5)
        assert (job.route, job.due, job.item.attempts) == ("main", 7.5, 0)
        assert (job.item.id, job.item.sender, job.item.recipients) == ("id1", "<>", RECIPIENTS)
        assert (job.item.arrival, job.item.size) == (ARRIVAL, len(MESSAGE))
        assert read(job) == MESSAGE

    def test_it_survives_close_and_open(self, folder: Path) -> None:
        with opened(folder) as spool:
            put(spool, "id1")
        with opened(folder) as spool:
            assert ids(due(spool)) == ["id1"]

    def test_open_again_after_close(self, spool: Spool) -> None:
        stored(spool, "id1")
        spool.close()
        spool.close()
        spool.open()
        assert ids(due(spool)) == ["id1"]

    def test_message_goes_with_its_last_delivery(self, spool: Spool) -> None:
        put(spool, "id1", parts=[("one", ("anna@a.example",)), ("two", ("bert@b.example",))])
        first, second = due(spool)
        spool.done(first).result(PATIENCE)
        assert spool.counts().result(PATIENCE).messages == 1
        assert [job.item.recipients for job in due(spool)] == [("bert@b.example",)]
        spool.done(second).result(PATIENCE)
        spool.done(second).result(PATIENCE)
        assert spool.counts().result(PATIENCE).messages == 0

    def test_duplicate_harms_no_other(self, spool: Spool, folder: Path) -> None:
        stored(spool, "id1")
        with write_locked(folder):
            futures = [put(spool, name, b"new") for name in ("id2", "id1", "id3")]
        assert futures[0].result(PATIENCE) is None
        with pytest.raises(Duplicate, match="has a message id1"):
            futures[1].result(PATIENCE)
        assert ids(due(spool)) == ["id1", "id2", "id3"]
        assert read(due(spool)[0]) == MESSAGE

    def test_cancelled_put_is_not_stored(self, spool: Spool, folder: Path) -> None:
        with write_locked(folder):
            waiting = put(spool, "id1")
            while not waiting.running():
                time.sleep(0.001)
            late = put(spool, "id2", large(spool, "id2", b"x" * 1000))
            assert late.cancel()
        waiting.result(PATIENCE)
        assert ids(due(spool)) == ["id1"]
        assert not list((folder / "large").iterdir())

    def test_many_in_one_commit(self, spool: Spool, folder: Path) -> None:
        parts = [(f"route{number}", RECIPIENTS) for number in range(3)]
        with write_locked(folder):
            futures = [put(spool, f"id{number:03}", b"%d" % number, parts) for number in range(99)]
            futures += [put(spool, f"id{number:03}", b"twice", parts) for number in (5, 50)]
            futures += [put(spool, "id099", b"99", parts)]
        failed = [future.exception(PATIENCE) for future in futures]
        assert [type(one) for one in failed if one] == [Duplicate, Duplicate]
        jobs = due(spool)
        assert len(jobs) == 300
        assert all(int(job.item.id[2:]) == int(read(job)) for job in jobs)
        assert spool.counts().result(PATIENCE).messages == 100
        # Duplicates are not counted.
        assert sum(number * messages for messages, number in spool.batches.items()) == 100
        assert max(spool.batches) > 1

    def test_more_than_one_commit_takes(self, spool: Spool, folder: Path) -> None:
        with write_locked(folder):
            small = [put(spool, f"small{number}", b"x") for number in range(1100)]
            great = [put(spool, f"great{number}", bytes(3 << 20)) for number in range(9)]
        assert [future.result(PATIENCE) for future in small + great] == [None] * 1109
        assert spool.counts().result(PATIENCE).bytes == 1100 + 9 * (3 << 20)

    @pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a\0", "x" * 101])
    def test_id_that_is_not_a_file_name(self, spool: Spool, name: str) -> None:
        with pytest.raises(ValueError, match="queue id"):
            put(spool, name)
        with pytest.raises(ValueError, match="queue id"):
            spool.large(name)

    def test_message_needs_a_route(self, spool: Spool) -> None:
        with pytest.raises(ValueError, match="at least one route"):
            put(spool, "id1", parts=[])

    def test_text_that_is_not_unicode(self, spool: Spool) -> None:
        odd = "a\udcff\0@example.com"
        job = stored(spool, "id1", sender=odd, parts=[("main", (odd,))])
        assert (job.item.sender, job.item.recipients) == (odd, (odd,))
        spool.later(job, due=1.0, error="\udcff", recipients=(odd,)).result(PATIENCE)
        assert due(spool)[0].item.recipients == (odd,)


class TestResults:
    def test_later_keeps_those_that_wait(self, spool: Spool) -> None:
        job = stored(spool, "id1")
        spool.later(job, due=20.0, error="busy", recipients=RECIPIENTS[1:]).result(PATIENCE)
        assert due(spool, 19.9) == []
        (job,) = due(spool, 20.0)
        assert (job.item.recipients, job.item.attempts) == (RECIPIENTS[1:], 1)

    def test_dead_is_kept_and_not_due(self, spool: Spool) -> None:
        job = stored(spool, "id1")
        spool.dead(job, error="550 no", recipients=RECIPIENTS[:1]).result(PATIENCE)
        assert due(spool) == []
        assert spool.next_due().result(PATIENCE) is None
        counts = spool.counts().result(PATIENCE)
        assert (counts.messages, counts.dead) == (1, 1)

    def test_some_wait_and_some_are_dead(self, spool: Spool, folder: Path) -> None:
        job = stored(spool, "id1")
        spool.settle(
            job, due=5.0, error="busy", later=RECIPIENTS[:1], dead=RECIPIENTS[1:], dead_error="no"
        ).result(PATIENCE)
        assert due(spool)[0].item.recipients == RECIPIENTS[:1]
        assert rows(folder, "recipients, error, dead, attempts") == [
            ('["anna@example.com"]', "busy", 0, 1),
            ('["bert@example.com"]', "no", 1, 1),
        ]

    def test_nothing_left_to_settle_is_done(self, spool: Spool) -> None:
        spool.settle(stored(spool, "id1")).result(PATIENCE)
        assert spool.counts().result(PATIENCE).messages == 0

    def test_split_gives_some_up(self, spool: Spool, folder: Path) -> None:
        spool.split(stored(spool, "id1"), RECIPIENTS[1:], error="no").result(PATIENCE)
        assert due(spool)[0].item.recipients == RECIPIENTS[:1]
        assert rows(folder, "recipients, error, dead") == [
            ('["anna@example.com"]', None, 0),
            ('["bert@example.com"]', "no", 1),
        ]

    def test_late_result_harms_no_new_message(self, spool: Spool, folder: Path) -> None:
        put(spool, "id1")
        job = stored(spool, "id2")
        with beside(folder) as connection:
            connection.execute("delete from delivery where id = ?", (job.number,))
            connection.execute("delete from message where queue_id = 'id2'")
        put(spool, "id3")
        spool.done(job).result(PATIENCE)
        assert ids(due(spool)) == ["id1", "id3"]

    def test_result_for_a_removed_row(self, spool: Spool, folder: Path) -> None:
        job = stored(spool, "id1")
        with beside(folder) as connection:
            connection.executescript("delete from delivery; delete from message;")
        late = spool.settle(job, due=1.0, later=RECIPIENTS[:1], dead=RECIPIENTS[1:])
        assert late.result(PATIENCE) is None
        assert spool.dead(job, error="no", recipients=RECIPIENTS).result(PATIENCE) is None
        assert spool.split(job, RECIPIENTS[:1], error="no").result(PATIENCE) is None
        assert rows(folder, "id") == []


class TestDue:
    def test_oldest_first_over_all_routes(self, spool: Spool) -> None:
        for name, route, when in ("c", "x", 3.0), ("a", "y", 1.0), ("b", "x", 2.0), ("d", "y", 11):
            put(spool, name, parts=[(route, RECIPIENTS)], due=when)
        assert ids(due(spool)) == ["a", "b", "c"]
        assert ids(due(spool, limit=2)) == ["a", "b"]
        assert spool.next_due().result(PATIENCE) == 1.0

    def test_routes_and_claims_are_left_out(self, spool: Spool) -> None:
        for number in range(5):
            put(spool, f"x{number}", parts=[("x", RECIPIENTS)], due=number)
        put(spool, "y", parts=[("y", RECIPIENTS)], due=9.0)
        assert ids(due(spool, limit=1, routes_not=["x"])) == ["y"]
        claimed = [job.number for job in due(spool, limit=4)]
        assert ids(due(spool, limit=2, claimed=claimed)) == ["x4", "y"]
        assert spool.next_due(claimed=claimed).result(PATIENCE) == 4.0
        assert spool.next_due(["x"]).result(PATIENCE) == 9.0
        assert spool.next_due(["x", "y"]).result(PATIENCE) is None

    def test_eight_megabytes_at_a_time(self, spool: Spool) -> None:
        for number in range(12):
            put(spool, f"id{number:02}", bytes(1 << 20))
        assert len(due(spool)) == 8

    def test_unreadable_row_is_given_up(self, spool: Spool, folder: Path) -> None:
        for name in "id1", "id2", "id3":
            put(spool, name).result(PATIENCE)
        with beside(folder) as connection:
            connection.execute("update message set envelope = '{' where queue_id = 'id1'")
            connection.execute("update message set envelope = '{}' where queue_id = 'id2'")
        assert ids(due(spool)) == ["id3"]
        assert [dead for (dead,) in rows(folder, "dead")] == [1, 1, 0]

    def test_clock_that_was_set_back(self, folder: Path) -> None:
        now = time.time()
        with opened(folder) as spool:
            for name, when in ("id1", now + 50), ("id2", now + 1000):
                put(spool, name, due=when)
        with opened(folder, max_wait=500) as spool:
            assert ids(due(spool, time.time())) == ["id2"]
            assert ids(due(spool, now + 60)) == ["id2", "id1"]


class TestLarge:
    CONTENT = bytes(range(256)) * 2000

    def test_it_comes_back_whole(self, spool: Spool, folder: Path) -> None:
        file = spool.large("id1")
        for start in range(0, len(self.CONTENT), 100_000):
            file.write(self.CONTENT[start : start + 100_000])
        assert os.listdir(folder / "large") == [".id1"]
        file.finish()
        assert os.listdir(folder / "large") == ["id1"]
        with file.open() as again:
            assert again.read() == self.CONTENT
        job = stored(spool, "id1", file)
        assert job.item.size == file.size == len(self.CONTENT)
        assert read(job) == read(job) == self.CONTENT
        spool.done(job).result(PATIENCE)
        spool.counts().result(PATIENCE)
        assert os.listdir(folder / "large") == []

    def test_discard_before_and_after_put(self, spool: Spool, folder: Path) -> None:
        unfinished = spool.large("id1")
        unfinished.write(b"x")
        unfinished.discard()
        large(spool, "id2", b"x").discard()
        assert os.listdir(folder / "large") == []
        file = large(spool, "id3", b"x")
        put(spool, "id3", file).result(PATIENCE)
        file.discard()
        assert read(due(spool)[0]) == b"x"

    def test_it_must_be_finished(self, spool: Spool) -> None:
        file = spool.large("id1")
        with pytest.raises(ValueError, match="not finished"):
            put(spool, "id1", file)
        file.finish()
        for late in file.finish, lambda: file.write(b"x"):
            with pytest.raises(ValueError, match="is finished"):
                late()

    def test_old_files_without_a_row_go(self, folder: Path) -> None:
        with opened(folder) as spool:
            put(spool, "known", large(spool, "known", b"x"))
            for name in "old", "young":
                large(spool, name, b"x")
        (folder / "large" / ".half").write_bytes(b"x")
        for name in "known", "old", ".half":
            os.utime(folder / "large" / name, (1, 1))
        with opened(folder) as spool:
            assert sorted(os.listdir(folder / "large")) == ["known", "young"]
            assert read(due(spool)[0]) == b"x"

    def test_refused_put_removes_its_file(self, spool: Spool, folder: Path) -> None:
        stored(spool, "id1")
        with pytest.raises(Duplicate):
            put(spool, "id1", large(spool, "id1", b"x")).result(PATIENCE)
        assert os.listdir(folder / "large") == []


class TestRoom:
    def test_max_bytes(self, folder: Path) -> None:
        with opened(folder, max_bytes=1000) as spool:
            assert spool.has_room()
            job = stored(spool, "id1", bytes(1000))
            assert not spool.has_room()
            spool.done(job).result(PATIENCE)
            assert spool.has_room()

    def test_max_bytes_after_a_start(self, folder: Path) -> None:
        with opened(folder) as spool:
            put(spool, "id1", bytes(1000))
        with opened(folder, max_bytes=1000) as spool:
            assert not spool.has_room()

    def test_min_free(self, folder: Path) -> None:
        for wanted, expected in (1, True), (1 << 62, False):
            with opened(folder, min_free=wanted) as spool:
                assert [spool.has_room(), spool.has_room()] == [expected] * 2

    def test_space_is_given_back(self, spool: Spool, folder: Path) -> None:
        for number in range(16):
            put(spool, f"id{number}", bytes(1 << 20))
        while jobs := due(spool):
            for job in jobs:
                spool.done(job).result(PATIENCE)
        end = time.monotonic() + PATIENCE
        while used(folder) > 6 << 20 and time.monotonic() < end:
            time.sleep(0.05)
        assert used(folder) <= 6 << 20


class TestCounts:
    def test_counts(self, spool: Spool) -> None:
        empty = Counts(messages=0, bytes=0, oldest=None, dead=0, routes={})
        assert spool.counts().result(PATIENCE) == empty
        put(spool, "id1", bytes(10), [("x", RECIPIENTS), ("y", RECIPIENTS)], arrival=ARRIVAL)
        stored(spool, "id2", bytes(20))
        for job in due(spool):
            if job.route == "x":
                spool.dead(job, error="no", recipients=RECIPIENTS)
        waiting, dead = RouteCounts(waiting=1), RouteCounts(dead=1)
        assert spool.counts().result(PATIENCE) == Counts(
            messages=2,
            bytes=30,
            oldest=1234.5,
            dead=1,
            routes={"main": waiting, "x": dead, "y": waiting},
        )


class TestBeside:
    def test_changes_of_others_are_seen(self, folder: Path) -> None:
        with opened(folder, max_bytes=10) as spool:
            stored(spool, "id1")
            assert not spool.changed().result(PATIENCE)
            assert not spool.has_room()
            with beside(folder) as connection:
                connection.executescript("delete from delivery; delete from message;")
            assert spool.changed().result(PATIENCE)
            assert not spool.changed().result(PATIENCE)
            assert spool.has_room()

    def test_routes_to_try_again(self, spool: Spool, folder: Path) -> None:
        with beside(folder) as connection:
            connection.execute("insert into retried values ('x'), ('y')")
        assert spool.retried().result(PATIENCE) == {"x", "y"}
        assert spool.retried().result(PATIENCE) == frozenset()


class TestRights:
    @posix
    def test_only_the_owner_reads(self, folder: Path) -> None:
        before = os.umask(0)
        try:
            with opened(folder) as spool:
                put(spool, "id1", large(spool, "id1", b"x")).result(PATIENCE)
                rights = {
                    path.name: stat.S_IMODE(path.stat().st_mode)
                    for path in (folder, *folder.rglob("*"))
                }
        finally:
            os.umask(before)
        assert rights == {
            "spool": 0o700,
            "large": 0o700,
            "lock": 0o600,
            "id1": 0o600,
            "spool.db": 0o600,
            "spool.db-wal": 0o600,
            "spool.db-shm": 0o600,
        }


def test_closed_spool_says_so(folder: Path) -> None:
    spool = Spool(folder)
    with pytest.raises(SpoolError, match="is closed: open it"):
        put(spool, "id1").result(PATIENCE)
    with pytest.raises(SpoolError, match="is closed"):
        spool.large("id1")
    spool.open()
    with pytest.raises(SpoolError, match="is open already"):
        spool.open()
    spool.close()


def test_nothing_of_asyncio_is_imported() -> None:
    import subprocess

    code = "import sys, aiosmtpd.delivery.spool; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ids_grow_and_differ() -> None:
    made = [new_queue_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(VALID.fullmatch(one) and len(one) == 18 for one in made)
    assert [one[:11] for one in made] == sorted(one[:11] for one in made)


def rows(folder: Path, columns: str) -> list[Any]:
    with beside(folder) as connection:
        return connection.execute(f"select {columns} from delivery order by id").fetchall()


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("spool.db*"))
