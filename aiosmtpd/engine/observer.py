"""Observers: they watch a session, may delay or refuse a command, and may reshape its reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from public import public

from aiosmtpd.engine.wakeup import Disconnected
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Refused, Reply

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiosmtpd.protocol.session import Envelope

Stage: TypeAlias = Literal[
    "connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "end-of-data", "quit"
]
Deliver: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends the bytes of a reply in its own way."""
Sleep: TypeAlias = Callable[[float], Awaitable[object]]


@public
class TakenMessage(NamedTuple):
    """A message whose replies are decided; the argument of :meth:`Observer.taken`."""

    envelope: Envelope
    """Its paths and its content, as the handler got them."""
    size: int
    """Bytes of mail data."""
    replies: list[Reply]
    """The replies that are sent next: one, but in LMTP one for each recipient."""
    data_seconds: float
    """Seconds in which its data came; 0 if the handler has ``handle_BODY``."""
    handler_seconds: float
    """Seconds that the handler took; 0 if the message was refused before."""

    @property
    def reply(self) -> Reply:
        """The reply; in LMTP, that to the first recipient."""
        return self.replies[0]


@public
class Observer(Protocol):
    """The methods of an observer. All are optional: any object with some of them is an observer.

    Give observers to ``SMTP``, a controller or ``Server`` by the keyword ``observers``. Inherit
    from this class, which is empty at run time, to let a type checker compare your methods with
    these. One object serves all connections of a server. The argument *server* is the ``SMTP``
    instance of one connection. All methods but :meth:`before` are plain functions. They are called
    in the event loop, and must not block. If a method raises an exception, the log has it, and the
    session goes on.
    """

    if TYPE_CHECKING:

        def began(self, server: Any) -> None:
            """Note a new connection, before its banner."""
            raise RuntimeError

        def refused(self, server: Any, reply: Reply) -> None:
            """Note that there are too many connections: this one gets *reply* and is closed."""
            raise RuntimeError

        def tls(self, server: Any, result: str, version: str | None) -> None:
            """Note the end of a TLS handshake.

            *result* is ``"ok"``, or a text that says why it failed. *version* is for example
            ``"TLSv1.3"``, and None after a failure.
            """
            raise RuntimeError

        def auth(self, server: Any, mechanism: str, success: bool) -> None:
            """Note the end of an AUTH exchange, before its reply."""
            raise RuntimeError

        def line(self, server: Any, line: bytes, secret: bool) -> None:
            """Note a command line, or an answer to a challenge of AUTH, without its CRLF.

            *secret* is true if it may hold a password: neither keep nor show it then.
            """
            raise RuntimeError

        def reply(self, server: Any, verb: str, reply: Reply) -> None:
            """Note a reply, before it is sent.

            *verb* is the verb of the command, in capitals. It is ``""`` if the server does not
            know the verb, or if the reply answers no command (the banner, a timeout). The reply to
            a secret line may repeat its first word.
            """
            raise RuntimeError

        def sent(self, server: Any, data: bytes) -> None:
            """Note bytes that are sent: replies, or parts of them, before TLS encrypts them."""
            raise RuntimeError

        def before(
            self, server: Any, stage: Stage, argument: str | None
        ) -> Coroutine[Any, Any, None]:
            """Let a command pass, refuse it or delay it. Only this method is a coroutine function.

            *argument* depends on the stage: the host name at ``ehlo``, the mechanism at ``auth``,
            the reverse-path at ``mail``, the forward-path at ``rcpt``, and in LMTP the recipient at
            ``end-of-data``, a stage that LMTP has for each recipient. It is None at the other
            stages. To refuse, raise :exc:`~aiosmtpd.smtp.Refused`: the client gets its reply, and
            the command does not run.
            """
            raise RuntimeError

        def data(self, server: Any, size: int) -> None:
            """Note that the mail data of a message has ended, or broken off, after *size* bytes."""
            raise RuntimeError

        def taken(self, server: Any, message: TakenMessage) -> None:
            """Note a message that was accepted or refused, before its reply is sent."""
            raise RuntimeError

        def ended(self, server: Any, reason: str) -> None:
            """Note the end of a connection and of its last command.

            Called once for each connection that began. No other call follows it.
            """
            raise RuntimeError


