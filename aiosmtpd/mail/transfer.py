"""Undo transfer encodings, piece by piece: RFC 2045 section 6. Any input is accepted.

Broken base64 and quoted-printable give the bytes that can be decoded. An unknown encoding is
ignored.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

_NOT_BASE64 = bytes(byte for byte in range(256) if not re.match(rb"[A-Za-z0-9+/=]", bytes([byte])))

_HELD = 1 << 16
"""Bytes that are kept: of a line of quoted-printable, until its end comes."""

# The lookbehind keeps it linear: only the first blank of a run is tried.
_TRAILING_BLANKS = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n)")
_BLANK_ENDS = (b" \r\n", b"\t\r\n", b" \n", b"\t\n")

# A line end of old, after which ``a2b_qp`` would skip the next line.
_SOFT_RETURN = re.compile(rb"=\r(?!\n)")

_UU_BEGIN = re.compile(rb"(?:^|\n)begin [0-7]{3,4} [^\n]*+(?:\n|$)", re.I)
_LINE = re.compile(rb"[^\n]++")
_UU_NAMES = frozenset({"x-uuencode", "uuencode", "uue", "x-uue"})


IDENTITY = frozenset({"", "7bit", "8bit", "binary"})
"""The encodings that change nothing; ``""`` stands for the absence of one."""

KNOWN = IDENTITY | _UU_NAMES | {"base64", "quoted-printable"}
"""The encodings that :func:`decoded` undoes."""


def decoded(read: Callable[[], Iterator[bytes]], encoding: str) -> Iterator[bytes]:
    """Yield the decoded bytes of the pieces that *read* yields; *encoding* is in lower case.

    If nothing at all is base64, yield the bytes as they came.
    """
    if encoding == "quoted-printable":
        yield from from_quoted_printable(read())
    elif encoding in _UU_NAMES:
        yield from _from_uu(b"".join(read()))
    elif encoding == "base64":
        found = False
        for piece in from_base64(read()):
            found = found or bool(piece)
            yield piece
        if not found:
            yield from read()
    else:
        yield from read()


def from_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decode base64, and ignore all other characters (RFC 2045 section 6.8).

    Padding ends a piece, and another may follow: mailing lists add one at the end.
    """
    rest = b""
    for piece in pieces:
        letters = rest + piece.translate(None, _NOT_BASE64)
        padded, padding, tail = letters.rpartition(b"=")
        if padding:
            yield b"".join(_quanta(one) for one in padded.split(b"=") if len(one) > 1)
        whole = len(tail) & ~3
        yield binascii.a2b_base64(tail[:whole])
        rest = tail[whole:]
    yield _quanta(rest)


def _quanta(letters: bytes) -> bytes:
    """Decode letters without padding; one letter too many is six bits of nothing."""
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def from_quoted_printable(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decode quoted-printable; blanks at the end of a line are not content (6.7, rule 3)."""
    rest = b""
    for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n") + 1
        if not end and len(rest) > _HELD:
            # A line without an end: cut it, but not in an escape.
            end = len(rest) - 2
            end -= next((back for back in (1, 2) if rest[end - back : end - back + 1] == b"="), 0)
        yield unquoted(_without_trailing_blanks(rest[:end]))
        rest = rest[end:]
    yield unquoted(_without_trailing_blanks(rest.rstrip(b" \t")))


def _without_trailing_blanks(data: bytes) -> bytes:
    # Most lines have one blank at most, and a regular expression takes memory for each.
    for _ in range(3):
        size = len(data)
        for end in _BLANK_ENDS:
            data = data.replace(end, end[1:])
        if len(data) == size:
            return data
    return _TRAILING_BLANKS.sub(b"", data)


def unquoted(data: bytes) -> bytes:
    """Decode the escapes and the soft breaks of quoted-printable, and keep blanks.

    An equals sign that encodes nothing is one.
    """
    if b"==" in data:
        # Twice: the first time makes "=3D==3D=" of four.
        data = data.replace(b"==", b"=3D=").replace(b"==", b"=3D=")
    if b"=\r" in data:
        data = _SOFT_RETURN.sub(b"", data)
    return binascii.a2b_qp(data)


def _from_uu(data: bytes) -> Iterator[bytes]:
    begin = _UU_BEGIN.search(data)
    if begin is None:
        yield data
        return
    made = bytearray()
    # Blanks that stand for zeros may be missing at the end of a line, but not for ever.
    missing = len(data)
    for found in _LINE.finditer(data, begin.end()):
        line = found[0].rstrip(b"\r")
        if line == b"end":
            break
        length = (line[0] - 32) & 63 if line else 0
        size = (length * 4 + 5) // 3
        missing -= max(size + 1 - len(line), 0)
        if not length or missing < 0:
            continue
        with suppress(binascii.Error):
            made += binascii.a2b_uu(line[: size + 1])
        if len(made) >= _HELD:
            yield bytes(made)
            made.clear()
    yield bytes(made)
