"""Certificates of a server that runs: each change reaches new handshakes of all workers."""

import signal
import ssl
from pathlib import Path

import attrs

from aiosmtpd.runner.config import Config, parse_place
from aiosmtpd.runner.tables import TLS
from tests.client import Client
from tests.delivery.support import until
from tests.net.program import ROOT_ONLY
from tests.runner.fleet import MARKS, Fleet, configuration, kill
from tests.runner.test_keys import write

pytestmark = MARKS


def with_tls(folder: Path, name: str = "mx") -> Config:
    pair = write(folder, name, "mx.test")
    place = parse_place("smtps://127.0.0.1:0")
    return configuration(folder, listen=(place,), tls=TLS(cert=pair.cert, key=pair.key))


def certificates_seen(fleet: Fleet, times: int = 12) -> set[bytes | None]:
    """Return the certificates that clients get, over so many connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    seen: set[bytes | None] = set()
    for _ in range(times):
        with Client(fleet.port, tls=context) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            seen.add(client.socket.getpeercert(binary_form=True))
            client.ask(b"QUIT", b"221")
    return seen


def der_of(folder: Path, name: str = "mx") -> bytes:
    return ssl.PEM_cert_to_DER_cert((folder / f"{name}.pem").read_text())


def test_a_changed_file_is_found_in_time(tmp_path: Path) -> None:
    config = with_tls(tmp_path)
    with Fleet(tmp_path, config, times={"certificates": 0.1}) as fleet:
        workers = fleet.worker_pids()
        assert certificates_seen(fleet) == {der_of(tmp_path)}
        write(tmp_path, "mx", "mx.test")
        fleet.says("Certificates loaded again")
        until(lambda: certificates_seen(fleet) == {der_of(tmp_path)})
        assert fleet.worker_pids() == workers


def test_a_wrong_file_leaves_the_old_certificate(tmp_path: Path) -> None:
    config = with_tls(tmp_path)
    with Fleet(tmp_path, config, times={"certificates": 0.1}) as fleet:
        good = der_of(tmp_path)
        (tmp_path / "mx.key").write_text("no key")
        fleet.says("the old certificate stays")
        fleet.process.send_signal(signal.SIGHUP)
        fleet.says("Not reloaded: tls: certificate")
        assert certificates_seen(fleet) == {good}


def test_a_reload_brings_a_new_certificate(tmp_path: Path) -> None:
    config = with_tls(tmp_path)
    with Fleet(tmp_path, config) as fleet:
        write(tmp_path, "mx", "mx.test")
        fleet.reload()
        assert certificates_seen(fleet) == {der_of(tmp_path)}


def test_a_new_worker_has_the_new_certificate(tmp_path: Path) -> None:
    config = attrs.evolve(with_tls(tmp_path), workers=1)
    with Fleet(tmp_path, config, times={"certificates": 0.1}) as fleet:
        write(tmp_path, "mx", "mx.test")
        fleet.says("Certificates loaded again")
        victim = fleet.pid_of(0)
        kill(victim)
        until(lambda: fleet.pid_of(0) != victim)
        assert certificates_seen(fleet, 2) == {der_of(tmp_path)}


@ROOT_ONLY
def test_the_key_is_readable_by_root_alone(open_path: Path) -> None:
    config = attrs.evolve(with_tls(open_path), user="nobody", spool=None, handler="mine:Handler")
    (open_path / "mine.py").write_text("class Handler: handle_DATA = None")
    (open_path / "mx.key").chmod(0o600)
    with Fleet(open_path, config) as fleet:
        assert certificates_seen(fleet) == {der_of(open_path)}
