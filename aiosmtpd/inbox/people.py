"""Read the addresses of a header field, however malformed, in linear time."""

from __future__ import annotations

import re
from typing import NamedTuple

from aiosmtpd.mail import header

MOST = 1000
"""Addresses of one field that are read."""

LONGEST = 1000
"""Characters of a name or an address that are kept."""

_LONGEST_FIELD = 1 << 18
"""Characters of a field that are read."""

_TOKEN = re.compile(
    r"""=\?[^?\s]{1,99}\?[bBqQ]\?[^?\s]*+\?="""
    r"""|"(?:[^"\\]|\\.)*+"?"""
    r"""|<(?:[^<>"]|"(?:[^"\\]|\\.)*+")*+>"""
    r"""|[^\s"<(),;:]++"""
    r"""|[\s"<(),;:]""",
    re.DOTALL,
)
_PLAIN = r'[^\s<>"@:,;()]++@[^\s<>"@:,;()]++'
_USUAL = re.compile(rf"(?:([A-Za-z0-9]++(?: [A-Za-z0-9]++)*+) )?<({_PLAIN})>")
_BARE = re.compile(_PLAIN)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Person(NamedTuple):
    """A mailbox: RFC 5322 section 3.4."""

    name: str
    address: str

    def json(self) -> dict[str, str]:
        """Return it as the API writes it."""
        return {"Name": self.name, "Address": self.address}


def read(value: str) -> list[Person]:
    """Return the mailboxes of a field, without the names of groups; skip what has no address."""
    if usual := _USUAL.fullmatch(value):
        return [Person((usual[1] or "")[:LONGEST], usual[2][:LONGEST])]
    if _BARE.fullmatch(value):
        return [Person("", header.characters(value)[:LONGEST])]
    return _Reader(value[:_LONGEST_FIELD]).people


def sender(value: str) -> Person:
    """Return the first mailbox of From; without one, the field as a name."""
    if people := read(value):
        return people[0]
    return Person(header.decode_header(value[:LONGEST]).strip(), "")


class _Reader:
    """Collects the words of a mailbox up to a comma."""

    def __init__(self, value: str) -> None:
        self.people: list[Person] = []
        self._words: list[str] = []
        self._comment: list[str] = []
        self._address: str | None = None
        depth = 0
        for word in _TOKEN.findall(value):
            if word == "(":
                depth += 1
            elif word == ")":
                depth = max(depth - 1, 0)
            elif depth:
                self._comment.append(word)
            elif word in ",;":
                self._end()
            elif word == ":" and not any("@" in one for one in self._words):
                # The name of a group.
                self._begin()
            elif word[0] == "<" and len(word) > 1:
                self._address = word[1:-1]
            else:
                self._words.append(word)
            if len(self.people) >= MOST:
                return
        self._end()

    def _begin(self) -> None:
        self._words, self._comment, self._address = [], [], None

    def _end(self) -> None:
        if self._address is not None:
            name = _phrase(self._words) or _phrase(self._comment)
            address = self._address.strip()
            if address.startswith("@") and ":" in address:
                # A source route: RFC 5322 section 4.4.
                address = address.partition(":")[2]
        else:
            address, name = "".join(filter(str.strip, self._words)), _phrase(self._comment)
        if "@" in address or (self._address and address):
            self.people.append(Person(name[:LONGEST], header.characters(address)[:LONGEST]))
        self._begin()


def _phrase(words: list[str]) -> str:
    """Return a name without quotation marks, decoded."""
    text = "".join(
        _ESCAPE.sub(r"\1", word[1:].removesuffix('"')) if word[:1] == '"' else word
        for word in words
    )
    return " ".join(header.decode_header(" ".join(text.split())).split())
