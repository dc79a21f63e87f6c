"""Choose the parts that mail programs show in place, and those that are attached."""

from __future__ import annotations

import re
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
    return "\n".join(_text(part) for part in parts if part.type == kind or _unread(part, kind))


def _unread(part: Part, kind: str) -> bool:
    return kind == "text/plain" and part.type not in _READ


def _text(part: Part) -> str:
    text = part.text.replace("\r\n", "\n")
    if "\r" in text:
        # Some programs encode the line end that mail has anyway: "=0D" before the real one.
        text = _RETURNS.sub(_line_ends, text)
    if part.parameters.get("format", "").lower() == "flowed" and part.type == "text/plain":
        delsp = part.parameters.get("delsp", "").lower() == "yes"
        text = flowed.joined(text, without_blank=delsp)
    return text


def _line_ends(returns: re.Match[str]) -> str:
    return "\n" if returns[0].endswith("\n") else "\n" * len(returns[0])
