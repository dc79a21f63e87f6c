"""Describe a message for the store: its row in lists, its search text, its added fields.

Nothing here raises for any message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from hashlib import md5, sha1, sha256
from os import urandom
from string import ascii_lowercase, ascii_uppercase, digits
from time import time_ns
from typing import Any

from attrs import define, field
from public import public

from aiosmtpd.inbox import labels, people, wire
from aiosmtpd.inbox.people import Person
from aiosmtpd.inbox.records import Received, Tagging
from aiosmtpd.inbox.search import folded
from aiosmtpd.mail import charsets, header, html_text
from aiosmtpd.mail.html_tokens import Tokens, attributes_of
from aiosmtpd.mail.source import Source
from aiosmtpd.mail.tree import Part, read

INDEXED = 1 << 20
"""Characters of a message's text that are searched."""

HTML_INDEXED = 1 << 18
"""Bytes of a message's HTML that are searched: reading it takes much longer than plain text."""

HTML_READ = 1 << 16
"""Characters of HTML that are read as people see it; the search finds hidden text after them."""

SNIPPET = 200
"""Bytes of a snippet."""

_LONGEST_VALUE = 10_000
"""Characters of a subject or a Message-ID that are kept in a row."""

_HEADER_READ = 1 << 20
"""Bytes of a header that are looked at for fields to leave out."""

