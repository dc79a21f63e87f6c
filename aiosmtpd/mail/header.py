"""Read header blocks and decode their fields, however malformed: RFC 5322, 2047 and 6532."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import islice

from aiosmtpd.mail.builder import TextBuilder
from aiosmtpd.mail.charsets import decode
from aiosmtpd.mail.transfer import from_base64, unquoted

MOST_FIELDS = 10_000
"""Fields of one header block that are read."""

# A name may be followed by blanks (RFC 5322 section 4.5). Programs also write names with blanks in
# them. All other lines are skipped.
_FIELD = re.compile(rb"^([^\s:][^:\r\n]*+):([^\n]*+(?:\n[ \t][^\n]*+)*+)", re.MULTILINE)
_PROPER_NAME = re.compile(rb"^[!-9;-~]++[ \t]*+:", re.MULTILINE)
_MBOX_LINES = (b"From ", b">From ")

# U+DC80 to U+DCFF are not among them: they stand for undecoded bytes.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")

# A "?" in the text is an error that is common; the limit of their number keeps it linear.
_LONGEST_WORD = 1 << 16
"""Characters of an encoded word; RFC 2047 allows 75. A longer one is left as source."""

_MOST_ENCODED = 1 << 16
"""Bytes of adjacent encoded words that are decoded at once."""

_WORD = re.compile(r"=\?([!->@-~]{1,99})\?([bBqQ])\?([^?]*+(?:(?<!=)\?(?!=)[^?]*+){0,9})\?=")


def fields_of(block: bytes | memoryview) -> Iterator[tuple[str, str]]:
    """Yield the names and the unfolded values of the fields in a header block."""
    if bytes(block[: len(BOM_UTF8)]) == BOM_UTF8:
        block = block[len(BOM_UTF8) :]
    view = memoryview(block)
    for match in islice(_FIELD.finditer(block), MOST_FIELDS):
        name, value = match.span(1), match.span(2)
        spelt = bytes(block[name[0] : name[1]])
        if not (spelt.startswith(_MBOX_LINES) and not _PROPER_NAME.match(block, name[0])):
            # Not a slice of bytes: a field may be as large as the message.
            text = unfolded(view[value[0] : value[1]])
            yield spelt.rstrip(b" \t").decode("utf-8", "replace"), text


def has_more_fields(block: bytes) -> bool:
    """Return True if a block has more fields than are read."""
    lines = block.count(b"\n")
    return lines >= MOST_FIELDS and any(islice(_FIELD.finditer(block), MOST_FIELDS, None))


def is_header(block: bytes) -> bool:
    """Return True if there is a header field in a block."""
    return _PROPER_NAME.search(block.removeprefix(BOM_UTF8)) is not None


def end_of_fields(block: bytes) -> int:
    """Return the position of the line after the last field of a block."""
    last = 0
    for match in _FIELD.finditer(block):
        last = match.end()
    return block.find(b"\n", last) + 1 or len(block)


def unfolded(value: bytes | memoryview) -> str:
    """Return a value on one line, with undecodable bytes as lone surrogates; RFC 5322 2.2.3."""
    text = str(value, "utf-8", "surrogateescape").strip(" \t\r\n")
    return _without_folds(text) if "\n" in text or "\r" in text else text


def _without_folds(text: str) -> str:
    # Not a regular expression: there may be millions.
    for fold in "\r\n ", "\r\n\t", "\n ", "\n\t":
        text = text.replace(fold, fold[-1])
    return text.replace("\r", " ").replace("\n", " ")


def decoded_fields(block: bytes | memoryview) -> list[tuple[str, str]]:
    """Return all fields of a header block as pairs of name and decoded value."""
    return [
        (name, value if value.isascii() and "=?" not in value else decode_header(value))
        for name, value in fields_of(block)
    ]


def characters(value: str) -> str:
    """Return a value with U+FFFD in place of bytes that were not decoded."""
    if value.isascii():
        return value
    value = _LONE_SURROGATE.sub("\ufffd", value)
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def decode_header(value: str) -> str:
    """Decode the encoded words (RFC 2047) in a header's value; return it as one line."""
    value = characters(value)
    if "\n" in value:
        value = _without_folds(value)
    if "=?" in value:
        value = _with_words(value)
    return value.replace("\r", " ").replace("\n", " ")


def _with_words(value: str) -> str:
    made = TextBuilder()
    encoded, charset, position = bytearray(), "", 0
    for word in _WORD.finditer(value):
        if word.end() - word.start() > _LONGEST_WORD:
            continue
        between = value[position : word.start()]
        named = word[1].partition("*")[0]
        adjacent = bool(charset) and not between.strip(" \t\r\n")
        same = adjacent and named.lower() == charset.lower() and len(encoded) < _MOST_ENCODED
        if charset and not same:
            # Join adjacent words first: senders split a multi-byte character between two of them.
            made.add(decode(bytes(encoded), charset))
            encoded.clear()
        if not adjacent:
            made.add(between)
        encoded += _word_bytes(word[2], word[3])
        charset, position = named, word.end()
    made.add(decode(bytes(encoded), charset))
    made.add(value[position:])
    return made.text()


def _word_bytes(how: str, text: str) -> bytes:
    data = text.encode()
    if how in "qQ":
        # There are no soft line breaks here: the last character is just an equals sign.
        end = b"=3D" if data.endswith(b"=") else data[-1:]
        return unquoted((data[:-1] + end).replace(b"_", b" "))
    return b"".join(from_base64([data])) or data
