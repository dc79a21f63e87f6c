"""What one client may do: the settings, and the counters of one connection.

Both are pure: time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypedDict

import attrs

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Reply

DESCRIPTORS_KEPT = 32
"""File descriptors that connections leave to the rest of the process."""

MINUTE = 60.0

CREDIT = 600.0
"""Seconds of slow mail data, at most, that faster data before them makes up for."""

JUNK = frozenset({"NOOP", "RSET", "VRFY", "EXPN", "HELP", "HELO", "EHLO", "LHLO"})
"""Verbs that send no mail."""


class LimitKeywords(TypedDict, total=False):
    """The limits as keywords of ``SMTP`` and the controllers; see :class:`Limits`."""

    max_recipients: int | None
    max_recipient_domains: int | None
    max_transactions: int | None
    max_hops: int | None
    max_auth_failures: int | None
    max_errors: int | None
    max_junk_commands: int | None
    max_connections: int | Literal["descriptors"] | None
    max_connections_per_host: int | None
    max_connection_rate: int | None
    data_timeout: float | None
    min_data_rate: float | None
    handler_timeout: float | None
    handshake_timeout: float | None
    session_timeout: float | None


LIMIT_NAMES = frozenset(LimitKeywords.__annotations__)


@attrs.frozen
class Limits:
    """What one client may do; None or 0 switches a limit off. Raises ValueError for no number.

    Numbers of things, of one connection: recipients of a message, different domains of
    recipients, transactions, Received fields of a message, failed AUTH commands; errors (replies
    of 5xx) and commands that send no mail, both without an accepted message between. Of one
    server: connections, those of one host, and new ones of one host in a minute.

    Seconds: without progress in mail data, of a hook, of a TLS handshake, of a session. Octets a
    second: of mail data, on average. docs/reference/limits tells each with its reply.
    """

    max_recipients: int | None = 1000
    max_recipient_domains: int | None = None
    max_transactions: int | None = None
    max_hops: int | None = 100
    max_auth_failures: int | None = 10
    max_errors: int | None = 20
    max_junk_commands: int | None = None
    max_connections: int | Literal["descriptors"] | None = "descriptors"
    max_connections_per_host: int | None = None
    max_connection_rate: int | None = None
    data_timeout: float | None = 180.0
    min_data_rate: float | None = 100.0
    handler_timeout: float | None = None
    handshake_timeout: float | None = 30.0
    session_timeout: float | None = None

    def __attrs_post_init__(self) -> None:
        # In one place, for fifteen converters and validators take 0.5 ms of each import.
        for name in LIMIT_NAMES:
            object.__setattr__(self, name, _checked(name, getattr(self, name)))


def _checked(name: str, value: Any) -> Any:
    """Return a limit's value, None for a limit switched off; raises ValueError."""
    if not value or (name == "max_connections" and value == "descriptors"):
        return value or None
    if not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{name} must be a number above 0, or None, not {value!r}")
    return value


DEFAULT_LIMITS = Limits()


def limits_of(keywords: Mapping[str, Any]) -> Limits:
    """Return the limits that these keywords set; raises ValueError."""
    # Made once for all connections with the same ones (4 µs each).
    return _limits_of(*sorted(keywords.items())) if keywords else DEFAULT_LIMITS


@lru_cache(maxsize=64)
def _limits_of(*keywords: tuple[str, Any]) -> Limits:
    return Limits(**dict(keywords))


class Meter:
    """The counters of one connection.

    :attr:`farewell` is the reply that ends it at its next command; None while there is none.
    """

    __slots__ = ("_errors", "_forgone", "_junk", "_limits", "_seconds", "farewell")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._errors = self._junk = 0
        self.begin_message()
        self.farewell: Reply | None = None

    def count_error(self) -> None:
        """Take note of a reply of 5xx."""
        self._errors += 1
        limit = self._limits.max_errors
        if limit is not None and self._errors >= limit:
            self.farewell = replies.TOO_MANY_ERRORS

    def count_junk(self) -> None:
        """Take note of a command that sends no mail."""
        self._junk += 1
        limit = self._limits.max_junk_commands
        if limit is not None and self._junk > limit:
            self.farewell = replies.TOO_MUCH_JUNK

    def message_accepted(self) -> None:
        """Begin to count anew: this client sends mail."""
        self._errors = self._junk = 0
        self.farewell = None

    def begin_message(self) -> None:
        """Take note that mail data is to come."""
        self._seconds = self._forgone = 0.0

    def is_dribble(self, seconds: float, octets: int, grace: float) -> bool:
        """Tell whether mail data comes too slowly, on average, once *grace* seconds are over.

        *seconds* is how long it has been waited for since this was last asked, *octets* how much
        of the message there is in all. A server that is slow itself is not the client's fault.
        """
        rate = self._limits.min_data_rate
        if rate is None:
            return False
        self._seconds += seconds
        # Or who has sent much at once could hold it here for days.
        self._forgone = max(self._forgone, octets - rate * (self._seconds + CREDIT))
        return self._seconds > grace and octets - self._forgone < rate * self._seconds


class Crowd:
    """The counters of one server: how many connections, and how many of each host."""

    def __init__(self, descriptors: int | None) -> None:
        self._room = None if descriptors is None else max(1, descriptors - DESCRIPTORS_KEPT)
        self._hosts: dict[str, int] = {}
        self._arrivals: dict[str, int] = {}
        self._minute = 0.0

    def admit(self, host: str, connections: int, limits: Limits, now: float) -> Reply | None:
        """Return why a host's new connection is refused, or None and count it.

        *connections* is how many there are with this one, *now* the time in seconds; the host is
        "" where hosts are not counted.
        """
        if (refusal := self._too_many(connections, limits)) is not None or not host:
            return refusal
        if limits.max_connection_rate is not None:
            if now - self._minute >= MINUTE:
                self._minute = now
                self._arrivals.clear()
            arrivals = self._arrivals[host] = self._arrivals.get(host, 0) + 1
            if arrivals > limits.max_connection_rate:
                return replies.TOO_MANY_ARRIVALS
        count = self._hosts.get(host, 0)
        if limits.max_connections_per_host is not None and count >= limits.max_connections_per_host:
            return replies.TOO_MANY_OF_HOST
        self._hosts[host] = count + 1
        return None

    def refusal(self, host: str, others: int, connections: int, limits: Limits) -> Reply | None:
        """Return why a client cannot even begin its TLS handshake, or None; counts nothing.

        *others* of its host are in theirs, and *connections* is how many there are with them all.
        """
        if (refusal := self._too_many(connections, limits)) is not None or not host:
            return refusal
        limit = limits.max_connections_per_host
        if limit is not None and self._hosts.get(host, 0) + others >= limit:
            return replies.TOO_MANY_OF_HOST
        return None

    def _too_many(self, connections: int, limits: Limits) -> Reply | None:
        limit = limits.max_connections
        if limit == "descriptors":
            limit = self._room
        return replies.TOO_MANY_CONNECTIONS if limit is not None and connections > limit else None

    def leave(self, host: str) -> None:
        """Take note that an admitted connection of this host has ended."""
        if not host:
            return
        if (left := self._hosts[host] - 1) > 0:
            self._hosts[host] = left
        else:
            del self._hosts[host]
