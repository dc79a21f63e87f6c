"""Messages on their way to an outlet, and its answers. Free of asyncio and of sockets.

An :class:`Item` is one message for some of its recipients. An outlet gets it in ``put()``, and
returns None when the message is where it should go; otherwise it says for which recipients it is
not, and whether to try again.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Mapping
from io import BytesIO
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, BinaryIO, Protocol, TypeVar

import attrs
from public import public

from aiosmtpd.protocol.replies import Reply

F = TypeVar("F", "Later", "Never")

PIECE = 65536
"""Bytes that :meth:`Item.chunks` reads at a time."""


@public
class Later(Exception):
    """A delivery has failed for now; raise it, or return it for a recipient.

    *after*, in seconds, asks for the next try not before that time; None leaves it to the route.
    *reply* is what the client gets if the route has ``mode="direct"`` and no fallback. Raises
    ValueError unless it is a refusal.
    """

    is_private = False
    """True if the text is for the log alone: clients and senders get the reply."""

    def __init__(
        self,
        text: str = "",
        after: float | None = None,
        *,
        reply: str = "451 4.3.0 Delivery has failed for now, try again later",
    ) -> None:
        super().__init__(text)
        self.after = after
        self.reply = _refusal(reply)


@public
class Never(Exception):
    """A delivery has failed for good; *reply* says why, as text with a 5yz reply code.

    Raises ValueError unless it is a refusal.
    """

    is_private = False
    """As for :class:`Later`; the text is the reply, unless an outlet of ours has another."""

    def __init__(self, reply: str = "554 5.0.0 Delivery has failed") -> None:
        super().__init__(reply)
        self.reply = _refusal(reply)


def in_private(failure: F, text: str) -> F:
    """Return a failure with a *text* for the log alone: others get its reply."""
    failure.args = (text,)
    failure.is_private = True
    return failure


def _refusal(text: str) -> Reply:
    reply = Reply(text)
    if reply.code < 400:
        # With mode="direct", it would tell the client that the message is delivered.
        raise ValueError(f"{text!r:.100} is not a refusal: write a reply code 4yz or 5yz")
    return reply


@public
class Full(Later):
    """The outlet has no room now: the reply of ``mode="direct"`` is ``452 4.3.1``."""

    def __init__(self, text: str = "", after: float | None = None) -> None:
        super().__init__(text, after, reply="452 4.3.1 No room now, try again later")


@public
class TooLarge(Never):
    """The outlet takes messages of at most *limit* bytes: RFC 1870, reply code 552."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"552 5.3.4 Message too large: the limit is {limit} bytes")
        self.limit = limit


@public
class Misconfigured(Exception):
    """An outlet cannot keep what a 250 promises; the text is one line that says what to change."""


@public
@attrs.frozen(kw_only=True)
class Arrival:
    """The facts that a session knew when the message came; the spool keeps all of them.

    ``client`` and ``port`` are the client's address (``""`` and 0 on a Unix socket), ``helo`` the
    name that it gave, ``tls`` for example ``"TLSv1.3 TLS_AES_256_GCM_SHA384"`` (``""`` without
    TLS), ``user`` the login. ``mail_options`` are the parameters of MAIL as sent, and
    ``rcpt_options`` those of RCPT by recipient. ``time`` is in seconds since 1970, ``hostname``
    the server's own name, ``protocol`` the word of the Received field (``"ESMTPS"``, RFC 3848).
    """

    client: str = ""
    port: int = 0
    helo: str = ""
    tls: str = ""
    user: str = ""
    mail_options: tuple[str, ...] = ()
    rcpt_options: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    smtp_utf8: bool = False
    time: float = 0.0
    hostname: str = ""
    protocol: str = ""

    def to_json(self) -> str:
        """Return these facts as JSON, in ASCII."""
        # To encode all facts() at once takes three times as long.
        return (
            f'{{"client":{quoted(self.client)},"helo":{quoted(self.helo)},'
            f'"tls":{quoted(self.tls)},"user":{quoted(self.user)},'
            f'"hostname":{quoted(self.hostname)},"protocol":{quoted(self.protocol)},'
            f'"port":{self.port},'
            f'"time":{self.time!r},'
            f'"smtp_utf8":{"true" if self.smtp_utf8 else "false"},'
            f'"mail_options":[{",".join(map(quoted, self.mail_options))}],'
            f'"rcpt_options":{json.dumps(dict(self.rcpt_options)) if self.rcpt_options else "{}"}}}'
        )

    def facts(self) -> dict[str, Any]:
        """Return these facts by name."""
        # attrs.asdict() takes ten times as long.
        facts = {name: getattr(self, name) for name in _FACTS}
        facts["rcpt_options"] = dict(self.rcpt_options)
        return facts

    @classmethod
    def from_json(cls, text: str) -> Arrival:
        """Return the facts that :meth:`to_json` wrote; raises ValueError or TypeError."""
        facts = json.loads(text)
        facts["mail_options"] = tuple(facts["mail_options"])
        facts["rcpt_options"] = {to: tuple(said) for to, said in facts["rcpt_options"].items()}
        return cls(**facts)


