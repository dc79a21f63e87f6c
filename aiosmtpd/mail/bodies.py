"""Choose the parts that mail programs show in place, and those that are attached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from aiosmtpd.mail import flowed
from aiosmtpd.mail.tree import Part

_READ = frozenset({"text/plain", "text/html"})
_CHOICE = "multipart/alternative"
_RETURNS = re.compile(r"\r+\n?")


class Bodies(NamedTuple):
    """The parts that are read in place, and all others that have no parts, in order."""

    shown: list[Part]
    attached: list[Part]


def of(root: Part) -> Bodies:
    """Sort the parts of a message; an attached message is one part, and not taken apart."""
    found = Bodies([], [])
    _sort(root, None, found)
    return found


def _sort(part: Part, container: Part | None, found: Bodies) -> None:
    if part.type.startswith("multipart/") and part.parts:
        for one in part.parts:
            _sort(one, part, found)
    elif _is_shown(part, container):
        found.shown.append(part)
    else:
        found.attached.append(part)


def _is_shown(part: Part, container: Part | None) -> bool:
    """Return True for text to be read in place: RFC 8621 section 4.1.4, but for alternatives.

    A name makes an attachment only of a part that follows another: some programs name the body.
    """
    if part.disposition == "attachment":
        return False
    if part.type.startswith("multipart/"):
        # It could not be divided: its source is all there is to read.
        return True
    if part.type not in _READ:
        return False
    if container is None or part is container.parts[0] or container.type == _CHOICE:
        return True
    in_page = container.type == "multipart/related" and bool(part.content_id)
    return not (part.name or in_page)


def text_of(parts: list[Part], kind: str) -> str:
    r"""Return the texts of one media type, with ``\n`` line ends.

    The source of parts that could not be divided is plain text, too.
    """
    text = ""
    for piece in _pieces([one for one in parts if one.type == kind or _unread(one, kind)]):
        # Python resizes the string in place; a join would need twice the memory.
        text += piece
    return text


def _unread(part: Part, kind: str) -> bool:
    return kind == "text/plain" and part.type not in _READ


def _pieces(parts: list[Part]) -> Iterator[str]:
    for number, part in enumerate(parts):
        if number:
            yield "\n"
        if part.type == "text/plain" and part.parameters.get("format", "").lower() == "flowed":
            delsp = part.parameters.get("delsp", "").lower() == "yes"
            yield flowed.joined("".join(_lines(part)), without_blank=delsp)
        else:
            yield from _lines(part)


def _lines(part: Part) -> Iterator[str]:
    r"""Yield the text of a part in pieces, with ``\n`` line ends."""
    held = ""
    for piece in part.texts():
        # A return at the end of a piece may be the first half of a line end.
        whole = held + piece
        end = len(whole.rstrip("\r"))
        held = whole[end:]
        yield _with_line_feeds(whole[:end])
    yield _with_line_feeds(held)


def _with_line_feeds(text: str) -> str:
    text = text.replace("\r\n", "\n")
    if "\r" in text:
        # Some programs encode the line end that mail has anyway: "=0D" before the real one.
        text = _RETURNS.sub(_line_ends, text)
    return text


def _line_ends(returns: re.Match[str]) -> str:
    return "\n" if returns[0].endswith("\n") else "\n" * len(returns[0])
