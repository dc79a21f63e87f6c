"""The tables of a configuration file, each with its keys.

Each field with a kind is a key of the file, with the sentence that the documentation shows. Sizes
are in bytes and times in seconds here, however the file writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs

from aiosmtpd.runner import kinds
from aiosmtpd.runner.kinds import setting

if TYPE_CHECKING:
    from aiosmtpd.delivery.route import Route
    from aiosmtpd.protocol.settings import SMTPKeywords

MIB = 1 << 20


@attrs.frozen(kw_only=True)
class Pair:
    """A certificate with its key, for the names in the certificate."""

    cert: str = setting(kinds.PATH, "PEM file with the certificate and its chain.", "shop.pem")
    key: str = setting(kinds.PATH, "PEM file with the private key.", "shop.key")


@attrs.frozen(kw_only=True)
class TLS:
    """Certificates, and which TLS is spoken."""

    cert: str = setting(
        kinds.PATH,
        "PEM file with the certificate and its chain; it is loaded again when it changes.",
        "/etc/letsencrypt/live/mx/fullchain.pem",
    )
    key: str = setting(
        kinds.PATH,
        "PEM file with the private key, which the master reads and workers do not.",
        "/etc/letsencrypt/live/mx/privkey.pem",
    )
    require: bool = setting(
        kinds.FLAG, "Reject mail until the client has used STARTTLS.", True, False
    )
    min_version: str = setting(
        kinds.choice("1.2", "1.3"), "Lowest version of TLS that clients may use.", "1.3", "1.2"
    )
    sni: tuple[Pair, ...] = setting(
        kinds.tables(Pair, "a list of tables [[tls.sni]]"),
        "More certificates: a client that asks for a name in one of them gets it.",
        None,
        (),
    )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All certificates; the first is for clients that ask for no name, or another one."""
        return (Pair(cert=self.cert, key=self.key), *self.sni)


@attrs.frozen(kw_only=True)
class Proxy:
    """The PROXY protocol of load balancers."""

    trusted: tuple[str, ...] = setting(
        kinds.NETWORKS,
        "Networks of load balancers: they send a PROXY header, and other hosts are refused.",
        ["10.0.0.0/8"],
        (),
    )
    timeout: float = setting(kinds.PAUSE, "Longest time to wait for the PROXY header.", "5s", 5.0)


@attrs.frozen(kw_only=True)
class LimitsTable:
    """Limits on clients; those of hosts count over all workers."""

    size: int = setting(kinds.SIZE, "Largest message; 0 for any size.", "25M", 32 * MIB)
    line_length: int = setting(
        kinds.SIZE, "Longest line of a message, with its CRLF; 0 for any length.", 1000, 0
    )
    recipients: int = setting(kinds.LIMIT, "Recipients of one message.", 100, 1000)
    recipient_domains: int = setting(
        kinds.LIMIT, "Different domains of the recipients of one message.", 5, 0
    )
    transactions: int = setting(kinds.LIMIT, "Messages over one connection.", 100, 0)
    hops: int = setting(kinds.LIMIT, "Received fields of a message, against mail loops.", 50, 100)
    connections: int | None = setting(
        kinds.LIMIT,
        "Open connections; without this key, as many as the process may have file descriptors.",
        2000,
        None,
    )
    connections_per_host: int = setting(
        kinds.LIMIT, "Open connections of one host (of one /64 for IPv6).", 20, 50
    )
    connection_rate: int = setting(kinds.LIMIT, "New connections of one host in a minute.", 60, 0)
    auth_failures: int = setting(
        kinds.LIMIT, "Wrong passwords over one connection before it is closed.", 3, 3
    )
    errors: int = setting(
        kinds.LIMIT, "Errors over one connection, without a message between them.", 10, 20
    )
    junk_commands: int = setting(
        kinds.LIMIT, "Commands without a message between them, such as NOOP.", 50, 100
    )
    min_data_rate: int = setting(
        kinds.LIMIT, "Bytes of a message that a client must send per second on average.", 100, 100
    )
    command_timeout: float = setting(
        kinds.PAUSE, "Longest time to wait for the next command.", "5m", 300.0
    )
    data_timeout: float = setting(
        kinds.SECONDS, "Longest time without progress in a message; 0 for any time.", "3m", 180.0
    )
    handler_timeout: float = setting(
        kinds.SECONDS, "Longest time for one hook of the handler; 0 for any time.", "60s", 0.0
    )
    handshake_timeout: float = setting(
        kinds.SECONDS, "Longest time for a TLS handshake; 0 for any time.", "30s", 30.0
    )
    session_timeout: float = setting(
        kinds.SECONDS, "Longest time for one connection; 0 for any time.", "1h", 0.0
    )

    def keywords(self) -> SMTPKeywords:
        """Return the limits as keywords of ``SMTP``."""
        return {
            "data_size_limit": self.size,
            "line_length_limit": self.line_length or None,
            "timeout": self.command_timeout,
            "max_recipients": self.recipients,
            "max_recipient_domains": self.recipient_domains,
            "max_transactions": self.transactions,
            "max_hops": self.hops,
            "max_connections": "descriptors" if self.connections is None else self.connections,
            "max_connections_per_host": self.connections_per_host,
            "max_connection_rate": self.connection_rate,
            "max_auth_failures": self.auth_failures,
            "max_errors": self.errors,
            "max_junk_commands": self.junk_commands,
            "min_data_rate": self.min_data_rate,
            "data_timeout": self.data_timeout,
            "handler_timeout": self.handler_timeout,
            "handshake_timeout": self.handshake_timeout,
            "session_timeout": self.session_timeout,
        }


