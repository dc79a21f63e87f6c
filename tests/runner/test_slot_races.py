"""Events of a master that come at the wrong moment, with workers that are objects."""

import asyncio
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.child import Child, Timing
from aiosmtpd.runner.config import Config, parse_place
from aiosmtpd.runner.tables import SpoolTable
from tests.runner.fleet import configuration
from tests.runner.test_slot import Pretended, Running, Staff, soon

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


class Slow(Pretended):
    """A worker that becomes ready when a test lets it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.is_due = asyncio.Event()
        self.is_in_time = False
        """True if it serves when the wait for it is cancelled."""

    async def ready(self, timeout: float) -> None:
        try:
            await self.is_due.wait()
            await super().ready(timeout)
        except asyncio.CancelledError:
            if self.is_in_time:
                self.state = "ready"
            else:
                self.end(-9)
            raise


class SlowStaff(Staff):
    """Workers that start when *may_spawn* is set; *is_slow* holds up that they become ready."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: list[Slow] = []
        self.is_slow = False
        self.may_spawn = asyncio.Event()
        self.may_spawn.set()

    async def spawn(
        self, slot: int, order: dict[str, Any], descriptors: Any, timing: Timing
    ) -> Pretended:
        if self.failures:
            raise self.failures.pop(0)
        await self.may_spawn.wait()
        worker = Slow(slot, 100 + len(self.workers), order, self.log)
        if not self.is_slow:
            worker.is_due.set()
        self.slow.append(worker)
        self.workers.append(worker)
        return worker


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> SlowStaff:
    found = SlowStaff()
    monkeypatch.setattr(Child, "spawn", found.spawn)
    return found


def config_of(folder: Path, workers: int = 2) -> Config:
    places = (parse_place("127.0.0.1:0"),)
    return configuration(folder, listen=places, user=None, workers=workers)


async def test_a_reload_during_the_start_comes_after_it(tmp_path: Path, slow: SlowStaff) -> None:
    slow.is_slow = True
    running = Running(config_of(tmp_path))
    await soon(lambda: len(slow.workers) == 2)
    running.master.reload()
    running.master.reload()
    slow.is_slow = False
    for worker in slow.slow:
        worker.is_due.set()
    await soon(lambda: running.reloads == 1)
    assert [worker.slot for worker in slow.workers] == [0, 1, 0, 1]
    await running.end()
    assert running.reloads == 1


async def test_a_slot_may_retire_while_its_worker_starts(tmp_path: Path, slow: SlowStaff) -> None:
    running = Running(config_of(tmp_path))
    await soon(lambda: running.master.is_ready)
    running.next = config_of(tmp_path, workers=1)
    slow.is_slow = True
    slow.workers[1].end(-9)
    await soon(lambda: len(slow.workers) == 3)
    slow.is_slow = False
    await running.reload()
    # Slot 1 is retired; its new worker becomes ready only now.
    slow.slow[2].is_due.set()
    await soon(lambda: slow.workers[2].state == "ended")
    assert [state.pid for state in running.master.slots] == [103]
    await running.end()


async def test_a_failing_start_leaves_no_half_start(tmp_path: Path, slow: SlowStaff) -> None:
    slow.may_spawn.clear()
    slow.failures = [Failure("Cannot start a worker: Too many open files", 1)]
    running = Running(config_of(tmp_path, workers=3))
    with pytest.raises(Failure, match="Too many open files"):
        await running.task
    slow.may_spawn.set()
    await asyncio.sleep(0)
    assert slow.workers == []
    assert len(asyncio.all_tasks()) == 1


