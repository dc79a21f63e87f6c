"""Write messages into one file while it is sent: mbox or zip."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC
from typing import IO, cast
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from public import public

from aiosmtpd.inbox.records import StoreError
from aiosmtpd.inbox.store import Store
from aiosmtpd.inbox.stored import StoredMail

ENOUGH = 1 << 16
"""Bytes that are collected before they are sent."""

_FROM = re.compile(rb"^>*From ", re.MULTILINE)
_UNSAFE = re.compile(r"[^!-~]")


@public
def exported(store: Store, ids: Iterable[str], kind: str) -> Iterator[bytes]:
    """Yield an ``mbox`` or a ``zip`` of messages in pieces; those deleted meanwhile are left out.

    A file of the zip is named by the id of its message. Raises LookupError for another kind.
    """
    return _collected(FORMATS[kind](_found(store, ids)))


def _found(store: Store, ids: Iterable[str]) -> Iterator[StoredMail]:
    for id in ids:
        if (mail := store.message(id)) is not None:
            yield mail


def _collected(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= ENOUGH:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _mbox(mails: Iterable[StoredMail]) -> Iterator[bytes]:
    r"""Yield the variant "mboxrd" of RFC 4155: ``\n`` line ends, ``>`` before each ``>*From ``."""
    for mail in mails:
        try:
            pieces = mail.raw_pieces()
        except StoreError:
            continue
        sender = _UNSAFE.sub("?", mail.sender) or "MAILER-DAEMON"
        date = mail.created.astimezone(UTC).strftime("%a %b %d %H:%M:%S %Y")
        yield f"From {sender} {date}\n".encode()
        last = b""
        for piece in _quoted(pieces):
            yield piece
            last = piece[-1:]
        yield b"\n" if last == b"\n" else b"\n\n"


def _quoted(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held, begins = b"", True
    for piece in pieces:
        data = held + piece
        # A line that is longer than a piece is passed on as it comes.
        cut = data.rfind(b"\n") + 1 or (len(data) - 1 if len(data) > ENOUGH else 0)
        if cut:
            yield _line_feeds(data[:cut], begins)
            begins = data[cut - 1 : cut] == b"\n"
        held = data[cut:]
    if held:
        yield _line_feeds(held, begins)


def _line_feeds(data: bytes, begins: bool) -> bytes:
    data = data.replace(b"\r\n", b"\n")
    if begins:
        return _FROM.sub(rb">\g<0>", data)
    first, end, rest = data.partition(b"\n")
    return first + end + _FROM.sub(rb">\g<0>", rest)


class _Pipe:
    """A file for ZipFile that can only be written to; its content is taken out in pieces."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: all is in memory."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._held)
        self._held.clear()
        return taken


def _zip(mails: Iterable[StoredMail]) -> Iterator[bytes]:
    pipe = _Pipe()
    with ZipFile(cast("IO[bytes]", pipe), "w", ZIP_DEFLATED) as archive:
        for mail in mails:
            try:
                pieces = mail.raw_pieces()
            except StoreError:
                continue
            # A zip has years from 1980 on.
            when = max(mail.created.timetuple()[:6], (1980, 1, 1, 0, 0, 0))
            info = ZipInfo(f"{mail.id}.eml", when)
            info.compress_type = ZIP_DEFLATED
            info.external_attr = 0o600 << 16
            with archive.open(info, "w") as file:
                for piece in pieces:
                    file.write(piece)
                    yield pipe.take()
    yield pipe.take()


FORMATS: dict[str, Callable[[Iterable[StoredMail]], Iterator[bytes]]] = {
    "mbox": _mbox,
    "zip": _zip,
}
"""The formats by name."""

TYPES = {"mbox": "application/mbox", "zip": "application/zip"}
"""The media types of the formats."""
