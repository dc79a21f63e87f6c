"""The watch in the master, with a master that is played to it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiosmtpd.observers.metrics import Metrics, sample
from aiosmtpd.protocol.limits import Limits
from aiosmtpd.runner.child import Timing
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.exposition import METRICS, render
from aiosmtpd.runner.tables import Admin, Log
from aiosmtpd.runner.tally import Tally
from aiosmtpd.runner.watch import Watch
from tests.client import PATIENCE
from tests.runner.test_slot import soon

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


class Master:
    """The parts of a master that the watch uses."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.is_ready, self.is_draining, self.is_reloading = True, False, False
        self.timing, self.identity = Timing(), None
        self.keys = SimpleNamespace(facts={"/a.pem": SimpleNamespace(not_after=4e9)})
        self.sockets = SimpleNamespace(addresses=[("127.0.0.1", 25)], listening=lambda places: [])
        self.slots = [self.slot(0), self.slot(1)]
        self.asked: list[Any] = []
        self.reloads = 0

    def slot(self, number: int, state: str = "ready") -> Any:
        return SimpleNamespace(
            slot=number, pid=100 + number, state=state, ready_for=1.0, restarts=0, leaving=0
        )

    def reload(self) -> None:
        self.reloads += 1

    def drain(self) -> None:
        self.is_draining = True

    async def request(self, slot: int, question: str, about: Any) -> dict[str, Any]:
        self.asked.append((slot, question, about))
        if slot == 1:
            return {"error": "the worker has ended"}
        return {"value": [{"session": "abcd"}] if question == "sessions" else about}


NOWHERE = Admin()


class Played:
    def __init__(self, admin: Admin = NOWHERE) -> None:
        self.config = Config(workers=2, admin=admin, log=Log(format="text"))
        self.master: Any = Master(self.config)
        self.watch = Watch(self.config)

    def begin(self, slot: int, pid: int, accepted: int = 0) -> dict[str, Any]:
        order, _ = self.watch.lend(slot)
        self.watch.worker_started(slot, pid)
        self.watch.worker_ready(slot, pid)
        self.beat(slot, pid, accepted)
        return order

    def beat(self, slot: int, pid: int, accepted: int, faults: list[str] | None = None) -> None:
        numbers = Metrics().snapshot()
        numbers["counters"][ACCEPTED] = accepted
        self.watch.beat(slot, pid, {**numbers, "faults": faults or []})

    def metrics(self) -> str:
        return render(self.watch.numbers())

    async def ask(self, verb: Any, about: Any = None) -> dict[str, Any]:
        return await self.watch.answer(verb, about)


ACCEPTED = sample("messages_total", result="accepted")


@pytest.fixture
async def played(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Played]:
    # The log of the process is that of pytest.
    monkeypatch.setattr("aiosmtpd.runner.logs.set_up", lambda *args, **keywords: None)
    monkeypatch.setattr("aiosmtpd.runner.logs.set_level", lambda level: level)
    played = Played()
    await played.watch.start(played.master)
    yield played
    await played.watch.stop()


async def test_counters_stay_when_a_worker_ends(played: Played) -> None:
    played.begin(0, 100, accepted=5)
    played.begin(1, 101, accepted=2)
    played.watch.worker_exited(0, 100, "crash", -9)
    played.begin(0, 102)
    text = played.metrics()
    for line in (
        'aiosmtpd_messages_total{result="accepted"} 7',
        'aiosmtpd_worker_restarts_total{reason="crash"} 1',
        'aiosmtpd_worker_ready{slot="1"} 1',
        "aiosmtpd_workers 2",
        'aiosmtpd_tls_certificate_not_after_timestamp_seconds{name="/a.pem"} 4000000000',
        "aiosmtpd_config_last_reload_successful 1",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells the memory")
async def test_the_master_counts_itself(played: Played) -> None:
    names = [name for name in METRICS if name.startswith("process_")]
    assert len(names) == 6
    text = played.metrics()
    assert [name for name in names if f"\n{name} " not in text] == []


async def test_a_worker_that_cannot_start_is_a_crash(played: Played) -> None:
    played.begin(0, 100)
    played.watch.worker_exited(0, 100, "start", 1)
    assert 'restarts_total{reason="crash"} 1\n' in played.metrics()


async def test_numbers_of_another_version_are_left_out(played: Played) -> None:
    played.watch.beat(0, 100, {"other": 1})
    assert ACCEPTED not in played.metrics()


async def test_a_drain_is_not_a_restart(played: Played) -> None:
    played.begin(0, 100)
    played.master.is_draining = True
    played.watch.worker_exited(0, 100, "reload", 0)
    assert 'restarts_total{reason="reload"} 0\n' in played.metrics()


async def test_balancers_see_a_server_that_is_ready(played: Played) -> None:
    assert await played.ask("alive") == {"value": True}
    assert await played.ask("ready") == {"value": []}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: setattr(one.master, "is_draining", True), "the server ends"),
        (lambda one: setattr(one.master, "is_ready", False), "the server starts"),
        (
            lambda one: one.master.slots.append(one.master.slot(2, "starting")),
            "worker 2: not ready",
        ),
        (
            lambda one: one.beat(1, 101, 0, ["the spool has no room"]),
            "worker 1: the spool has no room",
        ),
    ],
    ids=["draining", "starting", "worker", "spool"],
)
async def test_balancers_hear_why_not(played: Played, change: Any, why: str) -> None:
    played.begin(0, 100)
    change(played)
    assert await played.ask("ready") == {"value": [why]}
    assert await played.ask("alive") == {"value": True}


