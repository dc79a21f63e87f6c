"""``Delivery``: the handler whose 250 means that the message is on the disk, or delivered."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from public import public

from aiosmtpd.delivery.courier import Courier
from aiosmtpd.delivery.events import Event, OnEvent
from aiosmtpd.delivery.ids import new_queue_id
from aiosmtpd.delivery.incoming import Incoming
from aiosmtpd.delivery.item import Arrival, Item, Later, Misconfigured, Never, seen_by
from aiosmtpd.delivery.landing import Ferry, Landing
from aiosmtpd.delivery.lane import Tried
from aiosmtpd.delivery.large import Large
from aiosmtpd.delivery.route import Route, RouteLike, Routes, parse_route
from aiosmtpd.delivery.spool import Counts, Spool, SpoolError, SpoolFull
from aiosmtpd.protocol import trace
from aiosmtpd.protocol.quick import accepts_if
from aiosmtpd.protocol.replies import Refused
from aiosmtpd.protocol.session import MISSING, Envelope, Session

if TYPE_CHECKING:
    from argparse import ArgumentParser

PATIENCE = 30.0
"""Seconds that a client waits for the commit of its message, or for a direct delivery."""

MIN_FREE = 64 << 20
"""Bytes of the disk that stay free, unless ``min_free`` says another number."""

NO_ROUTE = "550 5.7.1 No mail for this recipient here"
NO_ROOM = "452 4.3.1 Insufficient system storage"
NOT_STORED = "451 4.3.0 Message not stored, try again later"
CLOSED = "451 4.3.0 Mail system not available, try again later"
ONE_AT_A_TIME = "452 4.5.3 Send the message to this recipient separately"

UNSUPPORTED = "555 5.5.4 Parameter not supported here:"

NOT_KEPT = {"BY", "HOLDFOR", "HOLDUNTIL", "RRVS"}
"""Parameters that ask for deliveries at a time, or for checks, that this handler does not make."""

OPTIONS = "options_by_recipient"
"""The attribute of the envelope that keeps the parameters of each RCPT as sent."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger("mail.log")


class _Part(NamedTuple):
    route: Route
    recipients: tuple[str, ...]


class _Message(NamedTuple):
    """A message that has arrived completely."""

    queue_id: str
    sender: str
    arrival: Arrival
    content: bytes | Large

    def item(self, recipients: tuple[str, ...]) -> Item:
        content = self.content
        return Item(
            id=self.queue_id,
            sender=self.sender,
            recipients=recipients,
            arrival=seen_by(self.arrival, recipients),
            size=len(content) if isinstance(content, bytes) else content.size,
            content=content if isinstance(content, bytes) else content.open,
        )


