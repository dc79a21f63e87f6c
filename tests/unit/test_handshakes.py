"""The budget of handshakes in one turn of the event loop."""

import asyncio

import pytest

from aiosmtpd.engine.handshakes import Handshakes, handshakes_of

from .support import loops as loops


def test_each_loop_has_its_own_queue(loops: list[asyncio.AbstractEventLoop]) -> None:
    first, second = map(handshakes_of, loops)
    assert first is not second
    assert [handshakes_of(loop) for loop in loops + loops] == [first, second] * 2
    assert handshakes_of(loops[1]) is second


async def test_a_step_that_fails_counts_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiosmtpd.engine.handshakes.BUDGET", 1e-9)
    loop = asyncio.get_running_loop()
    handshakes, done = Handshakes(), loop.create_future()
    with pytest.raises(ZeroDivisionError):
        handshakes.run(loop, lambda one: print(one / 0), 1)
    # The budget is spent: these wait for the next turns.
    order: list[int] = []
    handshakes.run(loop, order.append, 1)
    handshakes.run(loop, order.append, 2)
    handshakes.run(loop, done.set_result, None)
    assert order == []
    await asyncio.wait_for(done, 10)
    assert order == [1, 2]
