"""Kills of workers and of the master, and workers that hang: nothing acknowledged is lost."""

import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import attrs
import pytest

from aiosmtpd.runner.config import parse_place
from aiosmtpd.runner.control import Channel, descriptor_pair
from aiosmtpd.runner.tables import Drain
from tests.client import PATIENCE, Client
from tests.delivery.support import until
from tests.net.program import ROOT_ONLY, environment
from tests.net.support import free_port
from tests.runner.fleet import (
    MARKS,
    Fleet,
    Load,
    configuration,
    greeted,
    is_alive,
    kill,
    send,
)

pytestmark = MARKS


def test_kills_of_workers_lose_nothing(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet, Load(fleet.port) as load:
        for number in range(3):
            load.more(30)
            victim = fleet.pid_of(number % 2)
            kill(victim)
            until(lambda slot=number % 2, old=victim: fleet.pid_of(slot) != old)  # type: ignore[misc]
        load.more()
        load.stop()
        until(lambda: load.acknowledged <= fleet.delivered().keys())
        assert fleet.end() == 0
    assert fleet.log.count("has ended: SIGKILL") == 3


def test_connections_that_wait_survive_a_kill(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    with Fleet(tmp_path, config) as fleet:
        victim = fleet.pid_of(0)
        kill(victim, signal.SIGSTOP)
        waiting = [Client(fleet.port, greet=False) for _ in range(10)]
        kill(victim)
        for client in waiting:
            client.expect(b"220 ")
            client.close()


def test_a_killed_master_leaves_no_worker(tmp_path: Path) -> None:
    port = free_port()
    config = configuration(tmp_path, listen=(parse_place(f"smtp://127.0.0.1:{port}"),))
    acknowledged: set[str] = set()
    with Load(port, 4) as load:
        for _ in range(2):
            with Fleet(tmp_path, config) as fleet:
                workers = fleet.worker_pids()
                load.more(40)
                fleet.process.kill()
                fleet.process.wait()
                began = time.monotonic()
                until(lambda workers=workers: not any(map(is_alive, workers)))  # type: ignore[misc]
                assert time.monotonic() - began < 8
        with Fleet(tmp_path, config) as fleet:
            load.more(20)
            load.stop()
            acknowledged = load.acknowledged
            until(lambda: acknowledged <= fleet.delivered().keys())


def test_a_new_master_starts_beside_old_workers(tmp_path: Path) -> None:
    port = free_port()
    config = configuration(tmp_path, listen=(parse_place(f"smtp://127.0.0.1:{port}"),))
    with Fleet(tmp_path, config) as first, Client(port) as client:
        client.transaction()
        first.process.kill()
        first.process.wait()
        with Fleet(tmp_path, config) as second:
            assert send(port, "two").startswith(b"250")
            until(lambda: second.delivered()["two"] == 1)


def test_a_slow_delivery_does_not_keep_an_orphan(tmp_path: Path) -> None:
    (tmp_path / "sink.py").write_text(SLOW)
    config = configuration(tmp_path, drain=Drain(linger=10.0, grace=30.0))
    with Fleet(tmp_path, config) as fleet:
        assert send(fleet.port, "x").startswith(b"250")
        until((tmp_path / "got").exists)
        workers = fleet.worker_pids()
        fleet.process.kill()
        fleet.process.wait()
        began = time.monotonic()
        until(lambda: not any(map(is_alive, workers)))
        assert time.monotonic() - began < 8


SLOW = """
import asyncio, os
async def take(mail):
    open(os.environ["SINK"], "w").close()
    await asyncio.sleep(60)
"""


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with Fleet(tmp_path, times={"beat": 2.0, "abort": 0.2}) as fleet:
        victim = fleet.pid_of(1)
        kill(victim, signal.SIGSTOP)
        fleet.says(f"Worker 1 (process {victim}) hangs: no heartbeat for 2 s")
        until(lambda: fleet.pid_of(1) != victim)
        for client in greeted(fleet.port, 20):
            client.close()
        assert not is_alive(victim)


def test_a_blocked_loop_says_where_it_hangs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BLOCKING)
    config = configuration(tmp_path, spool=None, handler="mine:Handler", workers=1)
    with Fleet(tmp_path, config, times={"beat": 2.0}) as fleet:
        with Client(fleet.port) as client:
            client.transaction()
            client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n")
            fleet.says("Fatal Python error: Aborted")
        fleet.says("Worker 0 is ready", 2)
        assert "in handle_DATA" in fleet.log


BLOCKING = """
import time
class Handler:
    async def handle_DATA(self, server, session, envelope):
        time.sleep(60)
"""


def test_a_stopped_master_does_not_kill(tmp_path: Path) -> None:
    with Fleet(tmp_path, times={"beat": 1.0}) as fleet:
        before = fleet.worker_pids()
        fleet.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        fleet.process.send_signal(signal.SIGCONT)
        fleet.reload()
        assert "hangs" not in fleet.log
        assert not set(before) & {fleet.pid_of(0), fleet.pid_of(1)}


def test_a_worker_that_ends_soon_starts_with_pauses(tmp_path: Path) -> None:
    with Fleet(tmp_path, configuration(tmp_path, workers=1)) as fleet:
        for count in range(1, 3):
            fleet.says("Worker 0 is ready", count)
            kill(fleet.pid_of(0))
        began = time.monotonic()
        fleet.says("Worker 0 is ready", 3)
        assert time.monotonic() - began > 0.8


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, days: int) -> None:
    (tmp_path / "sink.py").write_text(JUMPING)
    variables = {"JUMP": str(days * 86400)}
    with Fleet(tmp_path, variables=variables, times={"beat": 2.0}) as fleet:
        workers = fleet.worker_pids()
        names = {f"m{number}" for number in range(8)}
        for name in sorted(names):
            assert send(fleet.port, name).startswith(b"250")
            until(lambda name=name: fleet.delivered()[name] == 1)  # type: ignore[misc]
        fleet.reload()
        assert send(fleet.port, "last").startswith(b"250")
        until(lambda: fleet.delivered() == dict.fromkeys([*names, "last"], 1))
        assert "hangs" not in fleet.log
        assert not set(workers) & {fleet.pid_of(0), fleet.pid_of(1)}


