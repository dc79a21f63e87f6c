"""One timer for many waits of the same length."""

import asyncio

from aiosmtpd.delivery.patience import Patience
from tests.client import PATIENCE


async def test_each_key_is_late_in_its_turn() -> None:
    late: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    patience: Patience[str] = Patience(loop, 0.02, late.put_nowait)
    began = loop.time()
    for key in "one", "two", "three":
        patience.begin(key)
    assert not patience.end("two")
    async with asyncio.timeout(PATIENCE):
        assert [await late.get(), await late.get()] == ["one", "three"]
        assert loop.time() - began >= 0.02
        assert patience.end("one")
        # The timer has ended with the last key.
        patience.begin("four")
        assert await late.get() == "four"
    assert loop.time() - began >= 0.04


async def test_a_later_key_has_its_whole_time() -> None:
    late: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    patience: Patience[str] = Patience(loop, 0.05, late.put_nowait)
    patience.begin("one")
    patience.begin("three")
    patience.end("three")
    async with asyncio.timeout(PATIENCE):
        later = loop.create_future()
        loop.call_later(0.03, later.set_result, None)
        await later
        began = loop.time()
        patience.begin("two")
        assert [await late.get(), await late.get()] == ["one", "two"]
    assert loop.time() - began >= 0.05
