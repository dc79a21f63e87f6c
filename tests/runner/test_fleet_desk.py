"""The desk of a real server: its rights, its end, and what it cannot do to the master."""

import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from aiosmtpd.cli.ctl import NoServer
from aiosmtpd.runner.tables import Admin
from tests.client import PATIENCE
from tests.delivery.support import until
from tests.runner.fleet import MARKS, is_alive, kill, send
from tests.runner.test_fleet_watch import Watched

pytestmark = MARKS

AS_ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes another user"
)


def desk_of(fleet: Watched) -> int:
    """Return the process of the newest desk."""
    fleet.says("The desk is ready")
    return int(re.findall(r"The desk is ready \(process (\d+)\)", fleet.log)[-1])


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def fleet(open_path: Path) -> Iterator[Watched]:
    with Watched(open_path) as one:
        yield one


@AS_ROOT
@pytest.mark.parametrize("user", ["mail", "root"])
def test_the_desk_has_no_rights(open_path: Path, user: str) -> None:
    import pwd

    # The function of the route writes there.
    open_path.chmod(0o777)
    with Watched(open_path, user=user) as fleet:
        status = status_of(desk_of(fleet))
        wanted = pwd.getpwnam("nobody" if user == "root" else user)
        assert status["Uid"].split() == [str(wanted.pw_uid)] * 4
        assert status["Gid"].split() == [str(wanted.pw_gid)] * 4
        assert status["Groups"] == ""
        assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
        # The socket is root's: the users of the workers and of the desk cannot ask.
        found = os.stat(fleet.ctl)
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)
        probe = f"import socket; socket.socket(socket.AF_UNIX).connect({fleet.ctl!r})"
        run = subprocess.run(
            ["python3", "-c", probe], user=wanted.pw_uid, group=wanted.pw_gid, capture_output=True
        )
        assert b"PermissionError" in run.stderr
        assert fleet.ask("status")["state"] == "ready"


def test_a_desk_that_is_killed_is_started_again(fleet: Watched) -> None:
    first = desk_of(fleet)
    kill(first)
    # This client waits until the next one serves.
    assert fleet.get("/healthz") == "200 ok\n"
    assert fleet.ask("status")["desk"]["restarts"] == 1
    assert desk_of(fleet) != first
    assert f"The desk (process {first}) has ended: SIGKILL" in fleet.log


def test_a_desk_that_is_stopped_stops_nothing(fleet: Watched) -> None:
    pid = desk_of(fleet)
    kill(pid, signal.SIGSTOP)
    assert send(fleet.port, "x").startswith(b"250")
    fleet.reload()
    assert fleet.get("/readyz") == "200 ready\n"
    # The one before it is killed after its time.
    assert fleet.end() == 0
    until(lambda: not is_alive(pid))


def test_a_desk_that_hangs_is_replaced(open_path: Path) -> None:
    with Watched(open_path, times={"beat": 3.0, "abort": 0.2}) as fleet:
        pid = desk_of(fleet)
        kill(pid, signal.SIGSTOP)
        fleet.says(f"The desk (process {pid}) hangs: no heartbeat for 3 s")
        fleet.says("The desk is ready", 2)
        assert fleet.ask("status")["desk"]["restarts"] == 1


def test_the_desk_ends_with_its_master(fleet: Watched) -> None:
    pid = desk_of(fleet)
    kill(fleet.process.pid)
    until(lambda: not is_alive(pid))


def test_a_flood_at_the_desk_does_not_reach_the_master(fleet: Watched) -> None:
    host, _, port = fleet.web.removeprefix("http://").rpartition(":")
    with ExitStack() as stack:
        for _ in range(200):
            client = socket.create_connection((host, int(port)), PATIENCE)
            stack.enter_context(client)
        for _ in range(40):
            client = socket.socket(socket.AF_UNIX)
            stack.enter_context(client)
            client.connect(fleet.ctl)
        assert send(fleet.port, "x").startswith(b"250")
        fleet.reload()
        # The clients are not the next desk's.
        until(lambda: answers(fleet))


def answers(fleet: Watched) -> bool:
    try:
        ready = fleet.ask("status")["state"] == "ready"
        return ready and fleet.get("/readyz") == "200 ready\n"
    except (OSError, NoServer):
        return False


def test_a_reload_changes_the_places(fleet: Watched, open_path: Path) -> None:
    before, old = fleet.web, fleet.ctl
    config = fleet.config
    other = str(open_path / "other")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        fleet.configure(attrs.evolve(config, admin=Admin(http=place, socket=other)))
        answer = fleet.ask("reload")
        assert not answer["ok"]
        assert f"Cannot listen at {place}" in answer["faults"][0]
        assert fleet.get("/healthz") == "200 ok\n"
        assert not Path(other).exists()
    fleet.configure(attrs.evolve(config, admin=Admin(http=place, socket=other)))
    assert fleet.ask("reload") == {"ok": True, "faults": []}
    fleet.ctl, fleet.web = other, f"http://{place}"
    assert fleet.get("/healthz") == "200 ok\n"
    assert fleet.ask("status")["state"] == "ready"
    assert not Path(old).exists()
    host, _, port = before.removeprefix("http://").rpartition(":")
    until(lambda: refuses(host, int(port)))


def refuses(host: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) != 0


def test_a_reload_ends_and_starts_the_desk(fleet: Watched) -> None:
    config, pid = fleet.config, desk_of(fleet)
    fleet.reload(attrs.evolve(config, admin=Admin()))
    until(lambda: not is_alive(pid))
    assert not Path(fleet.ctl).exists()
    fleet.reload(config)
    assert fleet.ask("status")["state"] == "ready"
    assert desk_of(fleet) != pid
