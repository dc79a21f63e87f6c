"""HTML and CSS that mail programs show, or do not: a small table of our own, of common features.

Each row has one letter for each program in :data:`PROGRAMS`: y for yes, p for partly, n for no.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from aiosmtpd.mail.html_tokens import Tokens, attributes_of

LARGEST = 2 << 20
"""Characters of HTML that are checked."""

MOST_FOUND = 100_000
"""Elements and declarations that are counted."""


class Program(NamedTuple):
    """A mail program."""

    name: str
    platform: str
    family: str
    version: str


PROGRAMS = (
    Program("Apple Mail macOS", "macos", "apple-mail", ""),
    Program("Apple Mail iOS", "ios", "apple-mail", ""),
    Program("Gmail Desktop Webmail", "desktop-webmail", "gmail", ""),
    Program("Gmail Android", "android", "gmail", ""),
    Program("Outlook Windows (2019)", "windows", "outlook", "2019"),
    Program("Outlook.com", "outlook-com", "outlook", ""),
    Program("Yahoo! Mail Desktop Webmail", "desktop-webmail", "yahoo", ""),
    Program("Thunderbird macOS", "macos", "thunderbird", ""),
)


class Feature(NamedTuple):
    """A row of the table."""

    slug: str
    title: str
    support: str

    @property
    def category(self) -> str:
        """``"css"`` or ``"html"``."""
        return self.slug.partition("-")[0]


#                                                            A i G a O o Y T
_ROWS = """
css-animation            | animation                     | y y n n n n n y
css-at-font-face         | @font-face                    | y y n n n n n y
css-at-import            | @import                       | y y n n n n n y
css-at-keyframes         | @keyframes                    | y y n n n n n y
css-at-media             | @media                        | y y p p n p p y
css-background-image     | background-image              | y y y y n y y y
css-border-radius        | border-radius                 | y y y y n y y y
css-box-shadow           | box-shadow                    | y y y y n y y y
css-display-flex         | display:flex                  | y y p p n p p y
css-display-grid         | display:grid                  | y y n n n n n y
css-filter               | filter                        | y y n n n n n y
css-max-width            | max-width                     | y y y y n y y y
css-object-fit           | object-fit                    | y y p p n y p y
css-opacity              | opacity                       | y y y y n y y y
css-position             | position                      | y y n n n n n y
css-text-align           | text-align                    | y y y y p y y y
css-transform            | transform                     | y y n n n p n y
css-transition           | transition                    | y y n n n n n y
css-variables            | CSS variables                 | y y n n n n n y
html-audio               | <audio> element               | y y n n n n n y
html-base                | <base> element                | y y n n n n n y
html-button              | <button> element              | y y p p p p p y
html-form                | <form> element                | y y p p n n p y
html-iframe              | <iframe> element              | n n n n n n n n
html-link                | <link> element                | y y n n p n n y
html-object              | <object> element              | n n n n n n n n
html-picture             | <picture> element             | y y p p n p p y
html-srcset              | srcset attribute              | y y y y n y p y
html-style               | <style> element               | y y p p p p p y
html-svg                 | <svg> element                 | y y n n n n n y
html-video               | <video> element               | y y n n n n n y
html-script              | <script> element              |
"""


def _table() -> dict[str, Feature]:
    rows = [[cell.strip() for cell in row.split("|")] for row in _ROWS.strip().splitlines()]
    return {row[0]: Feature(row[0], row[1], row[2].replace(" ", "")) for row in rows}


FEATURES = _table()

_ELEMENTS = frozenset(
    slug.removeprefix("html-") for slug in FEATURES if slug.startswith("html-")
) - {"srcset"}
_STYLE = frozenset({"style", "srcset"})
_COMMENT = re.compile(r"/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)")
_DECLARATION = re.compile(
    r"(?<![\w-])(--[\w-]{1,100}|[a-z-]{2,40})[ \t\r\n]*+:[ \t\r\n]*+([^;{}]{0,60})"
)
_AT_RULE = re.compile(r"@(font-face|import|keyframes|media)\b")
_DISPLAYS = {"flex": "css-display-flex", "grid": "css-display-grid"}
_WORDS = {"y": "yes", "p": "partial", "n": "no"}


def check(html: str) -> dict[str, Any]:
    """Return ``HTMLCheck`` of the API; raises ValueError for HTML that is too large."""
    if len(html) > LARGEST:
        raise ValueError(f"the HTML has more than {LARGEST} characters: too large to check")
    found, nodes = _found(html)
    warnings = [_warning(FEATURES[slug], count) for slug, count in found.items()]

    def weight(warning: dict[str, Any], kind: str) -> float:
        score = warning["Score"]
        return float(score[kind] * min(score["Found"] / max(nodes, 1), 1))

    warnings.sort(key=lambda one: weight(one, "Unsupported") + weight(one, "Partial"), reverse=True)
    partial = round(max((weight(one, "Partial") for one in warnings), default=0), 2)
    without = round(max((weight(one, "Unsupported") for one in warnings), default=0), 2)
    platforms: dict[str, list[str]] = {}
    for program in PROGRAMS:
        platforms.setdefault(program.platform, []).append(program.name)
    return {
        "Warnings": warnings,
        "Platforms": dict(sorted(platforms.items())),
        "Total": {
            "Tests": len(FEATURES),
            "Nodes": nodes,
            "Supported": round(max(100 - partial - without, 0), 2),
            "Partial": partial,
            "Unsupported": without,
        },
    }


def _warning(feature: Feature, count: int) -> dict[str, Any]:
    share = Counter(feature.support)
    number = max(len(feature.support), 1)
    return {
        "Slug": feature.slug,
        "Title": feature.title,
        "Description": "",
        "URL": f"https://www.caniemail.com/features/{feature.slug}/",
        "Category": feature.category,
        "Tags": [],
        "Keywords": "",
        "Results": [
            {
                "Name": program.name,
                "Platform": program.platform,
                "Family": program.family,
                "Version": program.version,
                "Support": _WORDS[letter],
                "NoteNumber": "",
            }
            for program, letter in zip(PROGRAMS, feature.support, strict=False)
        ],
        "NotesByNumber": {},
        "Score": {
            "Found": count,
            "Supported": round(100 * share["y"] / number, 2),
            "Partial": round(100 * share["p"] / number, 2),
            "Unsupported": round(100 * share["n"] / number, 2) if feature.support else 100.0,
        },
    }


def _found(html: str) -> tuple[Counter[str], int]:
    """Return how often each feature occurs, and the number of elements."""
    found: Counter[str] = Counter()
    nodes, in_style = 0, False
    for token in Tokens(html):
        if isinstance(token, str):
            if in_style:
                found.update(_in_css(token))
            continue
        in_style = token.name == "style" and not token.closes
        if token.closes:
            continue
        nodes += 1
        if nodes > MOST_FOUND:
            break
        if token.name in _ELEMENTS:
            found[f"html-{token.name}"] += 1
        if "s" in token.source or "S" in token.source:
            attributes = attributes_of(token.source, _STYLE)
            found["html-srcset"] += "srcset" in attributes
            found.update(_in_css(attributes.get("style", "")))
    return +found, nodes


def _in_css(css: str) -> list[str]:
    """Return the slugs of the features in a style sheet or an attribute."""
    slugs = []
    css = _COMMENT.sub(" ", css.lower())
    slugs += [f"css-at-{match[1]}" for match in _AT_RULE.finditer(css)]
    for match in _DECLARATION.finditer(css):
        name, value = match[1], match[2].strip()
        if name.startswith("--") or "var(" in value:
            slugs.append("css-variables")
        elif name == "display":
            slugs += [slug for word, slug in _DISPLAYS.items() if word in value]
        elif name in ("background", "background-image") and "url(" in value:
            slugs.append("css-background-image")
        elif name != "background-image" and f"css-{name}" in FEATURES:
            slugs.append(f"css-{name}")
        if len(slugs) >= MOST_FOUND:
            break
    return slugs
