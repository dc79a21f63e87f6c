"""Add header fields to a message, and remove some, without changing the rest of it.

A message that is parsed and generated again is not the same: spacing, folding, 8-bit bytes and
malformed parts change. Handlers that keep or forward mail therefore edit its bytes.
"""

import re

_REST_OF_LINE = rb"[^\r\n]*+(?:\r\n|\r|\n|\Z)"


def _line(colon: bytes) -> re.Pattern[bytes]:
    # One line at a time, so that a message of only headers does not block other threads.
    ours = rb"(?P<ours>(?i:X-Peer|X-MailFrom|X-RcptTo)" + colon + rb")"
    field = rb"(?P<field>[!-9;-~]{1,998}+" + colon + rb")"
    return re.compile(rb"(?:" + ours + rb"|" + field + rb"|(?P<folded>[ \t]))" + _REST_OF_LINE)


# The header section ends here as it does for the standard library's parser, which reads most of
# these messages: a bare CR or LF ends a line too, and an mbox "From " line may come first.
_MBOX_LINE = re.compile(rb"From " + _REST_OF_LINE)
_LINE = _line(rb":")

# RFC 5322 section 4.5 allows blanks before the colon in old mail. That parser ends the header
# section there, but other readers do not: find forged fields of ours beyond it too.
_OBSOLETE_LINE = _line(rb"[ \t]{0,998}+:")


def add_fields(content: bytes, fields: bytes, end_of_line: bytes) -> bytes:
    """Return the message with *fields* added at the end of its header section.

    *fields* are one or more complete lines, each ending in *end_of_line*. A message without
    headers begins with them, and one without a body stays without one.
    """
    position = _first_line(content)
    while match := _LINE.match(content, position):
        position = match.end()
    return _joined(content[:position], fields, content[position:], end_of_line)


def replace_trace_fields(content: bytes, fields: bytes, end_of_line: bytes) -> bytes:
    """Add *fields* like :func:`add_fields`; remove the sender's X-Peer, X-MailFrom and X-RcptTo.

    They are removed from the header section only, not from the body.
    """
    start = _first_line(content)
    head, section = _without_ours(content, start, _LINE)
    more, end = _without_ours(content, section, _OBSOLETE_LINE)
    return _joined(content[:start] + head, fields, more + content[end:], end_of_line)


def _first_line(content: bytes) -> int:
    match = _MBOX_LINE.match(content)
    return match.end() if match else 0


def _without_ours(content: bytes, position: int, line: re.Pattern[bytes]) -> tuple[bytes, int]:
    kept = bytearray()
    start = position
    dropping = False
    while match := line.match(content, position):
        if match.lastgroup == "ours":
            if not dropping:
                kept += content[start:position]
            dropping = True
        elif dropping and match.lastgroup == "field":
            start = position
            dropping = False
        position = match.end()
    if not dropping:
        kept += content[start:position]
    return bytes(kept), position


def _joined(head: bytes, fields: bytes, rest: bytes, end_of_line: bytes) -> bytes:
    gap = end_of_line if head and not head.endswith((b"\r", b"\n")) else b""
    return b"".join((head, gap, fields, rest))
