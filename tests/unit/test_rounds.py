"""One look at the deadlines of all connections."""

import asyncio
import gc
from typing import Any, cast
from weakref import ref

import pytest

from aiosmtpd.engine import rounds
from aiosmtpd.engine.rounds import round_of
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

from .support import loops as loops

PATIENCE = 10.0


def test_each_loop_has_its_own_round(loops: list[asyncio.AbstractEventLoop]) -> None:
    first, second = map(round_of, loops)
    assert first is not second
    assert [round_of(loop) for loop in loops + loops] == [first, second] * 2


def test_a_loop_that_is_abandoned_keeps_no_connection() -> None:
    loop: Any = asyncio.new_event_loop()
    server = SMTP(Sink(), loop=loop)
    server._reset_timeout()
    gone = ref(server)
    loop.close()
    del loop, server
    # The latest round is remembered by a weak reference.
    gc.collect()
    assert gone() is None


class Short(SMTP):
    """A server that notes when its client has been silent for too long."""

    def __init__(self, timeout: float) -> None:
        super().__init__(Sink(), timeout=timeout)
        self.timed_out = asyncio.Event()
        self._wakeup.waiting = True

    def _timeout_cb(self) -> None:
        self.timed_out.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every hundredth of a second."""
    monkeypatch.setattr(rounds, "LOOK", 0.01)


async def test_a_deadline_before_the_next_look_has_a_timer() -> None:
    server = Short(0.001)
    server._reset_timeout()
    assert server._timer is not None
    await asyncio.wait_for(server.timed_out.wait(), PATIENCE)


async def test_a_deadline_after_the_next_look_has_none() -> None:
    server = Short(300)
    server._reset_timeout()
    assert server._timer is None
    # An earlier one needs it; a later one replaces only the number.
    server._reset_timeout(1.0)
    first = server._timer
    server._reset_timeout(0.5)
    second = server._timer
    assert first is not None
    assert first.cancelled()
    server._reset_timeout()
    assert server._timer is second
    server._cancel_timers()
    assert second is not None
    assert second.cancelled()


@pytest.mark.usefixtures("quick")
async def test_looks_find_each_deadline() -> None:
    servers = [Short(seconds) for seconds in (0.012, 0.03, 0.045)]
    late = Short(300)
    for server in (*servers, late):
        server._reset_timeout()
    for server in servers:
        await asyncio.wait_for(server.timed_out.wait(), PATIENCE)
    assert not late.timed_out.is_set()
    assert late._timer is None
    for server in (*servers, late):
        server._cancel_timers()


@pytest.mark.usefixtures("quick")
async def test_a_look_at_a_deadline_that_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Short(300)
    server._reset_timeout()
    # As after a pause of the whole machine.
    server._deadline = 0.0
    await asyncio.wait_for(server.timed_out.wait(), PATIENCE)
    server._cancel_timers()


@pytest.mark.usefixtures("quick")
async def test_a_round_ends_with_its_last_connection() -> None:
    loop = asyncio.get_running_loop()
    server = Short(300)
    server._reset_timeout()
    before = round_of(loop)
    server._cancel_timers()
    while before.due:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    again = round_of(loop)
    assert again is not before
    assert again.due
    assert round_of(loop) is again


async def test_a_connection_that_has_gone_does_not_come_back() -> None:
    server, members = Short(300), round_of(asyncio.get_running_loop()).members
    server._reset_timeout()
    assert members == {server}
    # A look has found the deadline passed, a command has set a later one, and the client has gone.
    server.connection_lost(None)
    server._timer_fired()
    assert members == set()


class Timer:
    """A timer of an event loop that allows no weak references."""

    __slots__ = ("is_cancelled",)

    def cancel(self) -> None:
        self.is_cancelled = True


async def test_a_timer_may_allow_no_weak_reference() -> None:
    class Loop:
        def call_later(self, *_: Any, **__: Any) -> Any:
            return timer

    timer, loop = Timer(), cast(Any, Loop())
    rounds.Round(loop).end()
    assert timer.is_cancelled
