"""Observers: they watch a session and may delay, refuse or reshape what it says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import attrs
from public import public

from aiosmtpd.protocol.replies import Refused

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiosmtpd.protocol.replies import Reply
    from aiosmtpd.protocol.session import Envelope

log = logging.getLogger("mail.log")

Stage: TypeAlias = Literal[
    "connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "end-of-data", "quit"
]
Deliver: TypeAlias = Callable[[bytes, bool], Awaitable[None]]
"""Sends the bytes of a reply in its own way; the second argument is True for its last piece."""


@public
class Observer(Protocol):
    """The methods of an observer, all optional: an observer is any object with some of them.

    Give observers to ``SMTP``, a controller or ``Server`` by the keyword ``observers``. One object
    serves all connections of a server; *server* is the ``SMTP`` instance of the connection. All
    methods but :meth:`before` are plain functions, called in the event loop, and must not block.
    An exception that one raises is logged and changes nothing for the client. Inherit from this
    class to have a type checker compare your methods with these.
    """

    if TYPE_CHECKING:

        def refused(self, server: Any, reply: Reply) -> None:
            """Take note that a connection was refused before the banner (too many of them)."""
            raise RuntimeError

        def began(self, server: Any) -> None:
            """Take note of a new connection, before its banner."""
            raise RuntimeError

        def tls(self, server: Any, result: str, version: str | None) -> None:
            """Take note of a TLS handshake: *result* is ``"ok"`` or why it failed."""
            raise RuntimeError

        def auth(self, server: Any, mechanism: str, success: bool) -> None:
            """Take note of the end of an AUTH exchange."""
            raise RuntimeError

        def line(self, server: Any, line: bytes, secret: bool) -> None:
            """Take note of a command line, without its line end; *secret* says to hide it."""
            raise RuntimeError

        def reply(self, server: Any, verb: str, reply: str | bytes) -> None:
            """Take note of a reply; *verb* is ``""`` for one that answers no command."""
            raise RuntimeError

        def sent(self, server: Any, data: bytes) -> None:
            """Take note of bytes that are sent."""
            raise RuntimeError

        def before(self, server: Any, stage: Stage, argument: Any) -> Coroutine[Any, Any, None]:
            """Act before a stage: a coroutine, and the only method that may wait.

            *argument* is the host name at ``ehlo``, the mechanism at ``auth``, the reverse-path at
            ``mail`` and the forward-path at ``rcpt``. In LMTP ``end-of-data`` comes once for each
            recipient, who is its argument; else the argument is None. Raise
            :exc:`~aiosmtpd.smtp.Refused` to answer in place of the command, call
            ``server.disconnect()`` to end the connection, or ``server.wrap_next_reply()`` to send
            the reply in a way of your own.
            """
            raise RuntimeError

        def taken(
            self,
            server: Any,
            envelope: Envelope,
            size: int,
            reply: Any,
            data_seconds: float,
            handler_seconds: float,
        ) -> None:
            """Take note of a message of *size* bytes and of its reply, which is sent next.

            *data_seconds* is how long its data took to come, *handler_seconds* how long the
            handler had it. With ``handle_BODY`` both go on together: the first is 0.
            """
            raise RuntimeError

        def ended(self, server: Any, reason: str) -> None:
            """Take note that a connection has ended; called once for each that began."""
            raise RuntimeError


@attrs.frozen(eq=False)
class Methods:
    """The methods that a server's observers have, by event."""

    refused: tuple[Callable[..., Any], ...]
    began: tuple[Callable[..., Any], ...]
    tls: tuple[Callable[..., Any], ...]
    auth: tuple[Callable[..., Any], ...]
    line: tuple[Callable[..., Any], ...]
    reply: tuple[Callable[..., Any], ...]
    sent: tuple[Callable[..., Any], ...]
    before: tuple[Callable[..., Any], ...]
    taken: tuple[Callable[..., Any], ...]
    ended: tuple[Callable[..., Any], ...]

    @classmethod
    def of(cls, observers: tuple[Any, ...]) -> Methods:
        """Collect the methods; raises TypeError for an observer that has none."""
        names = [field.name for field in attrs.fields(cls)]
        for observer in observers:
            if not any(callable(getattr(observer, name, None)) for name in names):
                raise TypeError(f"{observer!r} has no method of an observer: {', '.join(names)}")
        return cls(
            *(
                tuple(
                    method
                    for observer in observers
                    if callable(method := getattr(observer, name, None))
                )
                for name in names
            )
        )


