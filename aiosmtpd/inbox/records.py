"""The values that the store takes and returns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from attrs import define, field, frozen
from public import public

from aiosmtpd.inbox import wire

Who: TypeAlias = Literal["C", "S", "-"]
"""The client, the server, or a note that neither sent."""

EventKind: TypeAlias = Literal[
    "new", "update", "delete", "prune", "truncate", "stats", "rejected", "fault"
]


@public
class StoreError(Exception):
    """The store cannot do it; the text is one line that says why."""


class TooManyConditions(StoreError):
    """A query has more conditions than the store looks for at once."""


class NotSent(Exception):
    """The relay has not taken a message for all recipients; the text is one line that says why."""


@public
class Line(NamedTuple):
    """One line of a dialogue."""

    at: float
    """Seconds since the session began."""
    who: Who
    """``"C"`` for the client, ``"S"`` for the server, ``"-"`` for a note."""
    text: str
    """The line without its CRLF; secrets are masked."""


@public
@define(eq=False)
class SessionLog:
    """One SMTP session and its dialogue. While it runs, the intake adds to it."""

    number: int
    """From 1 on, unique in the store: from :meth:`Store.new_session`."""
    client: str = ""
    """Host and port, such as ``127.0.0.1:51234`` or ``[::1]:51234``; ``""`` on a Unix socket."""
    began: datetime | None = None
    """The time of the connection, with a time zone."""
    ended: datetime | None = None
    """The time of its end; None while it runs, or if the server ended before."""
    tls: tuple[str, str] | None = None
    """Version and cipher, such as ``("TLSv1.3", "TLS_AES_256_GCM_SHA384")``; None without TLS."""
    user: str = ""
    """The name that the client used with AUTH, after it succeeded."""
    lines: list[Line] = field(factory=list)
    """The dialogue, masked; at most 64 KiB of text. A note at the end says that it was cut."""
    cut: bool = False
    """True if lines are missing at the end."""
    messages: tuple[str, ...] = ()
    """The ids of the messages that came in the session, oldest first; only in what is read."""

    def json(self) -> str:
        """Return it as ``GET /api/sessions/{s}`` answers it."""
        return wire.dump(
            {
                "session": self.number,
                "client": self.client,
                "began": wire.time(self.began),
                "ended": wire.time(self.ended),
                "tls": self.tls and {"version": self.tls[0], "cipher": self.tls[1]},
                "user": self.user,
                "messages": list(self.messages),
                "lines": [
                    {"at": round(at, 4), "who": who, "text": text} for at, who, text in self.lines
                ],
                "cut": self.cut,
            }
        )


@public
@frozen
class Received:
    """A message to store."""

    content: bytes | Path
    """The mail data as it came. The store takes over a file, which must come from
    :meth:`Store.new_file`."""
    sender: str
    """The reverse-path, without angle brackets; ``""`` for the null one."""
    recipients: Sequence[str]
    """The forward-paths."""
    session: int = 0
    """The number of its session, 0 without one (a message of the API)."""
    host_name: str = ""
    """The name that the client gave in EHLO."""
    client: str = ""
    """The IP address of the client."""
    protocol: str = "ESMTP"
    """For the field Received: ``SMTP``, ``ESMTPS``, ``LMTP``, ``HTTP`` and so on."""
    username: str = ""
    """The authenticated user, of SMTP or of the API."""
    tls: str = ""
    """The version of TLS, ``""`` without it."""
    created: datetime | None = None
    """The time of its arrival, with a time zone; None for now."""
    transaction: Sequence[Line] = ()
    """The lines of the dialogue that belong to this message, from MAIL on."""
    trace: bool = True
    """False leaves out the field Received: for messages of the API."""


@public
@frozen
class Attempt:
    """A command that was refused, or a TLS handshake that failed."""

    session: int
    stage: str
    """In capitals: CONNECT, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, or TLS for a handshake."""
    sender: str = ""
    recipient: str = ""
    reply: str = ""
    """The first line of the reply with its codes; for a handshake, why it failed."""
    fault: str = ""
    """The rule of the fault that did it; ``""`` if there was none."""
    client: str = ""
    """The IP address."""
    tls: str = ""
    user: str = ""
    line: int = 0
    """The index of the reply among the lines of its session."""
    recipients: int = 0
    """How many recipients the message would have had: ``recipient`` names at most 10 of them."""
    at: datetime | None = None
    """The time, with a time zone; None for now."""
    number: int = 0
    """Its id in the store, in what is read."""

    def json(self) -> str:
        """Return it as ``GET /api/rejected`` lists it, with the index of its line as ``line``."""
        return wire.dump(
            {
                "id": self.number,
                "session": self.session,
                "at": wire.time(self.at),
                "stage": self.stage,
                "from": self.sender,
                "to": self.recipient,
                "reply": self.reply,
                "fault": self.fault,
                "client": self.client,
                "tls": self.tls,
                "user": self.user,
                "line": self.line,
                "recipients": self.recipients,
            }
        )


@public
class Attempts(NamedTuple):
    """A page of refused attempts, newest first, and the number of all that match."""

    total: int
    attempts: list[Attempt]


@public
class Event(NamedTuple):
    """A change, after its commit.

    =========  ====================================================================
    kind       data
    =========  ====================================================================
    new        the row of the message, as in lists
    update     ``{"ID":…,"Read":true}`` or ``{"ID":…,"Tags":[…]}``
    delete     ``{"ID":…}``, for at most 200 messages at a time
    prune      null: retention, more than 200 deleted, a tag renamed or deleted
    truncate   null: all were deleted
    stats      ``{"Total":4,"Unread":3}``, after each commit that changed messages
    rejected   the attempt; null after all were deleted
    fault      the fault that struck, given to :meth:`Store.publish`
    =========  ====================================================================
    """

    kind: EventKind
    data: str
    """JSON."""
    more: str = ""
    """Members of a new row that our own API adds: see :func:`~aiosmtpd.inbox.rows.extended`."""


@public
class Counts(NamedTuple):
    """Numbers that the store has in memory."""

    total: int
    unread: int
    size: int
    """Bytes of the sources of all messages."""
    attempts: int
    """Refused attempts that are stored."""
    accepted: int
    """Messages stored since the start; the others below too."""
    accepted_size: int
    rejected: int
    ignored: int
    """Messages that were left out as duplicates."""
    deleted: int
    pruned: int
    """Messages that retention removed, since the store was made."""


@public
@frozen
class Gone:
    """Messages that retention removed, added up for each reason."""

    at: datetime
    """The last time."""
    count: int
    why: str
    """The limit, as in ``--keep``: ``5000``, ``1G`` or ``30d``."""


@public
class Summary(NamedTuple):
    """A page of a list, newest first."""

    total: int
    unread: int
    matches: int
    matches_unread: int
    start: int
    tags: list[str]
    """All tags of the store, sorted."""
    rows: list[str]
    """JSON, one object for each message."""

    def json(self) -> str:
        """Return the MessagesSummary that ``GET /messages`` and ``/search`` answer."""
        head = wire.dump(
            {
                "total": self.total,
                "unread": self.unread,
                "count": len(self.rows),
                "messages_count": self.matches,
                "messages_unread": self.matches_unread,
                "start": self.start,
                "tags": self.tags,
            }
        )
        return f'{head[:-1]},"messages":[{",".join(self.rows)}]}}'


@public
@frozen
class Tagging:
    """How messages get tags when they arrive, beside the field ``X-Tags``."""

    filters: Sequence[tuple[str, Sequence[str]]] = ()
    """Pairs of a search query and the tags of the messages that it matches."""
    addresses: bool = True
    """Take tags from addresses such as ``a+tag@example.com``."""
    header: bool = True
    """Take tags from ``X-Tags``."""
    username: bool = False
    """Add the name of the authenticated user."""
