"""Trace information: RFC 5321 section 4.4."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9.:-]{1,255}\]", re.ASCII)
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")

LONGEST_HEADER = 262_144
"""Octets in which Received fields are counted: 4 ms at most."""


def protocol_of(family: str, *, extended: bool, utf8: bool, tls: bool, authenticated: bool) -> str:
    """Return the ``with`` of a Received field: RFC 3848, RFC 6531 section 4.3.

    *family* is ``"SMTP"`` or ``"LMTP"``.
    """
    if not extended:
        return family
    name = f"UTF8{family}" if utf8 else family.replace("SMTP", "ESMTP")
    return name + "S" * tls + "A" * authenticated


def fields(
    reverse_path: str | None,
    recipients: list[str],
    *,
    client: str | None,
    address: str,
    server: str,
    protocol: str,
    identifier: str,
    date: str,
) -> bytes:
    """Return Return-Path and Received, with CRLFs.

    *client* is what the client calls itself; what is no host name or address literal is not
    repeated. *address* is its IP address, or empty. The only recipient is named, several are not:
    RFC 5321 section 7.6.
    """
    path = "" if reverse_path in (None, "<>") else reverse_path
    host = client if client and _NAME.fullmatch(client) else "unknown"
    literal = f"IPv6:{address}" if ":" in address else address
    lines = [
        f"Return-Path: <{path}>",
        f"Received: from {host}" + (f" ([{literal}])" if address else ""),
        f"\tby {server} with {protocol} id {identifier}",
        f"\tfor <{recipients[0]}>; {date}" if len(recipients) == 1 else f"\t; {date}",
    ]
    return ("\r\n".join(lines) + "\r\n").encode("utf-8", "backslashreplace")


def hops(message: bytes) -> int:
    """Count the Received fields in a message's header section: RFC 5321 section 6.3."""
    end = _END_OF_HEADER.search(message, 0, LONGEST_HEADER)
    return len(_RECEIVED.findall(message, 0, end.start() if end else LONGEST_HEADER))