async def test_a_reload_that_ends_half_way_says_so(
    tmp_path: Path, slow: SlowStaff, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(config_of(tmp_path))
    await soon(lambda: running.master.is_ready)
    slow.is_slow = True
    running.master.reload()
    await soon(lambda: len(slow.workers) == 3)
    slow.failures = [Failure("bad code")]
    slow.slow[2].is_due.set()
    await soon(lambda: running.reloads == 1)
    assert "1 of 2 workers have the new configuration" in caplog.text
    await running.end()


async def test_the_others_of_a_failing_start_have_not_crashed(
    tmp_path: Path, slow: SlowStaff
) -> None:
    slow.is_slow = True
    running = Running(config_of(tmp_path))
    await soon(lambda: len(slow.slow) == 2)
    slow.slow[1].failure = Failure("bad code")
    slow.slow[1].is_due.set()
    with pytest.raises(Failure, match="bad code"):
        await running.task
    ends = [one[1:] for one in running.heard if one[0] == "exited"]
    assert ends == [(1, 101, "start"), (0, 100, "drain")]


async def test_a_worker_that_just_serves_is_drained(tmp_path: Path, slow: SlowStaff) -> None:
    slow.is_slow = True
    running = Running(config_of(tmp_path))
    await soon(lambda: len(slow.slow) == 2)
    slow.slow[0].is_in_time = True
    slow.slow[1].failure = Failure("bad code")
    slow.slow[1].is_due.set()
    with pytest.raises(Failure, match="bad code"):
        await running.task
    assert slow.log == ["drain 100 2 2 last"]
    assert [(worker.state, worker.code) for worker in slow.workers] == [("ended", 0), ("ended", 1)]


async def test_a_signal_in_a_reload_drains_both(tmp_path: Path, slow: SlowStaff) -> None:
    running = Running(config_of(tmp_path, workers=1))
    await soon(lambda: running.master.is_ready)
    slow.is_slow = True
    running.master.reload()
    await soon(lambda: len(slow.slow) == 2)
    slow.slow[1].is_in_time = True
    await running.end()
    assert sorted(slow.log) == ["drain 100 2 2 last", "drain 101 2 2 last"]


async def test_a_signal_drains_a_worker_that_a_reload_adds(tmp_path: Path, slow: SlowStaff) -> None:
    running = Running(config_of(tmp_path, workers=1))
    await soon(lambda: running.master.is_ready)
    running.next = config_of(tmp_path)
    slow.is_slow = True
    running.master.reload()
    await soon(lambda: len(slow.slow) == 2)
    slow.slow[1].is_in_time = True
    await running.end()
    assert sorted(slow.log) == ["drain 100 2 2 last", "drain 101 2 2 last"]


async def test_a_part_of_the_master_that_fails_is_logged(
    tmp_path: Path, slow: SlowStaff, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(config_of(tmp_path))
    running.master.timing = Timing(certificates=0.001)
    await soon(lambda: running.master.is_ready)

    async def fail() -> bool:
        return 1 // 0 > 0

    running.master.keys.read = fail  # type: ignore[method-assign]
    await soon(lambda: "A part of the master has failed" in caplog.text)
    assert "ZeroDivisionError" in caplog.text
    await running.end()


@pytest.mark.skipif(not IS_ROOT, reason="only root makes the spool for workers")
async def test_a_reload_without_its_spool_changes_nothing(tmp_path: Path, slow: SlowStaff) -> None:
    config = attrs.evolve(config_of(tmp_path), user="nobody")
    running = Running(config)
    await soon(lambda: running.master.is_ready)
    places = (*config.listen, parse_place(f"unix:{tmp_path}/other"))
    running.next = attrs.evolve(
        config, listen=places, spool=SpoolTable(path=str(tmp_path / "gone" / "s"))
    )
    keys = running.master.keys
    await running.reload()
    assert running.heard[-1][:2] == ("reloaded", False)
    assert "Cannot make the spool" in running.heard[-1][2][0]
    assert running.master.keys is keys
    assert not (tmp_path / "other").exists()
    await running.end()


@pytest.mark.skipif(not IS_ROOT, reason="only root gives folders away")
async def test_a_link_in_the_place_of_the_spool_is_not_followed(
    tmp_path: Path, slow: SlowStaff, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()

    def replace(path: str, mode: int) -> None:
        # The owner of the folder above is as fast as can be.
        Path(path).symlink_to(tmp_path / "secret")

    config = attrs.evolve(config_of(tmp_path), user="nobody")
    monkeypatch.setattr(os, "mkdir", replace)
    running = Running(config)
    await soon(lambda: running.master.is_ready)
    assert (tmp_path / "secret").stat().st_uid == 0
    await running.end()
