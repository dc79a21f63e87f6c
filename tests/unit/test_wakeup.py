"""The future that wakes its task at once: again and again, cancelled, from anywhere."""

import asyncio
import contextvars
from collections.abc import Callable

import pytest

from aiosmtpd.engine.wakeup import Wakeup

COLOUR = contextvars.ContextVar("COLOUR", default="none")


async def turn() -> None:
    """Let the loop go round once."""
    loop = asyncio.get_running_loop()
    gone_round = loop.create_future()
    loop.call_soon(gone_round.set_result, None)
    await gone_round


async def in_the_loop(function: Callable[[], object]) -> None:
    """Call a function from the loop, outside of a task; pass on its exception."""
    loop = asyncio.get_running_loop()
    called = loop.create_future()

    def call() -> None:
        assert asyncio.current_task() is None
        try:
            function()
        except BaseException as error:
            called.set_exception(error)
        else:
            called.set_result(None)

    loop.call_soon(call)
    await called


class Waiting:
    """A task that awaits one wakeup, and records its wake-ups and cancellations."""

    def __init__(self, rounds: int = 1) -> None:
        self.wakeup = Wakeup(asyncio.get_running_loop())
        self.notes: list[str] = []
        self.rounds = rounds
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        for number in range(self.rounds):
            try:
                await self.wakeup
            except asyncio.CancelledError:
                self.notes.append("cancelled")
                raise
            assert asyncio.current_task() is self.task
            self.notes.append(f"woken {number}")

    def wake(self) -> None:
        self.notes.append("before")
        self.wakeup.wake()
        self.notes.append("after")


async def test_from_the_loop_it_wakes_its_task_at_once() -> None:
    waiting = Waiting()
    await turn()
    await in_the_loop(waiting.wake)
    assert waiting.notes == ["before", "woken 0", "after"]
    await waiting.task


async def test_from_another_task_it_wakes_its_task_soon() -> None:
    waiting = Waiting()
    await turn()
    waiting.wake()
    assert waiting.notes == ["before", "after"]
    await waiting.task
    assert waiting.notes == ["before", "after", "woken 0"]


async def test_it_can_be_awaited_again_and_again() -> None:
    waiting = Waiting(rounds=3)
    await turn()
    await in_the_loop(waiting.wake)
    waiting.wake()
    await turn()
    await in_the_loop(waiting.wake)
    await waiting.task
    assert [note for note in waiting.notes if "woken" in note] == ["woken 0", "woken 1", "woken 2"]


async def test_waiting_tells_whether_a_task_waits() -> None:
    waiting = Waiting(rounds=2)
    assert not waiting.wakeup.waiting
    await turn()
    assert waiting.wakeup.waiting
    waiting.wakeup.wake()
    assert not waiting.wakeup.waiting, "it is on its way"
    await turn()
    assert waiting.wakeup.waiting
    await in_the_loop(waiting.wakeup.wake)
    assert not waiting.wakeup.waiting
    await waiting.task


async def test_a_wake_without_a_waiting_task_is_forgotten() -> None:
    waiting = Waiting()
    waiting.wakeup.wake()
    await turn()
    assert waiting.wakeup.waiting
    assert waiting.notes == []
    waiting.wakeup.wake()
    waiting.wakeup.wake()
    await waiting.task
    assert waiting.notes == ["woken 0"]


async def test_the_task_keeps_its_own_context() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    seen = []

    async def run() -> None:
        COLOUR.set("green")
        for _ in range(2):
            await wakeup
            seen.append(COLOUR.get())

    def wake_in_red() -> None:
        COLOUR.set("red")
        wakeup.wake()
        assert COLOUR.get() == "red"

    task = asyncio.create_task(run())
    await turn()
    await in_the_loop(wake_in_red)
    COLOUR.set("blue")
    wakeup.wake()
    await task
    assert seen == ["green", "green"]


async def test_an_exception_of_the_task_does_not_reach_its_waker() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())

    async def run() -> None:
        await wakeup
        raise LookupError("its own")

    task = asyncio.create_task(run())
    await turn()
    await in_the_loop(wakeup.wake)
    with pytest.raises(LookupError, match="its own"):
        await task


async def test_a_waiting_task_can_be_cancelled() -> None:
    waiting = Waiting()
    await turn()
    assert waiting.task.cancel()
    assert not waiting.wakeup.waiting
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert waiting.notes == ["cancelled"]
    assert waiting.task.cancelled()
    waiting.wakeup.wake()


async def test_a_wake_after_a_cancellation_does_not_undo_it() -> None:
    waiting = Waiting(rounds=2)
    await turn()
    waiting.task.cancel()
    waiting.wakeup.wake()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert waiting.notes == ["cancelled"]


async def test_a_cancellation_after_a_wake_is_not_lost() -> None:
    waiting = Waiting(rounds=2)
    await turn()
    waiting.wakeup.wake()
    assert waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert waiting.notes == ["cancelled"]


async def test_a_timeout_cancels_the_wait_alone() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await wakeup
    assert not wakeup.waiting
    asyncio.get_running_loop().call_soon(wakeup.wake)
    await wakeup


async def test_a_task_that_swallows_its_cancellation_can_wait_on() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    notes = []

    async def run() -> None:
        for _ in range(2):
            try:
                await wakeup
                notes.append("woken")
            except asyncio.CancelledError:
                notes.append("cancelled")

    task = asyncio.create_task(run())
    await turn()
    task.cancel()
    await turn()
    assert wakeup.waiting
    await in_the_loop(wakeup.wake)
    await task
    assert notes == ["cancelled", "woken"]


async def test_cancelling_without_a_waiting_task() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    assert wakeup.cancel() is False
    asyncio.get_running_loop().call_soon(wakeup.wake)
    await wakeup


async def test_it_is_a_future_of_its_loop() -> None:
    loop = asyncio.get_running_loop()
    wakeup = Wakeup(loop)
    assert asyncio.isfuture(wakeup)


async def test_two_wakeups_do_not_mix() -> None:
    one, two = Waiting(), Waiting()
    await turn()
    await in_the_loop(one.wakeup.wake)
    assert (one.notes, two.notes) == (["woken 0"], [])
    assert two.wakeup.waiting
    await in_the_loop(two.wakeup.wake)
    await asyncio.gather(one.task, two.task)


async def test_a_woken_task_may_wake_another() -> None:
    """Inside the step of a task, another is not run at once."""
    inner = Waiting()
    wakeup = Wakeup(asyncio.get_running_loop())

    async def run() -> None:
        await wakeup
        inner.wake()
        assert inner.notes == ["before", "after"]

    outer = asyncio.create_task(run())
    await turn()
    await in_the_loop(wakeup.wake)
    await asyncio.gather(outer, inner.task)
    assert inner.notes == ["before", "after", "woken 0"]
