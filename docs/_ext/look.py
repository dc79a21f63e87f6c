"""The look of the pages: pictures inside them, and code and tables that fit a narrow screen."""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.formatters import HtmlFormatter
from sphinx.application import Sphinx
from sphinx.highlighting import PygmentsBridge
from sphinx.transforms.post_transforms import SphinxPostTransform

Line = tuple[int, str]


class WrappingFormatter(HtmlFormatter[str]):
    """Put each line of code in an element of its own.

    The style sheet wraps a line that does not fit, and indents the rest of it by the indentation of
    its beginning, which is given here, and a little more.
    """

    def wrap(self, source: Iterator[Line]) -> Iterator[Line]:
        """Return the block, each of its lines in a ``span``."""
        return super().wrap(_in_spans(source))  # type: ignore[no-any-return]


def _in_spans(source: Iterator[Line]) -> Iterator[Line]:
    blank: list[Line] = []
    for is_code, text in source:
        bare = re.sub("<[^>]*>", "", text)
        if is_code and not bare.strip():
            # Kept back until a line follows, so that none ends the block.
            blank.append((is_code, f'<span class="line">{text}</span>'))
            continue
        yield from blank
        blank.clear()
        if is_code:
            indent = len(bare) - len(bare.lstrip(" "))
            style = f' style="--indent: {indent}ch"' if indent else ""
            text = f'<span class="line"{style}>{_breakable(text)}</span>'
        yield is_code, text


def _breakable(line: str) -> str:
    """Return a line of HTML in which long words may break after their punctuation."""
    parts = re.findall(r"<[^>]*>|&[^;]*;|.", line, re.DOTALL)
    # One character for each part that is shown, so that positions are those of the parts.
    shown = [number for number, part in enumerate(parts) if not part.startswith("<")]
    text = "".join(parts[number][0] for number in shown)
    for word in re.finditer(r"\S{20,}", text):
        for place in range(word.start(), word.end() - 1):
            if text[place] in "([{./=,:" and text[place + 1] not in ")]}/:0123456789":
                parts[shown[place]] += "<wbr>"
    return "".join(parts)


class InlinePictures(SphinxPostTransform):
    """Put SVG images of the class ``inline`` inside the page.

    There they have the page's colours, light or dark, and text that can be searched and selected.
    If ``NAME-narrow.svg`` exists too, the style sheet shows that one on a narrow screen.
    """

    default_priority = 5
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Replace the images of one page."""
        for node in list(self.document.findall(nodes.image)):
            if "inline" in node["classes"]:
                path = Path(self.env.srcdir) / node["uri"]
                html = _picture(path, str(node.get("alt", "")))
                node.replace_self(nodes.raw("", html, format="html"))


def _picture(path: Path, text: str) -> str:
    narrow = path.with_name(f"{path.stem}-narrow.svg")
    shown = {"wide": path, "narrow": narrow} if narrow.exists() else {"only": path}
    return "".join(
        f'<div class="picture {kind}" role="img" aria-label="{escape(text)}">'
        f"{one.read_text(encoding='utf-8')}</div>"
        for kind, one in shown.items()
    )


class ShortWords(SphinxPostTransform):
    """Mark code inside text whose words are short: the style sheet never breaks ``--an-option``."""

    default_priority = 6
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Mark the code of one page."""
        for node in self.document.findall(nodes.literal):
            if max(map(len, node.astext().split()), default=0) <= 2 * SHORT:
                node["classes"].append("short")


class NarrowTables(SphinxPostTransform):
    """Prepare tables for narrow screens, on which the style sheet makes each row a block.

    A cell gets the head of its column in front, if there are more than two columns. A table whose
    second and last column has short entries only, such as numbers, stays a table.
    """

    default_priority = 6
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Prepare the tables of one page."""
        for group in self.document.findall(nodes.tgroup):
            heads = [entry.astext() for row in _rows(group, nodes.thead) for entry in row]
            rows = list(_rows(group, nodes.tbody))
            if len(heads) > 2:
                for row in rows:
                    _label(row, heads)
            elif all(len(row) == 2 and len(row[1].astext()) <= SHORT for row in rows):
                group.parent["classes"].append("compact")


SHORT = 12
"""Characters of an entry that leaves enough of a phone's width to its neighbour."""


def _rows(group: nodes.Element, part: type[nodes.Element]) -> Iterator[nodes.Element]:
    for one in group.findall(part):
        yield from one.findall(nodes.row)


def _label(row: nodes.Element, heads: list[str]) -> None:
    for head, entry in zip(heads[1:], row[1:], strict=False):
        if head and entry.astext() and isinstance(entry[0], nodes.paragraph):
            entry[0].insert(0, nodes.inline("", f"{head}: ", classes=["cell-label"]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parts."""
    PygmentsBridge.html_formatter = WrappingFormatter
    app.add_post_transform(InlinePictures)
    app.add_post_transform(NarrowTables)
    app.add_post_transform(ShortWords)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
