"""A worker in this process: its messages to the master, and its answers."""

import ast
import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import pytest

from aiosmtpd.delivery.handler import Delivery
from aiosmtpd.delivery.lock import is_locked
from aiosmtpd.listen.addresses import Listen
from aiosmtpd.process.failure import Failure
from aiosmtpd.runner import worker as workers
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.control import Channel, descriptor_pair
from aiosmtpd.runner.logs import Addresses
from aiosmtpd.runner.service import Service
from aiosmtpd.runner.worker import Worker
from tests.client import PATIENCE, Client
from tests.runner.fleet import configuration
from tests.runner.test_keys import texts_of, write

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers are processes of POSIX")

HANDLER = """
class Handler:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"
"""


class Talk:
    """A worker that runs as a task, and the master's end of its channel."""

    def __init__(self, channel: Channel, task: "asyncio.Task[int]") -> None:
        self.channel = channel
        self.task = task
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])

    def order(self, config: Config, **more: Any) -> None:
        order = {
            "config": config.to_json(),
            "slot": 0,
            "workers": 1,
            # The worker closes the descriptor that it gets.
            "sockets": [(os.dup(self.socket.fileno()), "smtp")],
            "tls": [],
            "identity": None,
        }
        self.channel.send({**order, **more})

    async def hear(self, key: str) -> Any:
        """Return the next message that has a key."""
        while (message := await self.channel.receive()) is not None:
            if key in message:
                return message
        raise AssertionError(f"the worker has ended without {key}")

    async def greeted(self) -> None:
        await asyncio.to_thread(lambda: Client(self.port).close())


@pytest.fixture
async def talk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Talk]:
    # The log is that of pytest.
    monkeypatch.setattr(workers, "set_up", lambda *args: Addresses())
    monkeypatch.setattr(workers, "BEAT", 0.01)
    ours, theirs = descriptor_pair()
    worker = Worker(await Channel.of(theirs))
    channel = await Channel.of(ours)
    talk = Talk(channel, asyncio.create_task(worker.run()))
    yield talk
    channel.send({"drain": {"linger": 0, "grace": 0}})
    await asyncio.wait([talk.task])
    talk.socket.close()
    channel.close()
    worker._channel.close()


def with_spool(folder: Path) -> Config:
    (folder / "handlers_of_worker.py").write_text("async def take(mail): pass")
    config = configuration(folder)
    (route,) = config.route
    return attrs.evolve(config, route=(attrs.evolve(route, to="python:handlers_of_worker:take"),))


async def test_a_worker_is_ready_beats_and_drains(tmp_path: Path, talk: Talk) -> None:
    talk.order(with_spool(tmp_path))
    ready = await talk.hear("ready")
    assert ready == {"ready": os.getpid(), "addresses": [f"127.0.0.1:{talk.port}"]}
    await talk.greeted()
    await talk.hear("beat")
    assert (tmp_path / "spool" / "0" / "spool.db").exists()
    talk.channel.send({"drain": {"linger": 1.0, "grace": 1.0, "last": True}})
    assert await talk.task == 0


async def test_a_worker_answers_the_master(tmp_path: Path, talk: Talk) -> None:
    talk.order(with_spool(tmp_path))
    await talk.hear("ready")
    talk.channel.send({"ask": 1, "sessions": 10})
    assert await talk.hear("answer") == {"answer": 1, "value": []}
    talk.channel.send({"ask": 2, "log": "loud"})
    assert "ValueError: a level is one of" in (await talk.hear("answer"))["error"]
    talk.channel.send({"ask": 3, "weather": None})
    assert await talk.hear("answer") == {"answer": 3, "error": "this worker cannot answer that"}


async def test_a_handler_that_is_missing_is_one_line(tmp_path: Path, talk: Talk) -> None:
    talk.order(configuration(tmp_path, spool=None, handler="missing_one:Handler"))
    failed = await talk.hear("failed")
    assert failed["failed"].startswith("handler: cannot import missing_one:Handler")
    assert await talk.task == failed["code"] == 2