@public
class Delivery:
    """A handler that stores messages in a spool, and delivers them by routes in the background.

    *spool* is a folder of this process alone; it is made if it does not exist. *routes* are
    :class:`Route` objects, URLs or outlets. The first route that matches a recipient counts; a
    recipient without a route is refused at RCPT. At MAIL the reply is ``452 4.3.1`` while the disk
    has less than *min_free* bytes free, or the spool more than *max_bytes*. When the handler
    closes, running deliveries have *grace* seconds.

    It starts with :meth:`open`, ``async with`` or its first message. ``Server``, the controllers
    and the command line open and close it. *on_failure* is called, in some thread, with the error
    after which the disk cannot be trusted: each later message then gets ``451 4.3.0``. *on_event*
    is called with each :class:`~aiosmtpd.delivery.events.Event`, in some thread. Raises ValueError
    for routes that cannot be, and :exc:`Misconfigured` if an extra is missing.
    """

    def __init__(
        self,
        spool: str | os.PathLike[str],
        routes: Iterable[RouteLike] | RouteLike,
        *,
        min_free: int = MIN_FREE,
        max_bytes: int | None = None,
        grace: float = 5.0,
        on_failure: Callable[[BaseException], object] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.on_failure = on_failure
        self.on_event = on_event
        self._routes = Routes(_as_routes(routes))
        self._has_direct = any(route.mode == "direct" for route in self._routes.all)
        self._spool = Spool(spool, min_free=min_free, max_bytes=max_bytes)
        self._grace = grace
        self._courier: Courier | None = None
        self._landing: Landing | None = None
        self._ferry: Ferry | None = None
        self._lock = threading.Lock()
        self._failing = threading.Lock()
        self._users = 0
        self._has_failed = False

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Make the handler from the command line: the folder, then ``[PATTERN=]URL`` ...

        The first route that matches a recipient counts.
        """
        if len(args) < 2:
            parser.error("Delivery needs the folder of its spool, then [PATTERN=]URL ...")
        try:
            return cls(args[0], [parse_route(text) for text in args[1:]])
        except (ValueError, Misconfigured) as error:
            parser.error(str(error))

    # The life of the handler.

    async def open(self) -> None:
        """Open the spool, start the courier and check the outlets.

        Raises :exc:`SpoolError` and :exc:`Misconfigured`, with one line. An outlet that cannot be
        reached now is a WARNING: its messages wait. Each call needs one of :meth:`close`.
        """
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, 1))
        try:
            await asyncio.shield(starting)
            if (courier := self._courier) is not None:
                await asyncio.wrap_future(courier.open_all())
        except BaseException:
            # If this is cancelled, the thread goes on: close the spool that it opens.
            await asyncio.wait([starting])
            if starting.exception() is None:
                await self.close()
            raise

    async def close(self) -> None:
        """Let the running deliveries end, then close the spool. A later message opens it again."""
        await asyncio.to_thread(self._end)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @property
    def failed(self) -> BaseException | None:
        """The error of the disk after which no message is stored any more, or None."""
        return self._spool.failed

    @property
    def is_open(self) -> bool:
        """True if the spool is open: messages are delivered."""
        return self._courier is not None

    @property
    def commits(self) -> int:
        """How many transactions have changed the database of the spool."""
        return self._spool.commits

    @property
    def batches(self) -> dict[int, int]:
        """How many transactions have stored so many messages, by that number."""
        return dict(self._spool.batches)

    @property
    def is_relay(self) -> bool:
        """True if clients can send mail to any address through another mail server."""
        return any(route.is_relay for route in self._routes.all)

    @property
    def is_busy(self) -> bool:
        """True if a delivery runs."""
        return self._courier is not None and self._courier.is_busy

    @property
    def has_room(self) -> bool:
        """False while MAIL gets ``452 4.3.1``; raises OSError if the folder cannot be read."""
        return self._spool.has_room()

    @property
    def routes_up(self) -> dict[str, bool]:
        """The names of the routes that deliver, each False while the route is down."""
        return {
            route.name: not route.breaker.is_down
            for route in self._routes.by_name.values()
            if not route.rejects
        }

    @property
    def missing(self) -> frozenset[str]:
        """Names of routes that messages in the spool have, and that none of the routes has."""
        return frozenset(self._courier.missing if self._courier else ())

    async def counts(self) -> Counts:
        """Count the messages in the spool, by route too."""
        await self._ready()
        return await asyncio.wrap_future(self._spool.counts())

    def _start(self, users: int = 0) -> None:
        with self._lock:
            if self._courier is None:
                self._begin()
            # Servers in other threads open and close this too.
            self._users += users

    def _begin(self) -> None:
        self._spool.open()
        self._has_failed = False
        try:
            courier = Courier(
                self._spool,
                self._routes,
                grace=self._grace,
                on_failure=self._lose_spool,
                on_event=self.on_event,
            )
            courier.start()
        except BaseException:
            self._spool.close()
            raise
        self._courier = courier

    def _end(self) -> None:
        with self._lock:
            self._users = max(self._users - 1, 0)
            if self._users:
                return
            courier, self._courier = self._courier, None
            if courier is not None:
                courier.stop()
                self._spool.close()

    async def _ready(self) -> Courier:
        """Return the courier, started if need be; raises Refused if the spool cannot be opened."""
        if (courier := self._courier) is not None:
            return courier
        try:
            await asyncio.to_thread(self._start)
        except SpoolError as error:
            log.error("%s", error)
            raise Refused(CLOSED) from error
        return await self._ready()

    def _landing_on(self, loop: asyncio.AbstractEventLoop) -> Landing:
        """Return the landing of a running loop: servers in several threads may have this."""
        landing = self._landing
        if landing is None or landing.loop is not loop:
            landing = self._landing = Landing(loop, PATIENCE)
        return landing

    def _ferry_to(self, courier: Courier, loop: asyncio.AbstractEventLoop) -> Ferry:
        """Return the ferry from a running loop to that of the courier."""
        here, ferry = self._landing_on(loop), self._ferry
        if ferry is None or ferry.here is not here or ferry.there is not courier.landing:
            ferry = self._ferry = Ferry(here, courier.landing)
        return ferry

    def _lose_spool(self, error: BaseException) -> None:
        # Not the lock of _end(), which waits for the courier: it may call this.
        with self._failing:
            if self._has_failed:
                return
            self._has_failed = True
        if self.on_failure is not None:
            self.on_failure(error)

    # The hooks.

    def _accepts_mail(self, server: Any, envelope: Envelope, address: str) -> bool:
        try:
            # In this order: the look at the room may find that the spool has failed.
            has_room = self._courier is not None and self._spool.has_room()
        except OSError:
            return False
        return has_room and self._spool.failed is None

    @accepts_if(_accepts_mail)
    async def handle_MAIL(
        self,
        server: Any,
        session: Session,
        envelope: Envelope,
        address: str,
        mail_options: list[str],
    ) -> Any:
        """Refuse the transaction if the spool has no room or has failed."""
        for option in mail_options:
            if (name := option.partition("=")[0].upper()) in NOT_KEPT:
                return f"{UNSUPPORTED} {name}"
        if self._courier is None:
            await self._ready()
        try:
            has_room = self._spool.has_room()
        except OSError as error:
            log.error("The spool cannot be used, a message is refused: %s", error)
            return CLOSED
        if self._spool.failed is not None:
            log.error("The spool has failed, a message is refused: %s", self._spool.failed)
            return CLOSED
        return MISSING if has_room else NO_ROOM

    def _accepts_recipient(self, server: Any, envelope: Envelope, address: str) -> bool:
        route = self._routes.find(address)
        if route is None or route.rejects:
            return False
        return not (envelope.rcpt_tos and self._has_direct)

    @accepts_if(_accepts_recipient)
    async def handle_RCPT(
        self,
        server: Any,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> Any:
        """Refuse a recipient without a route."""
        route = self._routes.find(address)
        if route is None or route.rejects:
            return NO_ROUTE
        if envelope.rcpt_tos and server.protocol_family != "LMTP":
            first = self._routes.find(envelope.rcpt_tos[0])
            if route is not first and "direct" in (route.mode, first.mode if first else ""):
                # One reply cannot stand for two next hops.
                return ONE_AT_A_TIME
        for option in rcpt_options:
            if (name := option.partition("=")[0].upper()) in NOT_KEPT:
                return f"{UNSUPPORTED} {name}"
        if rcpt_options:
            options = getattr(envelope, OPTIONS, {})
            setattr(envelope, OPTIONS, {**options, address: tuple(rcpt_options)})
        return MISSING

    async def handle_BODY(
        self, server: Any, session: Session, envelope: Envelope, body: Any
    ) -> Any:
        """Store the message while it comes, or deliver it directly; reply when it is safe."""
        courier = self._courier or await self._ready()
        parts = self._parts(envelope.rcpt_tos)
        queue_id = new_queue_id()
        # The id in the Received field: the log and ``aiosmtpd queue`` have it too.
        envelope.received_id = queue_id
        fields = server.trace_fields(session, envelope)
        incoming = Incoming(self._spool, queue_id, fields, server.limits.max_hops)
        try:
            async for piece in body:
                if incoming.add(piece):
                    await incoming.write()
                if getattr(body, "at_end", False):
                    break
            content = incoming.whole() if incoming.is_small() else await incoming.finish()
            arrival = arrival_of(server, session, envelope)
            sender = envelope.mail_from or "<>"
            message = _Message(queue_id, sender, arrival, content)
            # A client that goes now does not stop the commit.
            async with server.committed():
                return await self._hand_over(server, courier, message, parts, envelope.rcpt_tos)
        except (OSError, SpoolError) as error:
            return self._why_not(error)
        finally:
            incoming.discard()

    def _parts(self, recipients: Sequence[str]) -> list[_Part]:
        """Return the routes of the recipients; raises Refused if one has none."""
        if len(recipients) == 1:
            route = self._routes.find(recipients[0])
            if route is not None and not route.rejects:
                return [_Part(route, (recipients[0],))]
        found: dict[str, tuple[Route, dict[str, None]]] = {}
        for recipient in recipients:
            route = self._routes.find(recipient)
            if route is None or route.rejects:
                # A hook of a subclass has accepted it.
                raise Refused(NO_ROUTE)
            found.setdefault(route.name, (route, {}))[1][recipient] = None
        return [_Part(route, tuple(names)) for route, names in found.values()]

    def _why_not(self, error: BaseException) -> str:
        """Log an error of the disk; return the reply."""
        log.error("Message not stored: %s", error)
        if self._spool.failed is not None:
            self._lose_spool(self._spool.failed)
        is_full = isinstance(error, SpoolFull) or getattr(error, "errno", None) in _FULL
        return NO_ROOM if is_full else NOT_STORED

    async def _hand_over(
        self,
        server: Any,
        courier: Courier,
        message: _Message,
        parts: list[_Part],
        recipients: Sequence[str],
    ) -> Any:
        replies: dict[str, str] = {}
        stored: list[_Part] = []
        each = server.protocol_family == "LMTP"
        for part in parts:
            if part.route.mode == "spool" or (len(parts) > 1 and not each):
                # A hook of a subclass may accept recipients whose routes need a reply each.
                stored.append(part)
            else:
                tried = await self._try(server, courier, part, message)
                left, said = _sorted(part, tried, each)
                if left:
                    stored.append(_Part(part.route, left))
                replies |= dict.fromkeys(part.recipients, _delivered(message.queue_id)) | said
                replies = {name: reply for name, reply in replies.items() if name not in left}
        if stored:
            reply = await self._store(server, message, stored)
            for part in stored:
                replies |= dict.fromkeys(part.recipients, reply)
            if not each:
                return reply
        said_to = [replies[recipient] for recipient in recipients]
        return said_to if each else said_to[0]

    async def _try(self, server: Any, courier: Courier, part: _Part, message: _Message) -> Tried:
        timeout = min(part.route.timeout, PATIENCE)
        item = message.item(part.recipients)
        try:
            ferry = self._ferry_to(courier, server.loop)
            return await ferry.run(courier.try_directly, part.route, item, timeout)
        except RuntimeError as error:
            # The courier ends.
            return Tried(dict.fromkeys(part.recipients, Later(str(error))), is_down=True)

    async def _store(self, server: Any, message: _Message, parts: list[_Part]) -> str:
        began, landing = time.monotonic(), self._landing_on(server.loop)
        stored = landing.expect()
        self._spool.put_for(
            stored,
            queue_id=message.queue_id,
            sender=message.sender,
            arrival=message.arrival,
            content=message.content,
            parts=[(part.route.name, part.recipients) for part in parts],
            due=message.arrival.time,
        )
        try:
            await stored.here
        except TimeoutError:
            # If the disk has not begun with it, it is not stored; else it may come twice.
            stored.cancel()
            log.error("Message not stored: the disk takes longer than %g seconds", PATIENCE)
            return NOT_STORED
        except SpoolError as error:
            return self._why_not(error)
        self._tell_stored(message, time.monotonic() - began)
        return f"250 2.0.0 OK queued as {message.queue_id}"

    def _tell_stored(self, message: _Message, seconds: float) -> None:
        if self.on_event is None:
            return
        try:
            self.on_event(Event(kind="stored", queue_id=message.queue_id, seconds=seconds))
        except Exception:
            log.exception("The function on_event has failed")


def _as_routes(routes: Any) -> list[RouteLike]:
    """Return the routes as a list; a single one may stand alone."""
    return [routes] if isinstance(routes, str) or not isinstance(routes, Iterable) else [*routes]


def arrival_of(server: Any, session: Session, envelope: Envelope) -> Arrival:
    """Return all that a session knows of a message."""
    client, port = session.client_address
    cipher = (session.ssl or {}).get("cipher")
    login = getattr(session.auth_data, "login", b"") or b""
    return Arrival(
        client=str(client),
        port=port,
        helo=session.host_name or "",
        tls=f"{cipher[1]} {cipher[0]}" if cipher else "",
        user=login.decode("utf-8", "replace") if isinstance(login, bytes) else str(login),
        mail_options=tuple(envelope.mail_options),
        # Not getattr(), which takes long if an envelope has no such attribute.
        rcpt_options=vars(envelope).get(OPTIONS, {}),
        smtp_utf8=envelope.smtp_utf8,
        time=time.time(),
        hostname=server.hostname,
        protocol=trace.protocol_of(
            server.protocol_family,
            extended=session.extended_smtp,
            utf8=envelope.smtp_utf8,
            tls=session.ssl is not None,
            authenticated=bool(session.authenticated),
        ),
    )


def _delivered(queue_id: str) -> str:
    return f"250 2.0.0 OK delivered as {queue_id}"


def _sorted(part: _Part, tried: Tried, each: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the recipients that the spool gets, and the replies to others that failed.

    With *each* (LMTP), each recipient has a reply of its own. In SMTP one reply stands for all: if
    some have the message, or if the spool gets it for some, it gets it for all that failed.
    """
    failures = tried.failures
    wait = part.route.fallback is not None
    left = [name for name, error in failures.items() if wait and isinstance(error, Later)]
    if not each and (left or 0 < len(failures) < len(part.recipients)):
        left = list(failures)
    said = {name: _reply(error) for name, error in failures.items() if name not in left}
    if not each and (later := [error for error in failures.values() if isinstance(error, Later)]):
        # Some failed for now, some for good: the client keeps the message for all.
        said = dict.fromkeys(said, _reply(later[0]))
    return tuple(left), said


def _reply(error: Later | Never) -> str:
    return error.reply
