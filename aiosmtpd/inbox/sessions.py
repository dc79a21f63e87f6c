"""The logs of the SMTP sessions that still run: they are saved now and then, and at their end."""

from __future__ import annotations

import sqlite3
from threading import Lock
from time import monotonic

from aiosmtpd.inbox import changes, packing
from aiosmtpd.inbox.records import SessionLog
from aiosmtpd.inbox.writer import Change, Work, Writer

SNAPSHOT = 2.0
"""Seconds between two copies of the sessions that still run."""


class Sessions:
    """Has the sessions that still run, and gives new ones their numbers."""

    def __init__(self) -> None:
        self._gate = Lock()
        self._next = 1
        self._running: dict[int, SessionLog] = {}
        # For each, the number of lines that are in the database.
        self._saved: dict[int, int] = {}
        self._next_snapshot = 0.0

    def start_after(self, number: int) -> None:
        """Give the next sessions numbers above this one."""
        self._next = number + 1

    def new_number(self) -> int:
        """Return the number of a new session."""
        with self._gate:
            self._next += 1
            return self._next - 1

    def watch(self, session: SessionLog) -> None:
        """Have a session, until it is saved at its end."""
        self._running[session.number] = session

    def get(self, number: int) -> SessionLog | None:
        """Return a session that still runs, None if it does not."""
        return self._running.get(number)

    def all(self) -> list[SessionLog]:
        """Return all sessions that still run."""
        return list(self._running.values())

    def saving(self, session: SessionLog) -> Work[int]:
        """Return the work that stores a session which has ended; its result is the number."""

        def save(connection: sqlite3.Connection, change: Change) -> int:
            changes.save_session(connection, session.number, packing.packed_log(session))
            change.afterwards.append(forget)
            return session.number

        def forget() -> None:
            self._running.pop(session.number, None)
            self._saved.pop(session.number, None)

        return save

    def snapshot(self, writer: Writer) -> None:
        """Save the sessions that still run, in case that the process is killed."""
        if (now := monotonic()) < self._next_snapshot:
            return
        self._next_snapshot = now + SNAPSHOT
        grown = [one for one in self.all() if self._saved.get(one.number) != len(one.lines)]

        def save(connection: sqlite3.Connection, _: Change) -> None:
            for session in grown:
                self._saved[session.number] = len(session.lines)
                changes.save_session(connection, session.number, packing.packed_log(session))

        if grown:
            writer.try_now(save)
