"""Find the sender and the recipients that the header of a message names."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, NoReturn

from aiosmtpd.protocol import paths

_NEWLINE = r"(?>\r\n|\r|\n)"
_END_OF_HEADER = re.compile(rf"(?:\A|{_NEWLINE}){_NEWLINE}".encode())
_NEWLINES = re.compile(_NEWLINE.encode())
_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:")
_TOKEN = re.compile(
    r"""(?P<blank>[ \t]++)
    | (?P<quoted>"(?:[^"\\]|\\.)*+")
    | (?P<literal>\[[^\[\]\\]*+\])
    | (?P<special>[<>,:;@.("])
    | (?P<atom>[^ \t<>,:;@."(\[]++|\[)""",
    re.VERBOSE | re.DOTALL,
)
_IN_COMMENT = re.compile(r"[()]|\\.", re.DOTALL)


SHOWN = 60
"""Characters of an invalid address that an error shows."""


class NoEnvelope(ValueError):
    """The header names no address that can be used; the text says in which field and which."""


class _Field(NamedTuple):
    name: str
    value: str


def header_of(message: bytes) -> bytes:
    """Return the header of a message with any line ends, without a byte order mark."""
    begin = len(BOM_UTF8) if message.startswith(BOM_UTF8) else 0
    end = _END_OF_HEADER.search(message[begin:] if begin else message)
    return message[begin : begin + end.start()] if end else message[begin:]


def sender_of(message: bytes) -> str | None:
    """Return the sender: the address in Sender, else the first in From; None without both.

    In a message that was resent, these are Resent-Sender and Resent-From. Raises NoEnvelope.
    """
    prefix, fields = _last_sent(message)
    for name in prefix + "sender", prefix + "from":
        if found := [field for field in fields if field.name.lower() == name]:
            return _addresses(found)[0]
    if prefix:
        raise NoEnvelope("Resent-From is missing")
    return None


def recipients_of(message: bytes) -> list[str] | None:
    """Return the addresses in To, Cc and Bcc; None without these fields.

    In a message that was resent, these are Resent-To, Resent-Cc and Resent-Bcc. Raises NoEnvelope.
    """
    prefix, fields = _last_sent(message)
    names = {prefix + name for name in ("to", "cc", "bcc")}
    if found := [field for field in fields if field.name.lower() in names]:
        return list(dict.fromkeys(_addresses(found)))
    if prefix:
        raise NoEnvelope("Resent-To is missing")
    return None


def _last_sent(message: bytes) -> tuple[str, list[_Field]]:
    """Return the fields of the last sending, and ``resent-`` if they begin with it.

    Each resending puts its fields, each at most once, before all others: RFC 5322 section 3.6.6.
    """
    fields = list(_fields(header_of(message)))
    block: dict[str, _Field] = {}
    for field in fields:
        name = field.name.lower()
        if name.startswith("resent-") and name not in block:
            block[name] = field
        elif block:
            break
    return ("resent-", list(block.values())) if block else ("", fields)


def _fields(header: bytes) -> Iterator[_Field]:
    """Yield the header fields, unfolded; skip lines that belong to none."""
    name, lines = "", [b""]
    for line in _NEWLINES.split(header):
        if line.startswith((b" ", b"\t")):
            lines.append(line)
            continue
        if name:
            yield _Field(name, b"".join(lines).decode("utf-8", "surrogateescape"))
        field = _FIELD.match(line)
        name = field[1].decode() if field else ""
        lines = [line[field.end() :]] if field else []
    if name:
        yield _Field(name, b"".join(lines).decode("utf-8", "surrogateescape"))


def _addresses(fields: list[_Field]) -> list[str]:
    """Return all addresses in fields; raises NoEnvelope if there is none."""
    found: list[str] = []
    for field in fields:
        try:
            found += _AddressList(field.value)
        except ValueError as error:
            raise NoEnvelope(f"{field.name} has an invalid address: {error}") from None
    if not found:
        raise NoEnvelope(f"{fields[0].name} names no address")
    return found


class _AddressList:
    """An address list: RFC 5322 section 3.4, with the obsolete forms of section 4.4.

    Iteration yields the addresses as the list spells them, without comments and blanks. An entry of
    words alone, without ``@``, is skipped. Raises ValueError with the text of an entry that is not
    an address, at once or while iterating.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = self._begin = 0
        self._in_group = False

    def __iter__(self) -> Iterator[str]:
        words: list[str] = []
        has_address = False
        while piece := self._next():
            if piece == "," or (piece == ";" and self._in_group):
                if not has_address:
                    yield from self._entry(words)
                words, has_address = [], False
                self._begin = self._position
                self._in_group = self._in_group and piece == ","
            elif has_address or piece in (">", ";"):
                self._refuse()
            elif piece == "<":
                yield self._in_angles()
                has_address = True
            elif piece == ":":
                if self._in_group or "@" in words:
                    self._refuse()
                self._in_group, words = True, []
            else:
                words.append(piece)
        if not has_address:
            yield from self._entry(words)

    def _next(self) -> str:
        """Return the next piece that is neither blank nor a comment; ``""`` at the end."""
        while match := _TOKEN.match(self._text, self._position):
            self._position = match.end()
            if match[0] == "(":
                self._skip_comment()
            elif match[0] == '"':
                # Its end is missing, so it is not clear what follows.
                self._refuse()
            elif match.lastgroup != "blank":
                return match[0]
        return ""

    def _skip_comment(self) -> None:
        depth = 1
        while depth:
            match = _IN_COMMENT.search(self._text, self._position)
            if match is None:
                self._refuse()
            self._position = match.end()
            depth += {"(": 1, ")": -1}.get(match[0], 0)

    def _in_angles(self) -> str:
        """Return the address in angle brackets, without its source route."""
        words: list[str] = []
        while (piece := self._next()) != ">":
            if piece == ":" and words[:1] == ["@"]:
                words = []
            elif piece and (piece not in ("<", ":", ";", ",") or words[:1] == ["@"]):
                words.append(piece)
            else:
                self._refuse()
        return self._address(words)

    def _entry(self, words: list[str]) -> Iterator[str]:
        if "@" in words:
            yield self._address(words)

    def _address(self, words: list[str]) -> str:
        """Join the words of an address; two of them must have ``.`` or ``@`` between them."""
        address = "".join(words)
        if "@" not in words or any(not {".", "@"} & set(pair) for pair in pairwise(words)):
            self._refuse()
        try:
            _, rest = paths.parse(f"<{address}>")
        except paths.MalformedPath:
            self._refuse()
        if rest:
            self._refuse()
        return address

    def _refuse(self) -> NoReturn:
        """Raise ValueError with the text from the start of the entry on."""
        entry = self._text[self._begin :].strip()
        raise ValueError(repr(entry) if len(entry) <= SHOWN else f"{entry[:SHOWN]!r}...")
