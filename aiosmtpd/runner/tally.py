"""Limits on connections that hold over all workers of one machine, by a table in shared memory.

The table has an entry for each host and, in each entry, a column for each process. Only its own
process writes to a column, so that the columns of a process that was killed can be set to 0. An
entry is found and changed under a lock of the operating system, which a killed process loses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import repeat
from time import sleep

from aiosmtpd.engine.registry import descriptors
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.limits import MINUTE, Crowd, Limits
from aiosmtpd.protocol.replies import Reply
from aiosmtpd.runner.shared import WAYS, Shared

TRIES = 200
"""Tries to get a lock, each a tenth of a millisecond after the one before."""

TOTAL = 0
"""The byte of the lock for the number of all connections; those of the buckets follow."""


class Tally(Crowd):
    """The worker's side: a crowd that counts in *column* of the table that *fd* names.

    If the table has no room for a host, that host is counted in this process alone: another host
    is never refused for it.
    """

    def __init__(self, fd: int, column: int) -> None:
        super().__init__(descriptors())
        self._shared = Shared(fd)
        self._column = column
        self._mine: dict[str, tuple[int, int]] = {}
        """The entry of each host that has connections here, and their number."""

    @property
    def key(self) -> bytes:
        """A random key, the same for all workers of this table."""
        return self._shared.key

    def admit(self, host: str, connections: int, limits: Limits, now: float) -> Reply | None:
        """See Crowd; *now* is a clock that all processes of the machine share."""
        if limits.max_connections == "descriptors":
            if (refusal := self.too_many(connections, limits)) is not None:
                return refusal
            self._shared.totals[self._column] += 1
        elif not self._add_to_total(limits.max_connections):
            return replies.TOO_MANY_CONNECTIONS
        if not host:
            return None
        refusal = self._admit_host(host, limits, now)
        if refusal is not None:
            self._shared.totals[self._column] -= 1
        return refusal

    def _add_to_total(self, limit: int | None) -> bool:
        totals = self._shared.totals
        with self._locked(TOTAL):
            if limit is not None and sum(totals) >= limit:
                return False
            totals[self._column] += 1
            return True

    def _admit_host(self, host: str, limits: Limits, now: float) -> Reply | None:
        shared, minute = self._shared, int(now // MINUTE) + 1
        digest = blake2b(host.encode(), digest_size=8, key=shared.key).digest()
        key = int.from_bytes(digest) or 1
        bucket = key % shared.layout.buckets
        with self._locked(1 + bucket):
            entry = self._find(key, bucket * WAYS, minute)
            if entry is None or host in self._hosts:
                # Without the number of all connections, which is counted already.
                return super().admit(host, 0, limits, now)
            if shared.minutes[entry] != minute:
                shared.minutes[entry], shared.arrivals[entry] = minute, 0
            if (rate := limits.max_connection_rate) is not None:
                if shared.arrivals[entry] >= rate:
                    return replies.TOO_MANY_ARRIVALS
                shared.arrivals[entry] += 1
            most = limits.max_connections_per_host
            if most is not None and shared.of_entry(entry) >= most:
                return replies.TOO_MANY_OF_HOST
            shared.counts[self._column * shared.layout.entries + entry] += 1
        _, mine = self._mine.get(host, (entry, 0))
        self._mine[host] = entry, mine + 1
        return None

    def _find(self, key: int, first: int, minute: int) -> int | None:
        """Return the entry of a key, or a free one that it gets; None if the bucket is full."""
        shared = self._shared
        entries = range(first, first + WAYS)
        for entry in entries:
            if shared.keys[entry] == key:
                return entry
        for entry in entries:
            is_old = not shared.arrivals[entry] or shared.minutes[entry] != minute
            if not shared.keys[entry] or (is_old and not shared.of_entry(entry)):
                shared.keys[entry], shared.minutes[entry] = key, minute
                shared.arrivals[entry] = 0
                return entry
        return None

    def leave(self, host: str | None) -> None:
        """See Crowd."""
        if host is None:
            return
        self._shared.totals[self._column] -= 1
        if not host:
            return
        found = self._mine.get(host)
        if found is None:
            super().leave(host)
            return
        entry, mine = found
        # No lock: only this process writes to its column, and a smaller number harms no other one.
        self._shared.counts[self._column * self._shared.layout.entries + entry] -= 1
        if mine > 1:
            self._mine[host] = entry, mine - 1
        else:
            del self._mine[host]

    @contextmanager
    def _locked(self, byte: int) -> Iterator[None]:
        """Hold the lock of a byte; go on without it if another process has it for very long.

        That process was stopped. Then two processes may refuse a client each at the same moment, or
        admit one too many, which is better than a server that waits.
        """
        import fcntl  # not on Windows, which has one worker

        for pause in repeat(0.0001, TRIES):
            try:
                fcntl.lockf(self._shared.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                break
            except OSError:
                sleep(pause)
        try:
            yield
        finally:
            fcntl.lockf(self._shared.fd, fcntl.LOCK_UN, 1, byte)
