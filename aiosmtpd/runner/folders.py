"""The folders of the spool: each worker has one of its own, and empties those that were left.

The folder of slot 2 is ``2``. While the worker before still ends there, the new one takes ``2.1``,
or ``2.2``, and so on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import count
from typing import Any

from aiosmtpd.delivery.lock import is_locked
from aiosmtpd.delivery.spool import SpoolError
from aiosmtpd.process.failure import one_line

LOOK = 0.5
"""Seconds between two looks for folders that were left."""

PAUSE = 30.0
"""Seconds until a folder is tried again that could not be opened."""

SINGLE = "."
"""The spool of a server without workers, in the folder itself."""

_NAME = re.compile(r"([0-9]{1,4})(\.[0-9]{1,4})?", re.ASCII)

log = logging.getLogger("mail.log")


def free_folder(path: str, slot: int, used: Collection[str] = ()) -> str:
    """Return the name of a folder for the spool of a slot; not one of *used*, or a locked one."""
    for number in count():
        name = f"{slot}.{number}" if number else str(slot)
        if name not in used and not is_locked(os.path.join(path, name)):
            return name
    raise AssertionError("unreachable")  # pragma: no cover


class Leftovers:
    """Delivers the messages of folders whose workers have ended, in the worker of a slot.

    These are folders of its own slot; the worker of slot 0 has also those of slots from *workers*
    on. *make* returns the handler for the folder of a name. *own* is the folder of the worker.
    """

    def __init__(
        self, path: str, slot: int, workers: int, own: str, make: Callable[[str], Any]
    ) -> None:
        self._path = path
        self._slot = slot
        self._workers = workers
        self._own = own
        self._make = make
        self._open: dict[str, Any] = {}
        self._seen: dict[str, object] = {}
        self._again: dict[str, float] = {}

    @property
    def handlers(self) -> list[Any]:
        """The handlers of the folders that are emptied now."""
        return list(self._open.values())

    async def run(self) -> None:
        """Look for folders until cancelled; close them then."""
        try:
            while True:
                try:
                    await self._look()
                except Exception:
                    # Messages must not wait for the next start, whatever this is.
                    log.exception("The spools of workers before cannot be looked at")
                await asyncio.sleep(LOOK)
        finally:
            await asyncio.gather(*(handler.close() for handler in self._open.values()))

    async def _look(self) -> None:
        for name, handler in list(self._open.items()):
            try:
                has_messages = (await handler.counts()).messages > 0
            except SpoolError as error:
                log.error("The spool that a worker has left cannot be used: %s", error)
                has_messages = False
            if not has_messages:
                del self._open[name]
                await handler.close()
                self._seen[name] = self._state(name)
        for name in self._left():
            await self._take(name)

    def _left(self) -> list[str]:
        """Return the names of folders to empty that no process has."""
        with suppress(OSError):
            return [
                name
                for name in sorted([*os.listdir(self._path), SINGLE])
                if self._is_ours(name)
                and name not in self._open
                and time.monotonic() >= self._again.get(name, 0.0)
                and (state := self._state(name)) is not None
                and state != self._seen.get(name)
                and not is_locked(os.path.join(self._path, name))
            ]
        return []

    def _is_ours(self, name: str) -> bool:
        if name == SINGLE:
            return self._slot == 0
        found = _NAME.fullmatch(name)
        if found is None or name == self._own:
            return False
        slot = int(found[1])
        return slot == self._slot or (self._slot == 0 and slot >= self._workers)

    def _state(self, name: str) -> object:
        """Return a value that is another one if the spool has changed; None without a spool."""
        try:
            found = os.stat(os.path.join(self._path, name, "spool.db"))
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    async def _take(self, name: str) -> None:
        handler = self._make(name)
        try:
            await handler.open()
        except Exception as error:
            # Another worker was faster, or the spool is damaged.
            self._again[name] = time.monotonic() + PAUSE
            log.warning("The spool %s of a worker before waits: %s", name, one_line(error))
        else:
            self._open[name] = handler
