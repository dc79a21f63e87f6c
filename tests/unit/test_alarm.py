"""Timers that the event loop does not know of."""

import asyncio
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from aiosmtpd.engine import alarm
from aiosmtpd.engine.alarm import Alarm, call_after
from aiosmtpd.engine.rounds import round_of

PATIENCE = 10.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such timers")


def timers() -> int:
    """Return how many timers this process has, without those of loops of other tests."""
    gc.collect()
    return descriptors()


def descriptors() -> int:
    """Return how many timers this process has as descriptors."""
    folder, found = Path("/proc/self/fd"), 0
    for name in os.listdir(folder):
        try:
            found += "timerfd" in os.readlink(folder / name)
        except FileNotFoundError:
            continue
    return found


async def test_it_goes_off_once() -> None:
    began, loop = monotonic(), asyncio.get_running_loop()
    over, before = asyncio.Event(), timers()
    one = call_after(loop, 0.05, over.set)
    assert isinstance(one, Alarm)
    assert timers() == before + 1
    await asyncio.wait_for(over.wait(), PATIENCE)
    assert monotonic() - began >= 0.049
    assert timers() == before
    one.cancel()


async def test_a_cancelled_one_does_not() -> None:
    loop, told, before = asyncio.get_running_loop(), [], timers()
    one = call_after(loop, 0.001, lambda: told.append(1))
    one.cancel()
    one.cancel()
    over = asyncio.Event()
    call_after(loop, 0.002, over.set)
    await asyncio.wait_for(over.wait(), PATIENCE)
    assert told == []
    assert timers() == before


def test_a_loop_that_is_closed_leaves_no_descriptor() -> None:
    """Not even until the next garbage collection, which may come after a thousand loops."""
    before = timers()
    gc.disable()
    try:
        loop = asyncio.new_event_loop()
        round_of(loop)
        call_after(loop, 60.0, lambda: None)
        assert descriptors() == before + 2
        loop.close()
        assert descriptors() == before
    finally:
        gc.enable()
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        call_after(loop, 60.0, lambda: None)
    assert timers() == before


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let no file be opened."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_without_a_descriptor_it_is_a_timer_of_the_loop() -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    # Its imports are done from now on.
    call_after(loop, 60.0, over.set).cancel()
    with no_descriptors():
        one = call_after(loop, 0.001, over.set)
    assert isinstance(one, asyncio.TimerHandle)
    await asyncio.wait_for(over.wait(), PATIENCE)


@pytest.mark.parametrize("error", [ImportError, AttributeError, OSError])
async def test_without_the_module_it_is_a_timer_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(seconds: float) -> int:
        raise error

    monkeypatch.setattr(alarm, "_descriptor", fail)
    one = call_after(asyncio.get_running_loop(), 60.0, lambda: None)
    assert isinstance(one, asyncio.TimerHandle)
    one.cancel()


async def test_other_systems_have_timers_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm, "HAS_DESCRIPTORS", False)
    one = call_after(asyncio.get_running_loop(), 60.0, lambda: None)
    assert isinstance(one, asyncio.TimerHandle)
    one.cancel()
