"""The desk, in this process, with a master that is played to it."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.cli.ctl import ask
from aiosmtpd.observers.metrics import Metrics
from aiosmtpd.runner.control import Channel, descriptor_pair
from aiosmtpd.runner.desk import Desk
from aiosmtpd.runner.verbs import PATIENCE as PATIENCES, UNANSWERED
from tests.client import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


class Played:
    """A desk with its doors open. *answers* are those of the master; it gives none for ``...``."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "ctl")
        self.http = socket.create_server(("127.0.0.1", 0))
        self.ctl = socket.socket(socket.AF_UNIX)
        self.ctl.bind(self.path)
        self.port = self.http.getsockname()[1]
        self.asked: list[tuple[str, Any]] = []
        self.was_asked = asyncio.Event()
        self.held = asyncio.Event()
        self.held.set()
        self.answers: dict[str, Any] = {
            "alive": True,
            "ready": [],
            "numbers": Metrics().snapshot(),
            "status": {"state": "ready"},
            "log-level": {"level": "debug", "faults": []},
        }
        self.code: int | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        ours, theirs = descriptor_pair()
        self.channel = await Channel.of(ours)
        order = {
            "http": [self.http.detach()],
            "ctl": [self.ctl.detach()],
            "identity": None,
            "must": True,
            "log": {"level": "info", "format": "text", "addresses": "plain"},
            "log_key": "",
        }
        self.channel.send(order)
        self.tasks.append(asyncio.ensure_future(self._run(await Channel.of(theirs))))
        while (message := await self.channel.receive()) is not None and "ready" not in message:
            pass
        self.tasks.append(asyncio.ensure_future(self._answer()))

    async def _run(self, channel: Channel) -> None:
        self.code = await Desk(channel).run()
        channel.close()

    async def _answer(self) -> None:
        while (message := await self.channel.receive()) is not None:
            if "ask" in message:
                self.asked.append((message["verb"], message["about"]))
                self.was_asked.set()
                await self.held.wait()
                value = self.answers.get(message["verb"])
                answer = {"error": "no such verb"} if value is None else {"value": value}
                if value is not ...:
                    self.channel.send({"answer": message["ask"], **answer})

    async def end(self) -> None:
        self.channel.close()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.tasks)

    async def get(self, target: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return f"{head.split()[1]} {body}"

    async def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.path, {"command": command, **fields})


@pytest.fixture
async def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Played]:
    # The log of the process is that of pytest.
    monkeypatch.setattr("aiosmtpd.runner.logs.set_up", lambda *args, **keywords: None)
    played = Played(tmp_path)
    await played.start()
    yield played
    await played.end()


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr("aiosmtpd.runner.logs.set_level", found.append)
    return found


async def test_pages_show_what_the_master_says(played: Played) -> None:
    assert await played.get("/healthz") == "200 ok\n"
    assert await played.get("/readyz?verbose") == "200 ready\n"
    played.answers["ready"] = ["worker 1: not ready"]
    assert await played.get("/readyz") == "503 not ready\n"
    assert await played.get("/readyz?verbose") == "503 not ready\nworker 1: not ready\n"
    assert 'aiosmtpd_messages_total{result="accepted"} 0\n' in await played.get("/metrics")


async def test_a_master_that_does_not_answer_is_503(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    for verb in "alive", "ready", "numbers":
        played.answers[verb] = ...
    short = dict.fromkeys(PATIENCES, 0.01)
    monkeypatch.setattr("aiosmtpd.runner.desk.PATIENCE", short)
    text = "the master does not answer\n"
    assert await played.get("/healthz") == f"503 {text}"
    assert await played.get("/readyz?verbose") == f"503 not ready\n{text}"
    assert await played.get("/metrics") == f"503 {text}"


async def test_many_clients_are_one_question(played: Played) -> None:
    played.held.clear()
    first = asyncio.ensure_future(played.get("/healthz"))
    await played.was_asked.wait()
    # More clients than there may be questions at a time.
    others = [asyncio.ensure_future(played.get("/healthz")) for _ in range(UNANSWERED + 8)]
    # This one asks after them.
    assert "error" in await played.ask("eval")
    played.held.set()
    assert await asyncio.gather(first, *others) == ["200 ok\n"] * (UNANSWERED + 9)
    assert len(played.asked) < 8


async def test_commands_are_questions(played: Played, levels: list[str]) -> None:
    assert await played.ask("status") == {"value": {"state": "ready"}}
    found = await played.ask("log-level", level="debug")
    assert found == {"value": {"level": "debug", "faults": []}}
    assert levels == ["debug"]
    assert await played.ask("sessions", limit=7) == {"error": "no such verb"}
    assert played.asked == [("status", None), ("log-level", "debug"), ("sessions", 7)]


async def test_only_the_commands_reach_the_master(played: Played) -> None:
    for command in "numbers", "alive", "eval":
        assert (await played.ask(command))["error"].startswith("the commands are status, ")
    assert played.asked == []


async def test_a_drain_lets_the_last_clients_have_their_answer(played: Played) -> None:
    played.held.clear()
    asking = asyncio.ensure_future(played.ask("status"))
    await played.was_asked.wait()
    played.channel.send({"drain": {"linger": PATIENCE}})
    played.held.set()
    assert await asking == {"value": {"state": "ready"}}
    async with asyncio.timeout(PATIENCE):
        await played.tasks[0]
    assert played.code == 0


async def test_the_desk_ends_with_its_master(played: Played) -> None:
    await played.end()
    assert played.code == 0
    with pytest.raises(ConnectionRefusedError):
        await played.get("/healthz")
