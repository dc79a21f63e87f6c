"""Read HTML as people do: its visible text as lines, and its links. Any input is accepted.

Time and memory are linear in the length of the HTML. The texts have no control characters other
than line ends and, in preformatted text, tabs; a lone surrogate becomes U+FFFD.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urljoin

from aiosmtpd.mail.html_elements import DEEPEST, MAKES_ROOM, UNSEEN, VOID, Closed, Elements
from aiosmtpd.mail.html_lines import Lines, cleaned
from aiosmtpd.mail.html_styles import PREFORMATTED, Sheet, Style
from aiosmtpd.mail.html_tokens import WITHOUT_TAGS, Tag, Tokens, attributes_of
from aiosmtpd.mail.links import is_web_address

_LISTS = frozenset({"dir", "menu", "ol", "ul"})
_PARAGRAPHS = _LISTS | {"blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "p", "table"}
_BREAKS = dict.fromkeys(
    (
        *("address", "article", "aside", "body", "caption", "center", "dd", "details", "dialog"),
        *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header"),
        *("hgroup", "html", "legend", "li", "listing", "main", "nav", "optgroup", "option"),
        *("plaintext", "pre", "search", "section", "summary", "tbody", "textarea", "tfoot"),
        *("thead", "tr", "xmp"),
    ),
    1,
) | dict.fromkeys(_PARAGRAPHS, 2)
"""Line ends before and after an element: one begins a line, two an empty line before it."""

_STRUCTURE = _LISTS | {"blockquote", "li", "td", "th", "tr"}
_FIRM = _PARAGRAPHS - {"p"}
"""Elements that begin a line even as the first of a cell."""

_BLOCKS = frozenset({"block", "flex", "grid", "list-item", "table"})

_WANTED = frozenset({"alt", "class", "hidden", "href", "id", "media", "start", "style", "value"})
_NUMBER = re.compile(r"[ \t\n\f]*([+-]?[0-9]{1,9})")
_ABSOLUTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*+:")
_CALLED = ("mailto:", "sms:", "tel:")
_LINE_ENDS = re.compile(r"[\t\n]+")
_EDGES = "".join(map(chr, range(33)))


Attributes = dict[str, str]
_PLAIN: tuple[Attributes, Style] = {}, Style()


class Hypertext(NamedTuple):
    """The text of a page, with a line for each block, and the targets of its links in order."""

    text: str
    links: list[str]


def read(html: str) -> Hypertext:
    """Return the visible text and the links of *html*.

    The links are the addresses of ``<a>`` and ``<area>``, those of hidden ones too, made absolute
    if the page has a ``<base>``.
    """
    reader = _Reader(html)
    return Hypertext(str(reader.lines), reader.links)


def shown(html: str, *, targets: bool = False) -> str:
    """Return the visible text of *html* for a terminal.

    Lists have bullets or numbers, quotations ``>``. With *targets*, its address in ``<>`` follows
    each link whose text is another one: a web or mail address, or a number to call.
    """
    return str(_Reader(html, marks=True, targets=targets).lines)


class _Reader:
    """The state of reading one document."""

    def __init__(self, html: str, *, marks: bool = False, targets: bool = False) -> None:
        self.lines = Lines()
        self.links: list[str] = []
        self._marks, self._targets = marks, targets
        self._base: str | None = None
        self._elements = Elements()
        self._tokens = Tokens(html)
        self._lists: list[int | None] = []
        self._anchors: list[tuple[str, int]] = []
        self._known: dict[str, tuple[Attributes, Style]] = {}
        # A long base and many short links would be much longer than the page.
        self._room = len(html) + 10_000
        self._sheet = Sheet()
        self._media = ""
        self._read()

    def _read(self) -> None:
        elements, lines, last = self._elements, self.lines, ""
        for token in self._tokens:
            if isinstance(token, Tag):
                if token.closes:
                    self._end(token.name)
                else:
                    self._start(token)
                last = "" if token.closes else token.name
            elif token and elements.seen:
                if elements.flags & PREFORMATTED:
                    begin = last in {"listing", "pre", "textarea"} and token[0] == "\n"
                    lines.preformatted(token[begin:])
                else:
                    lines.text(token)
            elif last == "style" and not elements.inert and self._media in {"", "all", "screen"}:
                self._sheet.add(token)
                self._known.clear()
        for closed in elements.end_all():
            self._closed(closed)
        if self._base:
            self.links = [self._absolute(link) for link in self.links]

    def _start(self, tag: Tag) -> None:
        elements, name = self._elements, tag.name
        if name in MAKES_ROOM or elements.had_foreign:
            for closed in elements.make_room(name):
                self._closed(closed)
            self._tokens.foreign = elements.foreign
        attributes, style = self._looked(tag) if tag.source or self._sheet.matters else _PLAIN
        if name in VOID:
            self._void(name, attributes, style)
            return
        if len(elements.labels) >= DEEPEST and name not in WITHOUT_TAGS:
            self._flat(name, attributes, style)
            return
        if name == "a":
            self._anchor(attributes)
        elif name == "style":
            self._media = attributes.get("media", "").strip().lower()
        elements.open(name, style)
        if elements.seen:
            if breaks := self._breaks(name, style):
                self.lines.block(breaks, firm=name in _FIRM)
            elements.labels[-1] = breaks
            if name in _STRUCTURE:
                self._begin(name, attributes)
        if elements.had_foreign:
            self._tokens.foreign = elements.foreign
            if self._tokens.foreign and tag.source.endswith("/"):
                self._end(name)

    def _flat(self, name: str, attributes: Attributes, style: Style) -> None:
        """Read the start tag of an element that is too deep to be opened."""
        if name == "a":
            self._link(attributes)
        if self._elements.seen:
            if name in {"td", "th"}:
                self.lines.cell()
            self.lines.block(self._breaks(name, style))

    def _looked(self, tag: Tag) -> tuple[Attributes, Style]:
        """Return the attributes of a start tag, and their effect on its text."""
        key = f"{tag.name} {tag.source}" if self._sheet.matters else tag.source
        known = self._known.get(key)
        if known is None:
            attributes = attributes_of(tag.source, _WANTED)
            known = attributes, self._sheet.style(tag.name, attributes)
            # Most mails repeat few tags many times.
            if len(key) < 500 and len(self._known) < 1000:
                self._known[key] = known
        return known

    def _breaks(self, name: str, style: Style) -> int:
        """Return the line ends before and after an element."""
        breaks = _BREAKS.get(name, 0)
        if style.display:
            if style.display.startswith("inline"):
                breaks = 0
            elif style.display in _BLOCKS and name not in {"td", "th"}:
                breaks = breaks or 1
        return 1 if breaks == 2 and name in _LISTS and self._lists else breaks

    def _begin(self, name: str, attributes: Attributes) -> None:
        """Begin a list, an item, a quotation, a row or a cell."""
        if name in {"td", "th"}:
            self.lines.cell()
        elif name == "tr":
            self.lines.row()
        elif name in _LISTS:
            self._lists.append(_number(attributes, "start", 1) if name == "ol" else None)
        elif self._marks and name == "li":
            bullet = self._bullet(attributes)
            self.lines.indent(bullet, " " * len(bullet))
        elif self._marks:
            self.lines.indent(None, "> ")

    def _bullet(self, attributes: Attributes) -> str:
        if not self._lists or self._lists[-1] is None:
            return "* "
        number = _number(attributes, "value", self._lists[-1])
        self._lists[-1] = number + 1
        return f"{number}. "

    def _end(self, name: str) -> None:
        closed = self._elements.end(name)
        if self._elements.had_foreign:
            self._tokens.foreign = self._elements.foreign
        for one in closed:
            self._closed(one)
        if not closed and self._elements.seen:
            # The standard opens an element for these two.
            if name == "br":
                self.lines.line_end()
            elif name == "p":
                self.lines.block(2)

    def _closed(self, closed: Closed) -> None:
        name, breaks = closed
        if name == "a":
            self._anchor_end(seen=breaks != UNSEEN)
        if breaks == UNSEEN:
            return
        if name == "tr":
            self.lines.row_end()
        elif name in _LISTS:
            self._lists.pop()
        elif self._marks and name in {"blockquote", "li"}:
            self.lines.outdent()
        if breaks:
            self.lines.block(breaks)

    def _void(self, name: str, attributes: Attributes, style: Style) -> None:
        if name == "base" and self._base is None and "href" in attributes:
            base = _address(attributes["href"])
            self._base = base if is_web_address(base) else ""
        elif name == "area":
            self._link(attributes)
        if style.hides or not self._elements.visible:
            return
        if name == "br":
            self.lines.line_end()
        elif name == "hr":
            self.lines.block(1)
        elif name in {"image", "img"}:
            # An image is seen, however small the text around it is.
            self.lines.text(attributes.get("alt", ""))

    def _link(self, attributes: Attributes) -> str:
        if "href" not in attributes or self._elements.inert:
            return ""
        self.links.append(_address(attributes["href"]))
        return self.links[-1]

    def _absolute(self, link: str) -> str:
        if not self._base or self._room < 0:
            return link
        joined = _joined(self._base, link)
        self._room -= len(joined) - len(link)
        return joined

    def _anchor(self, attributes: Attributes) -> None:
        self._anchors.append((self._link(attributes), self.lines.place()))

    def _anchor_end(self, *, seen: bool) -> None:
        target, place = self._anchors.pop()
        if self._targets and seen and target:
            target = self._absolute(target)
            wanted = is_web_address(target) or target.lower().startswith(_CALLED)
            if wanted and not _says(self.lines.since(place), target):
                self.lines.text(f" <{target}>")


def _number(attributes: Attributes, name: str, default: int) -> int:
    number = _NUMBER.match(attributes.get(name, ""))
    return int(number[1]) if number else default


def _says(text: str, target: str) -> bool:
    """Return True if the text of a link is its address."""
    return text.rstrip("/") in {target.rstrip("/"), target.partition(":")[2]}


def _address(href: str) -> str:
    # The URL standard drops these characters (section 4.4).
    return cleaned(_LINE_ENDS.sub("", href.strip(_EDGES)))


def _joined(base: str, link: str) -> str:
    """Return a link as an absolute address; a link of more than 5,000 characters stays as it is."""
    if _ABSOLUTE.match(link) or len(base) > 5000 or len(link) > 5000:
        return link
    try:
        return urljoin(base, link)
    except ValueError:
        return link
