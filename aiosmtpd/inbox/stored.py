"""A message as the store returns it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from public import public

from aiosmtpd.inbox import fields, packing, people, rows, wire
from aiosmtpd.inbox.people import Person
from aiosmtpd.inbox.reading import Found
from aiosmtpd.inbox.records import StoreError
from aiosmtpd.mail import header, html_text
from aiosmtpd.mail.source import InMemory, Source, pieces
from aiosmtpd.mail.tree import Part, read

LONGEST_HTML = 2_000_000
"""Characters of HTML that are made a text: more would take seconds."""


@public
class ListedPart(NamedTuple):
    """A part that the API lists as an attachment or as inline; sums are in hex."""

    number: str
    """``PartID``, such as ``"1.2"``."""
    name: str
    """The file name as the sender wrote it, else the content id."""
    type: str
    content_id: str
    size: int
    """Bytes, decoded."""
    md5: str
    sha1: str
    sha256: str

    def json(self) -> dict[str, Any]:
        """Return it as the API lists it."""
        return {
            "PartID": self.number,
            "FileName": self.name,
            "ContentType": self.type,
            "ContentID": self.content_id,
            "Size": self.size,
            "Checksums": {"MD5": self.md5, "SHA1": self.sha1, "SHA256": self.sha256},
        }


class Readable:
    """The texts of a message, which may be a part of another one."""

    def tree(self) -> Part:
        """Return the root of the tree of its parts."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """``Text`` of the API: plain text as received, else that of the HTML's first 2 MB."""
        return self._shown[0]

    @property
    def is_cut(self) -> bool:
        """True if :attr:`text` is not that of the whole HTML."""
        return self._shown[1]

    @cached_property
    def _shown(self) -> tuple[str, bool]:
        text, html = rows.plain_of(self.tree()), self.html
        if text or not html:
            return text, False
        return html_text.shown(html[:LONGEST_HTML], targets=True), len(html) > LONGEST_HTML

    @cached_property
    def html(self) -> str:
        """``HTML`` of the API: the first part of HTML as received, ``""`` without one."""
        return rows.html_of(self.tree())


