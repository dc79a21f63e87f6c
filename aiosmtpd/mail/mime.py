"""Lenient MIME decoding: every message yields headers, text, HTML and attachments."""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from email.policy import compat32
from typing import Any, NamedTuple, TypeVar

from public import public

T = TypeVar("T")

_WORD = r"=\?([!->@-~]{1,99})\?([bBqQ])\?([^?]*+)\?="
_ENCODED_WORD = re.compile(_WORD)
_BETWEEN_WORDS = re.compile(rf"(?<=\?=)[ \t\r\n]++(?={_WORD})")
# U+DC80 to U+DCFF are not among them: they stand for undecoded bytes.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_FOLDING = re.compile(r"\r?\n(?=[ \t])")

# Codecs that take quadratic time, or that are for program text: mail does not use them.
_NO_CHARSETS = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"})


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


class Reading(NamedTuple):
    """The decoded parts of a message."""

    headers: Headers
    text: str
    html: str
    attachments: list[Attachment]


class _Part(NamedTuple):
    content: Attachment
    charset: str
    attached: bool


def read(content: bytes) -> Reading:
    """Decode a message, however malformed it is."""
    try:
        message = BytesParser(policy=compat32).parsebytes(content)
        parts = list(_leaves(message))
    except RecursionError:
        # Hundreds of nested parts: return the whole body as one text.
        message = BytesHeaderParser(policy=compat32).parsebytes(content)
        parts = [_Part(Attachment("", "text/plain", _payload(message)), "", False)]
    shown = [part for part in parts if _is_shown(part)]
    return Reading(
        Headers([(name, decode_header(str(value))) for name, value in message.raw_items()]),
        _text_of(shown, "text/plain"),
        _text_of(shown, "text/html"),
        [part.content for part in parts if not _is_shown(part)],
    )


def decode_header(value: str) -> str:
    """Decode the encoded words (RFC 2047) in a header's value; return it as one line."""
    value = _decode(_LONE_SURROGATE.sub("\ufffd", value).encode("utf-8", "surrogateescape"), "")
    value = _BETWEEN_WORDS.sub("", _FOLDING.sub("", value))
    pieces: list[str] = []
    encoded, charset, position = b"", "", 0
    for word in _ENCODED_WORD.finditer(value):
        named = word[1].partition("*")[0]
        if encoded and (word.start() > position or named.lower() != charset.lower()):
            # Join adjacent words first: senders split a multi-byte character between two of them.
            pieces.append(_decode(encoded, charset))
            encoded = b""
        pieces.append(value[position : word.start()])
        encoded, charset, position = encoded + _word_bytes(word[2], word[3]), named, word.end()
    pieces += [_decode(encoded, charset), value[position:]]
    return "".join(pieces).replace("\r", " ").replace("\n", " ")


def _word_bytes(how: str, text: str) -> bytes:
    data = text.encode()
    if how in "qQ":
        return binascii.a2b_qp(data, header=True)
    try:
        return binascii.a2b_base64(data.rstrip(b"=") + b"==")
    except binascii.Error:
        return data


def _leaves(message: Message) -> Iterator[_Part]:
    # A forwarded message is one part: its own parts are not taken apart.
    if message.is_multipart() and not _type_of(message).startswith("message/"):
        for part in _parts_of(message):
            yield from _leaves(part)
    else:
        yield _part(message)


def _parts_of(message: Message) -> list[Message]:
    payload: Any = message.get_payload()
    return payload if isinstance(payload, list) else []


def _part(message: Message) -> _Part:
    name = _leniently(message.get_filename, None)
    disposition = _leniently(message.get_content_disposition, None)
    charset = _leniently(message.get_content_charset, None)
    content = Attachment(
        decode_header(name or ""), _type_of(message), _leniently(_payload, b"", message)
    )
    return _Part(content, charset or "", bool(name) or disposition == "attachment")


def _type_of(message: Message) -> str:
    return _leniently(message.get_content_type, "text/plain")


def _is_shown(part: _Part) -> bool:
    return not part.attached and part.content.type in {"text/plain", "text/html"}


def _text_of(parts: list[_Part], kind: str) -> str:
    texts = [_decode(one.content.content, one.charset) for one in parts if one.content.type == kind]
    return "\n".join(text.replace("\r\n", "\n") for text in texts)


def _payload(message: Message) -> bytes:
    if message.is_multipart():
        return b"\n".join(part.as_bytes() for part in _parts_of(message))
    payload = message.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _leniently(read: Callable[..., T], instead: T, *args: Any) -> T:
    # The standard library raises exceptions of all kinds for malformed parameters.
    try:
        return read(*args)
    except RecursionError:
        raise
    except Exception:
        return instead


def _decode(data: bytes, charset: str) -> str:
    for name in charset, "utf-8":
        try:
            if name and codecs.lookup(name).name not in _NO_CHARSETS:
                # UTF-7 can spell surrogates, which are not characters: replace them.
                return data.decode(name).encode("utf-8", "replace").decode()
        except Exception:  # noqa: S112 - for example if a codec's module cannot be imported
            continue
    return data.decode("utf-8", "replace")
