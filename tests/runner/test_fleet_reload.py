"""Reloads: new workers before old ones, and no client notices."""

import signal
from pathlib import Path

import attrs
import pytest

from aiosmtpd.runner.config import Config, parse_place
from aiosmtpd.runner.tables import Drain, RetryTable, RouteTable, SpoolTable
from tests.client import Client
from tests.delivery.support import until
from tests.net.support import free_port
from tests.runner.fleet import MARKS, Fleet, Load, configuration, greeted, send

pytestmark = MARKS


SHARED = (
    "-c",
    "import sys; sys.argv[1:] = sys.argv[4:]; import aiosmtpd.runner.slots as slots; "
    "slots.HAS_GROUPS = False; from tests.runner.serving import main; "
    "sys.exit(main(*sys.argv[1:]))",
)
"""One socket for all workers, as on macOS."""


@pytest.mark.parametrize("before", [(), SHARED], ids=["slots", "shared"])
def test_reloads_under_load_disturb_no_client(tmp_path: Path, before: tuple[str, ...]) -> None:
    with Fleet(tmp_path, before=before) as fleet, Load(fleet.port) as load:
        workers = fleet.worker_pids()
        for _ in range(3):
            load.more()
            fleet.reload()
        load.more()
        load.stop()
        assert load.disturbed == []
        until(lambda: load.acknowledged <= fleet.delivered().keys())
        assert fleet.end() == 0
    assert set(fleet.delivered().values()) == {1}
    assert not set(workers) & set(fleet.worker_pids())


def test_a_session_goes_on_over_a_reload(tmp_path: Path) -> None:
    config = configuration(tmp_path, drain=Drain(linger=60.0, grace=2.0))
    with Fleet(tmp_path, config) as fleet, Client(fleet.port) as client:
        client.transaction()
        fleet.reload()
        client.ask(b"Subject: x\r\n\r\nbody\r\n.", b"250")
        client.ask(b"QUIT", b"221")
        until(lambda: fleet.delivered() == {"c": 1})


def test_an_end_after_a_reload_waits_for_old_workers(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet, Client(fleet.port) as client:
        client.transaction()
        fleet.reload()
        fleet.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(fleet.port))
        client.ask(b"Subject: x\r\n\r\nbody\r\n.", b"250")
        client.ask(b"QUIT", b"221")
        assert fleet.ended() == 0


