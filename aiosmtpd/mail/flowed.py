"""Join the soft line breaks of ``format=flowed``: RFC 3676 section 4."""

from __future__ import annotations

from collections.abc import Iterator

_SIGNATURE = "-- "


def joined(text: str, *, without_blank: bool) -> str:
    r"""Return *text*, with ``\n`` line ends, as paragraphs of one line each.

    *without_blank* is ``delsp=yes``: the blank before a soft break is not part of the text.
    """
    return "\n".join(_paragraphs(text.split("\n"), without_blank))


def _paragraphs(lines: list[str], without_blank: bool) -> Iterator[str]:
    paragraph: list[str] = []
    depth = 0
    for line in lines:
        content = line.lstrip(">")
        quoted = len(line) - len(content)
        content = content.removeprefix(" ")
        signature = content == _SIGNATURE
        if paragraph and (quoted != depth or signature):
            # A paragraph has one quote depth, and a signature is one of its own (4.3, 4.5).
            yield _quoted(paragraph, depth)
            paragraph = []
        depth = quoted
        soft = content.endswith(" ") and not signature
        paragraph.append(content[:-1] if soft and without_blank else content)
        if not soft:
            yield _quoted(paragraph, depth)
            paragraph = []
    if paragraph:
        yield _quoted(paragraph, depth)


def _quoted(paragraph: list[str], depth: int) -> str:
    text = "".join(paragraph)
    return f"{'>' * depth} {text}".rstrip(" ") if depth else text
