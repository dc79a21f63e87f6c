"""Starts that fail, and ends: each accepted message is answered and kept."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import attrs
import pytest

from aiosmtpd.delivery import Arrival, Spool
from aiosmtpd.runner.config import parse_place
from aiosmtpd.runner.tables import Drain, SpoolTable
from tests.client import PATIENCE, Client
from tests.delivery.spooling import put
from tests.delivery.support import until
from tests.net.program import ROOT_ONLY
from tests.net.support import free_port
from tests.runner.fleet import MARKS, Fleet, Load, configuration, greeted, send

pytestmark = MARKS


def stops_listening(port: int) -> bool:
    try:
        Client(port, greet=False).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_under_load_answers_all(tmp_path: Path, number: int) -> None:
    with Fleet(tmp_path) as fleet, Load(fleet.port) as load:
        load.more(100)
        assert fleet.end(number) == 0
        load.stop()
        assert not fleet.worker_pids()
        assert not [one for one in load.disturbed if "421" in one or "closed" in one]
    with Fleet(tmp_path) as fleet:
        until(lambda: load.acknowledged <= fleet.delivered().keys())


def test_a_transaction_ends_before_its_worker(tmp_path: Path) -> None:
    config = configuration(tmp_path, drain=Drain(linger=0.2, grace=5.0))
    with Fleet(tmp_path, config) as fleet, Client(fleet.port) as client, Client(fleet.port) as idle:
        client.transaction()
        idle.hello()
        fleet.process.send_signal(signal.SIGTERM)
        idle.expect(b"421")
        until(lambda: stops_listening(fleet.port))
        client.ask(b"Subject: x\r\n\r\nbody\r\n.", b"250")
        assert fleet.ended() == 0


HALF = """
import os, time
class Handler:
    handle_DATA = None
