"""The numbers of a worker."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Delivery, Later
from aiosmtpd.delivery.lock import is_locked
from aiosmtpd.observers.metrics import sample
from aiosmtpd.runner import usage
from aiosmtpd.runner.exposition import METRICS
from aiosmtpd.runner.numbers import Numbers
from tests.client import PATIENCE
from tests.delivery.support import Place, delivering, route, send, until


def numbers_of(numbers: Numbers) -> tuple[dict[str, float], dict[str, float]]:
    found = numbers.snapshot()
    return found["counters"], found["gauges"]


def test_a_worker_without_a_spool_counts_sessions() -> None:
    numbers = Numbers(3)
    counters, gauges = numbers_of(numbers)
    assert counters[sample("messages_total", result="accepted")] == 0
    assert counters[sample("worker_cpu_seconds_total", slot="3")] > 0
    assert numbers.snapshot()["faults"] == []
    assert not [name for name in gauges if "spool" in name]


def test_deliveries_are_counted_by_route(tmp_path: Path) -> None:
    numbers, place = Numbers(0), Place(Later("busy"), None)
    with delivering(tmp_path, route(place, name="app"), on_event=numbers.on_event) as (
        handler,
        controller,
    ):
        numbers.deliveries = lambda: [handler]
        counters, gauges = numbers_of(numbers)
        result = sample("deliveries_total", route="app", result="delivered")
        assert (counters[result], gauges[sample("route_up", route="app")]) == (0, 1)
        before = counters[sample("spool_commits_total")]
        send(controller, "bo@b.test")
        until(lambda: numbers_of(numbers)[0][result] == 1)
        found = numbers.snapshot()
    # The message, and what its first try has left.
    assert found["counters"][sample("spool_commits_total")] >= before + 2
    assert found["counters"][sample("deliveries_total", route="app", result="deferred")] == 1
    histograms = found["histograms"]
    assert sum(histograms[sample("delivery_seconds", route="app")][:-1]) == 2
    assert sum(histograms[sample("delivery_lag_seconds", route="app")][:-1]) == 1
    assert sum(histograms[sample("commit_seconds")][:-1]) == 1
    # One commit of one message.
    assert histograms[sample("spool_batch_messages")] == [1, *[0] * 9, 1]
    assert {name.partition("{")[0] for part in ("counters", "gauges") for name in found[part]} <= (
        METRICS.keys()
    )


async def test_the_spool_is_counted(tmp_path: Path) -> None:
    numbers = Numbers(0)
    await numbers.look_at_spool()
    async with Delivery(tmp_path, [route(Place())]) as delivery:
        numbers.deliveries = lambda: [delivery]
        await numbers.look_at_spool()
        gauges = numbers.snapshot()["gauges"]
    for name in "messages", "bytes", "oldest_seconds", "dead_messages":
        assert gauges[sample(f"spool_{name}")] == 0


async def test_a_spool_that_is_closed_stays_so(tmp_path: Path) -> None:
    numbers, open_one = Numbers(0), Delivery(tmp_path / "1", [route(Place())])
    async with open_one, Delivery(tmp_path / "0", [route(Place())]) as closed:
        numbers.deliveries = lambda: [closed, open_one]
        await closed.close()
        await numbers.look_at_spool()
        assert [is_locked(str(tmp_path / name)) for name in ("0", "1")] == [False, True]
        assert numbers.snapshot()["gauges"][sample("spool_messages")] == 0


async def test_the_delay_of_the_loop_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.runner.numbers.LAG_PAUSE", 0.0)
    numbers = Numbers(0)
    numbers.start()
    name = sample("event_loop_lag_seconds", slot="0")
    async with asyncio.timeout(PATIENCE):
        # Turns of the loop are what is measured.
        while not sum(numbers.snapshot()["histograms"][name][:-1]):  # noqa: ASYNC110
            await asyncio.sleep(0)
    await numbers.stop()


class Broken:
    commits = 0
    batches: dict[int, int] = {}
    routes_up: dict[str, bool] = {}
    failed: Any = None
    room: Any = True

    @property
    def has_room(self) -> bool:
        if isinstance(self.room, Exception):
            raise self.room
        return bool(self.room)


@pytest.mark.parametrize(
    ("failed", "room", "faults"),
    [
        (None, True, []),
        (None, False, ["the spool has no room"]),
        (None, OSError("gone"), ["the spool cannot be used: gone"]),
        (OSError("EIO"), True, ["the spool has failed: EIO"]),
    ],
    ids=["well", "full", "gone", "failed"],
)
def test_a_spool_that_takes_no_mail_is_a_fault(failed: Any, room: Any, faults: list[str]) -> None:
    numbers, broken = Numbers(0), Broken()
    broken.failed, broken.room = failed, room
    numbers.deliveries = lambda: [broken]  # type: ignore[list-item]
    assert numbers.snapshot()["faults"] == faults


def test_a_system_without_proc_tells_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **keywords: Any) -> Any:
        raise OSError

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr("os.listdir", fail)
    assert usage.gauges("worker_") == {}
