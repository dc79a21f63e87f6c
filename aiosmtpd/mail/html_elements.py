"""Keep the open elements of an HTML document, and whether a reader sees the text in them.

This is the standard's stack of open elements with its implied end tags (HTML, section 13.2.6), as
far as they decide where hidden text ends. Each step takes the same time at any depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


VOID = _words(
    "area base basefont bgsound br col embed frame hr image img input keygen link meta param",
    "source track wbr",
)
"""Elements without content."""

_NEVER_SEEN = _words("datalist desc iframe metadata noembed noframes script style template title")
_FORMATTING = _words("a b big code em font i nobr s small strike strong tt u")
_HEADINGS = _words("h1 h2 h3 h4 h5 h6")
_TABLE = _words("caption colgroup table tbody td tfoot th thead tr")
_TABLES = frozenset({"table", "template"})
_SECTIONS = ("caption", "tbody", "tfoot", "thead")
_PREFORMATTED = frozenset({"listing", "plaintext", "pre", "textarea", "xmp"})

_SCOPE = _TABLES | {"caption", "foreignobject", "marquee", "object", "td", "th"}
"""Elements across which no end tag reaches (section 13.2.4.2)."""

_P_ENDS = _HEADINGS | _words(
    "address article aside blockquote center details dialog dd dir div dl dt fieldset figcaption",
    "figure footer form header hgroup hr li listing main menu nav ol p plaintext pre search",
    "section summary table ul xmp",
)
"""Elements whose start tag ends a paragraph."""

_SPECIAL = _P_ENDS | _TABLE | _SCOPE | {"body", "button", "select", "textarea"}
"""Elements that the end tag of an ordinary element such as ``<span>`` does not close."""

_ENDED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "li": (("li",), ("ol", "ul")),
    "dd": (("dd", "dt"), ("dl",)),
    "dt": (("dd", "dt"), ("dl",)),
    "option": (("option",), ("datalist", "select")),
    "optgroup": (("option", "optgroup"), ("datalist", "select")),
    "button": (("button",), ("form",)),
    "td": (("td", "th"), ()),
    "th": (("td", "th"), ()),
    "tr": (("td", "th", "tr"), ()),
    **dict.fromkeys(_SECTIONS, (("td", "th", "tr", *_SECTIONS), ())),
}
"""For a start tag, the elements that it ends, and those (or the table) across which it does not."""

_PAGE_OF_HTML = (
    "foreignobject",
    "desc",
    "title",
    "annotation-xml",
    "mi",
    "mn",
    "mo",
    "ms",
    "mtext",
)
_LEAVES_SVG = _P_ENDS - {"form"} | _FORMATTING | {"body", "br", "head", "img", "span", "sub", "sup"}

_INVISIBLE, _TINY, PREFORMATTED, _HIDES = 1, 2, 4, 8
"""Flags of an element. It inherits all but the last, if its style does not say something else."""


class Style(NamedTuple):
    """The effect of an element's attributes on its text."""

    display: str = ""
    hides: bool = False
    sets: int = 0
    clears: int = 0


_DECLARATION = re.compile(
    r"(?:^|[;{])[ \t\n\f]*+(display|visibility|opacity|(?:max-)?(?:height|width)|overflow(?:-[xy])?"
    r"|font(?:-size)?|white-space|padding(?:-\w+)?)[ \t\n\f]*+:([^;{}]*+)",
    re.IGNORECASE | re.ASCII,
)
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_ZERO = re.compile(r"[+-]?(?:0+(?:\.0*)?|\.0+)(?:[a-z]{1,4}|%)?")
_RELATIVE = re.compile(r"[+-]?[\d.]+(?:em|ex|ch|%)|smaller|larger|inherit|unset")
_FONT_SIZE = re.compile(r"(?:^|\s)([+-]?[\d.]+(?:[a-z]{1,4}|%)?)(?:/|\s)")


def declarations(style: str) -> dict[str, str]:
    """Return the values of the properties that can hide text, in lower case."""
    found: dict[str, str] = {}
    important: set[str] = set()
    if "/*" in style:
        style = _COMMENT.sub("", style)
    for match in _DECLARATION.finditer(style):
        name = match[1].lower()
        value, mark, _ = match[2].strip().lower().partition("!")
        if name not in important or mark:
            found[name] = value.strip()
        if mark:
            important.add(name)
    return found


def style_of(declared: dict[str, str], *, hidden: bool = False) -> Style:
    """Return the effect of an element's declarations and of its attribute ``hidden``."""
    get = declared.get
    display = get("display", "none" if hidden else "")
    sets = clears = 0
    if visibility := get("visibility"):
        if visibility in {"hidden", "collapse"}:
            sets |= _INVISIBLE
        elif visibility == "visible":
            clears |= _INVISIBLE
    size = get("font-size") or ""
    if not size and (shorthand := _FONT_SIZE.search(get("font", ""))):
        size = shorthand[1]
    if _ZERO.fullmatch(size):
        sets |= _TINY
    elif size and not _RELATIVE.fullmatch(size):
        clears |= _TINY
    if space := get("white-space"):
        if space.startswith(("pre", "break-spaces")):
            sets |= PREFORMATTED
        elif space in {"normal", "nowrap"}:
            clears |= PREFORMATTED
    cut = "hidden" in get("overflow", get("overflow-y", "")) and (
        _ZERO.fullmatch(get("max-height", ""))
        or (_ZERO.fullmatch(get("height", "")) and not any("padding" in name for name in declared))
    )
    hides = display == "none" or bool(cut) or bool(_ZERO.fullmatch(get("opacity", "")))
    return Style(display, hides, sets, clears)


