"""The configuration of ``aiosmtpd serve``, as values.

Workers get it as JSON from the master. :mod:`aiosmtpd.runner.tables` has the tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import attrs

from aiosmtpd.listen.addresses import Listen, parse_listen
from aiosmtpd.runner import kinds
from aiosmtpd.runner.certificates import Checked
from aiosmtpd.runner.kinds import Kind, setting
from aiosmtpd.runner.processors import processors
from aiosmtpd.runner.tables import (
    TLS,
    Admin,
    Auth,
    Drain,
    LimitsTable,
    Log,
    Pair,
    Proxy,
    RetryTable,
    RouteTable,
    SMTPTable,
    SpoolTable,
)

if TYPE_CHECKING:
    from aiosmtpd.protocol.settings import Settings, SMTPKeywords

__all__ = [
    "TLS",
    "Admin",
    "Auth",
    "Config",
    "Drain",
    "LimitsTable",
    "Log",
    "Pair",
    "Place",
    "Proxy",
    "RetryTable",
    "RouteTable",
    "SMTPTable",
    "SpoolTable",
    "parse_place",
]

HAS_WORKERS = sys.platform != "win32"
"""True if a process can give sockets to others; else the server is one process."""

LOGIN_PROMPTS = "Username:", "Password:"
"""The prompts of AUTH LOGIN that many devices look for."""


@attrs.frozen
class Place(Listen):
    """A place to listen at; *systemd* is the name of the sockets that systemd passes.

    The name is ``""`` for all of them, and None for a place that the master binds itself.
    """

    systemd: str | None = None


def parse_place(text: str) -> Place:
    """Parse a place, or ``systemd`` and ``systemd:NAME``, with or without a scheme.

    A place has no host for the loopback; it must have a port. Raises ValueError with a text of one
    line.
    """
    scheme, mark, place = text.rpartition("://")
    kind, _, name = place.partition(":")
    if kind == "systemd" and not name.isdecimal():
        parsed = parse_listen(f"{scheme}{mark}fd:3")
        return Place(parsed.scheme, systemd=name)
    parsed = parse_listen(text)
    if parsed.path is None and parsed.fd is None and parsed.port is None:
        raise ValueError(f"a place has a port, such as smtp://127.0.0.1:25, not {text!r}")
    return Place(parsed.scheme, parsed.host, parsed.port, parsed.path, parsed.fd)


def _places(value: Any) -> tuple[Place, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise ValueError
    return tuple(map(parse_place, texts))


PLACES = Kind(
    wanted='a list of places such as ["smtp://0.0.0.0:25", "lmtp://unix:/run/lmtp"]',
    read=_places,
    from_text=lambda text: text.replace(",", " ").split(),
)


def _workers(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    number: int = kinds.count(1, 1024).read(value)
    return number


WORKERS = Kind(
    wanted='a number from 1 to 1024, or "auto"', read=_workers, from_text=kinds.number_of
)


@attrs.frozen(kw_only=True)
class Config:
    """All of a configuration."""

    listen: tuple[Place, ...] = setting(
        PLACES,
        "Places to listen at: HOST:PORT, [IPV6]:PORT, unix:PATH, fd:NUMBER, systemd or "
        "systemd:NAME, with smtp://, smtps:// or lmtp:// in front.",
        ["smtp://0.0.0.0:25", "smtp://[::]:25"],
        (Place("smtp", "127.0.0.1", 8025),),
    )
    preset: Literal["mx", "submission", "lmtp", "relay"] | None = setting(
        kinds.choice("mx", "submission", "lmtp", "relay"),
        "Defaults for a kind of server; each key in the file counts more.",
        "mx",
        None,
    )
    workers: int | Literal["auto"] = setting(
        WORKERS,
        "Worker processes; auto is one for each processor, within the CPU limit of a container "
        "or a service (cgroup), rounded up.",
        4,
        "auto",
    )
    user: str | None = setting(
        kinds.ACCOUNT, "User that workers become, if the server is started as root.", "mail", None
    )
    group: str | None = setting(
        kinds.ACCOUNT, "Group that workers get; without it, the groups of the user.", "mail", None
    )
    hostname: str | None = setting(
        kinds.HOST_NAME,
        "Name of the server in its greeting; without it, the full name of the machine.",
        "mx.example.org",
        None,
    )
    relay_networks: tuple[str, ...] = setting(
        kinds.NETWORKS,
        "Networks whose hosts may send to any address without a password.",
        ["192.0.2.0/24"],
        (),
    )
    handler: str | None = setting(
        kinds.TEXT,
        "Class with hooks, or function that gets each Mail, in place of routes; a table [handler] "
        "has it as use, and settings of the class as other keys.",
        "shop.mail:Handler",
        None,
    )
    tls: TLS | None = setting(kinds.table(TLS), "Certificates and their keys.", None, None)
    proxy: Proxy = setting(kinds.table(Proxy), "Load balancers in front.", None, Proxy())
    smtp: SMTPTable = setting(kinds.table(SMTPTable), "Protocol of the server.", None, SMTPTable())
    limits: LimitsTable = setting(
        kinds.table(LimitsTable), "Limits on clients.", None, LimitsTable()
    )
    auth: Auth = setting(kinds.table(Auth), "Users and passwords.", None, Auth())
    drain: Drain = setting(kinds.table(Drain), "The end of a worker.", None, Drain())
    spool: SpoolTable | None = setting(
        kinds.table(SpoolTable), "The spool of messages.", None, None
    )
    admin: Admin = setting(kinds.table(Admin), "For operators.", None, Admin())
    log: Log = setting(kinds.table(Log), "The log of events.", None, Log())
    route: tuple[RouteTable, ...] = setting(
        kinds.tables(RouteTable, "a list of tables [[route]]"), "Routes, in their order.", None, ()
    )
    handler_settings: dict[str, Any] = attrs.field(factory=dict)
    """Keywords of the handler's class: the other keys of the table ``[handler]``."""

    certificates: tuple[Checked, ...] = ()
    """The certificates of ``[tls]``, if they are checked already."""

    source: str | None = None
    """The absolute path of the file, None without one."""

    @property
    def routes(self) -> tuple[RouteTable, ...]:
        """The routes, in order."""
        return self.route

    @property
    def worker_count(self) -> int:
        """The number of workers; one without processes for them."""
        if not HAS_WORKERS:
            return 1
        return processors() if self.workers == "auto" else self.workers

    def smtp_keywords(self) -> SMTPKeywords:
        """Return the keywords of ``SMTP`` and ``Server``, without those of TLS and of users."""
        keywords: SMTPKeywords = {
            "enable_SMTPUTF8": self.smtp.smtputf8,
            "extensions": self.smtp.extensions,
            "bare_newline": self.smtp.bare_newline,
            "login_prompts": LOGIN_PROMPTS,
            "hostname": self.hostname,
            **self.limits.keywords(),
        }
        if self.proxy.trusted:
            keywords["proxy_protocol_timeout"] = self.proxy.timeout
            keywords["proxy_trusted"] = self.proxy.trusted
        return keywords

    def settings(self, *, tls_context: Any = None, observers: Sequence[Any] = ()) -> Settings:
        """Return the settings of a worker's server, with the users and a context for STARTTLS."""
        from aiosmtpd.protocol.settings import Settings  # the master does without

        found = Settings.of(
            {
                **self.smtp_keywords(),
                "tls_context": tls_context,
                "require_starttls": self.tls is not None and self.tls.require,
                "observers": observers,
            }
        )
        if self.auth.users is None:
            return found
        from aiosmtpd.process.users import Users

        # Not by keywords: their warnings are for programs.
        return attrs.evolve(
            found,
            authenticator=Users(self.auth.pairs),
            auth_required=self.auth.required,
            auth_require_tls=self.auth.require_tls,
        )

    def to_json(self) -> str:
        """Return the configuration for a worker, with its secrets: send it over a private pipe."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the configuration that :meth:`to_json` has written."""
        found: Self = _built(cls, json.loads(text))
        return found


def _built(cls: type[Any], values: dict[str, Any]) -> Any:
    """Return an object of a class from a dict that ``attrs.asdict`` has made of one."""
    found = dict(values)
    for name, field in kinds.keys_of(cls).items():
        kind, value = field.metadata["kind"], found.get(name)
        if kind is PLACES:
            found[name] = tuple(Place(**place) for place in values[name])
        elif kind.table is not None and kind.many:
            found[name] = tuple(_built(kind.table, one) for one in values[name])
        elif kind.table is not None and value is not None:
            found[name] = _built(kind.table, value)
        elif isinstance(value, list):
            found[name] = tuple(value)
    if cls is Config:
        found["certificates"] = tuple(Checked.of(one) for one in values.get("certificates", ()))
    return cls(**found)
