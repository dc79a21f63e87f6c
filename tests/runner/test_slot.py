"""Slots and the master, with workers that are objects in this process."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.child import Child, Timing, reason
from aiosmtpd.runner.config import Config, parse_place
from aiosmtpd.runner.faults import Fault, WrongConfiguration
from aiosmtpd.runner.master import Master
from aiosmtpd.runner.slot import Slot
from aiosmtpd.runner.tables import Admin
from tests.client import PATIENCE
from tests.runner.fleet import configuration


class Pretended:
    """A worker that is ready at once, and ends when a test wants it."""

    def __init__(self, slot: int, pid: int, order: dict[str, Any], log: list[str]) -> None:
        self.slot, self.pid, self.order, self.log = slot, pid, order, log
        self.state = "starting"
        self.ready_at: float | None = None
        self.numbers: dict[str, Any] = {}
        self.is_hanging = False
        self.on_beat: Callable[[Any], None] = lambda child: None
        self.ended = asyncio.Event()
        self.code = 0
        self.failure: Exception | None = None
        self.ends_by_drain = True

    async def ready(self, timeout: float) -> None:
        if self.failure is not None:
            self.end(1)
            raise self.failure
        self.state, self.ready_at = "ready", asyncio.get_running_loop().time()

    def end(self, code: int) -> None:
        self.code, self.state = code, "ended"
        self.ended.set()

    def drain(self, linger: float, grace: float, timing: Timing, *, is_last: bool = False) -> None:
        self.log.append(f"drain {self.pid} {linger:g} {grace:g}{' last' if is_last else ''}")
        if self.ends_by_drain:
            self.end(0)

    def use_certificates(self, texts: Any) -> None:
        self.log.append(f"tls {self.pid} {len(list(texts))}")

    async def ask(self, question: str, about: Any) -> dict[str, Any]:
        return {"value": [self.pid, question, about]}


class Staff:
    """All pretended workers; *failures* are the next ones that cannot start."""

    def __init__(self) -> None:
        self.workers: list[Pretended] = []
        self.failures: list[Exception] = []
        self.log: list[str] = []

    async def spawn(
        self, slot: int, order: dict[str, Any], descriptors: Any, timing: Timing
    ) -> Pretended:
        worker = Pretended(slot, 100 + len(self.workers), order, self.log)
        if self.failures:
            worker.failure = self.failures.pop(0)
        self.workers.append(worker)
        return worker


@pytest.fixture
def staff(monkeypatch: pytest.MonkeyPatch) -> Staff:
    found = Staff()
    monkeypatch.setattr(Child, "spawn", found.spawn)
    return found


async def soon(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Running:
    """A master that runs in this loop."""

    def __init__(self, config: Config) -> None:
        self.next: Config | Exception = config
        self.heard: list[Any] = []
        self.master = Master(config, self.load, watch=self)
        self.task = asyncio.ensure_future(self.master._main())

    async def load(self) -> Config:
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    # The watch.

    pids = frozenset[int]()

    async def open(self, config: Config) -> None:
        if config.admin != self.master.config.admin:
            raise Failure("Cannot listen at there")

    async def start(self, master: Master) -> None:
        self.heard.append("start")

    async def stop(self) -> None:
        self.heard.append("stop")

    def lend(self, slot: int) -> tuple[dict[str, Any], list[int]]:
        return {"lent": slot}, []

    def worker_started(self, slot: int, pid: int) -> None:
        self.heard.append(("started", slot, pid))

    def worker_ready(self, slot: int, pid: int) -> None:
        self.heard.append(("ready", slot, pid))

    def beat(self, slot: int, pid: int, numbers: dict[str, Any]) -> None:
        self.heard.append(("beat", slot, pid, numbers))

    def worker_exited(self, slot: int, pid: int, reason: str, code: int) -> int | None:
        self.heard.append(("exited", slot, pid, reason))
        return 7

    def reloaded(self, ok: bool, faults: list[str]) -> None:
        self.heard.append(("reloaded", ok, faults))
        raise RuntimeError("an error of the watch changes nothing")

    async def reload(self) -> None:
        before = self.reloads
        self.master.reload()
        await soon(lambda: self.reloads > before)

    @property
    def reloads(self) -> int:
        return sum(one[0] == "reloaded" for one in self.heard)

    async def end(self) -> None:
        self.master.drain()
        await self.task


@pytest.fixture
async def running(tmp_path: Path, staff: Staff) -> AsyncIterator[Running]:
    one = Running(configuration(tmp_path, listen=(parse_place("127.0.0.1:0"),), user=None))
    await soon(lambda: one.master.is_ready or one.task.done())
    yield one
    if not one.task.done():
        await one.end()


def numbers_of(staff: Staff) -> list[int]:
    return [worker.slot for worker in staff.workers]


async def test_a_master_starts_and_ends(running: Running, staff: Staff) -> None:
    assert [state.pid for state in running.master.slots] == [100, 101]
    assert [state.state for state in running.master.slots] == ["ready", "ready"]
    assert [worker.order["lent"] for worker in staff.workers] == [0, 1]
    await running.end()
    assert staff.log == ["drain 100 2 2 last", "drain 101 2 2 last"]
    assert ("exited", 0, 100, "drain") in running.heard
    assert running.heard[0] == "start"
    assert running.heard[-1] == "stop"


async def test_a_reload_replaces_one_after_another(running: Running, staff: Staff) -> None:
    await running.reload()
    assert numbers_of(staff) == [0, 1, 0, 1]
    assert staff.log == ["drain 100 2 2", "drain 101 2 2"]
    assert ("reloaded", True, []) in running.heard
    assert ("exited", 0, 100, "reload") in running.heard
    assert [state.restarts for state in running.master.slots] == [0, 0]


async def test_reloads_at_once_are_one_more(running: Running, staff: Staff) -> None:
    running.master.reload()
    await asyncio.sleep(0)
    for _ in range(9):
        running.master.reload()
    await soon(lambda: running.reloads == 2)
    assert len(staff.workers) == 6


async def test_a_wrong_configuration_changes_nothing(running: Running, staff: Staff) -> None:
    running.next = WrongConfiguration([Fault("f", 1, "a", "x"), Fault("f", 2, "b", "y")])
    await running.reload()
    assert running.heard[-1] == ("reloaded", False, ["f:1: a: x", "f:2: b: y"])
    running.next = OSError("gone")
    await running.reload()
    assert running.heard[-1] == ("reloaded", False, ["OSError: gone"])
    assert len(staff.workers) == 2


async def test_a_door_that_cannot_be_bound_ends_the_reload(running: Running, staff: Staff) -> None:
    running.next = attrs.evolve(running.master.config, admin=Admin(http="127.0.0.1:0"))
    await running.reload()
    assert running.heard[-1] == ("reloaded", False, ["Cannot listen at there"])
    assert len(staff.workers) == 2


async def test_a_worker_that_fails_ends_the_reload(running: Running, staff: Staff) -> None:
    staff.failures = [Failure("bad code")]
    await running.reload()
    assert ("reloaded", False, ["bad code"]) in running.heard
    assert staff.log == []
    assert [state.pid for state in running.master.slots] == [100, 101]


async def test_the_number_of_workers_may_change(running: Running, staff: Staff) -> None:
    running.next = attrs.evolve(running.master.config, workers=3)
    await running.reload()
    assert [state.slot for state in running.master.slots] == [0, 1, 2]
    running.next = attrs.evolve(running.master.config, workers=1)
    await running.reload()
    assert [state.slot for state in running.master.slots] == [0]
    assert len(staff.workers[-1].order["sockets"]) == 3


async def test_new_slots_start_before_others_change(running: Running, staff: Staff) -> None:
    running.next = attrs.evolve(running.master.config, workers=4)
    staff.failures = [Failure("bad code")]
    await running.reload()
    assert numbers_of(staff) == [0, 1, 2]
    assert staff.log == []
    await running.reload()
    assert numbers_of(staff)[3:] == [2, 3, 0, 1]


async def test_workers_of_slots_that_go_are_waited_for(running: Running, staff: Staff) -> None:
    staff.workers[1].ends_by_drain = False
    running.next = attrs.evolve(running.master.config, workers=1)
    await running.reload()
    ending = asyncio.ensure_future(running.end())
    await soon(lambda: "drain 101 2 2 last" in staff.log)
    assert not ending.done()
    staff.workers[1].end(0)
    await ending


async def test_a_worker_that_ends_is_replaced(
    running: Running, staff: Staff, caplog: pytest.LogCaptureFixture
) -> None:
    staff.workers[1].end(-signal.SIGKILL)
    await soon(lambda: len(staff.workers) == 3 and running.master.slots[1].pid == 102)
    assert numbers_of(staff) == [0, 1, 1]
    assert running.master.slots[1].restarts == 1
    assert ("exited", 1, 101, "crash") in running.heard
    assert "Worker 1 (process 101) has ended: SIGKILL; connections lost: 7" in caplog.text


async def test_a_slot_is_not_given_up(
    running: Running, staff: Staff, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds >= 1:
            pauses.append(seconds)
        await sleep(min(seconds, 0.001))

    monkeypatch.setattr(asyncio, "sleep", note)
    staff.failures = [Failure("no"), RuntimeError("no"), *[Failure("no")] * 6]
    staff.workers[0].end(1)
    await soon(lambda: len(staff.workers) == 11 and running.master.slots[0].pid == 110)
    assert pauses[:8] == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_slot_is_not_given_up_after_hours(
    running: Running, staff: Staff, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(0))
    staff.failures = [Failure("no")] * 1100
    staff.workers[0].end(1)
    await soon(lambda: running.master.slots[0].pid == 100 + 2 + 1100)


async def test_old_workers_of_a_slot_are_few(
    running: Running, staff: Staff, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for _ in range(2):
        for worker in staff.workers:
            worker.ends_by_drain = False
        await running.reload()
    for worker in staff.workers:
        worker.ends_by_drain = False
    running.master.reload()
    await asyncio.sleep(0.01)
    assert len(staff.workers) == 6
    assert running.master.slots[0].leaving == 2
    assert caplog.text.count("The reload waits until an older worker 0 has ended") == 1
    staff.workers[0].end(0)
    await soon(lambda: len(staff.workers) == 7)
    for worker in staff.workers:
        worker.end(0)
        worker.ends_by_drain = True
    await running.end()


async def test_the_disk_of_a_spool_ends_the_master(running: Running, staff: Staff) -> None:
    staff.workers[0].end(74)
    await running.task
    assert running.master._code == 74


async def test_a_start_that_fails_ends_all(tmp_path: Path, staff: Staff) -> None:
    staff.failures = [Failure("bad code", 2)]
    one = Running(configuration(tmp_path, user=None))
    with pytest.raises(Failure, match="bad code"):
        await one.task
    assert [worker.state for worker in staff.workers] == ["ended", "ended"]


def test_a_failure_is_one_line(
    tmp_path: Path, staff: Staff, capsys: pytest.CaptureFixture[str]
) -> None:
    staff.failures = [Failure("bad code", 2)]

    async def load() -> Config:
        raise AssertionError("no reload")

    assert Master(configuration(tmp_path, user=None), load).run() == 2
    assert capsys.readouterr().err == "bad code\n"


async def test_the_master_asks_a_worker(running: Running) -> None:
    assert await running.master.request(1, "sessions", 5) == {"value": [101, "sessions", 5]}
    assert await running.master.request(7, "sessions") == {"error": "slot 7 has no worker now"}


async def test_a_beat_reaches_the_watch(running: Running, staff: Staff) -> None:
    staff.workers[0].numbers = {"connections": 3}
    staff.workers[0].on_beat(staff.workers[0])
    assert running.heard[-1] == ("beat", 0, 100, {"connections": 3})
    assert running.master.slots[0].numbers == {"connections": 3}


async def test_an_end_says_how_long_it_takes(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await running.end()
    assert "sessions may go on for 2 s, and then transactions for 2 s" in caplog.text


async def test_a_second_drain_is_now(running: Running, staff: Staff) -> None:
    for worker in staff.workers:
        worker.ends_by_drain = False
    running.master.drain()
    await soon(lambda: len(staff.log) == 2)
    running.master.drain()
    await soon(lambda: staff.log[2:] == ["drain 100 0 0 last", "drain 101 0 0 last"])
    for worker in staff.workers:
        worker.end(0)
    await running.task


def test_reasons_are_names_of_signals() -> None:
    assert [reason(code) for code in (0, 74, -9, -200)] == [
        "exit code 0",
        "exit code 74",
        "SIGKILL",
        "signal 200",
    ]


async def test_a_retired_slot_starts_no_worker(running: Running, staff: Staff) -> None:
    slot = Slot(5, running.master.config, running.master)
    await slot.start()
    slot.use_certificates([("cert", "key")])
    assert staff.log == ["tls 102 1"]
    slot.retire()
    await slot.keep()
    assert len(staff.workers) == 3
