"""Make a message (RFC 5322) of the values that a program gives to the API.

Texts keep their line ends exactly: in quoted-printable, each line feed is encoded.
"""

from __future__ import annotations

import binascii
import mimetypes
import re
from base64 import encodebytes
from collections.abc import Sequence
from datetime import datetime
from email.header import Header
from email.utils import format_datetime
from secrets import token_hex
from urllib.parse import quote

from attrs import frozen

from aiosmtpd.inbox.people import Person
from aiosmtpd.protocol import paths

LONGEST_VALUE = 50_000
"""Characters of a header field."""

LONGEST_PIECE = 800
"""Characters of a line of a long field."""

_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")
_NAME = re.compile(r"[!-9;-~]{1,200}")
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(?: *;[ -~]{0,400})?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$&'*+.^_`|~-]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_RESERVED = frozenset(
    {
        *("to", "from", "cc", "bcc", "reply-to", "date", "subject"),
        *("content-type", "content-transfer-encoding", "mime-version"),
    }
)
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"%PDF-": "application/pdf",
    b"PK\x03\x04": "application/zip",
    b"\x1f\x8b": "application/gzip",
}


@frozen
class Attached:
    """A file of a message; with a content id it is shown in the HTML."""

    content: bytes
    name: str
    type: str = ""
    content_id: str = ""


@frozen
class Draft:
    """The values of a message to make."""

    sender: Person
    to: Sequence[Person] = ()
    cc: Sequence[Person] = ()
    bcc: Sequence[Person] = ()
    reply_to: Sequence[Person] = ()
    subject: str = ""
    text: str = ""
    html: str = ""
    tags: Sequence[str] = ()
    fields: Sequence[tuple[str, str]] = ()
    files: Sequence[Attached] = ()

    @property
    def recipients(self) -> list[str]:
        """The addresses of all recipients, each once."""
        return list(dict.fromkeys(one.address for one in (*self.to, *self.cc, *self.bcc)))


def check(draft: Draft) -> None:
    """Raise ValueError, with one line, for a draft that cannot be a message."""
    groups = {
        "From": [draft.sender],
        "To": draft.to,
        "Cc": draft.cc,
        "Bcc": draft.bcc,
        "ReplyTo": draft.reply_to,
    }
    for place, people in groups.items():
        for one in people:
            _check_address(one.address, place)
            _check_line(one.name, f"a name in {place}")
    if not draft.recipients:
        raise ValueError("the message has no recipient: give To, Cc or Bcc")
    _check_line(draft.subject, "Subject")
    for tag in draft.tags:
        _check_line(tag, "a tag")
    for name, value in draft.fields:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r:.60} is not a name of a header field")
        if name.lower() in _RESERVED or (draft.tags and name.lower() == "x-tags"):
            raise ValueError(f"the header field {name:.60} has a value of its own: not in Headers")
        _check_line(value, f"the header field {name:.60}")
    for file in draft.files:
        _check_line(file.name, "a file name")
        _check_line(file.content_id, "a content id")
        if file.type and not _TYPE.fullmatch(file.type):
            raise ValueError(f"{file.type!r:.60} is not a media type")


def _check_address(address: str, place: str) -> None:
    try:
        parsed, rest = paths.parse(f"<{address}>")
    except ValueError as error:
        raise ValueError(f"{address!r:.100} in {place} is not an address: {error}") from None
    if rest or "@" not in parsed or len(address) > 1000 or _CONTROLS.search(address):
        raise ValueError(f"{address!r:.100} in {place} is not an address")


def _check_line(value: str, place: str) -> None:
    if _CONTROLS.search(value):
        raise ValueError(f"{place} has a control character")
    if len(value) > LONGEST_VALUE:
        raise ValueError(f"{place} has more than {LONGEST_VALUE} characters")


def made(draft: Draft, date: datetime) -> bytes:
    """Return the message; the draft must have passed :func:`check`."""
    head = [
        f"Date: {format_datetime(date)}",
        _people("From", [draft.sender]),
        _people("To", draft.to),
        _people("Cc", draft.cc),
        _people("Reply-To", draft.reply_to),
        f"Subject: {_encoded(draft.subject, 'Subject')}",
        *(f"{name}: {_encoded(value, name)}" for name, value in draft.fields),
        f"X-Tags: {_encoded(', '.join(draft.tags), 'X-Tags')}" if draft.tags else "",
        "MIME-Version: 1.0",
    ]
    top = "".join(f"{line}\r\n" for line in head if line)
    return top.encode("utf-8", "replace") + _body(draft)


