"""Keep the open elements of an HTML document, and whether a reader sees the text in them.

This is the standard's stack of open elements with its implied end tags (HTML, section 13.2.6), as
far as they decide where hidden text ends. Each step takes the same time at any depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiosmtpd.mail.html_styles import INVISIBLE, PREFORMATTED, TINY, UNREADABLE, Style


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
_PARTS = _TABLE - {"table"}
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

MAKES_ROOM = _P_ENDS | set(_ENDED) | {"a", "nobr"}
_NEVER_ENDED = frozenset({"body", "html"})

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
_LEAVES_SVG = (_FORMATTING - {"a", "font"}) | _words(
    "blockquote body br center dd div dl dt embed h1 h2 h3 h4 h5 h6 head hr img li listing menu",
    "meta ol p pre ruby span strong sub sup table ul var",
)
"""Start tags that end SVG and MathML (section 13.2.6.5)."""

_HIDES = 8
"""A flag beside those of styles: an element that is hidden with its content."""

DEEPEST = 5000
"""Open elements to which no more are added; browsers nest 512."""

UNSEEN = -1

Closed = tuple[str, int]
"""The name and the label of an element that is closed."""


class Elements:
    """The open elements of a document, the innermost last."""

    def __init__(self) -> None:
        #: True if a reader sees text here.
        self.seen = True
        #: The flags of the innermost element, such as ``PREFORMATTED``.
        self.flags = 0
        #: True after an element of SVG or MathML was opened.
        self.had_foreign = False
        self._names: list[str] = []
        #: The labels of the open elements, ``UNSEEN`` until the reader sets another.
        self.labels: list[int] = []
        self._flags = [0]
        self._places: dict[str, list[int]] = {}
        # Places of elements that stop the search for an open element, each list with a sentinel.
        self._special, self._scopes, self._tables = [-1], [-1], [-1]
        self._hidden = 0

    @property
    def foreign(self) -> bool:
        """True within SVG or MathML, but not within HTML in it."""
        outer = self._last(("math", "svg")) if self.had_foreign else -1
        return outer >= 0 and self._last(_PAGE_OF_HTML) < outer

    @property
    def visible(self) -> bool:
        """True if a reader sees an image here, or text that is large enough."""
        return not (self._hidden or self.flags & INVISIBLE)

    @property
    def inert(self) -> bool:
        """True within ``<template>``, which is not a part of the page."""
        return bool(self._places.get("template"))

    def _last(self, names: Iterable[str]) -> int:
        """Return the place of the innermost open element of these names; -1 without one."""
        last = -1
        for name in names:
            places = self._places.get(name)
            if places and places[-1] > last:
                last = places[-1]
        return last

    def make_room(self, name: str) -> list[Closed]:
        """Close the elements that a start tag ends, and return them, the innermost first.

        Only start tags in ``MAKES_ROOM`` end others, except in foreign elements.
        """
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
            elif limit < 0:
                return closed
            places = [place for one in ended if (place := self._last((one,))) > limit]
            if places:
                closed += self._close(min(places))
        elif name in _HEADINGS and self._names and self._names[-1] in _HEADINGS:
            closed += self._close(len(self._names) - 1)
        elif name in {"a", "nobr"} and self._places.get(name):
            closed += self.end(name)
        return closed

    def open(self, name: str, style: Style) -> None:
        """Open an element."""
        place = len(self._names)
        flags = (self.flags & ~_HIDES & ~style.clears) | style.sets
        if name == "table":
            # In quirks mode, as in most mails, a table does not inherit the size of the text.
            flags &= ~TINY
        elif name in _PREFORMATTED and not style.clears:
            flags |= PREFORMATTED
        elif name in {"math", "svg"}:
            self.had_foreign = True
        # The standard ignores a part of a table if there is no table.
        stray = name in _PARTS and self._tables[-1] < 0
        if (style.hides and not stray) or name in _NEVER_SEEN:
            self._hidden += 1
            flags |= _HIDES
        self._names.append(name)
        self._flags.append(flags)
        self.labels.append(UNSEEN)
        if name in self._places:
            self._places[name].append(place)
        else:
            self._places[name] = [place]
        if name in _SPECIAL and not stray:
            self._special.append(place)
            if name in _SCOPE:
                self._scopes.append(place)
                if name in _TABLES:
                    self._tables.append(place)
        self.flags = flags
        self.seen = not (self._hidden or flags & UNREADABLE)

    def end(self, name: str) -> Sequence[Closed]:
        """Close the elements that an end tag ends, and return them, the innermost first."""
        places = self._places.get(name)
        if name in _HEADINGS:
            place = self._last(_HEADINGS)
        elif not places or name in _NEVER_ENDED or (name in _PARTS and self._tables[-1] < 0):
            return ()
        else:
            place = places[-1]
        if name == "template":
            limit = -1
        elif name in _TABLE:
            limit = self._tables[-1]
        elif name in _SPECIAL:
            limit = self._scopes[-1]
        elif name not in _FORMATTING or place > self._special[-1]:
            limit = self._special[-1]
        elif place < self._scopes[-1]:
            return ()
        else:
            # It ends within a block that it does not enclose: its block stays open.
            self._places[name].pop()
            self._names[place] = ""
            if self._flags[place + 1] & _HIDES:
                self._flags[place + 1] &= ~_HIDES
                self._hidden -= 1
            self.seen = not (self._hidden or self.flags & UNREADABLE)
            return [(name, self.labels[place])]
        return self._close(place) if place >= max(limit, 0) else ()

    def end_all(self) -> list[Closed]:
        """Close all elements."""
        return self._close(0)

    def _close(self, place: int) -> list[Closed]:
        names, places = self._names, self._places
        closed: list[Closed] = []
        while len(names) > place:
            name, label = names.pop(), self.labels.pop()
            if self._flags.pop() & _HIDES:
                self._hidden -= 1
            if name:
                places[name].pop()
                closed.append((name, label))
        if self._special[-1] >= place:
            for stops in self._special, self._scopes, self._tables:
                while stops[-1] >= place:
                    stops.pop()
        self.flags = flags = self._flags[-1]
        self.seen = not (self._hidden or flags & UNREADABLE)
        return closed