_ID = digits + ascii_uppercase + ascii_lowercase
_LETTERS = bytes(ord(_ID[byte % 62]) for byte in range(256))
_RETURN_PATH = re.compile(
    rb"^return-path[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z)", re.IGNORECASE | re.MULTILINE
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_HOST_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_WANTED = frozenset(
    {
        *("from", "to", "cc", "bcc", "reply-to", "subject", "message-id", "x-tags"),
        "content-disposition",
    }
)
_READ = frozenset({"text/plain", "text/html"})
_WITHOUT_TEXT = frozenset({"script", "style"})
_IN_WORDS = frozenset({"a", "b", "em", "font", "i", "span", "strong", "sub", "sup", "u", "wbr"})
_HREF = frozenset({"href"})


def new_id() -> str:
    """Return a new id of a message: 22 characters of base 62.

    The first 8 are the time, so that the database adds new ids at one place of its index. The
    others are random.
    """
    number, characters = time_ns() // 1_000_000, []
    for _ in range(8):
        number, place = divmod(number, 62)
        characters.append(_ID[place])
    return "".join(reversed(characters)) + urandom(14).translate(_LETTERS).decode()


@public
@define
class Description:
    """All that the store keeps about a message, beside the message."""

    id: str
    created: datetime
    size: int = 0
    """Bytes of the source for the API."""
    attachments: int = 0
    inlines: int = 0
    row: str = "{}"
    """The row without ``Read`` and ``Tags``, which follow: see :func:`complete`."""
    message_id: str = ""
    fields: dict[str, str] = field(factory=dict)
    """The folded fields that are searched, by column."""
    text: str = ""
    """The folded search text."""
    tags: list[str] = field(factory=list)
    added: bytes = b""
    """Fields that go before the mail data in the API."""
    left_out: list[tuple[int, int]] = field(factory=list)
    """Ranges of the mail data that the API leaves out."""
    notices: list[str] = field(factory=list)
    listed: list[list[Any]] = field(factory=list)
    """The listed parts, inline ones first: see :class:`~aiosmtpd.inbox.stored.ListedPart`, with
    True before each attachment."""


def complete(row: str, read: bool, tags: str) -> str:
    """Return a row with its state; *tags* is JSON, ``""`` without a tag."""
    return f'{row[:-1]},"Read":{"true" if read else "false"},"Tags":{tags or "[]"}}}'


def extended(row: str, members: str) -> str:
    """Return a row with more members, which follow the others; ``""`` adds none."""
    return f"{row[:-1]},{members}}}" if members else row


@public
def describe(
    source: Source, received: Received, created: datetime, tagging: Tagging, id: str = ""
) -> Description:
    """Return the description of a message, with a notice if it cannot be read."""
    found = Description(id or new_id(), created)
    try:
        _Describer(found, source, received, tagging).run()
    except (Exception, RecursionError) as error:
        found = Description(found.id, created)
        found.notices = [f"this message cannot be read ({type(error).__name__}): see its source"]
        found.added = b""
        found.size = source.size
        found.fields = {"recipient": folded(" ".join(received.recipients))}
        found.row = wire.dump(
            _row(
                found,
                Person("", received.sender),
                {"to": _plain(received.recipients)},
                received,
                "",
            )
        )
    return found


def _plain(addresses: Iterable[str]) -> list[Person]:
    return [Person("", address) for address in addresses]


def _row(
    found: Description,
    sender: Person,
    others: dict[str, list[Person]],
    received: Received,
    subject: str,
    snippet: str = "",
) -> dict[str, Any]:
    return {
        "ID": found.id,
        "MessageID": found.message_id,
        "From": sender.json(),
        "To": [one.json() for one in others.get("to", ())],
        "Cc": [one.json() for one in others.get("cc", ())],
        "Bcc": [one.json() for one in others.get("bcc", ())],
        "ReplyTo": [one.json() for one in others.get("reply-to", ())],
        "Subject": subject,
        "Created": wire.time(found.created),
        "Username": received.username,
        "Size": found.size,
        "Attachments": found.attachments,
        "Snippet": snippet,
    }


class _Describer:
    def __init__(
        self, found: Description, source: Source, received: Received, tagging: Tagging
    ) -> None:
        self._found = found
        self._source = source
        self._received = received
        self._tagging = tagging
        self._root = read(source)
        self._values: dict[str, list[str]] = {}

    def run(self) -> None:
        """Fill the description."""
        found, received = self._found, self._received
        found.notices = [
            f"part {one.number}: {one.notice}" for one in self._root.walk() if one.notice
        ]
        block = self._root.header
        for name, value in header.fields_of(block):
            if (key := name.lower()) in _WANTED:
                self._values.setdefault(key, []).append(value)
        others = {
            key: [one for value in self._values.get(key, ()) for one in people.read(value)]
            for key in ("to", "cc", "bcc", "reply-to")
        }
        sender = people.sender(self._first("from"))
        hidden = self._hidden(others)
        others["bcc"] += _plain(hidden)
        found.message_id = self._message_id()
        self._leave_out(block)
        self._add(block, hidden)
        found.size = self._source.size + len(found.added)
        found.size -= sum(end - begin for begin, end in found.left_out)
        subject = header.decode_header(self._first("subject")[: 10 * _LONGEST_VALUE])[
            :_LONGEST_VALUE
        ]
        text = self._parts()
        self._fields(sender, others, subject, text)
        found.tags = self._tags(sender, others)
        row = _row(found, sender, others, received, subject, snippet_of(text))
        found.row = wire.dump(row)

    def _first(self, name: str) -> str:
        values = self._values.get(name)
        return values[0] if values else ""

    def _message_id(self) -> str:
        value = header.characters(self._first("message-id")).strip()[:_LONGEST_VALUE]
        return value.removeprefix("<").removesuffix(">").strip() or f"{self._found.id}@inbox"

    def _hidden(self, others: dict[str, list[Person]]) -> list[str]:
        """Return the recipients of the envelope that no field of the header names."""
        named = {
            one.address.casefold() for key in ("to", "cc", "bcc") for one in others.get(key, ())
        }
        return [
            one for one in dict.fromkeys(self._received.recipients) if one.casefold() not in named
        ]

    def _leave_out(self, block: bytes) -> None:
        found = self._found
        if block.startswith(b"\xef\xbb\xbf"):
            found.left_out.append((0, 3))
        if self._received.sender:
            for match in _RETURN_PATH.finditer(block, 0, _HEADER_READ):
                found.left_out.append(match.span())

    def _add(self, block: bytes, hidden: list[str]) -> None:
        received, found = self._received, self._found
        fields = []
        if received.sender:
            fields.append(f"Return-Path: <{_on_one_line(received.sender)}>")
        if received.trace:
            fields.append(_received_field(received, found.created))
        if not self._values.get("message-id"):
            fields.append(f"Message-ID: <{found.message_id}>")
        if hidden:
            fields.append("Bcc: " + ",\r\n ".join(map(_on_one_line, hidden)))
        if block[:1] in (b" ", b"\t"):
            # It would continue our last field.
            fields.append("X-Continued:")
        added = "\r\n".join([*fields, ""]) if fields else ""
        if added and not self._root.body_position:
            added += "\r\n"
        found.added = added.encode("utf-8", "replace")

    def _parts(self) -> str:
        """List the parts; return the text by which a reader knows the message."""
        found, root = self._found, self._root
        inline: list[list[Any]] = []
        attached: list[list[Any]] = []
        names = []
        # Most messages are one text.
        plain = not root.parts and root.type in _READ and "content-disposition" not in self._values
        for part in () if plain else leaves(root):
            kind = placed(part, self._root)
            if part.name and part.type not in _READ:
                names.append(part.name)
            if kind == "attachment":
                found.attachments += 1
            if kind and (part.name or part.content_id):
                is_attached = kind == "attachment"
                (attached if is_attached else inline).append([is_attached, *_listed(part)])
        found.inlines = len(inline)
        found.listed = inline + attached
        html = html_of(self._root, HTML_INDEXED)
        if html.strip():
            text, seen = searched(html)
        else:
            text, seen = plain_of(self._root, INDEXED), ""
        found.text = " ".join([text[:INDEXED], seen[:INDEXED], *names])
        return text

    def _fields(
        self, sender: Person, others: dict[str, list[Person]], subject: str, text: str
    ) -> None:
        found = self._found
        fields = {
            "sender": folded(" ".join(sender)),
            "subject": folded(subject),
            "message_id": folded(found.message_id),
        }
        for column, key in (
            ("recipient", "to"),
            ("cc", "cc"),
            ("bcc", "bcc"),
            ("reply_to", "reply-to"),
        ):
            fields[column] = folded("\n".join([" ".join(one) for one in others[key]]))
        found.fields = fields
        columns = ("sender", "subject", "recipient", "cc", "bcc", "reply_to")
        heads = [fields[column] for column in columns if fields[column]]
        path = folded(self._received.sender)
        found.text = " ".join([*heads, path, folded(found.text)])[:INDEXED]

    def _tags(self, sender: Person, others: dict[str, list[Person]]) -> list[str]:
        tags: list[str] = []
        if self._tagging.header:
            for value in self._values.get("x-tags", ()):
                tags += header.decode_header(value[:_LONGEST_VALUE]).split(",")
        if self._tagging.addresses:
            for one in [sender, *others["to"], *others["cc"], *others["bcc"]]:
                if "+" in one.address:
                    tags += labels.of_address(one.address)
        if self._tagging.username and self._received.username:
            tags.append(self._received.username)
        return labels.unique(tags)


def _on_one_line(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)


def _received_field(received: Received, created: datetime) -> str:
    name = received.host_name
    host = name if _HOST_NAME.fullmatch(name) else "unknown"
    literal = f"IPv6:{received.client}" if ":" in received.client else received.client
    source = f" ([{_on_one_line(literal)}])" if literal else ""
    to = f"\r\n\tfor <{_on_one_line(received.recipients[0])}>" if received.recipients else ""
    date = created.strftime("%a, %d %b %Y %H:%M:%S %z")
    protocol = _on_one_line(received.protocol)
    return f"Received: from {host}{source}\r\n\tby inbox (aiosmtpd) with {protocol}{to}; {date}"


# The parts as the API sees them.


def leaves(root: Part) -> Iterable[Part]:
    """Yield the parts that are not divided, in order; an attached message is one part."""
    left = [root]
    while left:
        part = left.pop()
        if part.parts and part.type.startswith("multipart/"):
            left += reversed(part.parts)
        else:
            yield part


def placed(part: Part, root: Part) -> str:
    """Return ``"attachment"``, ``"inline"``, or ``""`` for text to be read in place."""
    if part.disposition == "attachment":
        return "attachment"
    if part is root and part.type == "application/octet-stream":
        return "attachment"
    if part.type in _READ:
        return "inline" if part.disposition == "inline" and part.name else ""
    if part.type.startswith("multipart/"):
        return ""
    return "inline"


def _listed(part: Part) -> list[Any]:
    sums = [md5(usedforsecurity=False), sha1(usedforsecurity=False), sha256()]
    size = 0
    for piece in part.pieces():
        size += len(piece)
        for one in sums:
            one.update(piece)
    name = part.name or part.content_id
    return [part.number, name, part.type, part.content_id, size, *(one.hexdigest() for one in sums)]


def html_of(root: Part, limit: int | None = None) -> str:
    """Return the first HTML that is not an attachment, as received.

    The text is made from at most *limit* bytes.
    """
    for part in leaves(root):
        if part.type == "text/html" and part.disposition != "attachment":
            return _text(part, limit)
    return ""


def plain_of(root: Part, limit: int | None = None) -> str:
    """Return the plain texts, as received; of a part that could not be divided, its source."""
    texts: list[str] = []
    for part in leaves(root):
        is_text = part.type == "text/plain" or part.type.startswith("multipart/")
        if is_text and part.disposition != "attachment":
            texts.append(_text(part, limit))
            if limit is not None and (limit := limit - len(texts[-1])) <= 0:
                break
    return "\n--\n".join(texts)


def _text(part: Part, limit: int | None) -> str:
    if limit is None or part.end - part.body_position <= limit:
        return part.text
    made = bytearray()
    for piece in part.pieces():
        made += piece
        if len(made) >= limit:
            break
    return charsets.decode(bytes(made[:limit]), part.charset, html=part.type == "text/html")


def searched(html: str) -> tuple[str, str]:
    """Return the text of HTML and the addresses of its links, for the search."""
    # At a tag, so that none is cut; a style or a comment that goes on is searched as text.
    end = html.find("<", HTML_READ)
    end = len(html) if end < 0 else end
    text, links = html_text.read(html[:end])
    if end == len(html):
        return text, " ".join(dict.fromkeys(links))
    texts, found, name = [text, " "], dict.fromkeys(links), ""
    sources: set[str] = set()
    for token in Tokens(html[end:]):
        if isinstance(token, str):
            if name not in _WITHOUT_TEXT:
                texts.append(token)
            continue
        name = token.name
        if name not in _IN_WORDS:
            texts.append(" ")
        if name == "a" and token.source not in sources:
            sources.add(token.source)
            if href := attributes_of(token.source, _HREF).get("href"):
                found[href] = None
    return "".join(texts), " ".join(found)


def snippet_of(text: str) -> str:
    """Return the beginning of a text on one line."""
    line = b""
    # The beginning is enough, if it is not mostly blanks.
    for most in 500, 4000:
        line = " ".join(text[:most].split()).encode("utf-8", "replace")
        if len(line) > SNIPPET or len(text) <= most:
            break
    if len(line) <= SNIPPET:
        return line.decode()
    return line[:SNIPPET].decode("utf-8", "ignore") + "..."
