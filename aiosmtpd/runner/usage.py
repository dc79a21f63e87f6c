"""Memory, file descriptors and CPU time of this process, as far as the system tells them."""

from __future__ import annotations

import os
import time
from contextlib import suppress

BEGAN = time.time()
"""When this process began, about: this module is among its first imports."""


def cpu_seconds() -> float:
    """Return the CPU time of this process."""
    return time.process_time()


def resident_bytes() -> int | None:
    """Return the resident memory, None if the system has no ``/proc``."""
    return _memory(1)


def virtual_bytes() -> int | None:
    """Return the virtual memory, None if the system has no ``/proc``."""
    return _memory(0)


def _memory(column: int) -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def open_descriptors() -> int | None:
    """Return how many file descriptors are open, None if the system does not tell."""
    with suppress(OSError):
        # Without the one that reads the folder.
        return len(os.listdir("/dev/fd" if os.path.isdir("/dev/fd") else "/proc/self/fd")) - 1
    return None


def most_descriptors() -> int | None:
    """Return how many file descriptors may be open, None if any number or if that is unknown."""
    try:
        import resource  # not on Windows
    except ImportError:  # pragma: no cover
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def gauges(prefix: str) -> dict[str, float]:
    """Return memory and descriptors by the names of metrics that begin with *prefix*."""
    found = {"resident_memory_bytes": resident_bytes(), "open_fds": open_descriptors()}
    return {f"{prefix}{name}": value for name, value in found.items() if value is not None}
