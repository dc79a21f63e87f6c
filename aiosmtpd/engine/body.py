"""Mail data on its way in: the lines after DATA and the chunks of BDAT, read in the same way.

A source belongs to one message. Its reader, the server (for ``handle_DATA``) or the handler
(``handle_BODY``), pulls from the connection's receiver. While nothing is read, the client waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any, Protocol

from public import public

from aiosmtpd.engine.connection import Disconnected
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.maildata import MailData
from aiosmtpd.protocol.replies import Refused, Reply

KEPT = 1_572_864
"""Bytes: malloc() keeps the pages of freed blocks up to this size, such as those of 1 MB messages.

Larger ones grow without copies outside of its heap: for them memory is worth more than time.
"""


class Supply(Protocol):
    """The connection, as a source of mail data asks of it."""

    def take_body(self, size: int) -> bytes:
        """Take at most *size* bytes of those that have arrived."""

    async def more_of_message(self, size: int) -> None:
        """Wait for more of a message after its first *size* bytes; raise Disconnected."""

    async def drop_body(self, size: int) -> None:
        """Read so many bytes and forget them; raise Disconnected."""

    async def run_between_chunks(self, size: int, waiting: Callable[[], bool]) -> None:
        """Run commands while *waiting* says so; raise Disconnected."""

    async def push(self, reply: str) -> None:
        """Send the reply to a chunk."""

    def give_up(self, reply: str) -> None:
        """Send a reply and close the connection."""


@public
class IncompleteBody(Exception):
    """Raised to the reader in ``handle_BODY``: the mail data broke off, there is no message.

    *reply* (str) is the answer to a client that broke a limit. It is None if the client has gone,
    was too slow, or gave the message up (RSET).
    """

    def __init__(self, reply: Reply | None = None) -> None:
        super().__init__(reply or "the client did not send the whole message")
        self.reply = reply


class GivenUp(Exception):
    """The client gave the message up (RSET, EHLO) and has been answered."""


class Source(Protocol):
    """A message while it is read."""

    @property
    def last(self) -> bool:
        """True if the reply is that to the whole message: in LMTP, one for each recipient."""

    @property
    def size(self) -> int:
        """Bytes of the message that are known of."""

    @property
    def at_end(self) -> bool:
        """True if the message is complete and all of it has been read."""

    async def read(self) -> bytes:
        """Return the next bytes, none at the end; raise IncompleteBody."""

    async def read_all(self) -> bytes:
        """Return the whole message; raise as finish() does if there is none."""

    async def finish(self, wanted: bool) -> None:
        """Drop the unread rest of a message that is *wanted* or not.

        Raises Refused if it broke a limit, GivenUp, and Disconnected.
        """


@public
class BodyStream:
    """The mail data of one message while it arrives, as an asynchronous iterator of ``bytes``.

    Stuffed dots are removed. If the handler does not read, the client waits, and so do the bytes
    that it has sent meanwhile, at most 64 KiB and one read. Raises :exc:`IncompleteBody`, also to
    a task that reads after the hook has returned.
    """

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._source = source
        self._loop = loop
        self._reader: asyncio.Task[Any] | None = None
        self._is_over = False

    def __aiter__(self) -> BodyStream:
        return self

    async def __anext__(self) -> bytes:
        if not (piece := await self.read()):
            raise StopAsyncIteration
        return piece

    @property
    def at_end(self) -> bool:
        """True once all bytes of the message have been read: :meth:`read` returns none."""
        return self._source.at_end

    async def read(self) -> bytes:
        """Return the next bytes, as many as there are, and none at the end of the message."""
        if self._is_over:
            raise IncompleteBody
        self._reader = asyncio.current_task(self._loop)
        try:
            return await self._source.read()
        except asyncio.CancelledError:
            if not self._is_over or self._reader is None:
                raise
            self._reader.uncancel()
            raise IncompleteBody from None
        finally:
            self._reader = None

    async def end(self) -> None:
        """End the reading: the hook has returned, and the connection has one reader at a time."""
        self._is_over = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.sleep(0)


class DotSource:
    """The data after DATA, up to CRLF.CRLF: RFC 5321 section 4.1.1.4."""

    __slots__ = ("_connection", "_data")

    last = True

    def __init__(self, connection: Supply, data: MailData) -> None:
        self._connection = connection
        self._data = data

    @property
    def size(self) -> int:
        """See Source."""
        return self._data.size

    @property
    def at_end(self) -> bool:
        """See Source."""
        return self._data.done and self._data.refusal is None

    async def read(self) -> bytes:
        """See Source."""
        while not self._data.done:
            if piece := self._data.read():
                return piece
            if self._data.refusal is not None:
                raise IncompleteBody(self._data.refusal)
            if not self._data.done:
                try:
                    await self._connection.more_of_message(self._data.size)
                except Disconnected:
                    raise IncompleteBody from None
        return b""

    async def read_all(self) -> bytes:
        """See Source."""
        data, connection = self._data, self._connection
        message = data.read()
        if not (message or data.done or data.flooded):
            # As usual: the client has waited for our 354.
            await connection.more_of_message(data.size)
            message = data.read()
        if not data.done:
            store = _store()
            store.write(message)
            while not (data.done or data.flooded):
                await connection.more_of_message(data.size)
                store.write(data.read())
            message = store.getvalue()
        self._judge()
        return message

    async def finish(self, wanted: bool) -> None:
        """See Source."""
        while not (self._data.done or self._data.flooded):
            if not self._data.read() and not self._data.done:
                await self._connection.more_of_message(self._data.size)
        self._judge()

    def _judge(self) -> None:
        if self._data.refusal is None:
            return
        if self._data.flooded:
            self._connection.give_up(self._data.refusal)
            raise Disconnected
        raise Refused(self._data.refusal)


def _store() -> BytesIO:
    """Return a new store for the pieces of a message: its getvalue() makes bytes without a copy."""
    _keep_pages()
    return BytesIO()


@cache
def _keep_pages() -> None:
    """Let glibc keep the pages of freed messages for the next ones, once for the process.

    It gives a block back to the system if that is larger than any block before it. A message grows
    in a block that is an eighth larger than the message itself, which is what is freed. So in every
    fourth process each message of 1 MB would take new pages: 246 page faults, more than half of its
    time. A freed block of zeros teaches it, which has no pages itself.
    """
    bytes(KEPT)


class ChunkSource:
    """The chunks of BDAT, and between them the commands that ask for them: RFC 3030 section 2."""

    def __init__(self, connection: Supply, limit: int, octets: int, last: bool) -> None:
        self._connection = connection
        self._limit = limit
        self.size = 0
        self._refusal: Reply | None = None
        self._given_up = self._gone = False
        self._waiting = False
        self.go_on(octets, last)

    def go_on(self, octets: int, last: bool) -> None:
        """Note a BDAT command; its chunk comes next."""
        self._chunk = self._left = octets
        self.last = last
        self.size += octets
        self._waiting = False
        if 0 < self._limit < self.size:
            self._refusal = replies.TOO_MUCH_MAIL_DATA

    def give_up(self) -> None:
        """Note that the client gave the message up."""
        self._given_up = True
        self._waiting = False

    @property
    def at_end(self) -> bool:
        """See Source."""
        is_broken = self._gone or self._given_up or self._refusal
        return self.last and not self._left and not is_broken

    async def read(self) -> bytes:
        """See Source."""
        try:
            while not (self._gone or self._given_up or self._refusal):
                if self._left:
                    if piece := self._connection.take_body(self._left):
                        self._left -= len(piece)
                        return piece
                    await self._connection.more_of_message(self.size - self._left)
                elif self.last:
                    return b""
                else:
                    await self._next_chunk()
        except Disconnected:
            self._gone = True
        raise IncompleteBody(self._refusal)

    async def _next_chunk(self) -> None:
        """Answer a chunk; run commands up to the next chunk or the end of the message."""
        await self._connection.push(Reply(f"250 {self._chunk} octets received", "2.0.0"))
        self._waiting = True
        await self._connection.run_between_chunks(self.size, lambda: self._waiting)

    async def read_all(self) -> bytes:
        """See Source."""
        store = _store()
        try:
            while piece := await self.read():
                store.write(piece)
        except IncompleteBody:
            await self.finish(False)
        return store.getvalue()

    async def finish(self, wanted: bool) -> None:
        """See Source."""
        while not self._given_up:
            if self._gone:
                raise Disconnected
            await self._connection.drop_body(self._left)
            self._left = 0
            if self._refusal is not None:
                raise Refused(self._refusal)
            if self.last or not wanted:
                return
            await self._next_chunk()
        raise GivenUp
