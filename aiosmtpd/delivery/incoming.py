"""A message on its way into the spool: in memory, or in a file of the spool if it is large."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from aiosmtpd.delivery.large import LARGE, Large
from aiosmtpd.delivery.spool import Spool
from aiosmtpd.protocol import replies, trace
from aiosmtpd.protocol.replies import Refused

P = ParamSpec("P")
T = TypeVar("T")


class Incoming:
    """Collects the pieces of one message; *fields* come before them.

    Raises Refused if the message has more than *max_hops* Received fields of other servers.
    """

    def __init__(self, spool: Spool, queue_id: str, fields: bytes, max_hops: int | None) -> None:
        self._spool = spool
        self._queue_id = queue_id
        self._fields = fields
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._max_hops = max_hops
        self._large: Large | None = None
        self._writing: asyncio.Future[Any] | None = None

    def add(self, piece: bytes) -> bool:
        """Add a piece; return True if :meth:`write` must be called before the next one."""
        self._pieces.append(piece)
        self._waiting += len(piece)
        return self._waiting > LARGE

    def is_small(self) -> bool:
        """Return True if all that came so far stays in memory."""
        return self._large is None and self._waiting + len(self._fields) <= LARGE

    def whole(self) -> bytes:
        """Return the message if it is small; raises Refused."""
        message = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._check_hops(message)
        return self._fields + message

    async def finish(self) -> Large:
        """Return the message, if it is not small, as a file that is on the disk."""
        await self.write()
        large = self._large
        if large is None:
            raise RuntimeError("the file of the message is missing")
        await self._in_thread(large.finish)
        return large

    async def write(self) -> None:
        """Write to the file; raises OSError if the disk takes nothing, and Refused."""
        data = self._take()
        if self._large is None:
            self._check_hops(data)
            data = self._fields + data
            await self._in_thread(self._open)
        if self._large is not None:
            await self._in_thread(self._large.write, data)

    def _open(self) -> None:
        self._large = self._spool.large(self._queue_id)

    def _take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        return data

    def _check_hops(self, begin: bytes) -> None:
        if self._max_hops and trace.hops(begin) > self._max_hops:
            raise Refused(replies.TOO_MANY_HOPS)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that blocks, in a worker thread. If this is cancelled, it still ends."""
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, lambda: work(*args, **kwargs))
        self._writing = writing
        return await asyncio.shield(writing)

    def discard(self) -> None:
        """Remove the file, once no thread writes to it; nothing is left behind."""
        if self._writing is None:
            return
        if not self._writing.done():
            self._writing.add_done_callback(self._remove)
        else:
            self._remove(self._writing)

    def _remove(self, writing: asyncio.Future[Any]) -> None:
        if not writing.cancelled():
            # Mark it as seen.
            writing.exception()
        if self._large is not None:
            self._large.discard()
