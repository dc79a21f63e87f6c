"""Put header fields into a message, and take some out, without re-writing the rest of it.

A parser and a generator of messages do not give back what they were given: spacing, folding, 8-bit
octets and malformed parts change. Handlers that keep or forward mail therefore edit the octets.
"""

import re

_REST_OF_LINE = rb"[^\r\n]*+(?:\r\n|\r|\n|\Z)"


def _line(colon: bytes) -> re.Pattern[bytes]:
    # One line at a time, so that a message of headers alone lets other threads run in between.
    ours = rb"(?P<ours>(?i:X-Peer|X-MailFrom|X-RcptTo)" + colon + rb")"
    field = rb"(?P<field>[!-9;-~]{1,998}+" + colon + rb")"
    return re.compile(rb"(?:" + ours + rb"|" + field + rb"|(?P<folded>[ \t]))" + _REST_OF_LINE)


# What ends a header section is what ends it for the standard library's parser, the reader of
# most of these messages: bare CR and bare LF end lines too, and an mbox "From " line may lead.
_MBOX_LINE = re.compile(rb"From " + _REST_OF_LINE)
_LINE = _line(rb":")

# RFC 5322 section 4.5 lets old mail have blanks before the colon. That parser stops there, other
# readers go on, so that a field of ours forged this way has to be found there as well.
_OBSOLETE_LINE = _line(rb"[ \t]{0,998}+:")


def add_fields(content: bytes, fields: bytes, end_of_line: bytes) -> bytes:
    """Return the message with complete header lines added at the end of its header section.

    A message without headers gets them in front, one without a body gets no body.

    :param fields: one or more lines, each ending in ``end_of_line``.
    """
    position = _first_line(content)
    while match := _LINE.match(content, position):
        position = match.end()
    return _joined(content[:position], fields, content[position:], end_of_line)


def replace_trace_fields(content: bytes, fields: bytes, end_of_line: bytes) -> bytes:
    """Do what :func:`add_fields` does, and take out the sender's own X-Peer, X-MailFrom, X-RcptTo.

    Only the header section loses lines; what looks like one of them in the body stays.
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