@public
class StoredMail(Readable):
    """A message in the store, as it was when it was read from there.

    Its source for the API is the mail data as it came, with :attr:`added` before it. A message
    that was deleted meanwhile can still be read if it is small; else reading raises StoreError.
    """

    def __init__(self, id: str, found: Found, path: Path, trees: Trees) -> None:
        details: dict[str, Any] = found.details
        #: 22 characters of base 62.
        self.id = id
        #: JSON: its row in lists.
        self.row = found.row
        #: The time of its arrival in the local zone, in milliseconds.
        self.created: datetime = found.created
        self.read = found.read
        #: Its tags, sorted.
        self.tags = found.tags
        #: The reverse-path, ``""`` for the null one.
        self.sender: str = details["sender"]
        #: The forward-paths.
        self.recipients: list[str] = details["recipients"]
        self.username: str = details["username"]
        #: The IP address of the client.
        self.client: str = details["client"]
        #: The version of TLS, ``""`` without it.
        self.tls: str = details["tls"]
        #: The number of its session, 0 without one.
        self.session_number = found.session
        #: The lines of its session's dialogue that belong to it, from MAIL on.
        self.transaction = packing.read_lines(details["lines"])
        #: Bytes of the source for the API.
        self.size = found.size
        #: The header fields that we put before the mail data.
        self.added: bytes = details["added"].encode()
        #: A line for each reason why it is not read as the sender meant it.
        self.notices: list[str] = details["notices"]
        listed = details["listed"]
        self.inline = [ListedPart(*one[1:]) for one in listed if not one[0]]
        self.attachments = [ListedPart(*one[1:]) for one in listed if one[0]]
        self._content = found.content
        self._path = path
        self._left_out: list[list[int]] = details["left_out"]
        self._trees = trees

    def __repr__(self) -> str:
        return f"<StoredMail {self.id}, {self.size} bytes>"

    # The source.

    def open(self) -> BinaryIO:
        """Return the mail data as it came, as a binary file at its beginning."""
        if self._content is not None:
            return BytesIO(self._content)
        try:
            return self._path.open("rb")
        except OSError as error:
            raise StoreError(f"The message {self.id} has been deleted ({error})") from error

    def pristine(self) -> bytes:
        """Return the mail data as it came."""
        with self.open() as file:
            return file.read()

    @cached_property
    def source(self) -> Source:
        """The source for the API: with the added fields, without another Return-Path."""
        if self._content is not None:
            kept, position = [self.added], 0
            for begin, end in self._left_out:
                kept.append(self._content[position:begin])
                position = end
            return InMemory(b"".join([*kept, self._content[position:]]))
        return Stitched(self.added, self.open, self._left_out)

    def raw(self) -> bytes:
        """Return the source for the API."""
        return self.source.read_at(0, self.source.size)

    def raw_pieces(self) -> Iterator[bytes]:
        """Return the source for the API in pieces of at most 256 KiB.

        The first is read now, and the others come even if the message is deleted meanwhile.
        """
        made = self._raw_pieces()
        return chain([next(made, b"")], made)

    def _raw_pieces(self) -> Iterator[bytes]:
        if self._content is not None:
            yield from pieces(self.source, 0, self.source.size)
            return
        with self.open() as file:
            source = Stitched(self.added, lambda: nullcontext(file), self._left_out)
            yield from pieces(source, 0, source.size)

    # The parts.

    def tree(self) -> Part:
        """Return the root of the tree of its parts, read from :attr:`source`."""
        return self._trees.get(self.id, lambda: read(self.source))

    def part(self, number: str) -> Part | None:
        """Return the part with this number, None if there is no such part."""
        for part in self.tree().walk():
            if part.number == number:
                return part
        return None

    def first_text(self, most: int) -> str:
        """Return the beginning of the plain text, else the text of the HTML's beginning."""
        text = rows.plain_of(self.tree(), most)[:most]
        if not text and (html := rows.html_of(self.tree())[:most]):
            return html_text.shown(html, targets=True)
        return text

    # The header.

    def headers(self) -> dict[str, list[str]]:
        """Return the fields as ``GET /message/{id}/headers`` answers them."""
        return fields.by_name(self.tree().header)

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        values: dict[str, list[str]] = {}
        for name, value in header.fields_of(self.tree().header):
            values.setdefault(name.lower(), []).append(value)
        return values

    def _first(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def _people(self, name: str) -> list[dict[str, str]]:
        return [one.json() for value in self._values.get(name, ()) for one in people.read(value)]

    @property
    def date(self) -> datetime:
        """The time in the field Date, else that of the arrival."""
        try:
            moment = parsedate_to_datetime(self._first("date")[:200])
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        except Exception:
            # The parser raises many exceptions for malformed dates.
            return self.created

    def json(self) -> str:
        """Return the Message that ``GET /message/{id}`` answers."""
        return "".join(self.json_pieces())

    def json_pieces(self) -> Iterator[str]:
        """Return the same in pieces: a large message takes seconds, and much memory for a copy."""
        values = self._values
        sender = people.sender(self._first("from")) if "from" in values else Person("", "")
        message_id = header.characters(self._first("message-id")).strip()
        return_path = header.characters(self._first("return-path")).strip("<> \t")
        return wire.dump_pieces(
            {
                "ID": self.id,
                "MessageID": message_id.removeprefix("<").removesuffix(">"),
                "From": sender.json(),
                "To": self._people("to"),
                "Cc": self._people("cc"),
                "Bcc": self._people("bcc"),
                "ReplyTo": self._people("reply-to"),
                "ReturnPath": return_path or sender.address,
                "Subject": header.decode_header(self._first("subject")),
                "ListUnsubscribe": fields.unsubscribe(
                    [header.characters(one) for one in values.get("list-unsubscribe", ())],
                    header.characters(self._first("list-unsubscribe-post")),
                ),
                "Date": wire.time(self.date),
                "Tags": self.tags,
                "Username": self.username,
                "Text": self.text,
                "HTML": self.html,
                "Size": self.size,
                "Inline": [one.json() for one in self.inline],
                "Attachments": [one.json() for one in self.attachments],
                **({"Cut": True} if self.is_cut else {}),
            }
        )


class Stitched:
    """A source: fields, then the mail data in a file without some ranges of it."""

    def __init__(
        self,
        added: bytes,
        open: Callable[[], AbstractContextManager[BinaryIO]],
        left_out: list[list[int]],
    ) -> None:
        self._added = added
        self._open = open
        # Pairs of a position here and one in the file, from which on they run in parallel.
        self._runs = [(len(added), 0)]
        gone = 0
        for begin, end in left_out:
            gone += end - begin
            self._runs.append((len(added) + end - gone, end))
        with open() as file:
            self.size = len(added) + file.seek(0, 2) - gone

    def read_at(self, position: int, size: int) -> bytes:
        """Return *size* bytes from *position* on, fewer at the end."""
        end = min(position + size, self.size)
        made = [self._added[position:end]]
        with self._open() as file:
            for number, (here, there) in enumerate(self._runs):
                later = self._runs[number + 1][0] if number + 1 < len(self._runs) else self.size
                begin, stop = max(position, here), min(end, later)
                if begin < stop:
                    file.seek(there + begin - here)
                    made.append(file.read(stop - begin))
        return b"".join(made)


class Trees:
    """The trees of the messages that were read last: each part of a page asks for its own."""

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._kept: dict[str, Part] = {}

    def get(self, id: str, make: Callable[[], Part]) -> Part:
        """Return the tree of a message, which *make* reads if it is not kept."""
        tree = self._kept.pop(id, None)
        if tree is None:
            tree = make()
        self._kept[id] = tree
        for old in list(self._kept)[: -self._most]:
            self._kept.pop(old, None)
        return tree

    def clear(self) -> None:
        """Forget all trees."""
        self._kept.clear()
