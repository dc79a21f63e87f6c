"""Limits on what one client may do, and the counters that enforce them.

Nothing here reads a clock: the time is an argument.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypedDict

import attrs

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Reply

DESCRIPTORS_KEPT = 32
"""File descriptors kept free for the rest of the process."""

# Annotations are values here: text would be compiled for each key of the dict.

MINUTE = 60.0

CREDIT = 600.0
"""Upper bound, in seconds of slow transfer, on the credit that a fast start earns."""

JUNK = frozenset({"NOOP", "RSET", "VRFY", "EXPN", "HELP", "HELO", "EHLO", "LHLO"})
"""Verbs that send no mail; ``max_junk_commands`` counts them."""


class LimitKeywords(TypedDict, total=False):
    """The limits as keywords of ``SMTP`` and the controllers: see :class:`Limits`."""

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
    """The limits on what one client may do; None or 0 switches a limit off.

    Counted for each connection: recipients of a message, different domains of the recipients,
    transactions, Received fields of a message, failed AUTH commands, errors (5xx replies) and junk
    commands (verbs that send no mail). An accepted message resets the last two.
    Counted for each server: connections, connections of one host, and new connections of one host
    in a minute.

    ``data_timeout`` (without progress in mail data), ``handler_timeout`` (one hook),
    ``handshake_timeout`` (TLS) and ``session_timeout`` are in seconds; ``min_data_rate`` is the
    lowest average in bytes a second. docs/reference/limits lists each limit with its reply. Raises
    ValueError for a value that is not a number above 0.
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
        # Not by attrs: fifteen converters and validators would add 0.5 ms to the import.
        for name in LIMIT_NAMES:
            object.__setattr__(self, name, _checked(name, getattr(self, name)))


def _checked(name: str, value: Any) -> Any:
    """Return the value of a limit, None if it is switched off; raises ValueError."""
    if not value or (name == "max_connections" and value == "descriptors"):
        return value or None
    if not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{name} must be a number above 0, or None, not {value!r}")
    return value


DEFAULT_LIMITS = Limits()


def limits_of(keywords: Mapping[str, Any]) -> Limits:
    """Return the limits that these keywords set; raises ValueError."""
    # One object for all connections with equal keywords: making it takes 4 µs.
    return _limits_of(*sorted(keywords.items())) if keywords else DEFAULT_LIMITS


@lru_cache(maxsize=64)
def _limits_of(*keywords: tuple[str, Any]) -> Limits:
    return Limits(**dict(keywords))


class Meter:
    """The counters of one connection.

    :attr:`farewell` is None until a limit is reached; then it is the reply that closes the
    connection at the next command.
    """

    __slots__ = ("_errors", "_forgone", "_junk", "_limits", "_seconds", "farewell")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._errors = self._junk = 0
        self._seconds = self._forgone = 0.0
        self.farewell: Reply | None = None

    def count_error(self) -> None:
        """Count a 5xx reply."""
        self._errors += 1
        limit = self._limits.max_errors
        if limit is not None and self._errors >= limit:
            self.farewell = replies.TOO_MANY_ERRORS

    def count_junk(self) -> None:
        """Count a command that sends no mail."""
        self._junk += 1
        limit = self._limits.max_junk_commands
        if limit is not None and self._junk > limit:
            self.farewell = replies.TOO_MUCH_JUNK

    def message_accepted(self) -> None:
        """Reset the counts of errors and junk commands: this client sends mail."""
        self._errors = self._junk = 0
        self.farewell = None

    def begin_message(self, waited: float = 0.0) -> None:
        """Reset the measurement of the data rate: the mail data of a new message begins.

        *waited* is the time in seconds that was spent waiting for them before this call.
        """
        self._seconds, self._forgone = waited, 0.0

    def is_dribble(self, seconds: float, octets: int, grace: float) -> bool:
        """Return True if the average data rate is below the limit after *grace* seconds.

        *seconds* is the time spent waiting for mail data since the last call, *octets* the size of
        the message so far in bytes. Only waiting counts: the client is not blamed for the time
        that the server takes.
        """
        rate = self._limits.min_data_rate
        if rate is None:
            return False
        self._seconds += seconds
        # Cap the credit, or a client could send a burst and then hold the connection for days.
        self._forgone = max(self._forgone, octets - rate * (self._seconds + CREDIT))
        return self._seconds > grace and octets - self._forgone < rate * self._seconds


class Crowd:
    """The counters of one server: its connections, in all and by host."""

    def __init__(self, descriptors: int | None) -> None:
        self._room = None if descriptors is None else max(1, descriptors - DESCRIPTORS_KEPT)
        self._hosts: dict[str, int] = {}
        self._arrivals: dict[str, int] = {}
        self._minute = 0.0

    def admit(self, host: str, connections: int, limits: Limits, now: float) -> Reply | None:
        """Count a new connection and return None, or return the reply that refuses it.

        *connections* is the number of open connections including this one, *now* the time in
        seconds. *host* is ``""`` for a client that is not counted by host.
        """
        if (refusal := self.too_many(connections, limits)) is not None or not host:
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

    def too_many(self, connections: int, limits: Limits) -> Reply | None:
        """Return the reply that refuses a connection if the server has too many."""
        limit = limits.max_connections
        if limit == "descriptors":
            limit = self._room
        return replies.TOO_MANY_CONNECTIONS if limit is not None and connections > limit else None

    def leave(self, host: str | None) -> None:
        """Count the end of a connection that was admitted as *host*; None if it was not."""
        if not host:
            return
        if (left := self._hosts[host] - 1) > 0:
            self._hosts[host] = left
        else:
            del self._hosts[host]
