"""kill -9 of the whole server under load: no acknowledged message is lost, few come twice."""

import hashlib
import os
import random
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aiosmtpd.delivery import Spool
from aiosmtpd.delivery.backlog import Backlog, Selection
from tests.client import PATIENCE
from tests.delivery.support import until
from tests.net.program import Program
from tests.net.support import free_port

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX"),
]

KILLS = int(os.environ.get("AIOSMTPD_KILLS", "5"))
BETWEEN = int(os.environ.get("AIOSMTPD_KILL_AFTER", "500"))
"""Messages between two kills; a run by hand has more."""
SENDERS = 6

SINK = """
import hashlib, os
FILE = os.open(os.environ["SINK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
async def take(mail):
    body = mail.octets.partition(b"\\r\\n\\r\\n")[2]
    name = mail.recipients[0].partition("@")[0]
    os.write(FILE, f"{name} {hashlib.sha256(body).hexdigest()}\\n".encode())
"""


def body_of(name: str) -> bytes:
    """Return the body of a message: every fiftieth one is large."""
    size = 5000 if int(name.rpartition("-")[2]) % 50 else 4600 * 64
    return (hashlib.sha256(name.encode()).hexdigest().encode() + b"\r\n") * (size // 66)


class Sender(threading.Thread):
    """Sends messages one after another, each until it is acknowledged, as mail servers do."""

    def __init__(self, number: int, port: int) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.port = port
        self.acknowledged: list[str] = []
        self.ending = threading.Event()
        self.refusals: list[str] = []

    def run(self) -> None:
        count = 0
        while not self.ending.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE) as client:
                    while not self.ending.is_set():
                        name = f"{self.number}-{count}"
                        message = b"Subject: x\r\n\r\n" + body_of(name)
                        client.sendmail("a@b.test", [f"{name}@c.test"], message)
                        self.acknowledged.append(name)
                        count += 1
            except (smtplib.SMTPServerDisconnected, ConnectionError):
                self.ending.wait(0.01)
            except smtplib.SMTPException as error:
                self.refusals.append(repr(error))
                return


@contextmanager
def served(folder: Path, port: int) -> Iterator[Program]:
    (folder / "sink.py").write_text(SINK)
    options = ("-n", "-l", f"127.0.0.1:{port}", "--spool", "spool", "--deliver", "python:sink:take")
    environment = {**os.environ, "SINK": str(folder / "got")}
    with Program(*options, "--ready-file", "ready", cwd=folder, env=environment) as program:
        until((folder / "ready").exists)
        yield program


def delivered(folder: Path) -> list[str]:
    got = folder / "got"
    return got.read_text().splitlines() if got.exists() else []


def stored(folder: Path) -> set[str]:
    """Return the names of the messages that wait in the spool."""
    with closing(Backlog(str(folder / "spool"))) as backlog:
        return {one.recipients[0].partition("@")[0] for one in backlog.deliveries(Selection())}


def total(senders: list[Sender]) -> int:
    return sum(len(sender.acknowledged) for sender in senders)


def test_kill_9_under_load_loses_nothing(tmp_path: Path) -> None:
    port = free_port()
    senders = [Sender(number, port) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for _ in range(KILLS):
        with served(tmp_path, port) as program:
            enough = total(senders) + BETWEEN
            until(lambda enough=enough: total(senders) > enough)  # type: ignore[misc]
            time.sleep(random.uniform(0, 0.2))
            program.process.kill()
            program.process.wait()
        (tmp_path / "ready").unlink()
    acknowledged: set[str] = set()
    with served(tmp_path, port) as program:
        for sender in senders:
            sender.ending.set()
            sender.join(PATIENCE)
            acknowledged.update(sender.acknowledged)
            assert not sender.refusals
        # An acknowledged message that is lost never comes. A kill may have left others, too.
        wanted = acknowledged | stored(tmp_path)
        until(lambda: wanted <= {line.partition(" ")[0] for line in delivered(tmp_path)})
        program.end()
    copies = Counter(line.partition(" ")[0] for line in delivered(tmp_path))
    for line in delivered(tmp_path):
        name, _, digest = line.partition(" ")
        assert digest == hashlib.sha256(body_of(name)).hexdigest(), "torn"
    twice = sum(copies.values()) - len(copies)
    print(f"{len(acknowledged)} acknowledged, 0 lost, {twice} twice, {KILLS} kills")
    assert len(acknowledged) > 100
    assert twice <= 0.01 * len(acknowledged)
    # Files of messages that were never acknowledged are removed an hour later.
    large = tmp_path / "spool" / "large"
    for file in large.iterdir():
        os.utime(file, (0, 0))
    spool = Spool(tmp_path / "spool")
    spool.open()
    # A try that a kill has ended waits for its next time, also if its message has come.
    left = spool.due(time.time() + 86400, 1000).result()
    assert {job.item.recipients[0].partition("@")[0] for job in left} <= copies.keys()
    spool.close()
    assert {file.name for file in large.iterdir()} <= {job.item.id for job in left}