@attrs.frozen(kw_only=True)
class SMTPTable:
    """The protocol."""

    smtputf8: bool = setting(
        kinds.FLAG, "Accept addresses and headers in UTF-8 (RFC 6531).", False, True
    )
    extensions: Literal["classic", "modern", "all"] = setting(
        kinds.choice("classic", "modern", "all"),
        "Service extensions: few (classic), those that need no handler (modern), or all.",
        "classic",
        "modern",
    )
    bare_newline: Literal["accept", "normalize", "reject"] = setting(
        kinds.choice("reject", "normalize", "accept"),
        "A message with a CR or LF alone is refused, gets CRLF instead, or is kept as it is.",
        "reject",
        "normalize",
    )


def _pairs(pairs: Iterable[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((user, password) for user, password in pairs)


@attrs.frozen(kw_only=True)
class Auth:
    """Users and their passwords."""

    users: str | None = setting(
        kinds.PATH,
        "File with USER:PASSWORD in each line; AUTH is offered if this key is there.",
        "/etc/aiosmtpd/users",
        None,
    )
    required: bool = setting(
        kinds.FLAG, "Reject mail until the client has authenticated.", True, False
    )
    require_tls: bool = setting(
        kinds.FLAG,
        "Offer AUTH only over TLS, so that no password is sent in the clear.",
        True,
        True,
    )
    pairs: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_pairs, repr=False)
    """Users and passwords, which the loader reads from the file *users*."""


@attrs.frozen(kw_only=True)
class Drain:
    """How workers end, at a reload and at the end."""

    delay: float = setting(
        kinds.SECONDS,
        "At the end, time for which /readyz says 503 while clients are still served.",
        "5s",
        0.0,
    )
    linger: float = setting(
        kinds.SECONDS, "Time for which sessions may go on and end by themselves.", "10s", 10.0
    )
    grace: float = setting(
        kinds.SECONDS, "Time that running transactions have after that.", "30s", 30.0
    )


@attrs.frozen(kw_only=True)
class SpoolTable:
    """The folder in which messages are before they are delivered."""

    path: str = setting(
        kinds.PATH,
        "Folder of the spool, with a folder for each worker in it.",
        "/var/spool/aiosmtpd",
    )
    min_free: int = setting(
        kinds.SIZE,
        "Bytes that stay free on the disk: below, mail is put off (452).",
        "1G",
        64 * MIB,
    )
    max_bytes: int | None = setting(
        kinds.SIZE, "Largest size of one worker's spool: above, mail is put off (452).", "20G", None
    )


@attrs.frozen(kw_only=True)
class Admin:
    """The doors of an operator: metrics, health and commands."""

    http: str | None = setting(
        kinds.TEXT,
        "Address for /metrics, /healthz and /readyz; it asks for no password.",
        "127.0.0.1:9025",
        None,
    )
    socket: str | None = setting(
        kinds.PATH, "Unix socket for aiosmtpd ctl.", "/run/aiosmtpd/ctl", None
    )


@attrs.frozen(kw_only=True)
class Log:
    """The log, on the standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        kinds.choice("debug", "info", "warning", "error"), "Lowest level.", "debug", "info"
    )
    format: Literal["json", "text"] = setting(
        kinds.choice("json", "text"), "One JSON object in a line, or text.", "text", "json"
    )
    addresses: Literal["plain", "hash", "none"] = setting(
        kinds.choice("plain", "hash", "none"),
        "How mail addresses and those of clients are logged: as they are, hashed, or not at all.",
        "hash",
        "plain",
    )


@attrs.frozen(kw_only=True)
class RetryTable:
    """The times between the tries of a delivery."""

    first: float = setting(kinds.PAUSE, "Time after the first try.", "5s", 5.0)
    factor: float = setting(kinds.FACTOR, "Each time is this many times the one before.", 2, 2.0)
    max: float = setting(kinds.PAUSE, "Longest time between two tries.", "1h", 3600.0)
    give_up: float = setting(
        kinds.PAUSE, "Age of a message after which it is not tried again.", "5d", 5 * 86400.0
    )
    jitter: float = setting(
        kinds.SHARE, "Part of each time by which it may be longer or shorter.", 0.2, 0.2
    )


@attrs.frozen(kw_only=True)
class RouteTable:
    """A place for the mail to some recipients; the first route that matches a recipient counts."""

    to: str = setting(
        kinds.TEXT,
        "URL to deliver to, or reject, which refuses the recipients.",
        "lmtp://127.0.0.1:24",
    )
    match: tuple[str, ...] = setting(
        kinds.TEXTS,
        "Patterns of the recipients; the domain may be in any case.",
        ["*@example.org", "*@example.net"],
        ("*",),
    )
    name: str | None = setting(
        kinds.TEXT,
        "Name that is stored with each message; without it, one is made of to and match.",
        "app",
        None,
    )
    clients: Literal["any", "trusted"] | None = setting(
        kinds.choice("any", "trusted"),
        "Clients that may send this way: any, or only users and hosts of relay_networks (trusted, "
        "the default of a route that takes mail for any domain to another mail server).",
        "trusted",
        None,
    )
    retry: RetryTable = setting(
        kinds.table(
            RetryTable,
            'a table of times, "local" or "remote"',
            local=RetryTable(),
            remote=RetryTable(first=300.0, max=4000.0),
        ),
        "Times between the tries: local for programs of your own, remote for other servers.",
        "remote",
        RetryTable(),
    )
    concurrency: int = setting(
        kinds.count(1, 10_000), "Deliveries of one worker that run at the same time.", 20, 10
    )
    timeout: float = setting(kinds.PAUSE, "Longest time for one try.", "60s", 600.0)
    mode: Literal["spool", "direct"] = setting(
        kinds.choice("spool", "direct"),
        "Reply once the message is on the disk, or once it is delivered.",
        "direct",
        "spool",
    )
    fallback: Literal["spool", "none"] = setting(
        kinds.choice("spool", "none"),
        "In mode direct, if delivery fails for now: store the message, or let the client keep it.",
        "none",
        "spool",
    )
    dead: Literal["keep", "drop"] = setting(
        kinds.choice("keep", "drop"),
        "A message that cannot be delivered is kept, or dropped after a report.",
        "drop",
        "keep",
    )
    bounce: str | None = setting(
        kinds.TEXT,
        "URL of the mail server through which reports of failures go to senders.",
        "smtp://127.0.0.1:2525",
        None,
    )
    options: dict[str, Any] = attrs.field(factory=dict)
    """Options of the outlet, by name; :mod:`aiosmtpd.runner.outlets` has them."""

    @property
    def is_relay(self) -> bool:
        """True if mail to addresses in any domain goes to another mail server."""
        from aiosmtpd.runner import outlets  # the master does without

        return outlets.scheme_of(self.to) in outlets.RELAYS and self.takes_any_domain

    @property
    def takes_any_domain(self) -> bool:
        """True if one of the patterns fits addresses in all domains, or in a top-level domain."""
        from aiosmtpd.runner import outlets

        return any(map(outlets.fits_any_domain, self.match))

    @property
    def is_guarded(self) -> bool:
        """True if only users and hosts of ``relay_networks`` may send this way."""
        return self.clients == "trusted" or (self.clients is None and self.is_relay)

    def route(self) -> Route:
        """Return the route for a worker; raises ValueError and Misconfigured.

        It imports the modules that a ``python:`` URL names: never call it in the master.
        """
        from aiosmtpd.delivery.route import Route

        return Route(
            self.to,
            self.match,
            self.name,
            retry=attrs.asdict(self.retry),
            concurrency=self.concurrency,
            timeout=self.timeout,
            mode=self.mode,
            fallback="spool" if self.fallback == "spool" else None,
            dead=self.dead,
            bounce=self.bounce,
            **self.options,
        )
