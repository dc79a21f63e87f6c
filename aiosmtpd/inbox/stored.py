"""A message as the store returns it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import BinaryIO, NamedTuple

from public import public

from aiosmtpd.inbox.records import Line
from aiosmtpd.mail.source import Source, pieces
from aiosmtpd.mail.tree import Part


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


@public
class StoredMail:
    """A message in the store, as it was when it was read from there.

    Its source for the API is the mail data as it came, with :attr:`added` before it. A message
    that was deleted meanwhile can still be read if it is small; else reading raises StoreError.
    """

    id: str
    """22 characters of base 62."""
    row: str
    """JSON: its row in lists."""
    created: datetime
    """The time of its arrival in the local zone, in milliseconds."""
    read: bool
    tags: list[str]
    """Its tags, sorted."""
    sender: str
    """The reverse-path, ``""`` for the null one."""
    recipients: list[str]
    """The forward-paths."""
    username: str
    client: str
    """The IP address."""
    tls: str
    session_number: int
    """0 without a session."""
    transaction: Sequence[Line]
    """The lines of its session's dialogue that belong to it, from MAIL on."""
    size: int
    """Bytes of the source for the API."""
    added: bytes
    """The header fields that we put before the mail data."""
    notices: list[str]
    """A line for each reason why it is not read as the sender meant it."""
    inline: list[ListedPart]
    attachments: list[ListedPart]

    def open(self) -> BinaryIO:
        """Return the mail data as it came, as a binary file at its beginning."""
        raise NotImplementedError

    def pristine(self) -> bytes:
        """Return the mail data as it came."""
        with self.open() as file:
            return file.read()

    @property
    def source(self) -> Source:
        """The source for the API: with the added fields, without another Return-Path."""
        raise NotImplementedError

    def raw(self) -> bytes:
        """Return the source for the API."""
        return self.source.read_at(0, self.source.size)

    def raw_pieces(self) -> Iterator[bytes]:
        """Yield the source for the API in pieces of at most 256 KiB."""
        return pieces(self.source, 0, self.source.size)

    def tree(self) -> Part:
        """Return the root of the tree of its parts, read from :attr:`source`."""
        raise NotImplementedError

    def part(self, number: str) -> Part | None:
        """Return the part with this number, None if there is no such part."""
        raise NotImplementedError

    @cached_property
    def text(self) -> str:
        """``Text`` of the API: plain text as received, else the HTML's text."""
        raise NotImplementedError

    @cached_property
    def html(self) -> str:
        """``HTML`` of the API: the first part of HTML as received, ``""`` without one."""
        raise NotImplementedError

    def headers(self) -> dict[str, list[str]]:
        """Return the fields as ``GET /message/{id}/headers`` answers them."""
        raise NotImplementedError

    def json(self) -> str:
        """Return the Message that ``GET /message/{id}`` answers."""
        raise NotImplementedError
