"""Publish to NATS JetStream: ``nats://host[,host]/subject``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from base64 import b64decode
from collections.abc import AsyncIterator
from importlib.util import find_spec
from ssl import SSLContext
from typing import TYPE_CHECKING, Literal

import attrs
from public import public

from aiosmtpd.delivery.item import Full, Item, Later, Misconfigured, Never, Results, TooLarge
from aiosmtpd.delivery.jetstream import (
    BLOB,
    ENVELOPE,
    EXPECTED_STREAM,
    MESSAGE_ID,
    PIECE,
    SPARE,
    Address,
    Manifest,
    Piece,
    digest,
    header_size,
    headers_of,
    is_synced,
    stream_fault,
    token,
)
from aiosmtpd.delivery.link import (
    Access,
    Link,
    Stored,
    advice_for,
    forget,
    is_broken,
    message_at,
    stream_of,
)

if TYPE_CHECKING:
    from nats.js.errors import APIError

log = logging.getLogger("mail.log")

UNREACHABLE = "451 4.4.1 The mail store cannot be reached now, try again later"

_NO_ROOM = {10002, 10023, 10028, 10047, 10077}
"""Error codes of JetStream: no resources for the account, for memory, for storage; stream full."""
_OTHER_THAN_FOUND = {10054, 10060}
"""Error codes of JetStream: too large for the stream, and not the expected stream."""
_AT_ONCE = 4
"""Chunks that wait for their acknowledgement at the same time."""


@public
def from_url(
    url: str,
    *,
    mode: str = "spool",
    fsync: bool = False,
    reply_timeout: float = 5.0,
    large: int | None = None,
    blob: str = "",
    tls: SSLContext | None = None,
    cafile: str | None = None,
    credentials: str | None = None,
) -> NatsOutlet:
    """Return the outlet of a ``nats://`` URL; raises ValueError if it is not one."""
    if find_spec("nats") is None:
        raise ModuleNotFoundError("nats-py is not installed", name="nats")
    if mode not in {"spool", "direct"}:
        raise ValueError(f"mode is spool or direct, not {mode}")
    if reply_timeout <= 0:
        raise ValueError("a timeout is more than 0 seconds")
    if tls is not None and cafile is not None:
        raise ValueError("give tls or cafile, not both")
    access = Access(
        address=Address.parse(url),
        timeout=reply_timeout,
        tls=tls,
        cafile=cafile,
        credentials=credentials,
    )
    return NatsOutlet(
        access, mode="direct" if mode == "direct" else "spool", fsync=fsync, large=large, blob=blob
    )


@attrs.frozen(kw_only=True)
class _Ready:
    """A connection, with the streams that were found on it."""

    link: Link
    stream: str
    limit: int
    """Bytes that headers and body of one publication may have."""
    blobs: str | None
    """The stream that takes chunks, or None."""
    synced: bool
    """False if a power cut at the server may lose acknowledged mail."""