try:
    os.close(os.open("first", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    while not os.path.exists("go"):
        time.sleep(0.01)
    raise ValueError("the second fails")
"""
"""A handler that serves in the first worker, and fails in the second one when a test says so."""


def half_started(folder: Path) -> tuple[Fleet, Client]:
    """Return a server with one worker of two, and a client of it within a transaction."""
    (folder / "half.py").write_text(HALF)
    port = free_port()
    config = configuration(
        folder,
        listen=(parse_place(f"127.0.0.1:{port}"),),
        spool=None,
        route=(),
        handler="half:Handler",
        drain=Drain(linger=30.0, grace=30.0),
    )
    fleet = Fleet(folder, config, wait=False, cwd=folder)
    fleet.says("is ready (process")
    client = Client(port)
    client.transaction()
    (folder / "go").touch()
    fleet.says("The start has failed: handler: cannot import half:Handler")
    return fleet, client


def test_a_failed_start_lets_transactions_end(tmp_path: Path) -> None:
    fleet, client = half_started(tmp_path)
    with fleet, client:
        assert client.ask(b"Subject: x\r\n\r\nbody\r\n.").startswith(b"250")
        client.ask(b"QUIT", b"221")
        assert fleet.ended() == 1
        assert fleet.log.splitlines()[-1].startswith("handler: cannot import half:Handler")


def test_a_signal_ends_a_failed_start_now(tmp_path: Path) -> None:
    fleet, client = half_started(tmp_path)
    with fleet, client:
        assert fleet.end() == 1
        assert b"250" not in client.rest()


def test_a_second_signal_ends_now(tmp_path: Path) -> None:
    config = configuration(tmp_path, drain=Drain(linger=60.0, grace=60.0))
    with Fleet(tmp_path, config) as fleet, Client(fleet.port) as client:
        client.transaction()
        fleet.process.send_signal(signal.SIGINT)
        until(lambda: stops_listening(fleet.port))
        assert fleet.end(signal.SIGINT) == 0
        assert not fleet.worker_pids()


def test_a_delay_serves_new_clients(tmp_path: Path) -> None:
    config = configuration(tmp_path, drain=Drain(delay=1.0, linger=1.0))
    with Fleet(tmp_path, config) as fleet:
        began = time.monotonic()
        fleet.process.send_signal(signal.SIGTERM)
        assert send(fleet.port, "late").startswith(b"250")
        assert fleet.ended() == 0
        assert time.monotonic() - began >= 0.9


def test_clients_that_wait_at_the_end_are_served(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    with Fleet(tmp_path, config) as fleet:
        worker = fleet.pid_of(0)
        os.kill(worker, signal.SIGSTOP)
        waiting = [Client(fleet.port, greet=False) for _ in range(20)]
        fleet.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        os.kill(worker, signal.SIGCONT)
        for client in waiting:
            client.expect(b"220 ")
            client.ask(b"QUIT", b"221")
            client.close()
        assert fleet.ended() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has filters of sockets")
def test_no_client_comes_between_the_last_accept_and_the_close(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=1)
    with Fleet(tmp_path, config) as fleet:
        worker = fleet.pid_of(0)
        os.kill(worker, signal.SIGSTOP)
        waiting: list[Client] = []

        def is_unanswered() -> bool:
            try:
                waiting.append(Client(fleet.port, greet=False, patience=0.5))
            except TimeoutError:
                return True
            return False

        fleet.process.send_signal(signal.SIGTERM)
        until(is_unanswered)
        os.kill(worker, signal.SIGCONT)
        for client in waiting:
            client.socket.settimeout(PATIENCE)
            client.expect(b"220 ")
            client.close()
        with pytest.raises(ConnectionRefusedError):
            Client(fleet.port, greet=False)
        assert fleet.ended() == 0


def test_a_start_that_fails_is_one_line(tmp_path: Path) -> None:
    config = configuration(tmp_path, spool=None, handler="missing:Handler")
    with Fleet(tmp_path, config, wait=False) as fleet:
        assert fleet.ended() == 2
        assert fleet.log.splitlines()[-1] == (
            "handler: cannot import missing:Handler: ModuleNotFoundError: No module named 'missing'"
            "; put missing.py beside the configuration, or install it"
        )
        assert not fleet.worker_pids()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = parse_place(f"smtp://127.0.0.1:{taken.getsockname()[1]}")
        with Fleet(tmp_path, configuration(tmp_path, listen=(place,)), wait=False) as fleet:
            assert fleet.ended() == 1
            assert len(fleet.log.splitlines()) == 1
            assert "address already in use" in fleet.log


def test_two_masters_do_not_share_a_port(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    with Fleet(tmp_path) as first:
        place = parse_place(f"smtp://127.0.0.1:{first.port}")
        config = configuration(tmp_path / "two", listen=(place,))
        with Fleet(tmp_path / "two", config, wait=False) as second:
            assert second.ended() == 1


def test_a_start_that_never_ends_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    config = configuration(tmp_path, spool=None, handler="slow:Handler", workers=1)
    with Fleet(tmp_path, config, wait=False, times={"start": 1.0}) as fleet:
        assert fleet.ended() == 1
        assert "was not ready after 1 s" in fleet.log.splitlines()[-1]
        # The log says where it hangs.
        assert "Fatal Python error: Aborted" in fleet.log


def test_a_signal_ends_a_start(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("print('here', flush=True); import time; time.sleep(60)")
    config = configuration(tmp_path, spool=None, handler="slow:Handler")
    with (
        (tmp_path / "out").open("wb") as out,
        Fleet(tmp_path, config, wait=False, stdout=out) as fleet,
    ):
        until(lambda: (tmp_path / "out").read_text().count("here") == 2)
        assert fleet.end() == 0


def test_a_lost_spool_ends_with_74(tmp_path: Path) -> None:
    with Fleet(tmp_path, configuration(tmp_path, workers=1)) as fleet:
        assert send(fleet.port, "one").startswith(b"250")
        until(lambda: fleet.delivered()["one"] == 1)
        (tmp_path / "spool" / "0" / "spool.db").rename(tmp_path / "moved")
        with Client(fleet.port) as client:
            client.hello()
            until(lambda: client.ask(b"MAIL FROM:<a@b.test>").startswith(b"451") or reset(client))
        assert fleet.ended() == 74


def reset(client: Client) -> bool:
    client.ask(b"RSET", b"250")
    return False


def test_a_damaged_spool_is_kept_aside(tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "0"
    folder.mkdir(parents=True)
    (folder / "spool.db").write_bytes(b"no database" * 100)
    with Fleet(tmp_path) as fleet:
        for number in range(10):
            assert send(fleet.port, f"m{number}").startswith(b"250")
        until(lambda: len(fleet.delivered()) == 10)
        assert (folder / "spool.db").read_bytes() == b"no database" * 100
        assert str(folder) in fleet.log


def test_a_spool_without_workers_is_emptied(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.open()
    parts = (("sink", ("old@c.test",)),)
    put(spool, "old-1", parts=parts, arrival=Arrival(time=time.time())).result(PATIENCE)
    spool.close()
    with Fleet(tmp_path) as fleet:
        until(lambda: fleet.delivered() == {"old": 1})


def test_a_unix_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    config = configuration(tmp_path, listen=(parse_place(f"lmtp://unix:{path}"),))
    with Fleet(tmp_path, config) as fleet:
        with Client(str(path)) as client:
            client.ask(b"LHLO client.test", b"250")
        fleet.reload()
        with Client(str(path)) as client:
            client.ask(b"LHLO client.test", b"250")
        assert fleet.end() == 0
    assert not path.exists()


# Rights.


@ROOT_ONLY
def test_workers_of_root_drop_their_rights(open_path: Path) -> None:
    (open_path / "mine.py").write_text(WHO)
    (open_path / "who").mkdir()
    (open_path / "who").chmod(0o777)
    config = configuration(open_path, user="nobody", spool=None, handler="mine:Handler")
    variables = {"WHO": str(open_path / "who")}
    with Fleet(open_path, config, variables=variables) as fleet:
        for client in greeted(fleet.port, 10):
            client.close()
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in fleet.worker_pids()} == {65534}
        assert Path(f"/proc/{fleet.process.pid}").stat().st_uid == 0
        # Only the workers, and they without rights, have loaded the handler.
        found = {name.name for name in (open_path / "who").iterdir()}
        assert found == {f"{pid}-65534" for pid in fleet.worker_pids()}
        assert send(fleet.port, "x").startswith(b"250")


WHO = """
import os
open(f"{os.environ['WHO']}/{os.getpid()}-{os.getuid()}", "w").close()
class Handler:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"
"""


@ROOT_ONLY
def test_a_reload_may_name_another_user(open_path: Path) -> None:
    config = configuration(open_path, user="root", spool=None, handler="mine:Handler")
    (open_path / "mine.py").write_text("class Handler: handle_DATA = None")
    with Fleet(open_path, config) as fleet:
        fleet.reload(attrs.evolve(config, user="nobody"))
        until(lambda: len(fleet.worker_pids()) == 2)
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in fleet.worker_pids()} == {65534}
        fleet.configure(attrs.evolve(config, user="unknown-user"))
        fleet.process.send_signal(signal.SIGHUP)
        fleet.says("Not reloaded: There is no user unknown-user on this system")


@ROOT_ONLY
def test_root_makes_the_spool_for_the_user(open_path: Path) -> None:
    (open_path / "got").touch()
    (open_path / "got").chmod(0o666)
    config = configuration(open_path, user="nobody", spool=SpoolTable(path=str(open_path / "new")))
    with Fleet(open_path, config) as fleet:
        assert send(fleet.port, "x").startswith(b"250")
        until(lambda: fleet.delivered()["x"] == 1)
    assert {path.stat().st_uid for path in (open_path / "new").iterdir()} == {65534}


# systemd.


class Notified(threading.Thread):
    """Plays systemd: keeps what it is sent."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def run(self) -> None:
        while text := self.socket.recv(4096).decode():
            self.said.append(text)
        self.socket.close()

    def until(self, text: str) -> str:
        until(lambda: any(text in one for one in self.said))
        return next(one for one in self.said if text in one)


def test_systemd_hears_of_each_state(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    systemd = Notified(path)
    systemd.start()
    variables = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
    with Fleet(tmp_path, variables=variables) as fleet:
        assert "STATUS=Serving with 2 workers" in systemd.until("READY=1")
        systemd.until("WATCHDOG=1")
        before = time.monotonic_ns() // 1000
        fleet.reload()
        began = int(systemd.until("RELOADING=1").partition("MONOTONIC_USEC=")[2])
        assert before <= began <= time.monotonic_ns() // 1000
        until(lambda: sum("READY=1" in one for one in systemd.said) == 2)
        assert fleet.end() == 0
        systemd.until("STOPPING=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", str(path))
    systemd.join()


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def test_sockets_of_systemd_are_served(tmp_path: Path) -> None:
    config = configuration(tmp_path, listen=(parse_place("smtp://systemd:smtp"),))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port, number = sock.getsockname()[1], sock.fileno()
        with Fleet(
            tmp_path, config, pass_fds=[number], before=("-c", ACTIVATE, str(number))
        ) as fleet:
            assert send(port, "x").startswith(b"250")
            fleet.reload()
            assert send(port, "x").startswith(b"250")
            assert fleet.end() == 0
        # The socket is systemd's: the next client waits for the next start.
        Client(port, greet=False).close()


def test_a_restart_by_activation_disturbs_no_client(tmp_path: Path) -> None:
    config = configuration(tmp_path, listen=(parse_place("smtp://systemd"),))
    with socket.create_server(("127.0.0.1", 0), backlog=100) as sock:
        before = ("-c", ACTIVATE, str(sock.fileno()))
        with Load(sock.getsockname()[1], 4) as load:
            for _ in range(2):
                with Fleet(tmp_path, config, pass_fds=[sock.fileno()], before=before) as fleet:
                    load.more(40)
                    assert fleet.end() == 0
            with Fleet(tmp_path, config, pass_fds=[sock.fileno()], before=before) as fleet:
                load.more(20)
                load.stop()
                assert load.disturbed == []
                until(lambda: load.acknowledged <= fleet.delivered().keys())
