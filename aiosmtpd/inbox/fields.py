"""Header fields as the API shows them."""

from __future__ import annotations

import re
from typing import Any

from aiosmtpd.mail import header

_FOLD = re.compile(rb"\r?\n[ \t]+(?=[^ \t\r\n])")
_COMMENT = re.compile(r"\([^()]*\)")
_ITEM = re.compile(r"\s*<([^<>]*)>\s*")


def by_name(block: bytes) -> dict[str, list[str]]:
    """Return all fields by name, names as in ``Message-Id`` and sorted; values are not decoded."""
    found: dict[str, list[str]] = {}
    for name, value in header.fields_of(_FOLD.sub(b" ", block)):
        found.setdefault(canonical(name), []).append(header.characters(value))
    return dict(sorted(found.items()))


def canonical(name: str) -> str:
    """Return a name with a capital at the beginning and after each hyphen, else in small."""
    if not name.isascii() or " " in name:
        return name
    return "-".join(word[:1].upper() + word[1:].lower() for word in name.split("-"))


def unsubscribe(values: list[str], post: str) -> dict[str, Any]:
    """Return ``ListUnsubscribe``: RFC 2369, at most one mailto: and one web address."""
    value = ", ".join(values)
    links: list[str] = []
    errors: list[str] = []
    kinds: set[str] = set()
    for item in _COMMENT.sub("", value[:20_000]).split(",") if value.strip() else []:
        found = _ITEM.fullmatch(item)
        link = "".join(found[1].split()) if found else ""
        kind = link.partition(":")[0].lower().replace("https", "http")
        if not found:
            errors.append(f"{item.strip()[:100]!r} is not in angle brackets")
        elif kind not in ("mailto", "http"):
            errors.append(f"{link[:100]!r} is neither mailto: nor http:")
        elif kind in kinds:
            errors.append(f"there is more than one {kind}: link")
        else:
            kinds.add(kind)
            links.append(link)
    return {
        "Header": value,
        "Links": [] if errors else links,
        "Errors": ", ".join(errors),
        "HeaderPost": post,
    }
