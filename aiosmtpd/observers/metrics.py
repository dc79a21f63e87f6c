"""An observer that counts connections, commands and messages: for ``/metrics`` of ``serve``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from public import public

from aiosmtpd.observers.samples import (
    PREFIX as PREFIX,
    SECONDS as SECONDS,
    SIZES as SIZES,
    Histogram as Histogram,
    Snapshot as Snapshot,
    escaped as escaped,
    sample as sample,
)
from aiosmtpd.protocol import replies

if TYPE_CHECKING:
    from aiosmtpd.protocol.replies import Reply

REASONS = {
    replies.TOO_MANY_CONNECTIONS: "connections",
    replies.TOO_MANY_OF_HOST: "host",
    replies.TOO_MANY_ARRIVALS: "rate",
}

MECHANISMS = 16
"""Mechanisms of AUTH that are counted by name; a handler may have some of its own."""


@public
class Metrics:
    """An observer that counts. All of its methods run in one event loop, so it needs no lock.

    :meth:`snapshot` returns the numbers. No label has a value that a client chooses.
    """

    def __init__(self) -> None:
        self._open = 0
        self._connections: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._refused: defaultdict[str, int] = defaultdict(int)
        self._handshakes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._auth: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._commands: defaultdict[tuple[str, str], int] = defaultdict(int)
        # With all results from the start: a rate needs the value before the first one.
        self._messages = dict.fromkeys(("accepted", "rejected", "deferred", "aborted"), 0)
        self._bytes = 0
        self._sizes = Histogram(SIZES)
        self._data = Histogram(SECONDS)
        self._handler = Histogram(SECONDS)
        self._unanswered: set[Any] = set()
        """The connections whose message has come, or broken off, without a reply so far."""

    @property
    def open_connections(self) -> int:
        """How many connections there are now."""
        return self._open

    def snapshot(self) -> Snapshot:
        """Return all numbers as they are now."""
        counters: dict[str, float] = {
            sample("messages_total", result=result): number
            for result, number in self._messages.items()
        }
        counters[sample("message_bytes_total")] = self._bytes
        for (listener, tls), number in self._connections.items():
            counters[sample("connections_total", listener=listener, tls=tls)] = number
        for reason, number in self._refused.items():
            counters[sample("connections_refused_total", reason=reason)] = number
        for (result, version), number in self._handshakes.items():
            counters[sample("tls_handshakes_total", result=result, version=version)] = number
        for (mechanism, result), number in self._auth.items():
            counters[sample("auth_total", mechanism=mechanism, result=result)] = number
        for (verb, digit), number in self._commands.items():
            labels = {"verb": verb or "none", "class": f"{digit}xx"}
            counters[sample("commands_total", **labels)] = number
        return {
            "counters": counters,
            "gauges": {sample("connections"): self._open},
            "histograms": {
                sample("message_size_bytes"): self._sizes.snapshot(),
                sample("data_seconds"): self._data.snapshot(),
                sample("handler_seconds"): self._handler.snapshot(),
            },
        }

    # The seam.

    def began(self, server: Any) -> None:
        """See Observer."""
        self._open += 1
        implicit = server.tls_from_start is not None or server.session.ssl is not None
        tls = "implicit" if implicit else "none"
        self._connections[listener_of(server), tls] += 1

    def refused(self, server: Any, reply: Reply) -> None:
        """See Observer."""
        self._refused[REASONS.get(reply, "other")] += 1

    def tls(self, server: Any, result: str, version: str | None) -> None:
        """See Observer."""
        self._handshakes["ok" if version else "failed", version or "none"] += 1

    def auth(self, server: Any, mechanism: str, success: bool) -> None:
        """See Observer."""
        key = mechanism, "ok" if success else "failed"
        if key not in self._auth and len(self._auth) >= 2 * MECHANISMS:
            key = "other", key[1]
        self._auth[key] += 1

    def reply(self, server: Any, verb: str, reply: Reply) -> None:
        """See Observer."""
        self._commands[verb, reply[:1]] += 1

    def data(self, server: Any, size: int) -> None:
        """See Observer."""
        if server in self._unanswered:
            self._messages["aborted"] += 1
        self._unanswered.add(server)

    def taken(self, server: Any, message: Any) -> None:
        """See Observer."""
        self._unanswered.discard(server)
        result = result_of(message.replies)
        self._messages[result] += 1
        if result == "accepted":
            self._bytes += message.size
            self._sizes.observe(message.size)
        self._data.observe(message.data_seconds)
        self._handler.observe(message.handler_seconds)

    def ended(self, server: Any, reason: str) -> None:
        """See Observer."""
        self._open -= 1
        if server in self._unanswered:
            self._unanswered.discard(server)
            self._messages["aborted"] += 1


def result_of(each: list[Reply]) -> str:
    """Return what became of a message: in LMTP, the best of its replies counts."""
    return _RESULTS.get(min(reply[:1] for reply in each), "rejected")


_RESULTS: Mapping[str, str] = {"2": "accepted", "4": "deferred"}


def listener_of(server: Any) -> str:
    """Return the protocol and the port at which a client was accepted, such as ``smtp:25``."""
    name = server.transport.get_extra_info("sockname")
    place = str(name[1]) if isinstance(name, tuple) else "unix"
    return f"{server.protocol_family.lower()}:{place}"
