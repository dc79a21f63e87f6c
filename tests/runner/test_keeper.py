"""The keeper of the desk, with desks that are objects in this process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.child import Child, Timing
from aiosmtpd.runner.keeper import Keeper
from aiosmtpd.runner.verbs import UNANSWERED
from tests.client import PATIENCE
from tests.runner.test_slot import Pretended, soon


class PretendedDesk(Pretended):
    def __init__(self, pid: int, order: dict[str, Any], log: list[str]) -> None:
        super().__init__(-1, pid, order, log)
        self.on_ask: Any = None
        self.answers: list[tuple[int, dict[str, Any]]] = []

    def answer(self, number: int, answer: dict[str, Any]) -> None:
        self.answers.append((number, answer))

    async def flush(self) -> None:
        self.log.append("flush")


class Desks:
    """All pretended desks; *failures* are the next ones that cannot start."""

    def __init__(self) -> None:
        self.desks: list[PretendedDesk] = []
        self.failures: list[Exception] = []
        self.log: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.keeper = Keeper(self.answer, Timing())

    async def spawn(self, slot: int, order: dict[str, Any], *_: Any, **__: Any) -> PretendedDesk:
        desk = PretendedDesk(100 + len(self.desks), order, self.log)
        if self.failures:
            desk.failure = self.failures.pop(0)
        self.desks.append(desk)
        return desk

    async def answer(self, verb: Any, about: Any) -> dict[str, Any]:
        await self.held.wait()
        return {"value": [verb, about]}

    async def use(self, number: int) -> None:
        self.keeper.use({"number": number})
        await soon(lambda: bool(self.desks) and self.desks[-1].order == {"number": number})
        await soon(lambda: self.keeper.pid == self.desks[-1].pid)


@pytest.fixture
async def desks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desks]:
    found = Desks()
    monkeypatch.setattr(Child, "spawn", found.spawn)
    yield found
    async with asyncio.timeout(PATIENCE):
        await found.keeper.stop()


async def test_a_new_desk_is_ready_before_the_old_one_ends(desks: Desks) -> None:
    await desks.use(1)
    desks.desks[0].ends_by_drain = False
    await desks.use(2)
    await soon(lambda: desks.log == ["drain 100 10 0"])
    assert desks.keeper.pids == {100, 101}
    desks.desks[0].end(0)
    await soon(lambda: desks.keeper.pids == {101})
    assert desks.keeper.restarts == 0


async def test_a_desk_that_is_not_wanted_ends(desks: Desks) -> None:
    await desks.use(1)
    desks.keeper.use(None)
    await soon(lambda: desks.keeper.pids == set())
    assert desks.log == ["drain 100 10 0"]


async def test_a_desk_stays_if_the_next_one_cannot_start(
    desks: Desks, caplog: pytest.LogCaptureFixture
) -> None:
    await desks.use(1)
    desks.failures = [Failure("no process")]
    desks.keeper.use({"number": 2})
    await soon(lambda: "The desk cannot start: no process" in caplog.text)
    assert (desks.keeper.pid, desks.log) == (100, [])
    # The one after it is tried when this one ends.
    desks.desks[0].end(-9)
    await soon(lambda: desks.keeper.pid == 102)
    assert desks.desks[2].order == {"number": 2}


async def test_a_desk_that_dies_is_started_again_later_each_time(
    desks: Desks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await desks.use(1)
    pauses: list[float] = []
    timeout = asyncio.timeout

    def note(seconds: float) -> asyncio.Timeout:
        if seconds == PATIENCE:
            return timeout(seconds)
        pauses.append(seconds)
        return timeout(0)

    monkeypatch.setattr("aiosmtpd.runner.keeper.asyncio.timeout", note)
    for number in range(8):
        desks.desks[-1].end(-9)
        await soon(lambda number=number: desks.keeper.pid == 101 + number)  # type: ignore[misc]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert desks.keeper.restarts == 8
    assert "The desk (process 100) has ended: SIGKILL" in caplog.text


async def test_a_reload_does_not_wait_for_a_pause(desks: Desks) -> None:
    desks.failures = [Failure("no")] * 2
    desks.keeper.use({"number": 1})
    await soon(lambda: len(desks.desks) == 2)
    await desks.use(2)
    assert len(desks.desks) == 3


async def test_questions_are_answered_by_number(desks: Desks) -> None:
    await desks.use(1)
    desk = desks.desks[0]
    await desk.on_ask({"ask": 7, "verb": "status", "about": 1})
    await desk.on_ask({"ask": 8})
    await soon(lambda: len(desk.answers) == 2)
    assert desk.answers == [(7, {"value": ["status", 1]}), (8, {"value": [None, None]})]
    assert desks.log == ["flush", "flush"]
    with pytest.raises(TypeError):
        await desk.on_ask({"ask": []})


async def test_questions_that_wait_are_few(desks: Desks) -> None:
    await desks.use(1)
    desk = desks.desks[0]
    desks.held.clear()
    for number in range(UNANSWERED + 1):
        await desk.on_ask({"ask": number, "verb": "reload"})
    assert desk.answers == [(UNANSWERED, {"error": "too many requests wait for an answer"})]
    desks.held.set()
    await soon(lambda: len(desk.answers) == UNANSWERED + 1)
