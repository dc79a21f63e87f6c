"""One process without workers, as on Windows."""

import signal
from pathlib import Path

from tests.client import Client
from tests.delivery.support import until
from tests.runner.fleet import MARKS, Fleet, configuration, send
from tests.runner.test_fleet_tls import certificates_seen, der_of, with_tls
from tests.runner.test_keys import write

pytestmark = MARKS

ALONE = (
    "-c",
    "import sys; sys.argv[1:] = sys.argv[4:]; import aiosmtpd.runner.master as master; "
    "master.HAS_WORKERS = False; from tests.runner.serving import main; "
    "sys.exit(main(*sys.argv[1:]))",
)


def test_one_process_serves_and_ends(tmp_path: Path) -> None:
    with Fleet(tmp_path, before=ALONE) as fleet:
        assert send(fleet.port, "x").startswith(b"250")
        until(lambda: fleet.delivered()["x"] == 1)
        assert fleet.worker_pids() == []
        assert fleet.end() == 0


def test_one_process_loads_certificates_again(tmp_path: Path) -> None:
    with Fleet(tmp_path, with_tls(tmp_path), before=ALONE, times={"certificates": 0.1}) as fleet:
        write(tmp_path, "mx", "mx.test")
        fleet.says("Certificates loaded again")
        assert certificates_seen(fleet, 2) == {der_of(tmp_path)}


def test_a_second_signal_ends_it_now(tmp_path: Path) -> None:
    with Fleet(tmp_path, before=ALONE) as fleet, Client(fleet.port) as client:
        client.transaction()
        fleet.process.send_signal(signal.SIGINT)
        until(lambda: refuses(fleet.port))
        assert fleet.end(signal.SIGINT) == 0


def refuses(port: int) -> bool:
    try:
        Client(port, greet=False).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_lost_spool_ends_it_with_74(tmp_path: Path) -> None:
    with Fleet(tmp_path, before=ALONE) as fleet:
        assert send(fleet.port, "one").startswith(b"250")
        (tmp_path / "spool" / "0" / "spool.db").rename(tmp_path / "moved")
        until(lambda: fleet.process.poll() is not None or not still_takes(fleet.port))
        assert fleet.ended() == 74


def still_takes(port: int) -> bool:
    with Client(port) as client:
        client.hello()
        return client.ask(b"MAIL FROM:<a@b.test>").startswith(b"250")


def test_a_failing_start_of_one_process_is_one_line(tmp_path: Path) -> None:
    config = configuration(tmp_path, spool=None, handler="missing:Handler")
    with Fleet(tmp_path, config, wait=False, before=ALONE) as fleet:
        assert fleet.ended() == 2
        assert fleet.log.splitlines()[-1].startswith("handler: cannot import missing:Handler")
