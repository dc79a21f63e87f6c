"""Cut HTML into tokens, after the states of the HTML standard (section 13.2.5).

Any input is accepted. Time and memory are linear in its length: each pattern either matches or has
met the end of the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.entities import html5
from typing import NamedTuple

# The alternatives of a value exclude each other, so that nothing is tried twice. Possessive groups
# would say the same, but they are wrong in Python before 3.11.5.
_NAME = r"[^\t\n\f />][^\t\n\f />=]*+"
_EQUALS = r"[\t\n\f ]*+=[\t\n\f ]*+"
_VALUE = r"""(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\t\n\f >"'][^\t\n\f >]*+|(?=>)|\Z)"""
_ITEM = rf"(?:[\t\n\f /]++|{_NAME}(?:{_EQUALS}{_VALUE}|(?![\t\n\f ]*+=)))"

# Few items at a time: the memory for the repetition of a group is many times the text's.
_MARKUP = re.compile(rf"<(?:(/?)([a-zA-Z][^\t\n\f />]*+)({_ITEM}{{0,32}})(>?)|[!?]|/(?!\Z))")
_MORE = re.compile(rf"{_ITEM}{{0,32}}(>?)")
_ATTRIBUTE = re.compile(
    rf"""({_NAME})(?:{_EQUALS}(?:"([^"]*+)"?|'([^']*+)'?|([^\t\n\f >"'][^\t\n\f >]*+)|)"""
    r"""|(?![\t\n\f ]*+=))"""
)
_COMMENT_BEGIN = re.compile(r"<!--(-?>)?")
_COMMENT_END = re.compile(r"--!?>")

_RAW = frozenset({"iframe", "noembed", "noframes", "script", "style", "xmp"})
_DECODED = frozenset({"textarea", "title"})
WITHOUT_TAGS = _RAW | _DECODED | {"plaintext"}
_END_TAG = {
    name: re.compile(rf"</{name}(?=[\t\n\f />])", re.IGNORECASE | re.ASCII)
    for name in _RAW | _DECODED
}
_SCRIPT = re.compile(
    r"(?P<begin><!--)(?:-?>)?|(?P<end>-->)|<(?P<close>/?)script(?=[\t\n\f />])",
    re.IGNORECASE | re.ASCII,
)

_REFERENCE = re.compile(r"&(?:#(?:[xX]([0-9a-fA-F]++)|([0-9]++));?|([a-zA-Z][a-zA-Z0-9]{1,31};?))")
_OLD = frozenset(name for name in html5 if not name.endswith(";"))
"""Names of character references that may lack their semicolon; none is longer than six letters."""
_WINDOWS_1252 = {
    number: bytes([number]).decode("cp1252", "ignore") or chr(number) for number in range(128, 160)
}


class Tag(NamedTuple):
    """A start tag or an end tag, with its attributes as they are written."""

    name: str
    closes: bool
    source: str


def attributes_of(source: str, wanted: frozenset[str]) -> dict[str, str]:
    """Return those attributes of a tag that are wanted; the first of equal names counts."""
    found: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(source):
        name = match[1].lower()
        if name in wanted and name not in found:
            found[name] = decoded(match[2] or match[3] or match[4] or "", in_attribute=True)
    return found


class Tokens:
    """Yield the tags of a document, and as strings the decoded texts between them.

    The reader sets *foreign* while it is in an element of SVG or MathML: ``<style>`` is an
    ordinary element there, and CDATA sections are text.
    """

    def __init__(self, html: str) -> None:
        self.foreign = False
        self._html = html.replace("\r\n", "\n").replace("\r", "\n") if "\r" in html else html

    def __iter__(self) -> Iterator[str | Tag]:
        html, position = self._html, 0
        # Most mails repeat few tags many times.
        known: dict[str, Tag] = {}
        while found := _MARKUP.search(html, position):
            start, end = found.span()
            if start > position:
                yield decoded(html[position:start])
            position = end
            written = html[start:end]
            tag = known.get(written)
            if tag is None:
                if found[2] is None:
                    text, position = self._declaration(start)
                    yield text
                    continue
                complete = found[4]
                while not complete:
                    if position == len(html):
                        return
                    more = _MORE.match(html, position)
                    complete, position = (more[1], more.end()) if more else ("", len(html))
                tag = Tag(found[2].lower(), bool(found[1]), html[found.start(3) : position - 1])
                if position == end and end - start < 200 and len(known) < 500:
                    known[written] = tag
            without_tags = tag.name in WITHOUT_TAGS and not (self.foreign or tag.closes)
            yield tag
            if without_tags:
                begin, position = position, _end_of_raw_text(html, tag.name, position)
                text = html[begin:position]
                yield decoded(text) if tag.name in _DECODED else text
        yield decoded(html[position:])

    def _declaration(self, begin: int) -> tuple[str, int]:
        """Return the text and the end of a comment, doctype, CDATA section or other ``<!``."""
        html = self._html
        if self.foreign and html.startswith("<![CDATA[", begin):
            end = html.find("]]>", begin)
            return (html[begin + 9 :], len(html)) if end < 0 else (html[begin + 9 : end], end + 3)
        if comment := _COMMENT_BEGIN.match(html, begin):
            closed = comment if comment[1] else _COMMENT_END.search(html, comment.end())
            return "", closed.end() if closed else len(html)
        return "", html.find(">", begin + 2) + 1 or len(html)


def _end_of_raw_text(html: str, name: str, position: int) -> int:
    """Return the place of the end tag of an element without markup in it."""
    if name == "plaintext":
        return len(html)
    if name == "script":
        return _end_of_script(html, position)
    end = _END_TAG[name].search(html, position)
    return end.start() if end else len(html)


def _end_of_script(html: str, position: int) -> int:
    # The states of "script data escaped": a script within <!-- --> does not end the outer one.
    escaped = twice = False
    for found in _SCRIPT.finditer(html, position):
        if found["begin"]:
            escaped = escaped or found[0] == "<!--"
        elif found["end"]:
            escaped = twice = False
        elif not found["close"]:
            twice = escaped
        elif not twice:
            return found.start()
        else:
            twice = False
    return len(html)


def decoded(text: str, *, in_attribute: bool = False) -> str:
    """Return *text* with its character references decoded (section 13.2.5.72)."""
    if "&" not in text:
        return text
    return _REFERENCE.sub(_in_attribute if in_attribute else _character, text)


def _in_attribute(match: re.Match[str]) -> str:
    # In an attribute, &timestamp=1 has no &times in it (section 13.2.5.73).
    if match[3] and not match[3].endswith(";"):
        follows = match.string[match.end() : match.end() + 1]
        if match[3] not in _OLD or follows == "=" or (follows.isascii() and follows.isalnum()):
            return match[0]
    elif match[3] and match[3] not in html5:
        return match[0]
    return _character(match)


def _character(match: re.Match[str]) -> str:
    hexadecimal, decimal, name = match.groups()
    if name:
        if name in html5:
            return html5[name]
        for length in range(min(len(name), 6), 1, -1):
            if name[:length] in _OLD:
                return html5[name[:length]] + name[length:]
        return match[0]
    digits = (hexadecimal or decimal).lstrip("0")
    number = int(digits or "0", 16 if hexadecimal else 10) if len(digits) < 8 else 0x110000
    if number in _WINDOWS_1252:
        return _WINDOWS_1252[number]
    if number == 0 or number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        return "\ufffd"
    return chr(number)
