"""The processes that run a file, found in /proc."""

import os
from pathlib import Path

import pytest

from aiosmtpd.runner import running
from aiosmtpd.runner.running import holds_port, servers_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make another /proc, in which port 25 has the socket 77."""
    folder = tmp_path / "proc"
    (folder / "net").mkdir(parents=True)
    line = "  0: 00000000:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1"
    (folder / "net" / "tcp").write_text(f"  sl  local_address\n{line}\n")
    monkeypatch.setattr(running, "PROC", folder)
    return folder


def add(proc: Path, pid: int, *words: str, sockets: tuple[int, ...] = ()) -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")
    (proc / str(pid) / "cwd").symlink_to(proc.parent)
    for number, one in enumerate(sockets):
        (proc / str(pid) / "fd" / str(number)).symlink_to(f"socket:[{one}]")


def test_servers_of_a_file(proc: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.touch()
    (tmp_path / "b.toml").touch()
    (tmp_path / "link.toml").symlink_to(file)
    add(proc, 11, "/usr/bin/python3", "/opt/mail/bin/aiosmtpd", "serve", str(file))
    add(proc, 12, "python", "-P", "-X", "dev", "-m", "aiosmtpd", "serve", "a.toml")
    add(proc, 13, "/opt/mail/bin/aiosmtpd", "serve", str(tmp_path / "link.toml"))
    add(proc, 14, "/opt/mail/bin/aiosmtpd", "serve", "b.toml")
    add(proc, 15, "/opt/mail/bin/aiosmtpd", "serve", "--check", "a.toml")
    add(proc, 16, "vi", "serve", "a.toml")
    assert sorted(servers_of(str(file))) == [11, 12, 13]


def test_the_ports_of_a_process(proc: Path) -> None:
    add(proc, 11, "aiosmtpd", sockets=(5, 77))
    add(proc, 12, "aiosmtpd", sockets=(5,))
    assert holds_port(11, 25) is True
    assert holds_port(11, 26) is False
    assert holds_port(12, 25) is False
    assert holds_port(13, 25) is None


def test_a_system_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PROC", tmp_path / "gone")
    assert servers_of(str(tmp_path)) == []
