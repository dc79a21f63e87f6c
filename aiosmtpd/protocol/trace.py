"""Make and count trace fields: RFC 5321 section 4.4."""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9.:-]{1,255}\]"
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")

SHORTEST_FIELD = 10
"""Bytes of a Received field, at least: its name, the colon and LF."""

LONGEST_HEADER = 262_144
"""Bytes searched for Received fields: at most 4 ms."""


def protocol_of(family: str, *, extended: bool, utf8: bool, tls: bool, authenticated: bool) -> str:
    """Return the protocol name for ``with`` in a Received field: RFC 3848, RFC 6531 section 4.3.

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
    """Return the fields Return-Path and Received, with CRLFs.

    *client* is the name that the client gave; if it is not a host name or an address literal, the
    field says ``unknown``. *address* is the client's IP address, or empty. A recipient is named
    only if there is no other: RFC 5321 section 7.6.
    """
    path = "" if reverse_path in (None, "<>") else reverse_path
    host = client if client and re.fullmatch(_NAME, client) else "unknown"
    literal = f"IPv6:{address}" if ":" in address else address
    lines = [
        f"Return-Path: <{path}>",
        f"Received: from {host}" + (f" ([{literal}])" if address else ""),
        f"\tby {server} with {protocol} id {identifier}",
        f"\tfor <{recipients[0]}>; {date}" if len(recipients) == 1 else f"\t; {date}",
    ]
    return ("\r\n".join(lines) + "\r\n").encode("utf-8", "backslashreplace")


def hops(message: bytes) -> int:
    """Count the Received fields in the header section of *message*: RFC 5321 section 6.3."""
    end = _END_OF_HEADER.search(message, 0, LONGEST_HEADER)
    return len(_RECEIVED.findall(message, 0, end.start() if end else LONGEST_HEADER))


def is_looping(message: bytes, limit: int) -> bool:
    """Return True if there are more than *limit* Received fields in the header section."""
    # Most header sections are too short for so many: they are not searched.
    room = limit * SHORTEST_FIELD
    return message.find(b"\r\n\r\n", 0, room + 4) < 0 and hops(message) > limit
