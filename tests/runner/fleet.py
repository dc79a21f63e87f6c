"""A master with workers as processes, and clients that note what happens to each message."""

import json
import os
import re
import signal
import smtplib
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from aiosmtpd.runner.config import Config, parse_place
from aiosmtpd.runner.tables import Admin, Drain, Log, RouteTable, SpoolTable
from tests.client import PATIENCE, Client
from tests.delivery.support import until
from tests.net.program import environment

MARKS = [
    pytest.mark.fleet,
    pytest.mark.skipif(sys.platform == "win32", reason="workers are processes of POSIX"),
]

SERVING = ("-P", "-m", "tests.runner.serving")

SINK = """
import os
FILE = os.open(os.environ["SINK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
async def take(mail):
    os.write(FILE, mail.recipients[0].partition("@")[0].encode() + b"\\n")
"""


def configuration(folder: Path, **keywords: Any) -> Config:
    """Return a configuration: two workers, a spool, and a route to a function that notes names."""
    base: dict[str, Any] = {
        "listen": (parse_place("smtp://127.0.0.1:0"),),
        "workers": 2,
        "user": "root" if os.geteuid() == 0 else None,
        "hostname": "mx.test",
        "spool": SpoolTable(path=str(folder / "spool"), min_free=0),
        "route": (RouteTable(to="python:sink:take", name="sink"),),
        "drain": Drain(linger=2.0, grace=2.0),
        "admin": Admin(),
        "log": Log(format="text"),
        "source": str(folder / "aiosmtpd.json"),
    }
    return Config(**{**base, **keywords})


class Fleet:
    """A master that serves a configuration; :meth:`end` or the `with` ends it."""

    def __init__(
        self, folder: Path, config: Config | None = None, *, wait: bool = True, **keywords: Any
    ) -> None:
        self.folder = folder
        self.file = folder / "aiosmtpd.json"
        self.log_file = folder / "log"
        self.sink = folder / "got"
        if not (folder / "sink.py").exists():
            (folder / "sink.py").write_text(SINK)
        self.configure(config or configuration(folder))
        times = json.dumps(keywords.pop("times", {}))
        before = keywords.pop("before", ())
        env = environment(SINK=str(self.sink), **keywords.pop("variables", {}))
        self._skipped = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *before, *SERVING, str(self.file), times],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=env,
                **keywords,
            )
        self._watchdog = threading.Timer(3 * PATIENCE, self.process.kill)
        self._watchdog.start()
        if wait:
            try:
                self.listens()
            except BaseException:
                self.__exit__()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        left = [self.process.pid, *self.worker_pids()]
        self.process.kill()
        self.process.wait()
        for pid in left[1:]:
            kill(pid)
        self._watchdog.join()

    def configure(self, config: Config) -> None:
        """Write the configuration that the next start or reload reads."""
        self.file.write_text(config.to_json())

    @property
    def log(self) -> str:
        """The log of this master and its workers so far."""
        return self.log_file.read_bytes()[self._skipped :].decode()

    def says(self, text: str, times: int = 1) -> None:
        """Wait until the log has a text so many times."""
        until(lambda: self.log.count(text) >= times or self._is_over(text))
        assert text in self.log, self.log

    def _is_over(self, text: str) -> bool:
        return self.process.poll() is not None and text not in self.log

    def listens(self) -> None:
        """Wait until it serves, and read the address."""
        text = "Server is listening on "
        # Three processes start: this takes long if the machine has much to do.
        with suppress(AssertionError):
            until(lambda: text in self.log or self._is_over(text))
        self.says(text)
        where = self.log.partition("Server is listening on ")[2].partition("\n")[0]
        self.addresses = where.split(" and ")
        port = self.addresses[0].rpartition(":")[2]
        self.port = int(port) if port.isdecimal() else 0

    def worker_pids(self) -> list[int]:
        """Return the processes of all workers that live."""
        known = {int(pid) for pid in re.findall(r"is ready \(process (\d+)\)", self.log)}
        return sorted(pid for pid in known if is_alive(pid))

    def pid_of(self, slot: int) -> int:
        """Return the process of the newest worker of a slot."""
        return int(re.findall(rf"Worker {slot} is ready \(process (\d+)\)", self.log)[-1])

    def reload(self, config: Config | None = None) -> None:
        """Reload, with another configuration if there is one, and wait until that is over."""
        if config is not None:
            self.configure(config)
        before = self.log.count("Reloaded: ")
        self.process.send_signal(signal.SIGHUP)
        self.says("Reloaded: ", before + 1)

    def delivered(self) -> Counter[str]:
        """Return how often each message has arrived at the function."""
        return Counter(self.sink.read_text().split() if self.sink.exists() else ())

    def ended(self) -> int:
        return self.process.wait(PATIENCE)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.ended()


def is_alive(pid: int) -> bool:
    """Return True if a process lives and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Sender(threading.Thread):
    """Sends messages, each over a connection of its own, until it is acknowledged."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(daemon=True)
        self.prefix = name
        self.port = port
        self.acknowledged: set[str] = set()
        self.disturbed: list[str] = []
        self.ending = threading.Event()

    def run(self) -> None:
        count = 0
        while not self.ending.is_set():
            name = f"{self.prefix}-{count}"
            try:
                with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE) as client:
                    client.sendmail("a@b.test", [f"{name}@c.test"], b"Subject: x\r\n\r\nbody\r\n")
                    self.acknowledged.add(name)
                    count += 1
            except (OSError, smtplib.SMTPException) as error:
                if name not in self.acknowledged:
                    self.disturbed.append(repr(error))
                self.ending.wait(0.01)


class Load:
    """Several senders at once."""

    def __init__(self, port: int, senders: int = 6) -> None:
        self.senders = [Sender(str(number), port) for number in range(senders)]

    def __enter__(self) -> Self:
        for sender in self.senders:
            sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for sender in self.senders:
            sender.ending.set()
        for sender in self.senders:
            sender.join(PATIENCE)

    @property
    def acknowledged(self) -> set[str]:
        return set().union(*(sender.acknowledged for sender in self.senders))

    @property
    def disturbed(self) -> list[str]:
        return [one for sender in self.senders for one in sender.disturbed]

    def more(self, count: int = 50) -> None:
        """Wait until so many more messages are acknowledged."""
        enough = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= enough)


def send(port: int, name: str) -> bytes:
    """Send one message; return the reply to its data."""
    with Client(port) as client:
        client.hello()
        client.begin(recipient=f"{name}@c.test".encode())
        client.ask(b"DATA", b"354")
        reply = client.ask(b"Subject: x\r\n\r\nbody\r\n.")
        client.ask(b"QUIT", b"221")
    return reply


def greeted(port: int, count: int) -> list[Client]:
    """Open connections, each greeted by a worker."""
    return [Client(port) for _ in range(count)]
