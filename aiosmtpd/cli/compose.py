"""Compose a message of text and attachments."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP, SMTPUTF8, EmailPolicy
from typing import Any, NamedTuple

LONG_LINE = 78
"""Characters that a line should not exceed: RFC 5322 section 2.1.1."""


class File(NamedTuple):
    """A file to attach."""

    name: str
    content: bytes


def compose(
    sender: str,
    recipients: Sequence[str],
    subject: str,
    body: str,
    files: Sequence[File],
    host: str,
) -> bytes:
    """Return a message with CRLF line ends; its id ends in *host*.

    The bytes of an attached message stay as they are: RFC 2046 section 5.2.1. Addresses stay as
    they are too, since a server may be tried with wrong ones; they must be printable. Raises
    ValueError if another argument cannot be in a message.
    """
    from email.utils import formatdate, make_msgid

    policy = SMTP if all(address.isascii() for address in (sender, *recipients)) else SMTPUTF8
    addresses = (_addresses("From", [sender]) if sender else b"") + _addresses("To", recipients)
    message = EmailMessage(policy=policy)
    message["Subject"] = subject
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=host)
    if not files:
        message.set_content(body)
        return addresses + message.as_bytes()
    text = MIMEPart(policy)
    text.set_content(body)
    parts = [text.as_bytes(), *(_attachment(file, policy) for file in files)]
    boundary = f"=_{secrets.token_hex(16)}"
    message["MIME-Version"] = "1.0"
    message["Content-Type"] = f'multipart/mixed; boundary="{boundary}"'
    if not all(part.isascii() for part in parts):
        # It must say so if a part does: RFC 2045 section 6.4.
        message["Content-Transfer-Encoding"] = "8bit"
    mark = b"\r\n--" + boundary.encode()
    content = b"".join(mark + b"\r\n" + part for part in parts) + mark + b"--\r\n"
    return addresses + _head(message) + content


def _addresses(name: str, addresses: Sequence[str]) -> bytes:
    # Not by the email package: it raises IndexError and others for some wrong addresses.
    line = f"{name}: {', '.join(addresses)}"
    if len(line) > LONG_LINE:
        line = f"{name}: " + ",\r\n ".join(addresses)
    return line.encode() + b"\r\n"


def _attachment(file: File, policy: EmailPolicy[Any]) -> bytes:
    main, sub = _media_type(file.name)
    part = MIMEPart(policy)
    if main == "message":
        # Neither base64 nor another change: RFC 2046 section 5.2.1.
        part.set_content(b"", main, sub, disposition="attachment", filename=file.name)
        encoding = "7bit" if file.content.isascii() else "8bit"
        part.replace_header("Content-Transfer-Encoding", encoding)
        return _head(part) + file.content
    params = {"charset": "utf-8"} if main == "text" and _is_utf8(file.content) else {}
    part.set_content(
        file.content, main, sub, disposition="attachment", filename=file.name, params=params
    )
    return part.as_bytes()


def _media_type(name: str) -> tuple[str, str]:
    from mimetypes import guess_type

    kind, compression = guess_type(name)
    main, _, sub = (kind or "").partition("/")
    if not sub or compression is not None or main == "multipart":
        return "application", "octet-stream"
    return main, sub


def _is_utf8(content: bytes) -> bool:
    """Return True for text in UTF-8 that is not ASCII."""
    try:
        return not content.decode().isascii()
    except UnicodeDecodeError:
        return False


def _head(part: MIMEPart) -> bytes:
    """Return the header fields and the empty line after them."""
    fields = (part.policy.fold_binary(name, value) for name, value in part.raw_items())
    return b"".join(fields) + b"\r\n"