JUMPING = """
import os, time
FILE = os.open(os.environ["SINK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
before, jumped = time.time, []
time.time = lambda: before() + sum(jumped)
from aiosmtpd.delivery.courier import Courier
# The default was taken from the module before.
Courier.__init__.__kwdefaults__["clock"] = time.time
async def take(mail):
    jumped[:] = [float(os.environ["JUMP"])]
    os.write(FILE, mail.recipients[0].partition("@")[0].encode() + b"\\n")
"""


def test_the_user_signals_change_nothing(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        before = fleet.worker_pids()
        for number in signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH:
            for pid in fleet.process.pid, *before:
                os.kill(pid, number)
        for pid in before:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert send(fleet.port, "x").startswith(b"250")
        assert fleet.worker_pids() == before
        assert fleet.end() == 0


HANGING = """
import os, time
with open(os.environ["SINK"], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


async def test_an_orphan_that_hangs_at_its_start_ends(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGING)
    config = configuration(tmp_path, spool=None, handler="hangs:Handler", user=None)
    ours, theirs = descriptor_pair()
    with theirs:
        command = [sys.executable, "-P", "-m", "aiosmtpd.runner.worker", str(theirs.fileno())]
        env = environment(SINK=str(tmp_path / "pid"))
        worker = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()], env=env)
    master = await Channel.of(ours)
    order = {"config": config.to_json(), "slot": 0, "workers": 1, "sockets": [], "tls": []}
    master.send({**order, "identity": None, "patience": 1.0})
    try:
        await asyncio.to_thread(until, (tmp_path / "pid").exists)
        master.close()
        async with asyncio.timeout(PATIENCE):
            assert await worker.wait() == 1
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


LEAKING = """
import os, subprocess
def take(mail):
    subprocess.run("ls -l /proc/self/fd >leaked", shell=True, close_fds=False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux shows descriptors in /proc")
def test_programs_inherit_no_socket(tmp_path: Path) -> None:
    (tmp_path / "leaking.py").write_text(LEAKING + "take(None)\n")
    config = configuration(tmp_path, spool=None, handler="leaking:take")
    with Fleet(tmp_path, config, cwd=tmp_path) as fleet:
        leaked = (tmp_path / "leaked").read_text()
        assert "pipe:" in leaked or "/dev/null" in leaked
        assert "socket:" not in leaked
        assert "memfd:" not in leaked
        assert fleet.end() == 0


def few_descriptors() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))


def test_a_worker_without_descriptors_goes_on(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    limits = attrs.evolve(config.limits, connections=0, connections_per_host=0)
    config = attrs.evolve(config, limits=limits)
    with Fleet(tmp_path, config, preexec_fn=few_descriptors) as fleet:
        before = fleet.worker_pids()
        crowd = [Client(fleet.port, greet=False) for _ in range(80)]
        fleet.says("Connections wait, none can be accepted")
        for client in crowd[:60]:
            client.expect(b"220 ") if client is crowd[0] else None
            client.close()
        for client in crowd[60:]:
            client.expect(b"220 ")
            client.close()
        assert fleet.worker_pids() == before


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has groups of sockets")
def test_the_kernel_divides_the_connections(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        clients = greeted(fleet.port, 40)
        open_files = [len(os.listdir(f"/proc/{pid}/fd")) for pid in fleet.worker_pids()]
        assert min(open_files) > 20
        for client in clients:
            client.close()


ORPHANING = """
import os, subprocess
async def take(mail):
    name = mail.recipients[0].partition("@")[0]
    # Its parent ends first.
    subprocess.run(["sh", "-c", f"(sleep 0.1; echo {name} >> {os.environ['SINK']}) &"])
"""


@ROOT_ONLY
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_the_first_process_reaps_orphans(tmp_path: Path) -> None:
    (tmp_path / "sink.py").write_text(ORPHANING)
    launch = ("-c", UNSHARE)
    config = configuration(tmp_path, workers=1)
    with Fleet(tmp_path, config, before=launch, times={"orphans": 0.1}) as fleet:
        assert send(fleet.port, "x").startswith(b"250")
        until(lambda: fleet.delivered()["x"] == 1)
        (master,) = (
            Path(f"/proc/{fleet.process.pid}/task/{fleet.process.pid}/children").read_text().split()
        )
        children = Path(f"/proc/{master}/task/{master}/children")
        until(lambda: len(children.read_text().split()) == 1)
        kill(int(master), signal.SIGTERM)
        assert fleet.ended() == 0


UNSHARE = """
import os, sys
os.execvp("unshare", ["unshare", "--fork", "--pid", sys.executable, *sys.argv[1:]])
"""
