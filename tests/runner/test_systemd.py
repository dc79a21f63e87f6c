"""The messages of the master to systemd."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosmtpd.runner.systemd import notify, notify_of_reload, watchdog_pause

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_lines_arrive_together(heard: socket.socket) -> None:
    notify("READY=1", "STATUS=Serving")
    assert heard.recv(100) == b"READY=1\nSTATUS=Serving"


@pytest.mark.skipif(not os.path.exists("/proc"), reason="abstract sockets are Linux's")
def test_a_socket_may_be_abstract(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0aiosmtpd-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@aiosmtpd-{os.getpid()}")
        notify("READY=1")
        assert sock.recv(100) == b"READY=1"


def test_a_reload_has_the_time(heard: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    notify_of_reload()
    first, second = heard.recv(100).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("path", ["", "relative", "/missing/socket"])
def test_without_a_socket_nothing_happens(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify("READY=1")


def test_a_watchdog_is_fed_twice_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    assert watchdog_pause() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_pause() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_pause() is None
    monkeypatch.delenv("WATCHDOG_PID")
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert watchdog_pause() is None