async def test_columns_follow_the_processes(played: Played) -> None:
    first, second = played.begin(0, 100), played.begin(1, 101)
    (fd, column), (_, other) = first["tally"], second["tally"]
    assert column != other
    assert first["log_key"] == second["log_key"]
    # A process that could not be started leaves its column to the next one.
    lost, descriptors = played.watch.lend(0)
    assert descriptors == [fd]
    assert played.watch.lend(0)[0] == lost
    taken = {column, other, lost["tally"][1]}
    played.watch.worker_exited(0, 100, "crash", 1)
    while "tally" in (order := played.begin(0, 1000 + len(taken))):
        taken.add(order["tally"][1])
    # The one that was released is lent again; then all are in use.
    assert taken == set(range(32))


async def test_status_has_the_workers(played: Played) -> None:
    played.begin(0, 100, accepted=5)
    value = (await played.ask("status"))["value"]
    assert value["state"] == "ready"
    assert value["certificates"] == {"/a.pem": 4e9}
    assert [one["messages"] for one in value["workers"]] == [5, None]
    played.master.is_draining = True
    assert (await played.ask("status"))["value"]["state"] == "draining"


@pytest.mark.parametrize("faults", [[], ["a.toml:1: x: wrong"]], ids=["good", "bad"])
async def test_a_reload_is_waited_for(
    played: Played, faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reload() -> None:
        monkeypatch.setattr("time.time", lambda: 5e9)
        loop = asyncio.get_running_loop()
        loop.call_soon(played.watch.reloaded, not faults, faults)

    played.master.reload = reload
    before = (await played.ask("status"))["value"]["reload"]["at"]
    assert (await played.ask("reload"))["value"] == {"ok": not faults, "faults": faults}
    found = (await played.ask("status"))["value"]["reload"]
    assert found == {"ok": not faults, "faults": faults, "at": before if faults else 5e9}


async def test_a_reload_that_runs_does_not_answer_for_the_next(played: Played) -> None:
    first = asyncio.ensure_future(played.ask("reload"))
    await asyncio.sleep(0)
    played.master.is_reloading = True
    second = asyncio.ensure_future(played.ask("reload"))
    await asyncio.sleep(0)
    played.watch.reloaded(True, [])
    assert (await first)["value"] == {"ok": True, "faults": []}
    assert not second.done()
    played.watch.reloaded(False, ["a.toml:1: x: wrong"])
    assert (await second)["value"] == {"ok": False, "faults": ["a.toml:1: x: wrong"]}


async def test_no_reload_while_the_server_ends(played: Played) -> None:
    value = {"ok": True, "now": False, "seconds": 40.0}
    assert (await played.ask("drain"))["value"] == value
    assert (await played.ask("drain"))["value"] == {"ok": True, "now": True, "seconds": 0.0}
    assert "no reload now" in (await played.ask("reload"))["error"]
    assert played.master.reloads == 0


async def test_workers_are_asked_for_sessions_and_levels(played: Played) -> None:
    error = ["worker 1: the worker has ended"]
    found = (await played.ask("sessions"))["value"]
    assert found == {"sessions": [{"slot": 0, "session": "abcd"}], "faults": error}
    found = (await played.ask("log-level", "debug"))["value"]
    assert found == {"level": "debug", "faults": error}
    assert played.master.asked[:1] == [(0, "sessions", 200)]


@pytest.mark.parametrize(
    ("verb", "about", "error"),
    [
        ("eval", None, "the master does not answer that"),
        (None, None, "the master does not answer that"),
        ([], {}, "the master does not answer that"),
        ("sessions", 10**9, "the limit is a number from 1 to 200"),
        ("sessions", "all", "the limit is a number from 1 to 200"),
    ],
)
async def test_the_master_checks_questions_too(
    played: Played, verb: Any, about: Any, error: str
) -> None:
    assert await played.ask(verb, about) == {"error": error}
    assert played.master.asked == []


async def test_a_slow_answer_is_an_error(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.runner.watch.PATIENCE", {"reload": 0.01})
    assert await played.ask("reload") == {"error": "this takes too long, and goes on"}
    # Nothing waits for the end of that reload.
    played.watch.reloaded(True, [])


async def test_the_end_answers_a_reload_that_runs(played: Played) -> None:
    asking = [asyncio.ensure_future(played.ask("reload"))]
    await asyncio.sleep(0)
    played.master.is_reloading = True
    asking.append(asyncio.ensure_future(played.ask("reload")))
    await asyncio.sleep(0)
    await played.watch.stop()
    for answer in asking:
        found = await asyncio.wait_for(answer, PATIENCE)
        assert found == {"value": {"ok": False, "faults": ["the server ends"]}}


async def test_a_mistake_in_an_answer_is_one_line(played: Played) -> None:
    played.master.slots = None
    assert "TypeError" in (await played.ask("status"))["error"]


async def test_connections_of_a_killed_worker_are_counted(played: Played) -> None:
    fd, column = played.begin(0, 100)["tally"]
    tally = Tally(fd, column)
    for host in "192.0.2.1", "192.0.2.2":
        assert tally.admit(host, 0, Limits(), 0.0) is None
    assert played.watch.worker_exited(0, 100, "crash", -9) == 2
    assert played.watch.worker_exited(1, 101, "crash", -9) is None


async def test_numbers_follow_a_reload(played: Played) -> None:
    played.master.config = Config(workers=3)
    played.watch.reloaded(True, [])
    assert "\naiosmtpd_workers 3\n" in played.metrics()


class Kept:
    """A keeper that notes what it is to do."""

    orders: list[dict[str, Any] | None]
    pids: set[int] = set()

    def __init__(self, *_: Any) -> None:
        self.orders = []
        Kept.last = self

    last: "Kept"

    def use(self, order: dict[str, Any] | None, descriptors: Any = ()) -> None:
        self.orders.append(order)

    async def stop(self) -> None:
        self.orders.append({"stop": True})


@pytest.fixture
async def with_doors(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Played]:
    monkeypatch.setattr("aiosmtpd.runner.logs.set_up", lambda *args, **keywords: None)
    monkeypatch.setattr("aiosmtpd.runner.watch.Keeper", Kept)
    played = Played(Admin(http="127.0.0.1:0"))
    yield played
    await played.watch.stop()


async def test_the_desk_starts_after_the_first_workers(with_doors: Played) -> None:
    await with_doors.watch.start(with_doors.master)
    with_doors.begin(0, 100)
    assert Kept.last.orders == []
    with_doors.begin(1, 101)
    (order,) = Kept.last.orders
    assert order is not None
    assert (len(order["http"]), order["ctl"], order["identity"]) == (1, [], None)
    # Later workers change nothing; a reload gives it a new order, and an empty table none.
    with_doors.begin(1, 102)
    with_doors.watch.reloaded(True, [])
    assert Kept.last.orders == [order, order]
    with_doors.master.config = Config(workers=2)
    with_doors.watch.reloaded(True, [])
    assert Kept.last.orders[2:] == [None]


async def test_a_lost_socket_is_served_after_a_failed_reload(
    with_doors: Played, tmp_path: Path
) -> None:
    played = Played(Admin(socket=str(tmp_path / "ctl")))
    await played.watch.start(played.master)
    played.begin(0, 100)
    played.begin(1, 101)
    for _ in range(2):
        (tmp_path / "ctl").unlink()
        await played.watch.open(played.config)
        # Only the first of them finds another socket.
        played.watch.reloaded(False, ["a.toml:1: x: wrong"])
        played.watch.reloaded(False, ["a.toml:1: x: wrong"])
    sockets = [order["ctl"] for order in Kept.last.orders if order is not None]
    assert len(sockets) == 3
    assert sockets[0] != sockets[1] != sockets[2]
    await played.watch.stop()


async def test_the_desk_does_not_wait_for_long(
    with_doors: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.runner.watch.DESK_PAUSE", 0.0)
    await with_doors.watch.start(with_doors.master)
    await soon(lambda: len(Kept.last.orders) == 1)
