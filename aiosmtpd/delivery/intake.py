"""Pull the messages of one subject from NATS JetStream, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from aiosmtpd.delivery.item import Misconfigured
from aiosmtpd.delivery.jetstream import ID, MESSAGE_ID, SPARE, Manifest, header_size
from aiosmtpd.delivery.link import Access, Link, advice_for, is_broken, stream_of

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.js import JetStreamContext
    from nats.js.api import ConsumerConfig

log = logging.getLogger("mail.log")

_EXPIRES = 30.0
_HEARTBEAT = 5.0
_SILENCE = 12.5
"""Seconds without a heartbeat after which a connection is replaced."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_NANO = 1_000_000_000
_ENDED = {"404", "408"}
_ENDED_TEXTS = {"batch completed", "message size exceeds maxbytes"}


@attrs.define(eq=False)
class Delivery:
    """One message of the stream that the server has given to us and waits for."""

    message: Msg
    stream: str
    sequence: int
    number: int
    """How often the server has given it to a consumer, this time included."""
    manifest: Manifest | None = None
    entered: bool = False
    answered: bool = False
    ours_until: float | None = None
    """The end of a wait for its block; None if it waits for its turn, or is in its block."""

    @property
    def headers(self) -> dict[str, str]:
        return self.message.headers or {}

    @property
    def id(self) -> str:
        return self.headers.get(ID) or self.headers.get(MESSAGE_ID) or str(self.sequence)


@attrs.frozen
class Bound:
    """A connection with the consumer on it."""

    link: Link
    jetstream: JetStreamContext
    stream: str
    ack_wait: float


