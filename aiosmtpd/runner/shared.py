"""The table of connections in shared memory: its layout, and the side of the master.

:mod:`aiosmtpd.runner.tally` is the side of the workers.
"""

from __future__ import annotations

import mmap
import os
import struct

HEADER = struct.Struct("=8sIII16s")
MAGIC = b"tally-01"
PAGE = 4096

WAYS = 8
"""Entries of a bucket; a lock is for one bucket."""

BUCKETS = 4096


class Layout:
    """The places of the numbers in the shared memory."""

    def __init__(self, columns: int, buckets: int) -> None:
        self.columns, self.buckets = columns, buckets
        self.entries = entries = buckets * WAYS
        self.totals = PAGE
        self.keys = self.totals + _whole(4 * columns)
        self.minutes = self.keys + 8 * entries
        self.arrivals = self.minutes + 4 * entries
        self.counts = self.arrivals + 4 * entries
        self.size = self.counts + 4 * entries * columns


def _whole(size: int) -> int:
    """Return a size that is a multiple of eight."""
    return -(-size // 8) * 8


class Shared:
    """The table, in the memory that *fd* names: the master and each worker have one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.key: bytes
        header = os.pread(fd, HEADER.size, 0).ljust(HEADER.size)
        magic, columns, buckets, _, self.key = HEADER.unpack(header)
        if magic != MAGIC:
            raise ValueError(f"the descriptor {fd} is not that of a table of connections")
        self.layout = layout = Layout(columns, buckets)
        whole = memoryview(mmap.mmap(fd, layout.size))
        numbers = [layout.totals, layout.keys, layout.minutes, layout.arrivals, layout.counts]
        parts = [
            whole[start:end]
            for start, end in zip(numbers, [*numbers[1:], layout.size], strict=True)
        ]
        self.totals = parts[0].cast("I")
        self.keys = parts[1].cast("Q")
        self.minutes = parts[2].cast("I")
        self.arrivals = parts[3].cast("I")
        self.counts = parts[4].cast("I")
        """The counts of the first column, for all entries, then those of the second one ..."""

    def of_entry(self, entry: int) -> int:
        """Return how many connections the host of an entry has."""
        return sum(self.counts[entry :: self.layout.entries])


class Table:
    """The master's side: makes the memory, and lends a column to each worker.

    *columns* are the workers that may live at the same time: in a reload, a slot has two.
    """

    def __init__(self, columns: int, buckets: int = BUCKETS) -> None:
        self.fd = _memory()
        try:
            os.ftruncate(self.fd, Layout(columns, buckets).size)
            header = HEADER.pack(MAGIC, columns, buckets, 0, os.urandom(16))
            os.pwrite(self.fd, header, 0)
            self._shared = Shared(self.fd)
        except BaseException:
            os.close(self.fd)
            raise
        self._free = list(range(columns))

    @property
    def key(self) -> bytes:
        """A random key, the same for all workers of this table."""
        return self._shared.key

    def take(self) -> int | None:
        """Lend a column; None if all are in use: that worker counts for itself."""
        if not self._free:
            return None
        # The first one, so that few pages are in use.
        column = min(self._free)
        self._free.remove(column)
        return column

    def release(self, column: int) -> int:
        """Take back the column of a process that has ended: its connections count no longer.

        Return how many there were.
        """
        layout, lost = self._shared.layout, self._shared.totals[column]
        # Not through the mapping: its pages would count as memory of the master.
        size = 4 * layout.entries
        os.pwrite(self.fd, bytes(size), layout.counts + column * size)
        self._shared.totals[column] = 0
        self._free.append(column)
        return lost

    def connections(self) -> int:
        """Return how many connections all workers have."""
        return sum(self._shared.totals)

    def close(self) -> None:
        """Close the descriptor: the memory is free once all workers have ended."""
        os.close(self.fd)


def _memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("aiosmtpd-connections", os.MFD_CLOEXEC)
    import tempfile  # Linux has the call above

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
