r"""Find web addresses in plain text, in linear time.

An address (RFC 3986) ends before a blank, a quotation mark or a character that text puts around
addresses. Punctuation at its end belongs to the sentence, and a closing bracket to a bracket that
was open before. Between ``<`` and ``>``, an address is taken as it is, and one that is broken into
lines is joined (RFC 3986, appendix C).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_INVISIBLE = (
    r"\x00-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
)
"""Control characters, and those that reverse or hide text (RFC 3987, section 4.1)."""

# Quotation marks and brackets of several scripts, and full-width punctuation. Letters of any script
# may be a part of an address (RFC 3987).
_NEVER = _INVISIBLE + (
    r"""\s<>"`\u00ab\u00bb\u2018-\u201f\u2039\u203a\u3001\u3002\u3008-\u3011\u3014-\u301b"""
    r"""\u301d-\u301f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\uff3b\uff3d\uff5b\uff5d"""
    r"""\uff61-\uff64\ufe10-\ufe19\ufe30-\ufe4f"""
)

_SCHEME = re.compile(r"[hH][tT][tT][pP][sS]?://")
_PLAIN = re.compile(rf"[^{_NEVER}()\[\]{{}}']*+")
_PART = rf"[^\s<>\"{_INVISIBLE}]++"
_WITHIN_ANGLES = re.compile(rf"[hH][tT][tT][pP][sS]?://{_PART}(?:[ \t]*+\r?\n[ \t]*+{_PART})*>")
_HOST = re.compile(r"[^/?#]*?[\w\]]")
_BROKEN = re.compile(r"[ \t]*+\r?\n[ \t]*+")

_CLOSING = {")": "(", "]": "[", "}": "{"}
_OPENING = frozenset(_CLOSING.values())

_ENDS = ".,;:!?*'|\\({[" + (
    "\u2026\u203d"  # an ellipsis, an interrobang
    "\u2013\u2014"  # dashes
    "\u037e\u0387"  # Greek
    "\u0589\u055c\u055d\u055e"  # Armenian
    "\u05c3"  # Hebrew
    "\u060c\u061b\u061f\u06d4"  # Arabic
    "\u0964\u0965"  # Devanagari
    "\u0f0d\u0f0e"  # Tibetan
    "\u104a\u104b"  # Burmese
    "\u1362\u1363\u1364\u1365\u1366\u1367\u1368"  # Ethiopic
    "\u17d4\u17d5"  # Khmer
    "\uff0e"  # full width
)
"""Characters that end a sentence or a clause if they are the last of an address."""


class Link(NamedTuple):
    """A web address, and the first and last place of the text that spells it."""

    url: str
    begin: int
    end: int


def find(text: str) -> list[str]:
    """Return the web addresses in *text*, in order."""
    return [link.url for link in each(text)]


def blanked(text: str) -> str:
    """Return *text* with a blank in place of each web address."""
    pieces: list[str] = []
    position = 0
    for link in each(text):
        pieces += text[position : link.begin], " "
        position = link.end
    pieces.append(text[position:])
    return "".join(pieces)


def is_web_address(url: str) -> bool:
    """Return True if *url* is an address of ``http`` or ``https`` with a host."""
    scheme = _SCHEME.match(url)
    return scheme is not None and _HOST.match(url, scheme.end()) is not None


def each(text: str) -> Iterator[Link]:
    """Yield the web addresses in *text* with their places."""
    position = 0
    while scheme := _SCHEME.search(text, position):
        begin, position = scheme.span()
        whole = None
        if text.endswith(("<", "<URL:"), 0, begin):
            whole = _WITHIN_ANGLES.match(text, begin)
        if whole is not None:
            position = whole.end() - 1
            url = _BROKEN.sub("", text[begin:position])
            end = position
        else:
            before = text[max(begin - 3, 0) : begin]
            position = _end(text, position, before)
            url = _without_punctuation(text[begin:position], before)
            end = begin + len(url)
        if _HOST.match(url, scheme.end() - begin):
            yield Link(url, begin, end)


def _end(text: str, position: int, before: str) -> int:
    """Return the end of an address, with the punctuation that follows it."""
    depths = dict.fromkeys(_OPENING, 0)
    while True:
        position = _PLAIN.match(text, position).end()  # type: ignore[union-attr]
        character = text[position : position + 1]
        if character in _OPENING:
            depths[character] += 1
        elif character in _CLOSING:
            depths[_CLOSING[character]] -= 1
            # RFC 3986 allows no other brackets than parentheses after the host.
            inner = character == ")" and text[position + 1 : position + 2].isalnum()
            within = before.endswith(_CLOSING[character])
            if depths[_CLOSING[character]] < 0 and (within or not inner):
                return position
        elif character != "'" or before.endswith("'"):
            return position
        position += 1


def _without_punctuation(url: str, before: str) -> str:
    kept = url.rstrip(_ENDS)
    # Marks of emphasis around the address: _https://example.com/_
    for mark in before[len(before.rstrip("_~")) :]:
        kept = kept.removesuffix(mark).rstrip(_ENDS)
    return kept