Functions: TypeAlias = tuple[Callable[..., Any], ...]


class Methods:
    """The methods that a server's observers have, by name."""

    began: Functions
    refused: Functions
    tls: Functions
    auth: Functions
    line: Functions
    reply: Functions
    sent: Functions
    before: Functions
    data: Functions
    taken: Functions
    ended: Functions

    def __init__(self, observers: Iterable[Any]) -> None:
        for name in NAMES:
            found = (getattr(observer, name, None) for observer in observers)
            setattr(self, name, tuple(method for method in found if callable(method)))


NAMES = tuple(Methods.__annotations__)


def check(observers: tuple[Any, ...]) -> None:
    """Raise TypeError for an observer that has no method of an observer."""
    for observer in observers:
        if isinstance(observer, type):
            raise TypeError(f"the observer is the class {observer.__name__}: make an instance")
        if not any(callable(getattr(observer, name, None)) for name in NAMES):
            raise TypeError(f"{observer!r} has no method of an observer: {', '.join(NAMES)}")


class _Same:
    """A key for an observer that may not be hashable: equal to keys of the same object only."""

    def __init__(self, observer: Any) -> None:
        self.observer = observer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.observer is self.observer

    def __hash__(self) -> int:
        return id(self.observer)


@lru_cache(maxsize=16)
def _methods_of(*keys: _Same) -> Methods:
    return Methods([key.observer for key in keys])


