"""Join the soft line breaks of ``format=flowed``: RFC 3676 section 4."""

from __future__ import annotations

import re

from aiosmtpd.mail.builder import TextBuilder

_SIGNATURE = "-- "

# The quote marks, the line without the blank that protects it (4.4), the line end.
_LINE = re.compile(r"(>*+) ?([^\n]*+)(\n?)")


def joined(text: str, *, without_blank: bool) -> str:
    r"""Return *text*, with ``\n`` line ends, as paragraphs of one line each.

    *without_blank* is ``delsp=yes``: the blank before a soft break is not part of the text.
    """
    made = TextBuilder()
    depth = 0
    soft = False
    for line in _LINE.finditer(text):
        quoted, content, end = len(line[1]), line[2], line[3]
        signature = content == _SIGNATURE
        if soft and (quoted != depth or signature):
            # A paragraph has one quote depth, and a signature is one of its own (4.3, 4.5).
            made.add("\n")
            soft = False
        if quoted and not soft:
            made.add(">" * quoted + (" " if content else ""))
        depth = quoted
        soft = content.endswith(" ") and not signature and bool(end)
        made.add(content[:-1] if soft and without_blank else content)
        if not soft:
            made.add(end)
    return made.text()
