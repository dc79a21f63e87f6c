"""Divide a message into its parts: RFC 2045 and 2046, for any input, in linear time.

The tree names the place of each part in the message. Parts are decoded when they are asked for, and
a message in a file is not read into memory.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from functools import cached_property
from io import BytesIO

from public import public

from aiosmtpd.mail import charsets, header, parameters, transfer
from aiosmtpd.mail.mime import Headers
from aiosmtpd.mail.source import PIECE, InMemory, Searcher, Source, pieces

DEEPEST = 50
"""Levels of nested parts that are read; deeper ones are left as source."""

MOST_PARTS = 1000
"""Parts of a message that are read; the last holds the rest of the message as source."""

LONGEST_BOUNDARY = 1000
"""Bytes of a boundary; RFC 2046 allows 70."""

_MOST_MISSES = 2000
"""Lines that only look like delimiters before a pattern is made of the boundaries: that is slow."""

_LONGEST_VALUE = 1 << 16
"""Bytes of a field that are parsed."""

_LINE = rb"--[^\n]{0,%d}" % (LONGEST_BOUNDARY + 100)
_DELIMITER = re.compile(rb"\r?\n" + _LINE)
_END_OF_HEADER = re.compile(rb"\r?\n(?:\r?\n|" + _LINE + rb")")
_BLANK_LINE = re.compile(rb"\r?\n")

_FIELDS = re.compile(
    rb"^content-(type|transfer-encoding|disposition|id)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)",
    re.IGNORECASE | re.MULTILINE,
)
_MEDIA_TYPE = re.compile(r"[!-.0-~]++/[!-~]++")
_MESSAGES = frozenset({"message/rfc822", "message/global"})


@public
class Part:
    """A part of a message, or the whole: its description, its place and its bytes.

    The root of a message has the number ``"0"``, its parts ``"1"``, ``"2"``, and theirs ``"1.1"``.
    The root of a message that is part 2 has the number ``"2.0"``, its parts ``"2.1"``.
    """

    # There may be a thousand. The dict is only made for the values that are kept after a call.
    __slots__ = (
        *("_source", "_spelt_disposition", "_spelt_id", "_undivided", "number", "type"),
        *("parameters", "encoding", "position", "body_position", "end", "parts", "__dict__"),
    )

    def __init__(self, source: Source, number: str, position: int) -> None:
        self._source = source
        self._spelt_disposition = self._spelt_id = ""
        self._undivided = ""
        #: The number of the part, such as ``"1.2"``.
        self.number = number
        #: The media type in lower case; ``"text/plain"`` if the part names none.
        self.type = "text/plain"
        #: The parameters of the media type, by their names in lower case.
        self.parameters: dict[str, str] = {}
        #: The transfer encoding in lower case; ``""`` if the part names none.
        self.encoding = ""
        #: The position of the part's header in the message, in bytes.
        self.position = position
        #: The position of its body, in bytes.
        self.body_position = position
        #: The position after its body, in bytes.
        self.end = position
        #: The parts of a multipart; the root of a message that is a part.
        self.parts: list[Part] = []

    def __repr__(self) -> str:
        return f"<Part {self.number}, {self.type}>"

    @property
    def charset(self) -> str:
        """The name of the charset as the part has it, in lower case; ``""`` without one."""
        return self.parameters.get("charset", "").strip().lower()

    @cached_property
    def notice(self) -> str:
        """Why the part is not read as the sender meant it; ``""`` if it is."""
        if self._undivided or self.parts:
            return self._undivided
        if self.encoding not in transfer.KNOWN:
            return f"the transfer encoding {self.encoding[:40]} is unknown: not decoded"
        if self.type.startswith("text/") and self.charset and not charsets.is_known(self.charset):
            return f"the charset {self.charset[:40]} is unknown: read as UTF-8"
        return ""

    @property
    def _disposition(self) -> parameters.Value:
        return parameters.parse(self._spelt_disposition)

    @property
    def disposition(self) -> str:
        """``"inline"``, ``"attachment"`` or another value (RFC 2183); ``""`` without one."""
        return header.characters(self._disposition.main)

    @cached_property
    def name(self) -> str:
        """The file name, as its sender wrote it, even a path; ``""`` without one."""
        name = self._disposition.parameters.get("filename") or self.parameters.get("name", "")
        return header.decode_header(name)

    @cached_property
    def content_id(self) -> str:
        """The content id without angle brackets; ``""`` without one."""
        value = header.decode_header(self._spelt_id)
        inside = re.search(r"<([^<>]*+)>", value)
        return inside[1].strip() if inside else value.strip()

    @cached_property
    def headers(self) -> Headers:
        """The decoded header fields of the part."""
        source, size = self._source, self.body_position - self.position
        if size > PIECE and isinstance(source, InMemory):
            return Headers(header.decoded_fields(source.view_at(self.position, size)))
        return Headers(header.decoded_fields(self.header))

    @property
    def header(self) -> bytes:
        """The header as it came, with the empty line after it."""
        return self._source.read_at(self.position, self.body_position - self.position)

    @property
    def body(self) -> bytes:
        """The body as it came, without decoding."""
        return self._source.read_at(self.body_position, self.end - self.body_position)

    @property
    def content(self) -> bytes:
        """The decoded body."""
        if self.parts or self.encoding in transfer.IDENTITY:
            return self.body
        # Not a join, which would keep the pieces, too.
        made = BytesIO()
        for piece in self.pieces():
            made.write(piece)
        return made.getvalue()

    def pieces(self) -> Iterator[bytes]:
        """Yield the decoded body in pieces, without reading it as a whole."""
        encoding = "" if self.parts else self.encoding
        return transfer.decoded(
            lambda: pieces(self._source, self.body_position, self.end - self.body_position),
            encoding,
        )

    @cached_property
    def size(self) -> int:
        """The number of bytes of the decoded body."""
        if self.parts or self.encoding in transfer.IDENTITY:
            return self.end - self.body_position
        return sum(map(len, self.pieces()))

    @property
    def text(self) -> str:
        """The decoded body as text, with line ends as the sender wrote them."""
        text = ""
        for piece in self.texts():
            # Python resizes the string in place; a join would need twice the memory.
            text += piece
        return text

    def texts(self) -> Iterator[str]:
        """Yield the decoded body as text in pieces."""
        html = self.type == "text/html"
        if self.end - self.body_position <= PIECE:
            yield charsets.decode(self.content, self.charset, html=html)
        else:
            yield from charsets.decode_pieces(self.pieces, self.charset, html=html)

    def walk(self) -> Iterator[Part]:
        """Yield this part, then all below it in their order."""
        # Not recursive: each level of generators would make each part slower.
        left = [self]
        while left:
            part = left.pop()
            yield part
            left += reversed(part.parts)


def read(source: Source) -> Part:
    """Return the root of a message's tree."""
    return _Reader(source).read()


