"""Get mail from NATS JetStream: ``consume("nats://host/subject", durable="app")``."""

from __future__ import annotations

import json
import logging
import re
from base64 import b64decode
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from ssl import SSLContext
from types import TracebackType

from public import public

from aiosmtpd.delivery.intake import Delivery, Intake
from aiosmtpd.delivery.item import Item, Later, Misconfigured, Never
from aiosmtpd.delivery.jetstream import (
    BLOB,
    Address,
    Envelope,
    Manifest,
    Piece,
    digest,
    letter_to_dead,
    pause_after,
)
from aiosmtpd.delivery.link import Access, forget, message_at
from aiosmtpd.delivery.mail import Mail

log = logging.getLogger("mail.log")

TRIES = 100
"""How often a mail is handed over before it becomes a dead letter: in 8 hours, by the pauses."""

_NAME = re.compile(r"[^\s.*>/\\]+")


@public
def consume(
    url: str,
    *,
    durable: str,
    concurrency: int = 20,
    tries: int = TRIES,
    dead: str | None = "",
    ack_wait: float = 30.0,
    timeout: float = 5.0,
    tls: SSLContext | None = None,
    credentials: str | None = None,
) -> AsyncGenerator[ConsumedMail, None]:
    """Return an asynchronous iterator of the mails in a stream, for ``async for``.

    Use each mail in a block: ``async with mail:``. If the block ends normally, the mail is
    acknowledged. An exception lets it come again after a pause that doubles with each try, up to
    five minutes; :exc:`~aiosmtpd.delivery.item.Later` may set the pause. After *tries* tries, or
    at once after :exc:`~aiosmtpd.delivery.item.Never`, it is published under *dead*, by default
    the subject with ``.dead``; with None it is only logged. The block does not let these
    exceptions out, only those that are not an ``Exception``, such as a cancellation.

    A mail can come twice: compare ``mail.id``. At most *concurrency* mails are here at a time,
    those that wait included. *durable* names the consumer at the server, and is made if it is
    missing: processes with the same name share the mail. The server gives a mail to another
    process if it hears nothing of it for *ack_wait* seconds; inside the block it does.

    It waits for a server that is away. Raises ValueError for a URL or an argument that cannot be,
    and :exc:`~aiosmtpd.delivery.item.Misconfigured` if a stream is missing or unsuitable.
    """
    if find_spec("nats") is None:
        raise Misconfigured('nats:// needs pip install "aiosmtpd[nats]"')
    address = Address.parse(url)
    if concurrency < 1 or tries < 1:
        raise ValueError("concurrency and tries must be at least 1")
    if not _NAME.fullmatch(durable):
        raise ValueError("durable is a name without blanks, dots, asterisks and slashes")
    if dead == "":
        dead = f"{address.subject}.dead"
    intake = Intake(
        Access(address=address, timeout=timeout, tls=tls, credentials=credentials),
        durable=durable,
        concurrency=concurrency,
        ack_wait=ack_wait,
        needs=() if dead is None else (dead,),
    )
    return _Consumer(intake, tries=tries, dead=dead).mails()


@public
class ConsumedMail(Mail):
    """A mail out of a stream; a block with it decides whether it comes again.

    ``attempts`` is how often it was handed over before.
    """

    def __init__(self, item: Item, delivery: Delivery, consumer: _Consumer) -> None:
        super().__init__(item)
        self._delivery = delivery
        self._consumer = consumer

    async def __aenter__(self) -> ConsumedMail:
        self._consumer.enter(self._delivery)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            await self._consumer.settle(self._delivery, error)
        finally:
            await self._consumer.leave(self._delivery)
        return isinstance(error, Exception)


class Damaged(Exception):
    """The chunks of a message are missing, or not those that were stored."""