@public
class NatsOutlet:
    """Publishes each message to a stream of JetStream, and returns when the stream has it.

    The body is the message, byte for byte. ``Nats-Msg-Id`` is the queue id: a message that comes
    again within the stream's ``duplicate_window`` is stored once. If the stream has this id for
    other recipients, by another route, a part is added to it. A message over the server's
    ``max_payload``, or over *large* bytes, is stored in chunks under *blob*, by default the
    subject with ``.blob``, and a manifest is published in its place.

    With ``mode="direct"`` a stream must have three replicas. *fsync* says that one replica will
    do, because its server has ``sync_interval: always``; no client can see that setting.
    The time-out of *access*, in seconds, is for a connection and an acknowledgement together, and
    for each chunk.
    """

    def __init__(
        self,
        access: Access,
        *,
        mode: Literal["spool", "direct"] = "spool",
        fsync: bool = False,
        large: int | None = None,
        blob: str = "",
    ) -> None:
        self.mode = mode
        self.fsync = fsync
        self.large = large
        self.subject = access.address.subject
        self.blob = blob or f"{self.subject}.blob"
        self._access = access
        self._ready: _Ready | None = None
        self._connecting: asyncio.Task[_Ready] | None = None

    def __repr__(self) -> str:
        return f"<NatsOutlet {self._access.address}>"

    async def open(self) -> None:
        """Connect and check the stream; raises Misconfigured if a 250 would not be kept."""
        async with asyncio.timeout(self._access.timeout):
            ready = await self._connected()
        if not ready.synced:
            log.warning(
                "%r: a power cut at the server may lose the mail of the last minutes: give stream"
                " %s 3 replicas, or set sync_interval: always there and fsync=True here"
                " (#fsync=yes)",
                self,
                ready.stream,
            )
        if ready.blobs is None:
            log.warning("%r: messages over %d bytes are refused: %s", *self._about_blobs(ready))

    def _about_blobs(self, ready: _Ready) -> tuple[object, ...]:
        advice = advice_for(f"{self.blob}.*.*", f"{ready.stream}-BLOB", f"{self.blob}.>")
        return self, ready.limit, advice

    async def put(self, item: Item) -> Results:
        """Publish the message; return when the stream has acknowledged it."""
        ready = None
        try:
            async with asyncio.timeout(self._access.timeout) as deadline:
                ready = await self._connected()
                with ready.link.used_until(deadline):
                    await self._publish(ready, item, deadline)
        except (Later, Never):
            raise
        except Exception as error:
            if is_broken(error) or getattr(error, "err_code", None) in _OTHER_THAN_FOUND:
                self._replace(ready)
            raise self._answer(error, lost=ready is not None and ready.link.lost) from error
        return None

    async def close(self) -> None:
        """End the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        ready, self._ready = self._ready, None
        if ready is not None:
            await ready.link.end()

    # -- the connection

    async def _connected(self) -> _Ready:
        """Return the connection, a new one if need be; many callers share one try."""
        if self._ready is not None and self._ready.link.usable:
            return self._ready
        if self._connecting is not None:
            # It may have begun long ago: if it fails, there is time for another one.
            with contextlib.suppress(Exception):
                return await asyncio.shield(self._connecting)
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._has_connected)
        return await asyncio.shield(self._connecting)

    def _has_connected(self, task: asyncio.Task[_Ready]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._ready = task.result()

    async def _connect(self) -> _Ready:
        link = await self._access.link()
        try:
            async with asyncio.timeout(self._access.timeout) as deadline:
                with link.used_until(deadline):
                    return await self._checked(link)
        except BaseException:
            await link.end()
            raise

    async def _checked(self, link: Link) -> _Ready:
        """Find the streams; raises Misconfigured if they do not keep what a 250 promises."""
        jetstream = link.jetstream()
        info = await stream_of(jetstream, self.subject)
        if info is None:
            subjects = f"{self.subject},{self.subject}.>"
            raise Misconfigured(advice_for(self.subject, "MAIL", subjects))
        self._check(info.config)
        blobs = await stream_of(jetstream, f"{self.blob}.id.0")
        if blobs is not None:
            self._check(blobs.config)
        limits = [info.config.max_msg_size, blobs.config.max_msg_size if blobs else None]
        return _Ready(
            link=link,
            stream=str(info.config.name),
            limit=min([link.client.max_payload, *(n for n in limits if n and n > 0)]),
            blobs=blobs.config.name if blobs else None,
            synced=is_synced(info.config, fsync=self.fsync),
        )

    def _check(self, config: object) -> None:
        fault = stream_fault(config, direct=self.mode == "direct", fsync=self.fsync)
        if fault is not None:
            raise Misconfigured(fault)

    def _replace(self, ready: _Ready | None) -> None:
        """Give up a connection; the next message gets a new one."""
        if ready is not None:
            ready.link.retire()
            if self._ready is ready:
                self._ready = None

    # -- one message

    async def _publish(self, ready: _Ready, item: Item, deadline: asyncio.Timeout) -> None:
        headers = headers_of(item, ready.stream)
        room = ready.limit - header_size(headers) - SPARE
        if item.size <= room and (self.large is None or item.size <= self.large):
            await self._store_once(ready, await item.body(), headers)
            return
        headers[BLOB] = "1"
        room = ready.limit - header_size(headers) - SPARE
        if ready.blobs is None:
            raise TooLarge(max(room, 0))
        manifest = await self._upload(ready, ready.blobs, item, deadline)
        body = manifest.to_bytes()
        if len(body) > room:
            raise TooLarge(max(room, 0))
        stored = await self._store_once(ready, body, headers)
        if stored.duplicate:
            # The stream has the message with the chunks of an earlier try.
            await forget(ready.link.ask, manifest)

    async def _store_once(self, ready: _Ready, body: bytes, headers: dict[str, str]) -> Stored:
        """Store a message, unless the stream has it for the same recipients.

        The stream only compares ids, and takes what another route has stored for the same message.
        """
        acknowledgement = await ready.link.publish(self.subject, body, headers)
        if not acknowledgement.duplicate or await self._has(
            ready, acknowledgement.sequence, headers
        ):
            return acknowledgement
        part = digest(f"{self.subject} {headers[ENVELOPE]}".encode())[:16]
        headers = {**headers, MESSAGE_ID: f"{headers[MESSAGE_ID]}.{part}"}
        return await ready.link.publish(self.subject, body, headers)

    async def _has(self, ready: _Ready, sequence: int, headers: dict[str, str]) -> bool:
        """Return False if this is another message, or one that a consumer has taken already."""
        from nats.js.errors import NotFoundError

        try:
            found = await message_at(ready.link.ask, ready.stream, sequence)
        except NotFoundError:
            return False
        envelope = f"{ENVELOPE}: {headers[ENVELOPE]}".encode()
        lines = b64decode(found.get("hdrs", "")).split(b"\r\n")
        return found["subject"] == self.subject and envelope in lines

    async def _upload(
        self, ready: _Ready, stream: str, item: Item, deadline: asyncio.Timeout
    ) -> Manifest:
        """Store the message in chunks; *deadline* is put off with each acknowledgement."""
        subject = f"{self.blob}.{token(item.id)}"
        headers = {EXPECTED_STREAM: stream}
        size = min(PIECE, ready.limit - header_size(headers) - SPARE)
        loop = asyncio.get_running_loop()

        async def store(number: int, body: bytes) -> Piece:
            stored = await ready.link.publish(f"{subject}.{number}", body, headers)
            if not deadline.expired():
                deadline.reschedule(loop.time() + self._access.timeout)
            return Piece(stored.sequence, len(body), digest(body))

        whole = hashlib.sha256()
        pieces: list[Piece] = []
        async for bodies in _groups(item.chunks(size)):
            for body in bodies:
                whole.update(body)
            storing = [store(len(pieces) + number, body) for number, body in enumerate(bodies)]
            pieces += await asyncio.gather(*storing)
        total = sum(piece.size for piece in pieces)
        return Manifest(stream, subject, total, whole.hexdigest(), tuple(pieces))

    def _answer(self, error: Exception, *, lost: bool) -> Later | Never:
        """Return the result that *error* of a publication means; log those to be mended by hand."""
        answer = answer_to(error, lost=lost)
        if not is_broken(error) and not isinstance(answer, Full | Never):
            log.error("%r: %s", self, answer)
        return answer


async def _groups(pieces: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    group: list[bytes] = []
    async for piece in pieces:
        group.append(piece)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def answer_to(error: Exception, *, lost: bool = False) -> Later | Never:
    """Return the result of a delivery that *error* of nats-py ended.

    *lost* says that the connection ended while the acknowledgement was awaited.
    """
    from nats import errors
    from nats.js.errors import APIError, NoStreamResponseError

    if isinstance(error, Misconfigured):
        return Later(str(error))
    if isinstance(error, TimeoutError):
        text = "the connection was lost" if lost else "no answer in time"
        return Later(f"NATS: {text}", reply=UNREACHABLE)
    if isinstance(error, NoStreamResponseError):
        return Later("NATS: no stream takes the subject")
    if isinstance(error, APIError):
        return _answer_of_stream(error)
    if is_broken(error):
        return Later(f"NATS: {error}", reply=UNREACHABLE)
    text = str(error) if isinstance(error, errors.Error) else repr(error)
    return Later(f"NATS: {text}")


def _answer_of_stream(error: APIError) -> Later | Never:
    text = f"NATS: {error.description} (error {error.err_code})"
    if error.err_code in _NO_ROOM:
        return Full(text)
    return Later(text)