class _Reader:
    """Reads a message once, from front to back; *chain* are the open parts, from the root on."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._searcher = Searcher(source)
        self._chain: list[Part] = []
        # The places in the chain of multiparts that are still read, by their boundary.
        self._open: dict[bytes, list[int]] = {}
        self._boundaries: list[bytes] = []
        self._number = 0
        self._misses = 0
        self._delimiter_pattern = _DELIMITER
        self._header_pattern = _END_OF_HEADER

    def read(self) -> Part:
        root = Part(self._source, "0", 0)
        position: int | None = self._begin(root, "text/plain")
        while position is not None and self._open:
            position = self._next(position)
        self._close(0, self._source.size)
        return root

    def _next(self, position: int) -> int | None:
        """Read on to the next delimiter, and the part after it; return the position there."""
        found = self._searcher.search(self._delimiter_pattern, position)
        if found is None:
            return None
        start, line = found
        place, closes = self._delimiter(line)
        if place < 0:
            # The next line may begin with the line end of this one.
            self._miss()
            return start + len(line.rstrip(b"\r"))
        if start < self._chain[-1].position:
            # A delimiter right after another: there is no part between them.
            self._drop()
        self._close(place + 1, start)
        after = min(start + len(line) + 1, self._source.size)
        if closes or after == self._source.size:
            # A delimiter at the very end begins nothing.
            self._forget(place)
            return after - 1
        container = self._chain[place]
        part = Part(self._source, _number_below(container), after)
        container.parts.append(part)
        if self._number >= MOST_PARTS:
            part._undivided = f"more than {MOST_PARTS} parts: the rest of the message is its source"
            part.position = part.body_position = start + len(line) - len(line.lstrip(b"\r\n"))
            self._chain.append(part)
            return None
        default = "message/rfc822" if container.type == "multipart/digest" else "text/plain"
        return self._begin(part, default)

    def _delimiter(self, line: bytes) -> tuple[int, bool]:
        """Return the place of the multipart that a line delimits, and True if it ends there."""
        text = line.lstrip(b"\r\n").rstrip()[2:]
        place = self._open.get(text, [-1])[-1]
        if text.endswith(b"--"):
            ended = self._open.get(text[:-2], [-1])[-1]
            if ended > place:
                return ended, True
        return place, False

    def _miss(self) -> None:
        """Count a line that begins like a delimiter; after many, search for the real ones only."""
        self._misses += 1
        if self._misses == _MOST_MISSES and sum(map(len, self._open)) < _MOST_MISSES:
            line = rb"--(?:%b)(?:--)?[ \t\r\v\f]*+(?=\n|\Z)" % b"|".join(map(re.escape, self._open))
            self._delimiter_pattern = re.compile(rb"\r?\n" + line)
            self._header_pattern = re.compile(rb"\r?\n(?:\r?\n|" + line + rb")")

    def _changed(self) -> None:
        """Search for all lines that begin like a delimiter: other boundaries are open now."""
        self._misses = 0
        self._delimiter_pattern, self._header_pattern = _DELIMITER, _END_OF_HEADER

    def _close(self, place: int, end: int) -> None:
        """End all parts in the chain from *place* on."""
        for number in range(len(self._chain) - 1, place - 1, -1):
            part = self._chain[number]
            # The line end before a delimiter may be the one that ends the header.
            part.end = end = max(part.body_position, end)
            self._forget(number)
            _describe_unread(part)
        del self._chain[place:], self._boundaries[place:]

    def _drop(self) -> None:
        """Remove the last part of the chain from the tree."""
        self._chain.pop()
        self._boundaries.pop()
        self._chain[-1].parts.pop()

    def _forget(self, place: int) -> None:
        """Read no more parts of the multipart at this place of the chain."""
        boundary = self._boundaries[place] if place < len(self._boundaries) else b""
        if boundary:
            self._changed()
            self._boundaries[place] = b""
            self._open[boundary].pop()
            if not self._open[boundary]:
                del self._open[boundary]

    def _begin(self, part: Part, default: str) -> int:
        """Read the header of a part and of messages in it; return the position to search from."""
        while True:
            self._number += 1
            boundary = _describe(part, self._header(part), default)
            inside = part.type in _MESSAGES and part.encoding in transfer.IDENTITY
            if len(self._chain) >= DEEPEST and (boundary or inside):
                part._undivided = f"parts nested deeper than {DEEPEST} levels are left as source"
                boundary, inside = b"", False
            self._chain.append(part)
            self._boundaries.append(boundary)
            if boundary:
                self._changed()
                self._open.setdefault(boundary, []).append(len(self._chain) - 1)
            if not inside or self._number >= MOST_PARTS:
                # The line end before the body may also be the one before a delimiter.
                return max(part.body_position - 1, 0)
            root = Part(self._source, f"{part.number}.0", part.body_position)
            part.parts.append(root)
            part, default = root, "text/plain"

    def _header(self, part: Part) -> bytes:
        """Find the end of a header and return its bytes; without a field, all is body."""
        begin, source = part.position, self._source
        if blank := _BLANK_LINE.match(source.read_at(begin, 2)):
            part.body_position = begin + blank.end()
            return b""
        position = max(begin - 1, 0)
        while found := self._searcher.search(self._header_pattern, position):
            start, line = found
            if line.endswith(b"\n"):
                block = source.read_at(begin, start - begin)
                if not header.is_header(block):
                    return b""
                part.body_position = start + len(line)
                return block
            if self._delimiter(line)[0] >= 0:
                return self._without_end(part, max(start, begin))
            self._miss()
            position = start + len(line.rstrip(b"\r"))
        return self._without_end(part, source.size)

    def _without_end(self, part: Part, end: int) -> bytes:
        """Read a header that no empty line ends: lines after its last field are the body."""
        block = self._source.read_at(part.position, end - part.position)
        if not header.is_header(block):
            return b""
        length = header.end_of_fields(block)
        part.body_position = part.position + length
        return block[:length]


def _number_below(container: Part) -> str:
    number = container.number.removesuffix("0") if container.number.endswith(".0") else ""
    if not number and container.number != "0":
        number = container.number + "."
    return f"{number}{len(container.parts) + 1}"


def _describe(part: Part, block: bytes, default: str) -> bytes:
    """Read the fields that say what a part is; return the boundary of a multipart."""
    if header.has_more_fields(block):
        part._undivided = f"only {header.MOST_FIELDS} fields of the header are read"
    block = block.removeprefix(BOM_UTF8)
    values: dict[str, str] = {}
    for field in _FIELDS.finditer(block):
        end = min(field.end(2), field.start(2) + _LONGEST_VALUE)
        # The first of each kind counts.
        values.setdefault(field[1].decode().lower(), header.unfolded(block[field.start(2) : end]))
    part._spelt_disposition, part._spelt_id = values.get("disposition", ""), values.get("id", "")
    part.type = default
    if "transfer-encoding" in values:
        part.encoding = header.characters(parameters.parse(values["transfer-encoding"]).main)
    if "type" not in values:
        return b""
    value = parameters.parse(values["type"])
    # A value that is not a media type counts as none (RFC 2045 section 5.2).
    part.type = value.main if _MEDIA_TYPE.fullmatch(value.main) else "text/plain"
    part.parameters = {
        header.characters(name): header.characters(text) for name, text in value.parameters.items()
    }
    if not part.type.startswith("multipart/"):
        return b""
    boundary = value.parameters.get("boundary", "").rstrip().encode("utf-8", "surrogateescape")
    return boundary if len(boundary) <= LONGEST_BOUNDARY else b""


def _describe_unread(part: Part) -> None:
    """Note on a multipart that has no parts why it has none."""
    if part.type.startswith("multipart/") and not part.parts and not part._undivided:
        part._undivided = "a multipart without parts is left as source"