def seen_by(arrival: Arrival, recipients: tuple[str, ...]) -> Arrival:
    """Return the facts without the addresses of recipients whose mail goes to other places."""
    options = arrival.rcpt_options
    if not options or options.keys() <= set(recipients):
        return arrival
    return attrs.evolve(
        arrival, rcpt_options={to: said for to, said in options.items() if to in recipients}
    )


_FACTS = tuple(field.name for field in attrs.fields(Arrival))


@public
@attrs.frozen(kw_only=True, eq=False)
class Item:
    """One message for some of its recipients, as an outlet gets it.

    ``id`` is the queue id, the same at each try. ``sender`` is the reverse-path (``"<>"`` for the
    null one), ``recipients`` are the forward-paths of this try. ``size`` is in bytes. The message
    is what came, with the trace fields in front.
    """

    id: str
    sender: str
    recipients: tuple[str, ...]
    arrival: Arrival
    size: int
    attempts: int = 0
    """How many tries came before this one."""
    content: bytes | Callable[[], BinaryIO] = attrs.field(repr=False)
    """The message, or a function that opens the file that has it."""

    def open(self) -> BinaryIO:
        """Return the message as a binary file, at its beginning; close it."""
        return BytesIO(self.content) if isinstance(self.content, bytes) else self.content()

    async def body(self) -> bytes:
        """Return the whole message."""
        if isinstance(self.content, bytes):
            return self.content
        return b"".join([piece async for piece in self.chunks()])

    async def chunks(self, size: int = PIECE) -> AsyncIterator[bytes]:
        """Yield the message in pieces of *size* bytes, the last one shorter."""
        if isinstance(self.content, bytes):
            for start in range(0, len(self.content), size):
                yield self.content[start : start + size]
            return
        # A file of the spool was written a moment ago: reading it waits for no disk.
        with self.content() as file:
            while piece := file.read(size):
                yield piece


Results = Mapping[str, Later | Never] | None
"""None if every recipient has the message, else the failures by recipient."""


@public
class Outlet(Protocol):
    """A place to deliver to. An outlet lives in the event loop of the courier."""

    async def open(self) -> None:
        """Connect and check the configuration.

        Raises :exc:`Misconfigured` if a 250 would promise what this outlet cannot keep, and any
        other exception if it cannot be reached now.
        """

    async def put(self, item: Item) -> Results:
        """Deliver a message; return when it is where it should go.

        Return None, or the recipients that do not have it. :exc:`Later` and :exc:`Never` may be
        raised for all recipients; any other exception counts as :exc:`Later`.
        """

    async def close(self) -> None:
        """Give back what :meth:`open` took; nothing is called after this but :meth:`open`."""


def checked(outlet: Any) -> Outlet:
    """Return an object that has the methods of an outlet; raises ValueError with one line."""
    for name in "open", "put", "close":
        method = inspect.unwrap(getattr(outlet, name, None))  # type: ignore[arg-type]
        is_plain = inspect.isfunction(method) or inspect.ismethod(method)
        if not callable(method) or (is_plain and not inspect.iscoroutinefunction(method)):
            kind = outlet.__name__ if inspect.isclass(outlet) else type(outlet).__name__
            raise ValueError(f"outlet {kind}: write async def {name}(self, ...)")
    found: Outlet = outlet
    return found