class Watch:
    """The observers of one connection, and the state that their calls need."""

    # fmt: off
    __slots__ = (
        "_began", "_data_seconds", "_delivered", "_handed_over", "_held", "_is_secret", "_lines",
        "_pausing", "_server", "deliver", "methods", "verb",
    )
    # fmt: on

    def __init__(self, server: Any, observers: tuple[Any, ...]) -> None:
        self._server = server
        self.methods = _methods_of(*map(_Same, observers))
        self.verb = ""
        """The verb of the command that runs."""
        self.deliver: Deliver | None = None
        """Sends the next reply; None if the reply is sent as usual."""
        self._is_secret = False
        # A program may push a reply line by line. Its first lines wait here: in _lines for the
        # observers, in _held for deliver.
        self._lines = self._held = b""
        self._delivered = 0
        self._pausing: asyncio.Future[object] | None = None
        self._began = self._data_seconds = 0.0
        self._handed_over: float | None = None

    def tell(self, methods: Functions, *args: Any) -> None:
        """Call each of these methods; log what they raise."""
        for method in methods:
            try:
                method(self._server, *args)
            except Exception as error:
                self._report(method, error)

    def _report(self, method: Callable[..., Any], error: Exception) -> None:
        if self._is_secret:
            # The text of the error may repeat the secret line.
            error = _hidden(error)
        name = getattr(method, "__qualname__", repr(method))
        server = self._server
        message = "%r the observer's %s failed"
        server._log(logging.ERROR, message, server.session.peer, name, error=error)

    def tls(self, result: str) -> None:
        """Tell of the end of a TLS handshake."""
        tls = (self._server.session.ssl or {}).get("ssl_object") if result == "ok" else None
        self.tell(self.methods.tls, result, None if tls is None else tls.version())

    def auth(self, mechanism: str, success: bool) -> None:
        """Tell of the end of an AUTH exchange."""
        self.tell(self.methods.auth, mechanism, success)

    def line(self, verb: str, line: bytes, secret: bool) -> None:
        """Tell of a line; its replies are reported with *verb*."""
        self.verb, self._is_secret = verb, secret
        if self.methods.line:
            self.tell(self.methods.line, line, secret)

    def reply(self, status: str | bytes) -> None:
        """Tell of a reply; if its lines come one by one, tell once, when all have come."""
        if not self.methods.reply:
            return
        if not isinstance(status, Reply):
            self._lines += replies.octets(status)
            if _goes_on(self._lines):
                return
            status, self._lines = self._lines, b""
            try:
                status = replies.from_hook(status)
            except ValueError:
                # A program may push a text that is not a reply: do not tell of it.
                return
        self.tell(self.methods.reply, self.verb, status)

    def sent(self, data: bytes) -> None:
        """Tell of bytes that are sent."""
        self._delivered += len(data)
        if self.methods.sent:
            self.tell(self.methods.sent, data)

    def done_at_once(self, verb: str, line: bytes, reply: Reply) -> None:
        """Tell of a command that was done without the driver."""
        self.line(verb, line, False)
        self.reply(reply)
        self.sent(reply.octets)
        if verb != "DATA":
            self.verb = ""

    def message_begins(self, waited: float) -> None:
        """Note that the server has waited *waited* seconds for the data of a message."""
        self._began = monotonic() - waited
        self._data_seconds = 0.0
        self._handed_over = None

    def handed_over(self) -> None:
        """Note when the handler gets the message."""
        self._handed_over = monotonic()

    def data_ended(self, size: int) -> None:
        """Tell of the end of mail data."""
        if self._handed_over is None:
            self._data_seconds = monotonic() - self._began
        self.tell(self.methods.data, size)

    def taken(self, envelope: Envelope, size: int, each: list[Reply]) -> None:
        """Tell of a message that was answered."""
        if self.methods.taken:
            message = TakenMessage(
                envelope=envelope,
                size=size,
                replies=each,
                data_seconds=self._data_seconds,
                handler_seconds=0.0
                if self._handed_over is None
                else monotonic() - self._handed_over,
            )
            self.tell(self.methods.taken, message)

    async def before(self, stage: Stage, argument: str | None) -> None:
        """Ask the observers in order, until one of them raises Refused or Disconnected."""
        for method in self.methods.before:
            try:
                if (answer := method(self._server, stage, argument)) is not None:
                    await answer
            except (Refused, Disconnected):
                raise
            except Exception as error:
                self._report(method, error)

    async def send_reply(self, octets: bytes, *, is_whole: bool) -> None:
        """Send a reply by ``deliver``, once all its lines have come; send a challenge as it is."""
        if (deliver := self.deliver) is None or octets.startswith(b"334"):
            self._server.send(octets)
            return
        self._held += octets
        if not is_whole and _goes_on(octets):
            return
        data, self._held = self._held, b""
        self.deliver, self._delivered = None, 0
        try:
            await deliver(data)
        except Disconnected:
            raise
        except Exception as error:
            self._report(deliver, error)
            self._server.send(data[self._delivered :])

    async def pause(self, seconds: float, sleep: Sleep) -> None:
        """See ``SMTP.pause``."""
        self._pausing = pausing = asyncio.ensure_future(sleep(seconds))
        try:
            await asyncio.wait([pausing])
        finally:
            self._pausing = None
            pausing.cancel()
        if pausing.cancelled():
            raise Disconnected
        pausing.result()

    def end_pause(self) -> None:
        """End the pause, if there is one: the client has gone, or the server stops."""
        if self._pausing is not None:
            self._pausing.cancel()


def _hidden(error: Exception) -> Exception:
    """Return an error that has the traceback of *error*, but not its text."""
    text = f"a {type(error).__name__}, whose text may hold a secret"
    return RuntimeError(text).with_traceback(error.__traceback__)


def _goes_on(octets: bytes) -> bool:
    """Return True if more lines of the reply must follow."""
    return octets[:-2].rpartition(b"\n")[2][3:4] == b"-"