@lru_cache(maxsize=16)
def _by_identity(*observers: _Same) -> Methods:
    return Methods.of(tuple(same.observer for same in observers))


@attrs.frozen(eq=False, hash=False)
class _Same:
    """An observer as a key: equal to itself alone, hashable or not."""

    observer: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.observer is self.observer

    def __hash__(self) -> int:
        return id(self.observer)


class Watch:
    """The observers of one connection, and the state that their calls need."""

    __slots__ = ("_interrupted", "_server", "_waits", "deliver", "methods", "verb")

    def __init__(self, server: Any, observers: tuple[Any, ...]) -> None:
        self._server = server
        self.methods = _by_identity(*map(_Same, observers))
        self.verb = ""
        self.deliver: Deliver | None = None
        self._waits = self._interrupted = False

    def _tell(self, methods: tuple[Callable[..., Any], ...], *args: Any) -> None:
        for method in methods:
            try:
                method(self._server, *args)
            except Exception:
                log.exception("%r an observer failed", method)

    def refused(self, reply: Reply) -> None:
        """See Observer."""
        self._tell(self.methods.refused, reply)

    def began(self) -> None:
        """See Observer."""
        self._tell(self.methods.began)

    def tls(self, result: str, version: str | None) -> None:
        """See Observer."""
        self._tell(self.methods.tls, result, version)

    def auth(self, mechanism: str, success: bool) -> None:
        """See Observer."""
        self._tell(self.methods.auth, mechanism, success)

    def line(self, verb: str, line: bytes, secret: bool) -> None:
        """See Observer."""
        self.verb = verb
        self._tell(self.methods.line, line, secret)

    def reply(self, reply: str | bytes) -> None:
        """See Observer."""
        self._tell(self.methods.reply, self.verb, reply)

    def sent(self, data: bytes) -> None:
        """See Observer."""
        self._tell(self.methods.sent, data)

    async def before(self, stage: Stage, argument: Any) -> None:
        """Ask every observer; raise Refused as the first of them does.

        A client that goes away, and a server that stops, do not wait for an observer.
        """
        for method in self.methods.before:
            try:
                await self._wait(method(self._server, stage, argument))
            except Refused:
                raise
            except Exception:
                log.exception("%r an observer failed", method)

    async def send_reply(self, octets: bytes) -> None:
        """Send a reply as an observer wants it; a challenge of AUTH as it is."""
        deliver = self.deliver
        if deliver is None or octets.startswith(b"334"):
            self._server.send(octets)
            return
        # EHLO's lines may come one by one.
        is_last = octets[:-2].rpartition(b"\n")[2][3:4] != b"-"
        if is_last:
            self.deliver = None
        await self._wait(deliver(octets, is_last))

    async def _wait(self, awaitable: Awaitable[None]) -> None:
        self._waits = True
        try:
            await awaitable
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            self._server.disconnect()
        finally:
            self._waits = False

    def interrupt(self, driver: asyncio.Task[None] | None) -> None:
        """End the wait of an observer, if there is one, and the connection."""
        if self._waits and driver is not None and not self._interrupted:
            self._interrupted = True
            driver.cancel()

    def taken(
        self, envelope: Envelope, size: int, reply: Any, began: float, handed_over: float
    ) -> None:
        """See Observer; *began* and *handed_over* are times."""
        seconds = handed_over - began, monotonic() - handed_over
        self._tell(self.methods.taken, envelope, size, reply, *seconds)

    def ended(self, reason: str) -> None:
        """See Observer."""
        self._tell(self.methods.ended, reason)
