"""Tell systemd how the master is doing, by the socket that ``NOTIFY_SOCKET`` names."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


def notify(*lines: str) -> None:
    """Send lines such as ``READY=1``; do nothing without a socket, or if that fails."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address)


def notify_of_reload() -> None:
    """Say that a reload begins; systemd wants the time by the monotonic clock."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_pause() -> float | None:
    """Return the seconds after which ``WATCHDOG=1`` is due again, None if systemd does not ask.

    It is half of the time that systemd allows.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdecimal() and int(text) > 0 else None
