"""The number of processors that a process may use: those of the machine, or less in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil

GROUPS = "/sys/fs/cgroup"
"""The folder of the control groups of Linux."""

MINE = "/proc/self/cgroup"
"""The file with the groups of this process, one for each hierarchy."""


def processors() -> int:
    """Return the number of processors, from 1 on; a part of one counts as one.

    The smallest number counts: the processors on which this process may run, and the limits of its
    control groups, ``cpu.max`` (version 2) and ``cpu.cfs_quota_us`` (version 1).
    """
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    return max(1, min([number, *map(ceil, _limits())]))


def _limits() -> Iterator[float]:
    """Yield the limits of all groups that this process is in, in processors."""
    for controllers, path in _groups():
        for folder in _folders(controllers, path):
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = _quota(folder)
                if quota > 0:
                    yield quota / period


def _groups() -> Iterator[tuple[str, str]]:
    """Yield the controllers and the path of each group; there are none in version 2."""
    lines: list[str] = []
    with suppress(OSError, ValueError), open(MINE, encoding="utf-8") as file:
        lines = file.read().splitlines()
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers or "cpu" in controllers.split(","):
            yield controllers, path


def _folders(controllers: str, path: str) -> Iterator[str]:
    """Yield the folders of a group and of those above: each may have a limit.

    In a container the path may be that of the machine, whose folders cannot be seen; then the
    topmost folder is that of the container.
    """
    names = [name for name in path.split("/") if name not in ("", "..")]
    tops = [controllers, "cpu"] if controllers else ["", "unified"]
    for top in tops:
        for depth in range(len(names), -1, -1):
            yield os.path.join(GROUPS, top, *names[:depth])


def _quota(folder: str) -> tuple[int, int]:
    """Return the microseconds of a group in each period, and the period.

    Without a limit, the first is -1, or this raises ValueError. Raises OSError without the files.
    """
    with suppress(FileNotFoundError), open(f"{folder}/cpu.max", encoding="ascii") as file:
        quota, period = file.read().split()
        return int(quota), int(period)
    numbers = []
    for name in "cpu.cfs_quota_us", "cpu.cfs_period_us":
        with open(f"{folder}/{name}", encoding="ascii") as file:
            numbers.append(int(file.read()))
    return numbers[0], numbers[1]
