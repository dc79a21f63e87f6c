"""Kill a server under load: each message that got its 250 is in the store."""

import json
import os
import signal
import smtplib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aiosmtpd.inbox.store import Store
from tests.inbox.support import mail

SERVER = """
import asyncio, sys
from pathlib import Path
from aiosmtpd.inbox.intake import Intake
from aiosmtpd.inbox.store import Store
from aiosmtpd.server import Server

async def main():
    with Store(Path(sys.argv[1])) as store:
        intake = Intake(store)
        async with Server(intake, observers=[intake], hostname="x", extensions="modern") as server:
            print(server.addresses[0][1], flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""
CLIENTS = 4
LEAST = 40
"""Messages of each client before the kill."""

LARGE = mail("\r\n".join(["x" * 76] * 15_000), subject="large")


class Sender(threading.Thread):
    """Sends until the server is gone; *ids* are those of the acknowledged messages."""

    def __init__(self, port: int, large: bool, ready: threading.Semaphore) -> None:
        super().__init__()
        self.port, self.large, self.ready = port, large, ready
        self.ids: list[str] = []

    def run(self) -> None:
        try:
            with smtplib.SMTP("127.0.0.1", self.port) as client:
                while True:
                    number = len(self.ids)
                    client.ehlo_or_helo_if_needed()
                    client.mail("ann@x")
                    client.rcpt("bob@x")
                    is_large = self.large and number % 10 == 5
                    content = LARGE if is_large else mail(f"number{number}", more="X-Tags: a\r\n")
                    code, text = client.data(content)
                    assert code == 250
                    self.ids.append(text.decode().rpartition(" ")[2])
                    if len(self.ids) == LEAST:
                        self.ready.release()
        except (OSError, smtplib.SMTPException):
            pass


@pytest.mark.fleet
@pytest.mark.parametrize("_", range(5))
def test_acknowledged_messages_survive_a_kill(tmp_path: Path, _: int) -> None:
    path = tmp_path / "box.db"
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port, ready = int(process.stdout.readline()), threading.Semaphore(0)
        senders = [Sender(port, number == 0, ready) for number in range(CLIENTS)]
        for sender in senders:
            sender.start()
        for _sender in senders:
            assert ready.acquire(timeout=60)
        os.kill(process.pid, signal.SIGKILL)
        for sender in senders:
            sender.join()
    acknowledged = [id for sender in senders for id in sender.ids]
    with Store(path) as store:
        rows = [json.loads(one) for one in store.summary(limit=100_000).rows]
        stored = {row["ID"] for row in rows}
        assert set(acknowledged) <= stored
        # At most one more of each client was stored and not acknowledged.
        assert len(stored) <= len(acknowledged) + CLIENTS
        assert store.counts().total == len(stored)
        assert store.search("number").matches == sum(row["Subject"] == "Hi" for row in rows)
        for row in rows:
            found = store.message(row["ID"])
            assert found is not None
            assert len(found.raw()) == row["Size"]
