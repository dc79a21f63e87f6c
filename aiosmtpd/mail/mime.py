"""Values of a decoded message: header fields and attachments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from public import public


@public
class Attachment(NamedTuple):
    """A part of a message that is not text to be read in place.

    *name* is the file name that the sender gave, ``""`` without one; it may contain anything, even
    a path. *type* is the media type in lower case, *content* the decoded bytes.
    """

    name: str
    type: str
    content: bytes

    def __repr__(self) -> str:
        return f"<Attachment {self.name!r}, {self.type}, {len(self.content)} bytes>"


@public
class Headers(Mapping[str, str]):
    """Header fields with decoded values, by name in any case.

    Of several fields with one name, the mapping has the first.
    """

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        #: All fields in their order, as pairs of name and decoded value.
        self.fields = fields
        self._first: dict[str, tuple[str, str]] = {}
        for name, value in fields:
            self._first.setdefault(name.lower(), (name, value))

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._first.values())

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        return f"Headers({self.fields!r})"

    def get_all(self, name: str) -> list[str]:
        """Return the values of all fields of this name, in their order."""
        return [value for field, value in self.fields if field.lower() == name.lower()]
