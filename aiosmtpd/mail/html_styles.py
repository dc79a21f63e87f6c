"""Read styles of HTML as far as they hide text, keep its blanks or begin lines (CSS).

Style sheets count if their selectors are a tag, a class or an identifier alone; rules in ``@media``
and the like do not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

INVISIBLE, TINY, PREFORMATTED = 1, 2, 4
UNREADABLE = INVISIBLE | TINY
"""Flags that an element inherits, if its style does not say something else."""


class Style(NamedTuple):
    """The effect of an element's attributes on its text."""

    display: str = ""
    hides: bool = False
    sets: int = 0
    clears: int = 0


Declarations = dict[str, tuple[int, str]]
"""The rank and the value of each property that matters here, in lower case."""

_DECLARATION = re.compile(
    r"(?:^|[;{])[ \t\n\f]*+(display|visibility|opacity|(?:max-)?(?:height|width)|overflow(?:-[xy])?"
    r"|font(?:-size)?|white-space|padding(?:-\w+)?)[ \t\n\f]*+:([^;{}]*+)",
    re.IGNORECASE | re.ASCII,
)
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_ZERO = re.compile(r"[+-]?(?:0+(?:\.0*)?|\.0+)(?:[a-z]{1,4}|%)?")
_RELATIVE = re.compile(r"[+-]?[\d.]+(?:em|ex|ch|%)|smaller|larger|inherit|unset")
_FONT_SIZE = re.compile(r"(?:^|\s)([+-]?[\d.]+(?:[a-z]{1,4}|%)?)(?:/|\s)")


_COMMENTS_OF_HTML = re.compile("<!--|-->")
_BRACE = re.compile("[^{}]*+[{}]")
_SELECTOR = re.compile(r"(?:[a-z][a-z0-9:-]*+)?(?:[.#][\w\\-]++)?", re.ASCII)
_MOST_RULES = 10_000

MOST_CLASSES = 100
"""Classes of an element that are looked up."""

_SELECTOR_RANK, _INLINE, _IMPORTANT = 10_000, 1_000_000, 10_000_000
"""The parts of a declaration's rank, to which its rule's number is added (CSS Cascade, 6)."""


def declarations(style: str, rank: int = _INLINE) -> Declarations:
    """Return the declarations that can hide text; *rank* is that of their selector."""
    found: Declarations = {}
    if "/*" in style:
        style = _COMMENT.sub("", style)
    for match in _DECLARATION.finditer(style):
        value, mark, _ = match[2].strip().lower().partition("!")
        _add(found, match[1].lower(), (rank + _IMPORTANT * bool(mark), value.strip()))
    return found


def _add(found: Declarations, name: str, declaration: tuple[int, str]) -> None:
    if name not in found or declaration[0] >= found[name][0]:
        found[name] = declaration


class Sheet:
    """The style sheets of a page."""

    def __init__(self) -> None:
        #: True if the sheets hide text, or keep its blanks.
        self.matters = False
        self._rules: dict[str, Declarations] = {}
        self._number = 0

    def add(self, css: str) -> None:
        """Add the rules of a sheet."""
        # The end of a sheet closes its blocks; a few more braces do not matter.
        css = _COMMENTS_OF_HTML.sub("", _COMMENT.sub("", css)) + "}"
        depth, selectors = 0, ""
        for match in _BRACE.finditer(css):
            text = match[0][:-1]
            if match[0].endswith("{"):
                depth += 1
                selectors = text.rpartition(";")[2] if depth == 1 else ""
            else:
                if depth == 1 and self._number < _MOST_RULES:
                    self._number += 1
                    self._add(selectors, text)
                depth = max(depth - 1, 0)

    def _add(self, selectors: str, text: str) -> None:
        if not (declared := declarations(text, self._number)):
            return
        style = style_of(declared)
        self.matters = self.matters or style.hides or style.sets != 0
        for selector in selectors.lower().split(","):
            key = selector.strip()
            if key and _SELECTOR.fullmatch(key):
                rank = 2 * ("." in key) + 4 * ("#" in key) + (key[0] not in ".#")
                rule = self._rules.setdefault(key, {})
                for name, (number, value) in declared.items():
                    _add(rule, name, (number + rank * _SELECTOR_RANK, value))

    def style(self, name: str, attributes: dict[str, str]) -> Style:
        """Return the effect of an element's attributes, and of the rules that match it."""
        declared = declarations(attributes["style"]) if "style" in attributes else {}
        if self.matters:
            keys = [name]
            words = attributes.get("class", "").lower().split(maxsplit=MOST_CLASSES)
            for word in words[:MOST_CLASSES]:
                keys += f".{word}", f"{name}.{word}"
            if word := attributes.get("id", "").lower():
                keys += f"#{word}", f"{name}#{word}"
            for key in keys:
                for property_, declaration in self._rules.get(key, {}).items():
                    _add(declared, property_, declaration)
        return style_of(declared, hidden="hidden" in attributes)


def style_of(declared: Declarations, *, hidden: bool = False) -> Style:
    """Return the effect of declarations, and of the attribute ``hidden``."""
    values = {name: value for name, (_, value) in declared.items()}
    display = values.get("display", "none" if hidden else "")
    sets = clears = 0
    visibility = values.get("visibility", "")
    if visibility in {"hidden", "collapse"}:
        sets |= INVISIBLE
    elif visibility == "visible":
        clears |= INVISIBLE
    size = values.get("font-size", "")
    if not size and (shorthand := _FONT_SIZE.search(values.get("font", ""))):
        size = shorthand[1]
    if _ZERO.fullmatch(size):
        sets |= TINY
    elif size and not _RELATIVE.fullmatch(size):
        clears |= TINY
    space = values.get("white-space", "")
    if space.startswith(("pre", "break-spaces")):
        sets |= PREFORMATTED
    elif space in {"normal", "nowrap"}:
        clears |= PREFORMATTED
    return Style(display, display == "none" or _is_cut(values), sets, clears)


def _is_cut(values: dict[str, str]) -> bool:
    """Return True if an element has no height, or cannot be seen."""
    if _ZERO.fullmatch(values.get("opacity", "")):
        return True
    if "hidden" not in values.get("overflow", values.get("overflow-y", "")):
        return False
    if _ZERO.fullmatch(values.get("max-height", "")):
        return True
    # With a padding, this is a box of a fixed shape around an image.
    padded = any(name.startswith("padding") for name in values)
    return not padded and _ZERO.fullmatch(values.get("height", "")) is not None
