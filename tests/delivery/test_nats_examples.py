"""The examples of docs/howto/nats, as the page shows them."""

import asyncio
import importlib
import os
import signal
import smtplib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from aiosmtpd.controller import Controller
from aiosmtpd.delivery import Delivery, Route
from tests.delivery.nats_support import SERVERS, NatsServer, running

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NatsServer]:
    with running(request.param, tmp_path) as server:
        monkeypatch.setenv("MAIL_URL", server.url)
        yield server


async def program(name: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def make_stream() -> None:
    made = await program("nats_stream.py")
    _, errors = await made.communicate()
    assert (made.returncode, errors) == (0, b"")


def send(*subjects: str, folder: Path, url: str) -> None:
    """Send mail through a server that hands it to NATS."""
    handler = Delivery(folder / "spool", [Route(url, name="app", fsync=True, mode="direct")])
    with (
        Controller(handler, port=0) as controller,
        smtplib.SMTP(controller.hostname, controller.port) as client,
    ):
        for subject in subjects:
            text = f"{subject}\r\n\r\nHello\r\n"
            client.sendmail("anna@example.org", ["bob@example.com"], text)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
async def test_the_worker(server: NatsServer, tmp_path: Path, ending: signal.Signals) -> None:
    await make_stream()
    worker = await program("worker.py")
    assert worker.stdout is not None
    subjects = ("Subject: one", "X-Other: no subject", "Subject: two")
    await asyncio.to_thread(send, *subjects, folder=tmp_path, url=server.url)
    lines = {(await worker.stdout.readline()).decode().split(": ")[1] for _ in range(2)}
    assert lines == {"one\n", "two\n"}
    for _ in range(500):
        if await server.stored("mail.in.dead"):
            break
        await asyncio.sleep(0.01)
    worker.send_signal(ending)
    begin = time.monotonic()
    _, errors = await worker.communicate()
    assert worker.returncode == 0
    assert time.monotonic() - begin < 5
    assert errors.decode().splitlines()[0].endswith("Never('554 5.6.0 A ticket needs a subject')")
    assert len(errors.splitlines()) == 1
    assert len(await server.stored(">")) == 1


async def test_the_worker_says_what_is_wrong(server: NatsServer) -> None:
    worker = await program("worker.py")
    _, errors = await worker.communicate()
    assert worker.returncode == 1
    assert errors.startswith(b"worker: ")
    assert len(errors.splitlines()) == 1


async def test_the_fastapi_application(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_stream()
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("tickets_app", None)
    app = importlib.import_module("tickets_app").app

    def use() -> list[str]:
        with TestClient(app) as client:
            send("Subject: one", "Subject: two", folder=tmp_path, url=server.url)
            found: dict[str, str] = {}
            while len(found) < 2:
                found = client.get("/tickets").json()
                time.sleep(0.01)
        return sorted(found.values())

    assert await asyncio.to_thread(use) == ["one", "two"]
    assert await server.stored(">") == []
