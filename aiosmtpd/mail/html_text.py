"""Extract the visible text and the links of HTML, in linear time; any input is accepted."""

from __future__ import annotations

import re
from html import unescape
from typing import NamedTuple

_TAG = re.compile(r"<(?P<close>/?)(?P<name>[a-zA-Z][a-zA-Z0-9]*+|!--|[!?])[^<>]*+>?")
_HREF = re.compile(r"""\shref\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++))""", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\r\n\f\v]+")
_EMPTY_LINES = re.compile(r"\n{3,}")

_LINES = re.compile(
    "address|article|aside|blockquote|br|dd|div|dl|dt|fieldset|footer|form|h[1-6]|header|hr|li|main"
    "|nav|ol|p|pre|section|table|tr|ul"
)
_PARAGRAPHS = re.compile("blockquote|h[1-6]|ol|p|table|ul")
_UNSEEN = frozenset({"head", "script", "style", "template", "title"})


class Hypertext(NamedTuple):
    """The text of a page, with a line for each block, and the targets of its links in order."""

    text: str
    links: list[str]


def read(html: str) -> Hypertext:
    """Return the visible text and the links of *html*."""
    pieces: list[str] = []
    links: list[str] = []
    unseen: str | None = None
    position = 0
    while tag := _TAG.search(html, position):
        if unseen is None:
            pieces.append(_BLANKS.sub(" ", unescape(html[position : tag.start()])))
        name, position = tag["name"].lower(), tag.end()
        if unseen is not None:
            if tag["close"] and name == unseen:
                unseen = None
        elif name == "!--":
            end = html.find("-->", tag.start() + 4)
            position = len(html) if end < 0 else end + 3
        elif name in _UNSEEN and not tag["close"]:
            unseen = name
        else:
            if _LINES.fullmatch(name):
                pieces.append("\n\n" if _PARAGRAPHS.fullmatch(name) else "\n")
            if name in {"a", "area"} and (href := _HREF.search(tag[0])):
                links.append(unescape(href[1] or href[2] or href[3] or "").strip())
    if unseen is None:
        pieces.append(_BLANKS.sub(" ", unescape(html[position:])))
    lines = (line.strip(" ") for line in "".join(pieces).split("\n"))
    return Hypertext(_EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip(), links)
