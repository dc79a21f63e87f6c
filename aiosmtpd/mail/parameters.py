"""Read the values of MIME fields: a main value and parameters; RFC 2045, 2231 and 5322.

Reading is linear, and lenient: comments and blanks may be anywhere, a quoted string may lack its
end, a semicolon may be missing, and any character may be raw UTF-8 (RFC 6532).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from aiosmtpd.mail.charsets import decode

MOST_PARAMETERS = 1000
"""Parameters of one field that are read."""

_SHORT = 100
"""Characters of a value whose reading is remembered: mails repeat few of them."""

_MAIN = re.compile(r"[^;,()\s]*+")
_QUOTED_MAIN = re.compile(r"""(["'])([!-~]{1,200}?)\1(?=[;,()\s]|\Z)""")
_NAME = re.compile(r"[^;,=()\"\s]++")
_BLANKS = re.compile(r"\s*+")
_COMMENT = re.compile(r"[^()\\]++|\\.|\(++|[)\\]", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# A value in no quotes may have blanks in it, but not if another parameter follows them.
_BARE = re.compile(r"[^;\s]*+(?:\s++(?![\w*-]++\s*+=)[^;\s]++)*+")
# Of limited length, so that reading stays linear.
_COMMENT_BEFORE = re.compile(r"\((?:[^()\\]|\\.){0,200}\)(?:\s++|(?=\"))", re.DOTALL)
_UNTIL_PARAMETER = re.compile(r"[^;]*+(?:;(?!\s*+[\w*-]++\s*+=)[^;]*+)*+")
_SECTION = re.compile(r"(.+?)(?:\*(\d{1,4}))?(\*)?", re.DOTALL)


class Value(NamedTuple):
    """The main value in lower case, and the parameters by their names in lower case."""

    main: str
    parameters: dict[str, str]


def parse(text: str) -> Value:
    """Parse an unfolded value; of several parameters with one name, the first counts."""
    if len(text) > _SHORT:
        return _parsed(text)
    main, parameters = _remembered(text)
    return Value(main, parameters.copy())


@lru_cache(500)
def _remembered(text: str) -> Value:
    return _parsed(text)


def _parsed(text: str) -> Value:
    position = _skip(text, 0)
    if quoted := _QUOTED_MAIN.match(text, position):
        return Value(quoted[2].lower(), _joined(_parameters(text, quoted.end())))
    main = _MAIN.match(text, position)
    found = main[0] if main else ""
    if "=" in found and "/" not in found.partition("=")[0]:
        # The main value is missing.
        return Value("", _joined(_parameters(text, position)))
    position = _skip(text, position + len(found))
    if found.endswith("/") or text[position : position + 1] == "/":
        # Blanks or comments around the slash of a media type.
        slash = "" if found.endswith("/") else "/"
        position = _skip(text, position + len(slash))
        rest = _MAIN.match(text, position)
        found += slash + (rest[0] if rest else "")
        position += len(rest[0]) if rest else 0
    return Value(found.lower(), _joined(_parameters(text, position)))


def _skip(text: str, position: int) -> int:
    """Return the position after blanks and comments (RFC 5322 section 3.2.2)."""
    while True:
        blanks = _BLANKS.match(text, position)
        position = blanks.end() if blanks else position
        if text[position : position + 1] != "(":
            return position
        depth = 0
        for piece in _COMMENT.finditer(text, position):
            depth += len(piece[0]) if piece[0][0] == "(" else -(piece[0] == ")")
            position = piece.end()
            if not depth:
                break


def _parameters(text: str, position: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while position < len(text) and len(found) < MOST_PARAMETERS:
        position = _skip(text, position)
        name = _NAME.match(text, position)
        if name is None:
            position += 1
            continue
        position = _skip(text, name.end())
        if text[position : position + 1] != "=":
            continue
        value, position = _value(text, _begin(text, position + 1))
        found.append((name[0].lower(), value))
    return found


def _begin(text: str, position: int) -> int:
    """Skip blanks and a comment before a value, unless it looks like a part of the value."""
    blanks = _BLANKS.match(text, position)
    position = blanks.end() if blanks else position
    comment = _COMMENT_BEFORE.match(text, position)
    return comment.end() if comment else position


def _value(text: str, position: int) -> tuple[str, int]:
    """Return a parameter's value and the position after it."""
    if quoted := _QUOTED.match(text, position):
        return _ESCAPE.sub(r"\1", quoted[1]), quoted.end()
    bare = _BARE.match(text, position)
    if bare is None:  # pragma: no cover - the pattern matches nothing at all, too
        return "", position
    value = bare[0]
    if value.startswith('"'):
        # Without its end, a quoted string ends before the next parameter.
        rest = _UNTIL_PARAMETER.match(text, position + 1)
        value = rest[0] if rest else ""
        return _ESCAPE.sub(r"\1", value.rstrip()), position + 1 + len(value)
    if value.endswith(")") and "(" in value:
        value = value[: value.rindex("(")].rstrip()
    return value, bare.end()


def _joined(found: list[tuple[str, str]]) -> dict[str, str]:
    """Join continued values and decode extended ones; RFC 2231 sections 3 and 4."""
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[str, bool]]] = {}
    for name, value in found:
        match = _SECTION.fullmatch(name)
        if match is None or (match[2] is None and not match[3]):
            plain.setdefault(name, value)
        else:
            known = sections.setdefault(match[1], {})
            # One extended value is better than pieces (section 4.1).
            known.setdefault(int(match[2]) if match[2] else -1, (value, bool(match[3])))
    # As in RFC 6266 section 4.3, the extended value is the better one, if there is one.
    better = {name: _continued(pieces) for name, pieces in sections.items()}
    return plain | {name: value or plain.get(name, "") for name, value in better.items()}


def _continued(pieces: dict[int, tuple[str, bool]]) -> str:
    numbers = [-1] if -1 in pieces else sorted(pieces)
    ordered = [pieces[number] for number in numbers]
    charset = ""
    first, extended = ordered[0]
    if extended and first.count("'") >= 2:
        charset, _, first = first.split("'", 2)
        ordered[0] = first, True
    if not any(extended for _, extended in ordered):
        return "".join(text for text, _ in ordered)
    raw = (text.encode("utf-8", "surrogateescape") for text, _ in ordered)
    data = b"".join(
        unquote_to_bytes(one) if extended else one
        for one, (_, extended) in zip(raw, ordered, strict=True)
    )
    return decode(data, charset or "utf-8")
