"""Messages read in pieces: as DATA sends them (RFC 5321 section 4.5.2), or with other line ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import attrs

PIECE = 65536


@attrs.frozen
class Facts:
    """Properties of a message that a next hop must be able to take."""

    size: int
    """Bytes with CRLF line ends, without the doubled dots."""
    plain: bool
    """The message is ASCII."""
    plain_headers: bool
    """The header section is ASCII."""


_RETURN_PATH = re.compile(rb"(?i)Return-Path:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n")


def to_relay(file: BinaryIO) -> BinaryIO:
    """Go to the begin of a message, after a Return-Path field in front; return the file.

    The server puts that field there, for a mailbox. The server of the mailbox makes its own: RFC
    5321 section 4.4.
    """
    found = _RETURN_PATH.match(file.read(4096))
    file.seek(found.end() if found is not None else 0)
    return file


def facts_of(file: BinaryIO) -> Facts:
    """Read the message once."""
    size = 0
    plain = plain_headers = True
    headers = True
    # So that an empty first line ends the headers too.
    tail = b"\r\n"
    for piece in lines(file):
        size += len(piece)
        if headers:
            # An empty line ends the headers; it may be cut in two between pieces.
            joined = tail + piece
            section, end, _ = joined.partition(b"\r\n\r\n")
            headers = not end
            plain_headers = plain_headers and section.isascii()
            tail = joined[-3:]
        plain = plain and piece.isascii()
    return Facts(size, plain, plain_headers)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the message with CRLF for each bare CR or LF; no CRLF is cut in two."""
    rest = b""
    while piece := file.read(PIECE):
        piece = rest + piece
        rest = b"\r" if piece.endswith(b"\r") else b""
        yield with_crlf(piece.removesuffix(b"\r"))
    if rest:
        yield b"\r\n"


def with_crlf(piece: bytes) -> bytes:
    """Return *piece* with CRLF for each bare CR or LF."""
    pairs = piece.count(b"\r\n")
    if pairs == piece.count(b"\r") == piece.count(b"\n"):
        return piece
    return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def mail_data(file: BinaryIO) -> Iterator[bytes]:
    """Yield the message as DATA sends it, with the dot that ends it."""
    at_begin = True
    last = b""
    for piece in lines(file):
        if not piece:
            continue
        dot = b"." if at_begin and piece.startswith(b".") else b""
        if last:
            yield last
        last = dot + piece.replace(b"\r\n.", b"\r\n..")
        at_begin = piece.endswith(b"\r\n")
    # With the last piece: alone, these bytes would wait for the hop's delayed ACK.
    yield last + (b".\r\n" if at_begin else b"\r\n.\r\n")


def with_line_end(file: BinaryIO, line_end: bytes) -> Iterator[bytes]:
    """Yield the message with *line_end* for each CRLF; bare CR and LF stay as they are."""
    rest = b""
    while piece := file.read(PIECE):
        piece = rest + piece
        rest = b"\r" if piece.endswith(b"\r") else b""
        yield piece.removesuffix(b"\r").replace(b"\r\n", line_end)
    yield rest
