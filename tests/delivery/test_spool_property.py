"""The spool beside a dict: any order of its operations, with crashes between them."""

import math
import shutil
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiosmtpd.delivery.backlog import Backlog, Selection
from aiosmtpd.delivery.item import Arrival
from aiosmtpd.delivery.spool import Job, Spool
from tests.delivery.spooling import PATIENCE, beside, large, put, read

ROUTES = st.sampled_from(["one", "two", "three"])
ADDRESSES = st.lists(st.sampled_from(["a@x", "b@x", "ü@y"]), min_size=1, max_size=3, unique=True)
PARTS = st.dictionaries(ROUTES, ADDRESSES.map(tuple), min_size=1)
TIMES = st.integers(0, 20).map(float)


@attrs.define
class Row:
    """A delivery as the dict has it."""

    queue_id: str
    route: str
    recipients: tuple[str, ...]
    due: float
    attempts: int = 0
    dead: bool = False


class SpoolAndDict(RuleBasedStateMachine):
    """The model is a dict of contents and a list of rows; each operation changes both."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp())
        self.life = 0
        self.spool = Spool(self.top / "0")
        self.spool.open()
        self.contents: dict[str, bytes] = {}
        self.rows: list[Row] = []
        self.made = 0

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.top)

    @rule(
        parts=PARTS,
        due=TIMES,
        arrived=TIMES | st.none(),
        content=st.binary(max_size=50_000),
        in_file=st.booleans(),
    )
    def put(
        self,
        parts: dict[str, tuple[str, ...]],
        due: float,
        arrived: float | None,
        content: bytes,
        in_file: bool,
    ) -> None:
        self.made += 1
        queue_id = f"{self.made:018}" if arrived is None else f"id{self.made}"
        body = large(self.spool, queue_id, content) if in_file else content
        arrival = Arrival(time=due if arrived is None else arrived)
        put(self.spool, queue_id, body, list(parts.items()), due, arrival=arrival).result(PATIENCE)
        self.contents[queue_id] = content
        self.rows += [Row(queue_id, route, to, due) for route, to in parts.items()]

    def job(self, data: st.DataObject) -> tuple[Job, Row]:
        job = data.draw(st.sampled_from(self.due(100.0)), label="job")
        return job, next(row for row in self.alive() if same(row, job))

    def due(self, now: float, **without: Any) -> list[Job]:
        return self.spool.due(now, 1000, **without).result(PATIENCE)

    def alive(self) -> list[Row]:
        return [row for row in self.rows if not row.dead]

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        self.end(*self.job(data))

    def end(self, job: Job, row: Row) -> None:
        self.spool.done(job).result(PATIENCE)
        self.rows.remove(row)
        self.forget_delivered()

    @rule(route=ROUTES, delivered=st.booleans(), due=TIMES)
    def take_fresh(self, route: str, delivered: bool, due: float) -> None:
        """Try a message that may have no row yet."""
        job = self.spool.fresh.take(route)
        if job is None:
            return
        row = next(row for row in self.alive() if same(row, job))
        assert read(job) == self.contents[job.item.id]
        if delivered:
            self.end(job, row)
        else:
            self.spool.later(job, due=due, error="no", recipients=row.recipients).result(PATIENCE)
            row.due, row.attempts = due, row.attempts + 1

    def forget_delivered(self) -> None:
        kept = {row.queue_id for row in self.rows}
        self.contents = {name: body for name, body in self.contents.items() if name in kept}

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), due=TIMES)
    def settle(self, data: st.DataObject, due: float) -> None:
        job, row = self.job(data)
        fates = {
            one: data.draw(st.sampled_from(["done", "later", "dead"])) for one in row.recipients
        }
        later = tuple(one for one, fate in fates.items() if fate == "later")
        dead = tuple(one for one, fate in fates.items() if fate == "dead")
        self.spool.settle(job, due=due, later=later, dead=dead).result(PATIENCE)
        self.rows.remove(row)
        tries = row.attempts + 1
        if later:
            self.rows.append(Row(row.queue_id, row.route, later, due, tries))
        if dead:
            self.rows.append(Row(row.queue_id, row.route, dead, due, tries, dead=True))
        self.forget_delivered()

    @rule()
    def close_and_open(self) -> None:
        self.spool.close()
        self.spool.open()

    @rule()
    def crash(self) -> None:
        """Go on with the files that a killed process would leave now."""
        before = self.top / str(self.life)
        self.life += 1
        with beside(before) as connection:
            # The log is not emptied meanwhile.
            connection.execute("begin immediate")
            shutil.copytree(before, self.top / str(self.life))
            connection.execute("rollback")
        (self.top / str(self.life) / "spool.db-shm").unlink()
        self.spool.close()
        self.spool = Spool(self.top / str(self.life))
        self.spool.open()

    @invariant()
    def they_look_alike_from_outside(self) -> None:
        with closing(Backlog(str(self.top / str(self.life)))) as backlog:
            found = [
                Row(one.queue_id, one.route, one.recipients, one.due, one.attempts, one.dead)
                for one in backlog.deliveries(Selection())
            ]
        assert sorted(map(seen, found)) == sorted(map(seen, self.rows))
        counts = self.spool.counts().result(PATIENCE)
        assert counts.messages == len(self.contents)
        assert counts.bytes == sum(map(len, self.contents.values()))
        assert counts.dead == sum(row.dead for row in self.rows)
        waiting = {name: one.waiting for name, one in counts.routes.items() if one.waiting}
        assert waiting == Counter(row.route for row in self.alive())

    @rule()
    def they_are_alike(self) -> None:
        jobs = self.due(100.0)
        assert sorted(map(facts, jobs)) == sorted(map(row_facts, self.alive()))
        assert all(read(job) == self.contents[job.item.id] for job in jobs)
        dues = [job.due for job in jobs]
        assert dues == sorted(dues)
        assert self.spool.next_due().result(PATIENCE) == (dues[0] if dues else None)
        assert self.spool.fresh.routes() == []

    @rule(now=TIMES, without=ROUTES)
    def only_due_ones(self, now: float, without: str) -> None:
        rows = [row for row in self.alive() if row.due <= now and row.route != without]
        assert len(self.due(now, routes_not=[without])) == len(rows)


def facts(job: Job) -> tuple[Any, ...]:
    return job.item.id, job.route, job.item.recipients, job.due, job.item.attempts


def row_facts(row: Row) -> tuple[Any, ...]:
    return row.queue_id, row.route, row.recipients, row.due, row.attempts


def seen(row: Row) -> tuple[Any, ...]:
    """Return what is compared from outside; a dead row is never due."""
    due = math.inf if row.dead else row.due
    return row.queue_id, row.route, row.recipients, due, row.attempts, row.dead


def same(row: Row, job: Job) -> bool:
    return facts(job) == row_facts(row)


TestSpoolAndDict = SpoolAndDict.TestCase
TestSpoolAndDict.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
