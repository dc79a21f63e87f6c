"""Metrics, health, commands and limits of a real server with workers."""

import json
import re
import smtplib
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from aiosmtpd.cli.ctl import ask
from aiosmtpd.runner.tables import Admin, Drain, LimitsTable, Log
from tests.client import PATIENCE
from tests.delivery.support import until
from tests.runner.fleet import MARKS, Fleet, configuration, kill

pytestmark = MARKS


class Watched(Fleet):
    """A fleet with its doors open."""

    def __init__(self, folder: Path, **keywords: Any) -> None:
        self.ctl = str(folder / "ctl")
        admin = Admin(http="127.0.0.1:0", socket=self.ctl)
        times = keywords.pop("times", {})
        self.config = configuration(folder, admin=admin, **keywords)
        super().__init__(folder, self.config, times=times)
        self.web = re.findall(r"health are at (http://[\d.:]+)", self.log)[0]

    def get(self, page: str) -> str:
        try:
            with urllib.request.urlopen(f"{self.web}{page}", timeout=PATIENCE) as answer:
                return f"{answer.status} {answer.read().decode()}"
        except HTTPError as error:
            return f"{error.code} {error.read().decode()}"

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        value: dict[str, Any] = ask(self.ctl, {"command": command, **fields})["value"]
        return value

    def counters(self) -> dict[str, float]:
        """Return the samples that may never fall."""
        lines = [line.rpartition(" ") for line in self.get("/metrics").splitlines()]
        return {
            name: float(value)
            for name, _, value in lines
            if re.match(r"[a-z_]+(_total|_bucket|_count|_sum)(\{|$)", name)
        }

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE)

    def send(self, number: int) -> None:
        # A worker may be killed meanwhile.
        with suppress(OSError, smtplib.SMTPException), self.client() as client:
            client.sendmail("ann@a.test", [f"m{number}@b.test"], b"Subject: secret\r\n\r\nx\r\n")


class Scrapes:
    """Reads the counters again and again, and notes those that fall."""

    def __init__(self, fleet: Watched) -> None:
        self.fleet = fleet
        self.fallen: list[str] = []
        self.number = 0
        self._before: dict[str, float] = {}

    def scrape(self) -> dict[str, float]:
        now = self.fleet.counters()
        self.number += 1
        self.fallen += [name for name, old in self._before.items() if now.get(name, -1) < old]
        self._before = now
        return now


ACCEPTED = 'aiosmtpd_messages_total{result="accepted"}'
RESTARTS = 'aiosmtpd_worker_restarts_total{reason="%s"}'


def test_counters_never_fall(tmp_path: Path) -> None:
    with Watched(tmp_path, drain=Drain(linger=1.0, grace=1.0)) as fleet:
        scrapes = Scrapes(fleet)
        for number in range(5):
            fleet.send(number)
        until(lambda: scrapes.scrape()[ACCEPTED] == 5)
        fleet.reload()
        scrapes.scrape()
        for number in range(5, 10):
            fleet.send(number)
        until(lambda: scrapes.scrape()[ACCEPTED] == 10)
        for slot in 0, 1:
            pid = fleet.pid_of(slot)
            kill(pid)
            until(lambda slot=slot, pid=pid: fleet.pid_of(slot) != pid)  # type: ignore[misc]
            scrapes.scrape()
        fleet.send(10)
        until(lambda: scrapes.scrape()[ACCEPTED] == 11)
        restarts = {reason: scrapes.scrape()[RESTARTS % reason] for reason in ("crash", "reload")}
    assert scrapes.fallen == []
    assert restarts == {"crash": 2, "reload": 2}
    assert "secret" not in fleet.log


@contextmanager
def held(port: int, number: int) -> Iterator[list[str]]:
    """Open many connections at once; yield the first line that each gets."""
    lines: list[str] = []
    sockets: list[socket.socket] = []
    start = threading.Barrier(number)

    def connect() -> None:
        start.wait()
        line = b""
        # A balancer closes without a word, at times before the connection is known to be made.
        with suppress(ConnectionResetError):
            sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
            sockets.append(sock)
            with sock.makefile("rb") as file:
                line = file.readline()
        lines.append(line.decode())

    threads = [threading.Thread(target=connect) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        yield lines
    finally:
        for sock in sockets:
            sock.close()


def test_a_limit_holds_over_four_workers(tmp_path: Path) -> None:
    limits = LimitsTable(connections_per_host=20)
    with Watched(tmp_path, workers=4, limits=limits) as fleet, held(fleet.port, 200) as lines:
        assert len(lines) == 200
        assert sum(line.startswith("220 ") for line in lines) == 20
        assert sum(line.startswith("421 4.7.0 Too many") for line in lines) == 180
        workers = {one["slot"] for one in fleet.ask("sessions")["sessions"]}
        assert len(workers) > 1
        # The connections of a worker that is killed count no longer.
        slot = workers.pop()
        lost = sum(one["slot"] == slot for one in fleet.ask("sessions")["sessions"])
        pid = fleet.pid_of(slot)
        kill(pid)
        until(lambda: fleet.pid_of(slot) != pid)
        with held(fleet.port, 40) as more:
            assert sum(line.startswith("220 ") for line in more) == lost


def test_the_log_counts_what_a_killed_worker_has_lost(tmp_path: Path) -> None:
    with Watched(tmp_path, workers=1) as fleet, fleet.client(), fleet.client(), fleet.client():
        pid = fleet.pid_of(0)
        kill(pid)
        fleet.says(f"Worker 0 (process {pid}) has ended: SIGKILL; connections lost: 3")


def test_commands_change_the_server(tmp_path: Path) -> None:
    with Watched(tmp_path, log=Log(format="text")) as fleet:
        assert fleet.get("/readyz") == "200 ready\n"
        before = [one["pid"] for one in fleet.ask("status")["workers"]]
        assert fleet.ask("log-level", level="debug") == {"level": "debug", "faults": []}
        fleet.send(0)
        fleet.says("connection.open")
        assert fleet.ask("reload") == {"ok": True, "faults": []}
        status = fleet.ask("status")
        assert not {one["pid"] for one in status["workers"]} & set(before)
        fleet.file.write_text("{")
        assert not fleet.ask("reload")["ok"]
        assert "config_last_reload_successful 0\n" in fleet.get("/metrics")
        assert json.loads(json.dumps(status))["state"] == "ready"
        fleet.ask("drain")
        assert fleet.process.wait(PATIENCE) == 0
    assert not Path(fleet.ctl).exists()


def test_a_second_reload_gets_an_answer_of_its_own(tmp_path: Path) -> None:
    with Watched(tmp_path) as fleet, ThreadPoolExecutor(1) as pool:
        first = pool.submit(fleet.ask, "reload")
        until(lambda: fleet.log.count("Worker 0 is ready") == 2)
        # The reload that runs has read the file before.
        fleet.file.write_text("{")
        assert not fleet.ask("reload")["ok"]
        assert first.result() == {"ok": True, "faults": []}


def test_a_balancer_hears_of_the_end_first(tmp_path: Path) -> None:
    with Watched(tmp_path, drain=Drain(delay=30.0)) as fleet:
        fleet.ask("drain")
        until(lambda: fleet.get("/readyz?verbose") == "503 not ready\nthe server ends\n")
        with fleet.client() as client:
            assert client.noop()[0] == 250
        fleet.ask("drain")
        assert fleet.process.wait(PATIENCE) == 0