def _body(draft: Draft) -> bytes:
    texts = []
    if draft.text or not draft.html:
        texts.append(_text("plain", draft.text))
    if draft.html:
        texts.append(_text("html", draft.html))
    whole = _joined("alternative", texts)
    inline = [_file(one, "inline") for one in draft.files if one.content_id]
    attached = [_file(one, "attachment") for one in draft.files if not one.content_id]
    return _joined("mixed", [_joined("related", [whole, *inline]), *attached])


def _joined(kind: str, parts: list[bytes]) -> bytes:
    """Return parts as one; each has its header, an empty line and its body."""
    if len(parts) == 1:
        return parts[0]
    # Neither quoted-printable nor base64 can have this text in it.
    boundary = f"=_{token_hex(16)}"
    head = f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n'.encode()
    line = f"--{boundary}".encode()
    body = b"".join(line + b"\r\n" + part + b"\r\n" for part in parts)
    return head + body + line + b"--\r\n"


def _text(kind: str, text: str) -> bytes:
    head = f"Content-Type: text/{kind}; charset=utf-8\r\nContent-Transfer-Encoding: "
    encoded = binascii.b2a_qp(text.encode("utf-8", "replace"), istext=False)
    body = encoded.replace(b"=\n", b"=\r\n").replace(b"=0A", b"=0A=\r\n")
    return f"{head}quoted-printable\r\n\r\n".encode() + body


def _file(file: Attached, kind: str) -> bytes:
    name = file.name or ("" if file.content_id else "attachment")
    lines = [
        f"Content-Type: {file.type or sniffed(file)}",
        f"Content-Disposition: {kind}{_parameter('filename', name)}",
        "Content-Transfer-Encoding: base64",
    ]
    if file.content_id:
        lines.append(f"Content-ID: <{file.content_id.strip('<>')}>")
    head = "\r\n".join([*lines, "", ""]).encode("utf-8", "replace")
    return head + encodebytes(file.content).replace(b"\n", b"\r\n").removesuffix(b"\r\n")


def _parameter(name: str, value: str) -> str:
    if not value:
        return ""
    if _TOKEN.fullmatch(value):
        return f"; {name}={value}"
    if value.isascii():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'; {name}="{escaped}"'
    return f";\r\n {name}*=UTF-8''{quote(value.encode('utf-8', 'replace'), safe='')}"


def sniffed(file: Attached) -> str:
    """Return the media type that a file seems to have, by its first bytes, then by its name."""
    for beginning, type in _BEGINNINGS.items():
        if file.content.startswith(beginning):
            return type
    if known := mimetypes.guess_type(file.name)[0]:
        return known
    try:
        text = file.content.decode()
    except ValueError:
        return "application/octet-stream"
    return "application/octet-stream" if "\0" in text else "text/plain; charset=utf-8"


def _people(name: str, people: Sequence[Person]) -> str:
    if not people:
        return ""
    return f"{name}: " + ",\r\n ".join(_person(one) for one in people)


def _person(one: Person) -> str:
    if not one.name:
        return one.address if one.address.isascii() else f"<{one.address}>"
    if not one.name.isascii() or "=?" in one.name:
        name = Header(one.name, "utf-8", maxlinelen=60, continuation_ws=" ").encode(linesep="\r\n")
    elif _ATOMS.fullmatch(one.name):
        name = one.name
    else:
        name = '"' + one.name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name} <{one.address}>"


def _encoded(value: str, name: str) -> str:
    """Return a value as header text: as it is if it is ASCII and short enough."""
    words = value.split(" ")
    is_plain = value.isascii() and "=?" not in value and max(map(len, words)) <= LONGEST_PIECE
    if is_plain and len(value) <= LONGEST_PIECE:
        return value
    if is_plain:
        pieces = re.findall(rf".{{1,{LONGEST_PIECE}}}(?: |$)", value)
        return "\r\n ".join(pieces).replace(" \r\n ", "\r\n ")
    return Header(value, "utf-8", maxlinelen=75, header_name=name).encode(linesep="\r\n")