class Intake:
    """Keeps at most *concurrency* messages here, and renews the deadlines of those in work."""

    def __init__(
        self,
        access: Access,
        *,
        durable: str,
        concurrency: int,
        ack_wait: float,
        needs: Iterable[str] = (),
    ) -> None:
        self.bound: Bound | None = None
        self.deletes = False
        """True if an acknowledged message leaves the stream, so that its chunks can go too."""
        self._access = access
        self._subject = access.address.subject
        self._durable = durable
        self._concurrency = concurrency
        self._ack_wait = ack_wait
        self._needs = tuple(needs)
        self._ready: deque[Delivery] = deque()
        self._held: dict[int, Delivery] = {}
        self._run: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[object] | None = None
        self._inbox: Subscription | None = None
        self._wanted = 0
        self._heard = 0.0
        self._trouble = ""
        self._stopping = False
        self._work = asyncio.Event()
        self._arrived = asyncio.Event()
        self._connected = asyncio.Event()

    # -- messages

    def start(self) -> None:
        self._run = asyncio.get_running_loop().create_task(self._keep_connected())
        self._run.add_done_callback(lambda _: self._arrived.set())

    async def next(self) -> Delivery:
        """Return the next message; raises Misconfigured if there cannot be one."""
        self._watch_reader()
        while not self._ready:
            self._arrived.clear()
            if self._run is not None and self._run.done():
                self._run.result()
            await self._arrived.wait()
        return self._ready.popleft()

    async def hand_over(self, delivery: Delivery) -> None:
        """Give a message a whole ``ack_wait`` to get into its block."""
        delivery.ours_until = _now() + self._ack_wait
        await self._renew([delivery])

    def enter(self, delivery: Delivery) -> None:
        """Renew the deadline of a message from now on."""
        delivery.entered = True
        delivery.ours_until = None
        self._held[delivery.sequence] = delivery

    async def leave(self, delivery: Delivery) -> None:
        """Forget a message; the last one after a stop ends the connection."""
        if self._held.get(delivery.sequence) is delivery:
            del self._held[delivery.sequence]
        self._work.set()
        if self._stopping:
            await self.stop()

    async def stop(self) -> None:
        """Give back the messages that wait; the connection ends after the last block."""
        self._begin_stop()
        if self._run is not None and not self._in_blocks():
            await asyncio.wait([self._run])

    def _begin_stop(self) -> None:
        self._stopping = True
        self._ready.clear()
        # Once, or the second time would end what the first one lets it do at its end.
        if self._run is not None and not self._in_blocks() and not self._run.cancelling():
            self._run.cancel()

    def _in_blocks(self) -> bool:
        return any(one.entered for one in self._held.values())

    def _watch_reader(self) -> None:
        """Stop when the task that iterates is cancelled: it may have left the iterator open."""
        task = asyncio.current_task()
        if task is not None and task is not self._reader:
            self._reader = task
            task.add_done_callback(self._reader_ended)

    def _reader_ended(self, task: asyncio.Task[object]) -> None:
        # A task may also be there for one mail: asyncio.wait_for() makes one in Python 3.11.
        if task is self._reader and task.cancelled():
            self._begin_stop()

    # -- answers

    async def confirm(self, delivery: Delivery, answer: bytes) -> bool:
        """Tell the server about a message; return False if it does not confirm that."""
        delivery.answered = True
        try:
            await self.ask("", answer, about=delivery)
        except Exception as error:
            log.warning("mail %s: %s is not confirmed: %r", delivery.id, answer[:5].decode(), error)
            return False
        return True

    async def ask(self, subject: str, body: bytes, about: Delivery | None = None) -> bytes:
        """Return the answer to a request, over a new connection if need be.

        The subject of a request *about* a message is that of its latest delivery.
        """
        async with asyncio.timeout(self._ack_wait):
            while True:
                bound = await self._connection()
                try:
                    return await bound.link.ask(about.message.reply if about else subject, body)
                except Exception as error:
                    if not is_broken(error):
                        raise
                    self._give_up(bound)

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """Publish a message into a stream."""
        async with asyncio.timeout(self._access.timeout) as deadline:
            bound = await self._connection()
            if header_size(headers) + len(body) + SPARE > bound.link.client.max_payload:
                raise ValueError("it has no room for more headers")
            with bound.link.used_until(deadline):
                await bound.jetstream.publish(
                    subject, body, timeout=2 * self._access.timeout, headers=headers
                )

    async def _connection(self) -> Bound:
        while self.bound is None:
            if self._run is None or self._run.done():
                raise RuntimeError("the consumer has ended")
            await self._connected.wait()
        return self.bound

    def _give_up(self, bound: Bound) -> None:
        """Let another connection take the place of *bound*."""
        bound.link.retire()
        if self.bound is bound:
            self.bound = None
            self._connected.clear()
        self._work.set()

    async def _renew(self, deliveries: Iterable[Delivery]) -> None:
        bound = self.bound
        if bound is not None:
            with contextlib.suppress(Exception):
                for one in deliveries:
                    await bound.link.client.publish(one.message.reply, b"+WPI")

    # -- connections

    async def _keep_connected(self) -> None:
        pause, served = _FIRST_PAUSE, False
        while True:
            link = None
            try:
                link = await self._access.link(self._work.set)
                bound = await self._bind(link)
                pause, served = _FIRST_PAUSE, True
                await self._pull(bound)
            except Exception as error:
                if isinstance(error, Misconfigured) and not served:
                    raise
                log.warning("%s: %s; next try in %.1f s", self._access.address, error, pause)
            finally:
                await self._give_back()
                self.bound = None
                self._connected.clear()
                if link is not None:
                    await link.end()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _give_back(self) -> None:
        """Let other processes have the messages that no block has; only at the end."""
        bound = self.bound
        if bound is None or not self._stopping or not bound.link.usable:
            return
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            # First, or the server would give them to this process again. When it is asked about
            # the consumer, it drops our request; until then, 2.9 keeps back what we give back.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(min(self._access.timeout, 1.0)):
                    await inbox.drain()  # type: ignore[no-untyped-call]
                    await bound.jetstream.consumer_info(bound.stream, self._durable)
            self._ready.clear()
        with contextlib.suppress(Exception):
            for one in [*self._held.values()]:
                if not one.entered:
                    del self._held[one.sequence]
                    await bound.link.client.publish(one.message.reply, b"-NAK")

    async def _bind(self, link: Link) -> Bound:
        """Find the stream, and find or make the consumer."""
        jetstream = link.jetstream()
        info = await stream_of(jetstream, self._subject)
        if info is None:
            subjects = f"{self._subject},{self._subject}.>"
            raise Misconfigured(advice_for(self._subject, "MAIL", subjects))
        for subject in self._needs:
            if await stream_of(jetstream, subject) is None:
                raise Misconfigured(
                    f"no stream takes the dead letters at {subject}: add this subject to a stream,"
                    " or say dead=None"
                )
        stream = str(info.config.name)
        config = await self._consumer(jetstream, stream)
        if (
            config.deliver_subject
            or config.ack_policy != "explicit"
            or config.filter_subject not in {None, "", self._subject}
        ):
            raise Misconfigured(
                f"the consumer {self._durable} of stream {stream} is not one that pulls"
                f" {self._subject} with explicit acknowledgements: choose another durable name"
            )
        self.deletes = info.config.retention == "workqueue"
        return Bound(link, jetstream, stream, config.ack_wait or self._ack_wait)

    async def _consumer(self, jetstream: JetStreamContext, stream: str) -> ConsumerConfig:
        from nats.js.api import AckPolicy, ConsumerConfig
        from nats.js.errors import BadRequestError

        found = await self._find_consumer(jetstream, stream)
        if found is not None:
            return found
        config = ConsumerConfig(
            durable_name=self._durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait,
            filter_subject=self._subject,
            max_ack_pending=max(10_000, self._concurrency),
        )
        try:
            return (await jetstream.add_consumer(stream, config)).config
        except BadRequestError as error:
            # Another process may have made it meanwhile.
            found = await self._find_consumer(jetstream, stream)
            if found is not None:
                return found
            text = f"the consumer {self._durable} cannot be made: {error.description}"
            raise Misconfigured(text) from None

    async def _find_consumer(
        self, jetstream: JetStreamContext, stream: str
    ) -> ConsumerConfig | None:
        from nats.js.errors import NotFoundError

        try:
            found: ConsumerConfig = (await jetstream.consumer_info(stream, self._durable)).config
        except NotFoundError:
            return None
        return found

    async def _pull(self, bound: Bound) -> None:
        """Ask for messages until the connection fails; always raises."""
        inbox = bound.link.client.new_inbox()
        self._inbox = await bound.link.client.subscribe(inbox, cb=self._receive)
        self._wanted, self._trouble = 0, ""
        self.bound = bound
        self._connected.set()
        every = min(bound.ack_wait, self._ack_wait) / 3
        renewal = _now()
        while True:
            self._work.clear()
            if not bound.link.usable:
                raise ConnectionResetError("the connection is lost")
            if self._trouble:
                raise ConnectionError(self._trouble)
            await self._give_back()
            self._check_cancelled()
            await self._ask_for_more(bound, inbox)
            if _now() >= renewal:
                renewal = _now() + every
                await self._renew([one for one in self._held.values() if one.ours_until is None])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(renewal - _now(), _SILENCE / 3))):
                    await self._work.wait()

    def _check_cancelled(self) -> None:
        """Raise CancelledError if nats-py was cancelled and has gone on.

        Its ``asyncio.wait_for`` does in Python 3.11, if the answer comes in the same turn of the
        loop.
        """
        if self._run is not None and self._run.cancelling():
            raise asyncio.CancelledError

    async def _ask_for_more(self, bound: Bound, inbox: str) -> None:
        now = _now()
        for one in [*self._held.values()]:
            if one.ours_until is not None and one.ours_until < now:
                del self._held[one.sequence]
        if self._wanted:
            if now - self._heard > _SILENCE:
                raise TimeoutError("the server is silent")
            return
        free = self._concurrency - len(self._held)
        if free <= 0 or self._stopping:
            return
        request = {
            "batch": free,
            "expires": int(_EXPIRES * _NANO),
            "idle_heartbeat": int(_HEARTBEAT * _NANO),
        }
        self._wanted, self._heard = free, now
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{bound.stream}.{self._durable}"
        await bound.link.client.publish(subject, json.dumps(request).encode(), reply=inbox)

    async def _receive(self, message: Msg) -> None:
        self._heard = _now()
        if not message.reply.startswith("$JS.ACK."):
            self._receive_status(message.headers or {})
            return
        self._wanted = max(0, self._wanted - 1)
        about = message.metadata
        held = self._held.get(about.sequence.stream)
        if held is not None and not held.answered:
            # It came again while it is here: answer for both at once.
            held.message, held.number = message, about.num_delivered
        else:
            one = Delivery(message, about.stream, about.sequence.stream, about.num_delivered)
            self._held[one.sequence] = one
            self._ready.append(one)
            self._arrived.set()
        self._work.set()

    def _receive_status(self, headers: dict[str, str]) -> None:
        code, text = headers.get("Status", ""), headers.get("Description", "")
        if code == "100":
            return
        self._wanted = 0
        if code not in _ENDED and text.lower() not in _ENDED_TEXTS:
            self._trouble = f"the server ends a request: {code} {text}".rstrip()
        self._work.set()


def _now() -> float:
    return asyncio.get_running_loop().time()