def test_a_worker_that_fails_stops_the_reload(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        before = fleet.worker_pids()
        good = configuration(tmp_path)
        fleet.configure(attrs.evolve(good, spool=None, handler="broken:Handler"))
        fleet.process.send_signal(signal.SIGHUP)
        fleet.says("Not reloaded: handler: cannot import broken:Handler")
        assert fleet.worker_pids() == before
        assert send(fleet.port, "one").startswith(b"250")
        fleet.reload(good)
        assert not set(before) & {fleet.pid_of(0), fleet.pid_of(1)}


def test_a_wrong_file_stops_the_reload(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        fleet.file.write_text("{")
        fleet.process.send_signal(signal.SIGHUP)
        fleet.says("Not reloaded: JSONDecodeError")
        assert send(fleet.port, "one").startswith(b"250")


def test_a_slow_start_keeps_the_old_worker(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(0.5)\nfrom sink import take")
    config = configuration(tmp_path)
    with Fleet(tmp_path) as fleet, Load(fleet.port, 3) as load:
        slow = RouteTable(to="python:slow:take", name="sink")
        fleet.reload(attrs.evolve(config, route=(slow,)))
        load.stop()
        assert load.disturbed == []
        until(lambda: load.acknowledged <= fleet.delivered().keys())


def test_a_storm_of_hups_ends_with_new_workers(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet, Load(fleet.port, 3) as load:
        before = fleet.worker_pids()
        for _ in range(30):
            fleet.process.send_signal(signal.SIGHUP)
        fleet.says("Reloaded: ")
        fleet.reload()
        load.stop()
        assert load.disturbed == []
        assert not set(before) & {fleet.pid_of(0), fleet.pid_of(1)}
        until(lambda: len(fleet.worker_pids()) == 2)
        # Signals during a reload make one more together.
        assert fleet.log.count("Reloaded: ") <= 4


def test_fewer_workers_serve_all_queues(tmp_path: Path) -> None:
    config = configuration(tmp_path, workers=4)
    with Fleet(tmp_path, config) as fleet, Load(fleet.port, 4) as load:
        load.more()
        fleet.reload(attrs.evolve(config, workers=2))
        until(lambda: len(fleet.worker_pids()) == 2)
        for client in greeted(fleet.port, 40):
            client.close()
        load.more()
        fleet.reload(config)
        assert len(fleet.worker_pids()) >= 4
        load.more()
        load.stop()
        assert load.disturbed == []
        until(lambda: load.acknowledged <= fleet.delivered().keys())


def test_a_place_is_added_and_another_dropped(tmp_path: Path) -> None:
    first, second = (parse_place(f"smtp://127.0.0.1:{free_port()}") for _ in range(2))
    config = configuration(tmp_path, listen=(first,))
    with Fleet(tmp_path, config) as fleet:
        fleet.reload(attrs.evolve(config, listen=(first, second)))
        for place in (first, second):
            assert place.port
            assert send(place.port, "x").startswith(b"250")
        fleet.reload(attrs.evolve(config, listen=(second,)))
        assert second.port
        assert send(second.port, "x").startswith(b"250")
        until(lambda: refuses(first.port))


def refuses(port: int | None) -> bool:
    try:
        Client(port or 0).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # The socket was closed while this client waited in it: nothing accepts there any more.
        pass
    return False


def test_a_place_that_is_taken_stops_the_reload(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        config = configuration(tmp_path)
        with Client(fleet.port):
            taken = parse_place(f"smtp://127.0.0.1:{fleet.port}")
            fleet.configure(attrs.evolve(config, listen=(*config.listen, taken)))
            fleet.process.send_signal(signal.SIGHUP)
            fleet.says("Not reloaded: Cannot listen")
        assert send(fleet.port, "x").startswith(b"250")


def test_another_spool_is_a_warning(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with Fleet(tmp_path) as fleet:
        fleet.reload(attrs.evolve(config, spool=SpoolTable(path=str(tmp_path / "other"))))
        assert f"Messages that wait in the spool {tmp_path / 'spool'} stay there" in fleet.log
        assert send(fleet.port, "x").startswith(b"250")
        assert (tmp_path / "other" / "0" / "spool.db").exists()


def test_an_end_during_a_reload_is_an_end(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(f"open({str(begun)!r}, 'w'); import time; time.sleep(5)")
    config = configuration(tmp_path)
    with Fleet(tmp_path) as fleet:
        slow = RouteTable(to="python:slow:take", name="sink")
        fleet.configure(attrs.evolve(config, route=(slow,)))
        fleet.process.send_signal(signal.SIGHUP)
        until(begun.exists)
        assert fleet.end() == 0
        assert "Reloaded" not in fleet.log


def test_a_reload_brings_new_code(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLER.format(reply="250 old"))
    config = configuration(tmp_path, spool=None, handler="mine:Handler")
    with Fleet(tmp_path, config) as fleet:
        assert send(fleet.port, "x").endswith(b" old\r\n")
        (tmp_path / "mine.py").write_text(HANDLER.format(reply="250 quite new"))
        fleet.reload()
        assert send(fleet.port, "x").endswith(b" quite new\r\n")


HANDLER = """
class Handler:
    async def handle_DATA(self, server, session, envelope):
        return {reply!r}
"""


def test_mail_of_slots_that_end_is_delivered(tmp_path: Path) -> None:
    def hop(port: int) -> Config:
        to = f"smtp://127.0.0.1:{port}"
        route = RouteTable(to=to, name="sink", clients="any", retry=RetryTable(first=0.5, max=0.5))
        return attrs.evolve(config, route=(route,))

    config = configuration(tmp_path, workers=4)
    with Fleet(tmp_path, hop(free_port())) as fleet:
        names = {f"left-{number}" for number in range(40)}
        for name in sorted(names):
            assert send(fleet.port, name).startswith(b"250")
        # Nothing listens at that port; now there are fewer workers, and a function.
        fleet.reload(attrs.evolve(config, workers=1))
        until(lambda: names <= fleet.delivered().keys())
        assert set(fleet.delivered().values()) == {1}
