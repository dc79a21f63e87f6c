"""Mail data cut from the wire: RFC 5321 sections 4.1.1.4 and 4.5.2."""

from __future__ import annotations

import re

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.receiver import Receiver
from aiosmtpd.protocol.replies import Reply

END_OF_DATA = b"\r\n.\r\n"
"""What ends mail data, and nothing else does: RFC 5321 section 4.1.1.4."""

_MANY = 8
"""Lines of the longest kind, for fewer of which it does not pay to look whether all are equal."""

_BARE_NEWLINE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def _has_bare_newline(piece: bytes) -> bool:
    crlfs = piece.count(b"\r\n")
    return piece.count(b"\n") != crlfs or piece.count(b"\r") != crlfs


def _normalized(piece: bytes) -> bytes:
    """Return *piece* with each bare CR and LF made CRLF."""
    # Senders stuff dots behind CRLF alone: those behind other newlines are stuffed here, and kept.
    piece = piece.replace(b"\n.", b"\n..").replace(b"\r\n..", b"\r\n.").replace(b"\r.", b"\r..")
    return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _equal_lines(piece: bytes, begin: int, limit: int) -> int:
    """Return how many octets from *begin* are lines of one length, as base64 has; all or none."""
    width = piece.find(b"\r\n", begin, begin + limit) + 2 - begin
    if width < 2:
        return 0
    # One octet of each line: what a slice with a stride gives at the speed of C. Compared, for
    # count() takes its time for each that it finds.
    ends = piece[begin + width - 1 :: width]
    lines = len(ends)
    if ends == b"\n" * lines and piece[begin + width - 2 : -1 : width] == b"\r" * lines:
        return width * lines
    return 0


class MailData:
    """The mail data of one DATA command: finds its end, removes stuffed dots, keeps the limits.

    *line_limit* and *size_limit* are octets on the wire, CRLFs and stuffed dots included; no
    limit where 0 or None. *bare_newline* says what a CR or LF that is no CRLF means: "accept"
    keeps it, "normalize" makes it CRLF before anything is measured, "reject" refuses the message.

    After :meth:`read` has returned and :attr:`done` is true, :attr:`refusal` tells whether a
    limit was broken; from then on nothing was kept. :attr:`flooded` turns true when a message
    goes on beyond twice the size limit.
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
        # The line before the first one has ended: a CRLF that is never handed out stands for it.
        self._held = b"\r\n"
        self._skip = 2
        self._open = -2
        self.size = -2
        self.done = False
        self.refusal: Reply | None = None

    @property
    def flooded(self) -> bool:
        """True where more than twice the size limit has been sent."""
        return 0 < self._size_limit * 2 < self.size

    def read(self) -> bytes:
        """Take what has arrived: the next octets of the message, dots removed, maybe none."""
        arrived = self._receiver.take(len(self._receiver))
        if not arrived:
            return b""
        if self._held:
            arrived = self._held + arrived
        # Looking for one octet is ten times faster than for five, and base64 has no dot.
        has_dot = b"." in arrived
        end = arrived.find(END_OF_DATA) if has_dot else -1
        if end >= 0:
            self.done = True
            self._held = b""
            if end + len(END_OF_DATA) < len(arrived):
                self._receiver.put_back(arrived[end + len(END_OF_DATA) :])
            arrived = arrived[: end + 2]
        else:
            arrived = self._hold_back(arrived)
        if self._bare_newline == "normalize" and _has_bare_newline(arrived):
            # Before anything is measured: each of these newlines ends a line.
            arrived = _normalized(arrived)
        self._keep_limits(arrived)
        if self.refusal is not None or not arrived:
            return b""
        if has_dot and b"\r\n." in arrived:
            arrived = arrived.replace(b"\r\n.", b"\r\n")
        if self._skip:
            arrived = arrived[self._skip :]
            self._skip = 0
        return arrived

    def _hold_back(self, arrived: bytes) -> bytes:
        """Keep back what may be the beginning of the end."""
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

    def _keep_limits(self, piece: bytes) -> None:
        before = self.size
        self.size += len(piece)
        if self.refusal is not None:
            return
        broken: list[tuple[int, Reply]] = []
        if self._line_limit and (at := self._long_line(piece)) >= 0:
            broken.append((at, replies.LINE_TOO_LONG))
        if 0 < self._size_limit < self.size:
            broken.append((self._size_limit - before, replies.TOO_MUCH_MAIL_DATA))
        if self._bare_newline == "reject" and _has_bare_newline(piece):
            at = next(_BARE_NEWLINE.finditer(piece)).start()
            broken.append((at, replies.BARE_NEWLINE))
        if broken:
            # The first one is told, wherever the network cut the data.
            self.refusal = min(broken)[1]

    def _long_line(self, piece: bytes) -> int:
        """Find the octet that makes a line too long, striding over line ends; -1 if none does.

        One ``rfind`` for about a limit's worth of octets, instead of one ``find`` for each line.
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
