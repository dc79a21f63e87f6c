"""Make messages for the tests of reading."""

from types import SimpleNamespace
from typing import Any

from aiosmtpd import Envelope
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.source import InMemory
from aiosmtpd.mail.tree import Part, read


def mail_of(content: bytes | str) -> DecodedMail:
    """Decode a message; the line ends of *content* are those that it has."""
    session: Any = SimpleNamespace(peer=("192.0.2.1", 1234))
    envelope = Envelope()
    envelope.mail_from, envelope.rcpt_tos = "shop@example.com", ["anna@example.org"]
    envelope.original_content = content.encode() if isinstance(content, str) else content
    return DecodedMail(session, envelope)


def tree_of(content: bytes | str) -> Part:
    return read(InMemory(content.encode() if isinstance(content, str) else content))


def part(head: str, body: bytes | str = "x") -> bytes:
    """Return a part: header lines, which end with LF here, and its body."""
    data = body.encode() if isinstance(body, str) else body
    return (head.strip("\n").replace("\n", "\r\n") + "\r\n\r\n").encode() + data


def multipart(kind: str, *parts: bytes, boundary: str = "b") -> bytes:
    """Return a message of several parts."""
    head = f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n'.encode()
    mark = boundary.encode()
    body = b"".join(b"--" + mark + b"\r\n" + one + b"\r\n" for one in parts)
    return head + body + b"--" + mark + b"--\r\n"
