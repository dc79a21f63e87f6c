"""Read the mail data of DATA: RFC 5321 sections 4.1.1.4 and 4.5.2, RFC 1870 section 5."""

from __future__ import annotations

import re
import sys

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.receiver import Receiver
from aiosmtpd.protocol.replies import Reply

END_OF_DATA = b"\r\n.\r\n"
"""The only sequence that ends mail data: RFC 5321 section 4.1.1.4."""

_MANY = 8
"""Shorter pieces (in maximum-length lines) are not worth the check for equal lines."""

_BARE_NEWLINE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def _has_bare_newline(piece: bytes) -> bool:
    crlfs = piece.count(b"\r\n")
    return piece.count(b"\n") != crlfs or piece.count(b"\r") != crlfs


def _normalized(piece: bytes) -> bytes:
    """Return *piece* with CRLF in place of each bare CR and LF."""
    # The sender stuffed dots after CRLF only. Stuff those after a bare newline here, since all
    # newlines are CRLF afterwards and read() removes one dot after each.
    piece = piece.replace(b"\n.", b"\n..").replace(b"\r\n..", b"\r\n.").replace(b"\r.", b"\r..")
    return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _equal_lines(piece: bytes, begin: int, limit: int) -> int:
    """Return the size of the whole lines after *begin* if all are equally long (base64), else 0."""
    width = piece.find(b"\r\n", begin, begin + limit) + 2 - begin
    if width < 2:
        return 0
    # A slice with a stride takes one byte of each line at the speed of C. Compare instead of
    # calling count(), which takes time for each match.
    ends = piece[begin + width - 1 :: width]
    lines = len(ends)
    if ends == b"\n" * lines and piece[begin + width - 2 : -1 : width] == b"\r" * lines:
        return width * lines
    return 0


def _on_the_wire(piece: bytes, position: int) -> int:
    """Return the index in *piece* of a byte of the message, which has no stuffed dots."""
    found = position
    while (moved := position + piece.count(b"\r\n.", 0, found + 1)) != found:
        found = moved
    return found


class MailData:
    """The mail data of one DATA command: finds its end, removes stuffed dots, keeps the limits.

    *line_limit* is in bytes on the wire, CRLF and stuffed dot included. *size_limit* and
    :attr:`size` are in bytes of the message, CRLFs included, without stuffed dots and the final
    dot: RFC 1870 section 5. A limit of 0 or None means no limit. *bare_newline* decides about a CR
    or LF that is not part of a CRLF: ``"accept"`` keeps it, ``"normalize"`` replaces it with CRLF
    before anything is measured, ``"reject"`` refuses the message.

    :attr:`done` is True once :meth:`read` has found the end. :attr:`refusal` is then the reply to
    a message that broke a limit, else None; :meth:`read` returns nothing more of a refused
    message. :attr:`flooded` is True once a message is larger than twice the size limit.
    """

    __slots__ = (
        "_bare_newline",
        "_held",
        "_line_limit",
        "_open",
        "_receiver",
        "_size_limit",
        "_skip",
        "done",
        "refusal",
        "size",
    )

    def __init__(
        self,
        receiver: Receiver,
        line_limit: int | None = None,
        size_limit: int | None = None,
        bare_newline: str = "accept",
    ) -> None:
        self._receiver = receiver
        self._line_limit = line_limit or 0
        self._size_limit = size_limit or 0
        self._bare_newline = bare_newline
        # Mail data begins at the start of a line: a CRLF before it, never returned, says so.
        self._held = b"\r\n"
        self._skip = 2
        self._open = -2
        self.size = -2
        self.done = False
        self.refusal: Reply | None = None

    @property
    def flooded(self) -> bool:
        """True if the client has sent more than twice the size limit."""
        return 0 < self._size_limit * 2 < self.size

    def read(self) -> bytes:
        """Return the mail data that has arrived, without stuffed dots; may be empty."""
        arrived = self._receiver.take(sys.maxsize)
        if not arrived:
            return b""
        if self._held:
            arrived = self._held + arrived
        # A search for one byte is ten times faster than one for five, and base64 has no dot.
        has_dot = b"." in arrived
        end = arrived.find(END_OF_DATA) if has_dot else -1
        if end >= 0:
            self.done = True
            self._held = b""
            if len(arrived) > (after := end + 5):
                self._receiver.put_back(arrived[after:])
            arrived = arrived[: end + 2]
        else:
            arrived = self._hold_back(arrived)
        if self._bare_newline == "normalize" and _has_bare_newline(arrived):
            # Before measuring: each of these newlines ends a line.
            arrived = _normalized(arrived)
        message = arrived
        if has_dot and b"\r\n." in arrived:
            message = arrived.replace(b"\r\n.", b"\r\n")
        self._keep_limits(arrived, len(message))
        if self.refusal is not None or not message:
            return b""
        if self._skip:
            message = message[self._skip :]
            self._skip = 0
        return message

    def _hold_back(self, arrived: bytes) -> bytes:
        """Return *arrived* without trailing bytes that may begin END_OF_DATA; keep those."""
        held = b""
        for length in (4, 3, 2, 1):
            if arrived.endswith(END_OF_DATA[:length]):
                held = END_OF_DATA[:length]
                break
        else:
            if self._bare_newline == "normalize" and arrived.endswith(b"\n"):
                held = b"\n"
        self._held = held
        return arrived[: -len(held)] if held else arrived

    def _keep_limits(self, piece: bytes, size: int) -> None:
        """Note the refusal if *piece*, which is *size* bytes of the message, breaks a limit."""
        before = self.size
        self.size += size
        if self.refusal is not None:
            return
        broken: list[tuple[int, Reply]] = []
        if self._line_limit and (at := self._long_line(piece)) >= 0:
            broken.append((at, replies.LINE_TOO_LONG))
        if 0 < self._size_limit < self.size:
            at = _on_the_wire(piece, self._size_limit - before)
            broken.append((at, replies.TOO_MUCH_MAIL_DATA))
        if self._bare_newline == "reject" and _has_bare_newline(piece):
            at = next(_BARE_NEWLINE.finditer(piece)).start()
            broken.append((at, replies.BARE_NEWLINE))
        if broken:
            # Report the earliest violation in the message, however the network cut the data.
            self.refusal = min(broken)[1]

    def _long_line(self, piece: bytes) -> int:
        """Return the position of the byte that makes a line too long, or -1.

        One ``rfind`` steps over as many lines as fit into the limit, instead of one ``find`` for
        each line.
        """
        limit = self._line_limit
        line = -self._open
        if 0 <= line + _MANY * limit < len(piece) and (begin := piece.find(b"\r\n") + 2) > 1:
            if begin - line > limit:
                return line + limit
            line = begin + _equal_lines(piece, begin, limit)
        while line + limit < len(piece):
            line_end = piece.rfind(b"\r\n", line if line > 0 else 0, line + limit)
            if line_end < 0:
                return line + limit
            line = line_end + 2
        if self.done:
            return -1
        line_end = piece.rfind(b"\r\n", max(line, 0))
        self._open = len(piece) - (line if line_end < 0 else line_end + 2)
        return -1