class _Consumer:
    """Hands mails to the iterator, and answers for them."""

    def __init__(self, intake: Intake, *, tries: int, dead: str | None) -> None:
        self._intake = intake
        self._tries = tries
        self._dead = dead

    async def mails(self) -> AsyncGenerator[ConsumedMail, None]:
        """Yield mails until the caller stops."""
        self._intake.start()
        try:
            while True:
                delivery = await self._intake.next()
                mail = await self._mail(delivery)
                if mail is not None:
                    await self._intake.hand_over(delivery)
                    yield mail
        finally:
            await self._intake.stop()

    async def _mail(self, delivery: Delivery) -> ConsumedMail | None:
        """Return the mail, with its chunks; None if it cannot be handed over."""
        fault: Exception
        try:
            if delivery.number > self._tries:
                raise Never("554 5.0.0 Its last try did not end")
            envelope = Envelope.from_headers(delivery.headers)
            item = Item(
                id=delivery.id,
                sender=envelope.sender,
                recipients=envelope.recipients,
                arrival=envelope.arrival,
                content=(content := await self._content(delivery)),
                size=len(content),
                attempts=delivery.number - 1,
            )
            return ConsumedMail(item, delivery, self)
        except ValueError as error:
            fault = Never(f"554 5.6.0 Not a mail of ours: {error}")
        except Exception as error:
            fault = error
        await self.settle(delivery, fault)
        await self.leave(delivery)
        return None

    async def _content(self, delivery: Delivery) -> bytes:
        """Return the message; raises Damaged if its chunks are not those of the manifest."""
        if BLOB not in delivery.headers:
            return delivery.message.data
        manifest = delivery.manifest = Manifest.from_bytes(delivery.message.data)
        pieces = [
            await self._piece(manifest, number, piece)
            for number, piece in enumerate(manifest.pieces)
        ]
        content = b"".join(pieces)
        if digest(content) != manifest.sha256:
            raise Damaged("the chunks are not the message that was stored")
        return content

    async def _piece(self, manifest: Manifest, number: int, piece: Piece) -> bytes:
        from nats.js.errors import APIError

        try:
            found = await message_at(self._intake.ask, manifest.stream, piece.sequence)
        except APIError as error:
            raise Damaged(f"chunk {number} cannot be read: {error.description}") from None
        body = b64decode(found.get("data", ""))
        if found["subject"] != f"{manifest.subject}.{number}" or not piece.matches(body):
            raise Damaged(f"chunk {number} is not the one that was stored")
        return body

    # -- the block

    def enter(self, delivery: Delivery) -> None:
        self._intake.enter(delivery)

    async def leave(self, delivery: Delivery) -> None:
        await self._intake.leave(delivery)

    async def settle(self, delivery: Delivery, error: BaseException | None) -> None:
        """Answer the server for a mail after its block, which *error* may have ended."""
        if error is None:
            await self._acknowledge(delivery)
        elif not isinstance(error, Exception):
            await self._intake.confirm(delivery, b"-NAK")
        elif isinstance(error, Never) or delivery.number >= self._tries:
            await self._bury(delivery, error)
        else:
            pause = pause_after(delivery.number)
            if isinstance(error, Later) and error.after is not None:
                pause = error.after
            log.warning(
                "mail %s: try %d failed, the next one comes in %.0f s: %r",
                delivery.id,
                delivery.number,
                pause,
                error,
                exc_info=None if isinstance(error, Later | Damaged) else error,
            )
            await self._postpone(delivery, pause)

    async def _acknowledge(self, delivery: Delivery) -> None:
        if not await self._intake.confirm(delivery, b"+ACK"):
            log.warning("mail %s: not acknowledged, it may come again", delivery.id)
        elif delivery.manifest is not None and self._intake.deletes:
            try:
                await forget(self._intake.ask, delivery.manifest)
            except Exception as error:
                log.warning("mail %s: its chunks stay: %r", delivery.id, error)

    async def _postpone(self, delivery: Delivery, pause: float) -> None:
        delay = json.dumps({"delay": int(pause * 1e9)}).encode()
        await self._intake.confirm(delivery, b"-NAK " + delay)

    async def _bury(self, delivery: Delivery, error: Exception) -> None:
        """Publish a mail as a dead letter; only then is it taken out of its stream."""
        log.error("mail %s: given up at try %d: %r", delivery.id, delivery.number, error)
        if self._dead is not None:
            headers = letter_to_dead(delivery.headers, delivery.stream, delivery.sequence, error)
            try:
                await self._intake.publish(self._dead, delivery.message.data, headers)
            except Exception as trouble:
                log.error("mail %s: no dead letter, it comes again: %r", delivery.id, trouble)
                await self._postpone(delivery, pause_after(delivery.number))
                return
        await self._intake.confirm(delivery, b"+TERM")
