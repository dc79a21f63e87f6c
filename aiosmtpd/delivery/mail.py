"""A message as a program gets it, from a ``python:`` outlet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

from public import public

from aiosmtpd.delivery.item import PIECE

if TYPE_CHECKING:
    from aiosmtpd.delivery.item import Arrival, Item


@public
class Mail:
    """One message for some of its recipients.

    ``id`` is the queue id, the same at each try: a function that did its work and then failed
    sees it again. ``sender`` is the reverse-path (``"<>"`` for the null one), ``recipients`` are
    the forward-paths of this try, ``arrival`` is what the session knew.
    """

    def __init__(self, item: Item) -> None:
        self._item = item
        self.id: str = item.id
        self.sender: str = item.sender
        self.recipients: tuple[str, ...] = item.recipients
        self.arrival: Arrival = item.arrival
        self.size: int = item.size
        self.attempts: int = item.attempts

    def __repr__(self) -> str:
        return f"<Mail {self.id} from {self.sender} to {', '.join(self.recipients)}>"

    @cached_property
    def message(self) -> EmailMessage:
        """The parsed message; parsing waits until this is read."""
        with self.open() as file:
            return BytesParser(policy=policy.default).parse(file)

    @cached_property
    def octets(self) -> bytes:
        """The whole message as it came, with the trace fields in front."""
        with self.open() as file:
            return file.read()

    @property
    def content(self) -> bytes:
        """The whole message, by the name that ``aiosmtpd.Mail`` has for it."""
        return self.octets

    def open(self) -> BinaryIO:
        """Return the message as a binary file, at its beginning; close it."""
        return self._item.open()

    def chunks(self, size: int = PIECE) -> Chunks:
        """Return the message in pieces of *size* bytes, for ``for`` and for ``async for``."""
        return Chunks(self._item, size)


class Chunks:
    """The pieces of a message, for plain functions and for coroutines."""

    def __init__(self, item: Item, size: int) -> None:
        self._item = item
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        with self._item.open() as file:
            while piece := file.read(self._size):
                yield piece

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._item.chunks(self._size)
