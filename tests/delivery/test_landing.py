"""Coroutines that one event loop runs for another."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from aiosmtpd.delivery.landing import Ferry, Landing, Parcel
from tests.client import PATIENCE


class Counted(Landing):
    """A landing that counts how often calls arrive."""

    arrivals = 0

    def call(self, calls: Any) -> None:
        self.arrivals += 1
        super().call(calls)


class Other:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def end(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(PATIENCE)
            self.loop.close()


@pytest.fixture
def other() -> Iterator[Other]:
    loop = Other()
    yield loop
    loop.end()


def ferry_to(other: Other) -> Ferry:
    return Ferry(Counted(asyncio.get_running_loop()), Counted(other.loop))


async def place_of(name: str) -> tuple[str, int]:
    return name, threading.get_ident()


async def test_it_runs_in_the_other_thread(other: Other) -> None:
    assert await ferry_to(other).run(place_of, "a") == ("a", other.thread.ident)


async def test_its_exception_comes_back(other: Other) -> None:
    async def fail() -> None:
        raise LookupError("here")

    with pytest.raises(LookupError, match="here"):
        await ferry_to(other).run(fail)


async def test_those_of_one_turn_cross_together(other: Other) -> None:
    ferry = ferry_to(other)
    opened = asyncio.Event()
    begun = 0

    async def wait_for_all() -> int:
        nonlocal begun
        begun += 1
        if begun == 50:
            opened.set()
        await opened.wait()
        return begun

    assert await asyncio.gather(*(ferry.run(wait_for_all) for _ in range(50))) == [50] * 50
    assert isinstance(ferry.there, Counted)
    assert isinstance(ferry.here, Counted)
    assert (ferry.there.arrivals, ferry.here.arrivals) == (1, 1)


async def test_cancelling_crosses_too(other: Other) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    ferry = ferry_to(other)
    task = asyncio.create_task(ferry.run(hang))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, PATIENCE)


async def test_a_loop_that_has_ended_is_an_error(other: Other) -> None:
    ferry = ferry_to(other)
    other.end()
    results = await asyncio.gather(
        *(ferry.run(place_of, "a") for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [RuntimeError] * 3
    # It says so at each later call too.
    with pytest.raises(RuntimeError):
        await ferry.run(place_of, "b")


async def test_one_timer_ends_each_wait() -> None:
    landing = Landing(asyncio.get_running_loop(), 0.05)
    parcels = [landing.expect() for _ in range(3)]
    parcels[1].set_result("now")
    landing.ring()
    assert await parcels[1].here == "now"
    for _ in range(2):
        for late in parcels[0], parcels[2]:
            with pytest.raises(TimeoutError):
                await late.here
        parcels = [landing.expect() for _ in range(3)]


async def test_parcels_come_from_threads() -> None:
    landing = Counted(asyncio.get_running_loop(), PATIENCE)
    parcels = [landing.expect() for _ in range(3)]
    assert await asyncio.to_thread(parcels[0].set_running_or_notify_cancel)
    await asyncio.to_thread(parcels[0].set_result, "a")
    await asyncio.to_thread(parcels[1].set_exception, OSError("b"))
    assert landing.arrivals == 0
    assert parcels[0].bell is parcels[1].bell is landing.bell
    await asyncio.to_thread(landing.bell)
    assert await parcels[0].here == "a"
    with pytest.raises(OSError, match="b"):
        await parcels[1].here
    parcels[2].cancel()
    assert not parcels[2].set_running_or_notify_cancel()
    parcels[2].here.cancel()
    parcels[2].set_result("late")


async def test_a_parcel_for_a_closed_loop_is_dropped(other: Other) -> None:
    landing = Landing(other.loop, PATIENCE)
    parcel = Parcel(landing)
    other.end()
    parcel.set_result("late")
    landing.ring()
    assert not parcel.here.done()
