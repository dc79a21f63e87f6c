"""The options that the places of delivery have in a configuration file, by scheme.

They stand here once more, so that a file is checked without the packages of the outlets; a test
compares them with the functions that make the outlets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from aiosmtpd.runner import kinds
from aiosmtpd.runner.kinds import setting


@attrs.frozen(kw_only=True)
class MailOptions:
    """Options of ``smtp:``, ``smtp+starttls:``, ``smtps:`` and ``lmtp:``."""

    user: str = setting(kinds.TEXT, "User for AUTH.", "shop", "")
    password: str = setting(
        kinds.TEXT, "Password for AUTH.", "file:${CREDENTIALS_DIRECTORY}/smarthost", ""
    )
    verify: bool = setting(
        kinds.FLAG, "Check the certificate of smtps and smtp+starttls.", False, True
    )
    cafile: str | None = setting(
        kinds.PATH, "PEM file with the authorities to trust.", "/etc/aiosmtpd/ca.pem", None
    )
    plain_auth: bool = setting(kinds.FLAG, "Allow a password to be sent without TLS.", True, False)
    reply_timeout: float = setting(kinds.PAUSE, "Longest time to wait for a reply.", "30s", 30.0)
    final_timeout: float | None = setting(
        kinds.PAUSE,
        "Longest time to wait for the reply to the message; without it, that of the route.",
        "5m",
        None,
    )
    hostname: str = setting(kinds.HOST_NAME, "Name to give in EHLO.", "mx.example.org", "")


@attrs.frozen(kw_only=True)
class WebhookOptions:
    """Options of ``http:`` and ``https:``."""

    format: str = setting(
        kinds.choice("raw", "json"), "Body of the request: the message, or JSON.", "json", "raw"
    )
    secret: tuple[str, ...] = setting(
        kinds.TEXTS,
        "Secret, or several, by which requests are signed.",
        "file:${CREDENTIALS_DIRECTORY}/webhook",
        (),
    )
    headers: dict[str, str] | None = setting(
        kinds.MAPPING, "More header fields.", {"Authorization": "Bearer ${TOKEN}"}, None
    )
    verify: bool = setting(kinds.FLAG, "Check the certificate.", False, True)
    cafile: str | None = setting(
        kinds.PATH, "PEM file with the authorities to trust.", "/etc/aiosmtpd/ca.pem", None
    )
    reply_timeout: float = setting(kinds.PAUSE, "Longest time to wait for a response.", "30s", 30.0)


@attrs.frozen(kw_only=True)
class NatsOptions:
    """Options of ``nats:``."""

    fsync: bool = setting(
        kinds.FLAG,
        "Say that the server has sync_interval: always, so one replica will do.",
        True,
        False,
    )
    large: int | None = setting(
        kinds.SIZE, "Messages of more bytes are published in chunks.", "512K", None
    )
    blob: str = setting(kinds.TEXT, "Subject of the chunks.", "mail.in.blob", "")
    credentials: str | None = setting(
        kinds.PATH, "File with the credentials of a NATS user.", "/etc/aiosmtpd/nats.creds", None
    )


@attrs.frozen(kw_only=True)
class NoOptions:
    """Places without options."""


OPTIONS: Mapping[str, type[Any]] = {
    "smtp": MailOptions,
    "smtp+starttls": MailOptions,
    "smtps": MailOptions,
    "lmtp": MailOptions,
    "maildir": NoOptions,
    "python": NoOptions,
    "command": NoOptions,
    "http": WebhookOptions,
    "https": WebhookOptions,
    "nats": NatsOptions,
}
"""The options by the scheme of the URL."""

RELAYS = ("smtp", "smtp+starttls", "smtps")
"""Schemes of mail servers that may send mail on to others."""

SECRET = {"password", "secret", "headers"}
"""Options whose values are never shown."""


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case, ``""`` if there is none."""
    name, colon, _ = url.partition(":")
    return name.lower() if colon else ""


def fits_any_domain(pattern: str) -> bool:
    """Return True if a pattern fits addresses in all domains, or in a top-level domain."""
    domain = pattern.rpartition("@")[2]
    if "@" not in pattern and "*" not in pattern:
        return False  # postmaster
    # Only labels after the last wildcard are the same in all domains: *.com is one of many owners.
    fixed = re.split(r"[*?]", domain)
    return len(fixed) > 1 and "." not in fixed[-1].strip(".") and "[" not in domain
