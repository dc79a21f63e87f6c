"""The service for systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

from aiosmtpd.runner.config import TLS, Admin, Config, RouteTable, SpoolTable, parse_place
from aiosmtpd.runner.unit import unit

MX = Config(
    listen=(parse_place("smtp://0.0.0.0:25"),),
    user="mail",
    spool=SpoolTable(path="/srv/spool"),
    route=(RouteTable(to="maildir:/var/lib/aiosmtpd/mail"),),
    tls=TLS(cert="/etc/ssl/a.pem", key="/etc/ssl/a.key"),
)


def lines(config: Config | None, *, notify_reload: bool = False) -> list[str]:
    file = "/etc/aiosmtpd/a.toml"
    return unit(config, "/usr/bin/aiosmtpd", file, notify_reload=notify_reload).splitlines()


def test_a_service_without_root() -> None:
    found = lines(MX)
    for line in (
        "User=mail",
        "Type=notify",
        "ExecReload=/bin/sh -c 'kill -HUP $MAINPID'",
        "ExecStart=/usr/bin/aiosmtpd serve /etc/aiosmtpd/a.toml",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "ReadWritePaths=/srv/spool",
        "#LoadCredential=key.pem:/etc/ssl/a.key",
        "TimeoutStopSec=90",
    ):
        assert line in found
    assert "ReadWritePaths=/var/lib/aiosmtpd/mail" not in found


def test_a_service_with_high_ports_has_no_capability() -> None:
    found = lines(Config())
    assert "CapabilityBoundingSet=" in found
    assert not any(line.startswith("AmbientCapabilities") for line in found)


def test_newer_systemd_waits_for_the_end_of_a_reload() -> None:
    found = lines(MX, notify_reload=True)
    assert "Type=notify-reload" in found
    assert not any(line.startswith("ExecReload") for line in found)


def test_credentials_that_the_file_names() -> None:
    folder = "/run/credentials/aiosmtpd.service"
    text = unit(MX, "/a", "/b", credentials=[f"{folder}/key", f"{folder}/cert"])
    assert "LoadCredential=cert:/etc/aiosmtpd/cert\nLoadCredential=key:/etc/aiosmtpd/key\n" in text


def test_folders_of_sockets_can_be_written() -> None:
    places = "smtp://0.0.0.0:25", "lmtp://unix:/run/lmtp/in", "smtp://unix:/run/aiosmtpd/s"
    config = Config(listen=tuple(map(parse_place, places)), admin=Admin(socket="/run/other/ctl"))
    paths = [line for line in lines(config) if line.startswith("ReadWritePaths")]
    assert paths == ["ReadWritePaths=/run/lmtp", "ReadWritePaths=/run/other"]


def test_hidden_folders_are_named() -> None:
    text = unit(None, "/home/ann/venv/bin/aiosmtpd", "/etc/a.toml")
    assert "# ProtectHome= hides /home/ann/venv/bin/aiosmtpd: move this" in text
    assert "# ProtectHome" not in unit(None, "/opt/a", "/homely/b")


def test_a_path_with_special_characters() -> None:
    text = unit(None, "/usr/bin/aiosmtpd", "/etc/a 100%/$x.toml")
    assert 'ExecStart=/usr/bin/aiosmtpd serve "/etc/a 100%%/$$x.toml"' in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("config", [None, MX, Config()], ids=["none", "mx", "high"])
def test_systemd_finds_no_fault(config: Config | None, tmp_path: Path) -> None:
    program = shutil.which("true") or "/bin/true"
    file = tmp_path / "aiosmtpd.service"
    credentials = ["/run/credentials/aiosmtpd.service/key"]
    file.write_text(unit(config, program, "/etc/aiosmtpd/a b.toml", credentials=credentials))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