async def test_a_spool_that_cannot_be_made_is_one_line(
    tmp_path: Path, talk: Talk, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spool").write_text("a file")
    talk.order(with_spool(tmp_path))
    failed = await talk.hear("failed")
    assert failed["failed"].startswith(f"Cannot use {tmp_path / 'spool' / '0'} as a spool")
    assert await talk.task == 1
    assert "Cannot use" not in capsys.readouterr().err + caplog.text


async def test_a_start_that_fails_closes_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []
    close = Delivery.close

    async def note(delivery: Delivery) -> None:
        await close(delivery)
        closed.append("spool")
        if len(closed) == 2:
            raise RuntimeError("no goodbye")

    monkeypatch.setattr(Delivery, "close", note)
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            places = [Listen("smtp", *taken.getsockname())]
            with pytest.raises(Failure, match="Cannot serve: "):
                await Service(with_spool(tmp_path)).start(places)
        assert not is_locked(str(tmp_path / "spool" / "0"))
    assert closed == ["spool", "spool"]
    assert "RuntimeError: no goodbye" in caplog.text


async def test_the_end_of_the_master_ends_a_worker(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(workers, "ORPHAN_LINGER", 0.01)
    talk.order(with_spool(tmp_path))
    await talk.hear("ready")
    talk.channel.close()
    assert await talk.task == 0
    assert ends == []


async def test_a_second_drain_is_now(tmp_path: Path, talk: Talk) -> None:
    talk.order(with_spool(tmp_path))
    await talk.hear("ready")
    client = await asyncio.to_thread(Client, talk.port)
    talk.channel.send({"drain": {"linger": 60.0, "grace": 60.0}})
    await talk.hear("beat")
    talk.channel.send({"drain": {"linger": 0.0, "grace": 0.0}})
    assert await talk.task == 0
    client.close()


FAILING = """
class Failing:
    async def open(self):
        pass

    async def close(self):
        raise RuntimeError("no goodbye")

    async def handle_DATA(self, server, session, envelope):
        return "250 OK"
"""


async def test_a_handler_that_fails_at_the_end_is_logged(
    tmp_path: Path, talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "handlers_that_fail.py").write_text(FAILING)
    talk.order(configuration(tmp_path, spool=None, handler="handlers_that_fail:Failing"))
    await talk.hear("ready")
    await talk.greeted()
    talk.channel.send({"drain": {"linger": 0.0, "grace": 1.0}})
    assert await talk.task == 0
    assert "RuntimeError: no goodbye" in caplog.text


async def test_a_worker_without_an_order_ends(talk: Talk) -> None:
    talk.channel.close()
    assert await talk.task == 1


async def test_a_lost_spool_ends_a_worker_with_74(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.spool.LOOK", 0.0)
    talk.order(with_spool(tmp_path))
    await talk.hear("ready")
    (tmp_path / "spool" / "0" / "spool.db").rename(tmp_path / "moved")

    def mail() -> None:
        with Client(talk.port) as client:
            client.hello()
            client.ask(b"MAIL FROM:<a@b.test>", b"451")

    await asyncio.to_thread(mail)
    assert await talk.task == 74


async def test_a_worker_changes_its_certificate(tmp_path: Path, talk: Talk) -> None:
    from aiosmtpd.runner.tables import TLS

    pairs = [write(tmp_path, name, "mx.test") for name in ("old", "new")]
    (tmp_path / "own_handler.py").write_text(HANDLER)
    tls = TLS(cert=pairs[0].cert, key=pairs[0].key)
    config = configuration(tmp_path, spool=None, handler="own_handler:Handler", tls=tls)
    old, new = ([(one.cert, one.key)] for one in texts_of(*pairs))
    talk.order(config, tls=old)
    await talk.hear("ready")
    assert await asyncio.to_thread(certificate_of, talk.port) == old[0][0].strip()
    talk.channel.send({"tls": new})
    talk.channel.send({"ask": 1, "sessions": 0})
    await talk.hear("answer")
    assert await asyncio.to_thread(certificate_of, talk.port) == new[0][0].strip()


async def test_a_worker_without_numbers_beats(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiosmtpd.runner.numbers.Numbers.snapshot", lambda self: 1 // 0)
    talk.order(with_spool(tmp_path))
    async with asyncio.timeout(PATIENCE):
        assert [await talk.hear("beat") for _ in range(3)] == [{"beat": {}}] * 3
    assert caplog.text.count("The numbers of the worker cannot be read") == 1


async def test_a_worker_survives_a_wrong_message(tmp_path: Path, talk: Talk) -> None:
    talk.order(with_spool(tmp_path))
    await talk.hear("ready")
    talk.channel.send({"tls": "of another version"})
    talk.channel.send({"ask": 1, "sessions": 10})
    async with asyncio.timeout(PATIENCE):
        assert (await talk.hear("answer"))["value"] == []


def certificate_of(port: int) -> str:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Client(port) as client:
        client.hello()
        client.ask(b"STARTTLS", b"220")
        client.start_tls(context, "mx.test")
        assert isinstance(client.socket, ssl.SSLSocket)
        der = client.socket.getpeercert(binary_form=True)
        assert der is not None
        return ssl.DER_cert_to_PEM_cert(der).strip()


def test_all_is_imported_before_root_goes() -> None:
    code = (
        "import sys; from importlib import import_module; import aiosmtpd.runner.worker as worker\n"
        "for name in worker.LOADED_LATE: import_module(name)\n"
        "print(*[name for name in sys.modules if name.startswith('aiosmtpd')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    late = {late for name in loaded for late in imported_in_functions(name)}
    assert late - loaded == set()


def imported_in_functions(name: str) -> Iterator[str]:
    """Name the modules of the package that functions of a module import."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    for function in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiosmtpd"):
                    for alias in node.names:
                        inner = f"{node.module}.{alias.name}"
                        yield inner if has_module(inner) else str(node.module)


def has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