UNSEEN = -1

Closed = tuple[str, int]
"""The name of an element that is closed, and its label: ``UNSEEN`` if it was given no other."""


class Elements:
    """The open elements of a document, the innermost last."""

    def __init__(self) -> None:
        #: True if a reader sees text here.
        self.seen = True
        #: The inherited flags, such as ``PREFORMATTED``.
        self.flags = 0
        #: True after an element of SVG or MathML was opened.
        self.had_foreign = False
        self._names: list[str] = []
        self._flags: list[int] = []
        self._labels: list[int] = []
        self._places: dict[str, list[int]] = {}
        # Places of elements that stop the search for an open element, each list with a sentinel.
        self._special, self._scopes, self._tables = [-1], [-1], [-1]
        self._hidden = 0

    @property
    def foreign(self) -> bool:
        """True within SVG or MathML, but not within HTML in it."""
        outer = self._last(("math", "svg")) if self.had_foreign else -1
        return outer >= 0 and self._last(_PAGE_OF_HTML) < outer

    def _last(self, names: Iterable[str]) -> int:
        """Return the place of the innermost open element of these names; -1 without one."""
        last = -1
        for name in names:
            places = self._places.get(name)
            if places and places[-1] > last:
                last = places[-1]
        return last

    def make_room(self, name: str) -> list[Closed]:
        """Close the elements that a start tag ends, and return them, the innermost first."""
        closed: list[Closed] = []
        if self.had_foreign and name in _LEAVES_SVG and self.foreign:
            closed += self._close(self._last(("math", "svg")))
        if self._places.get("p") and name in _P_ENDS:
            place = self._places["p"][-1]
            if place > self._scopes[-1] and place > self._last(("button",)):
                closed += self._close(place)
        if name in _ENDED:
            ended, within = _ENDED[name]
            limit = self._tables[-1]
            if within:
                limit = max(self._scopes[-1], self._last(within))
            places = [place for one in ended if (place := self._last((one,))) > limit]
            if places:
                closed += self._close(min(places))
        elif name in _HEADINGS and self._names and self._names[-1] in _HEADINGS:
            closed += self._close(len(self._names) - 1)
        elif name == "a" and self._places.get("a"):
            closed += self.end("a")
        return closed

    def open(self, name: str, style: Style) -> None:
        """Open an element."""
        place = len(self._names)
        flags = self.flags & ~style.clears | style.sets
        if name == "table":
            # In quirks mode, as in most mails, a table does not inherit the size of the text.
            flags &= ~_TINY
        elif name in _PREFORMATTED and not style.clears:
            flags |= PREFORMATTED
        elif name in {"math", "svg"}:
            self.had_foreign = True
        hides = style.hides or name in _NEVER_SEEN
        if hides:
            self._hidden += 1
            flags |= _HIDES
        self._names.append(name)
        self._flags.append(flags)
        self._labels.append(UNSEEN)
        if name in self._places:
            self._places[name].append(place)
        else:
            self._places[name] = [place]
        if name in _SPECIAL:
            self._special.append(place)
            if name in _SCOPE:
                self._scopes.append(place)
                if name in _TABLES:
                    self._tables.append(place)
        if hides or flags != self.flags:
            self._look()

    def label(self, label: int) -> None:
        """Label the innermost element."""
        self._labels[-1] = label

    def end(self, name: str) -> list[Closed]:
        """Close the elements that an end tag ends, and return them, the innermost first."""
        places = self._places.get(name)
        if not places or name in {"body", "html"}:
            return []
        place = places[-1]
        if name in _TABLE:
            limit = self._tables[-1]
        elif name in _SPECIAL:
            limit = self._scopes[-1]
        elif name not in _FORMATTING or place > self._special[-1]:
            limit = self._special[-1]
        elif place < self._scopes[-1]:
            return []
        else:
            # It ends within a block that it does not enclose: its block stays open.
            places.pop()
            self._names[place] = ""
            if self._flags[place] & _HIDES:
                self._flags[place] &= ~_HIDES
                self._hidden -= 1
            self._look()
            return [(name, self._labels[place])]
        return self._close(place) if place >= limit else []

    def end_all(self) -> list[Closed]:
        """Close all elements."""
        return self._close(0)

    def _close(self, place: int) -> list[Closed]:
        closed: list[Closed] = []
        while len(self._names) > place:
            name, label = self._names.pop(), self._labels.pop()
            if self._flags.pop() & _HIDES:
                self._hidden -= 1
            if name:
                self._places[name].pop()
                closed.append((name, label))
        # Each of these lists has a part of the one before.
        for stops in self._special, self._scopes, self._tables:
            if stops[-1] < place:
                break
            while stops[-1] >= place:
                stops.pop()
        self._look()
        return closed

    def _look(self) -> None:
        self.flags = self._flags[-1] & ~_HIDES if self._flags else 0
        self.seen = not (self._hidden or self.flags & (_INVISIBLE | _TINY))
