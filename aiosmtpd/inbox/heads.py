"""Describe a message for the page: all but its texts, which may be long.

A message that another one has as a part is described, and shown, like one that came by itself.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from aiosmtpd.inbox import people, rows, wire
from aiosmtpd.inbox.people import Person
from aiosmtpd.inbox.pieces import cut_at_tags
from aiosmtpd.inbox.stored import ListedPart, Readable, StoredMail
from aiosmtpd.mail import header
from aiosmtpd.mail.tree import Part

READ = 1 << 20
"""Bytes of HTML in which remote images are counted."""

_LONGEST = 2000
"""Characters of a field that are shown."""

_IMAGE = re.compile(r"<(?:img|image|input|source)\b([^<>]*+)", re.IGNORECASE)
_SOURCE = re.compile(
    r"""\b(?:src|srcset|href)\s*+=\s*+["']?\s*+((?:https?:)?//[^\s"'<>]++)""", re.IGNORECASE
)
_BACKGROUND = re.compile(
    r"""\b(?:background\s*+=\s*+["']?|url\(\s*+(?:["']|&quot;|&\#39;)?)\s*+"""
    r"""((?:https?:)?//[^\s"'<>()&]++)""",
    re.IGNORECASE,
)


class InnerMail(Readable):
    """A message that is a part of another one."""

    def __init__(self, outer: StoredMail, part: Part) -> None:
        self.id = outer.id
        self.part = part
        self.root = part.parts[0]
        self.size = part.end - part.body_position

    def tree(self) -> Part:
        """Return the root of the tree of its parts."""
        return self.root

    @property
    def attachments(self) -> list[ListedPart]:
        """Its attachments, without checksums."""
        return self._listed("attachment")

    @property
    def inline(self) -> list[ListedPart]:
        """Its other parts that are not text, without checksums."""
        return self._listed("inline")

    def _listed(self, kind: str) -> list[ListedPart]:
        return [
            _part(one)
            for one in rows.leaves(self.root)
            if rows.placed(one, self.root) == kind and (one.name or one.content_id)
        ]


def _part(part: Part) -> ListedPart:
    name = part.name or part.content_id
    return ListedPart(part.number, name, part.type, part.content_id, part.size, "", "", "")


AnyMail: TypeAlias = StoredMail | InnerMail


def inner(mail: StoredMail, number: str) -> InnerMail | None:
    """Return the message that a part is; None if it is not a message."""
    part = mail.part(number)
    if part is None or not part.type.startswith("message/") or not part.parts:
        return None
    return InnerMail(mail, part)


def head_of(mail: StoredMail, inside: InnerMail | None = None) -> dict[str, Any]:
    """Return a message, or the one inside of it, as ``GET /api/message/{id}/head`` answers it."""
    shown: AnyMail = inside or mail
    root = shown.tree()
    html = rows.html_of(root, READ)
    return {
        "ID": mail.id,
        "Part": inside.part.number if inside else "",
        "Outer": _people_and_subject(mail.tree())["Subject"] if inside else "",
        **_people_and_subject(root),
        "Created": wire.time(mail.created),
        "Tags": mail.tags,
        "Username": mail.username,
        "Size": shown.size,
        "HTML": bool(html.strip()),
        "RemoteImages": remote_images(html),
        "Inline": [_listed(one) for one in shown.inline],
        "Attachments": [_listed(one) for one in shown.attachments],
        "Envelope": {"From": mail.sender, "To": mail.recipients},
        "Notices": [] if inside else mail.notices,
    }


def _people_and_subject(root: Part) -> dict[str, Any]:
    values: dict[str, list[str]] = {}
    for name, value in header.fields_of(root.header):
        values.setdefault(name.lower(), []).append(value)
    first = {name: found[0] for name, found in values.items()}
    sender = people.sender(first["from"]) if "from" in first else Person("", "")

    def named(name: str) -> list[dict[str, str]]:
        return [one.json() for value in values.get(name, ()) for one in people.read(value)]

    return {
        "From": sender.json(),
        "To": named("to"),
        "Cc": named("cc"),
        "Bcc": named("bcc"),
        "ReplyTo": named("reply-to"),
        "Subject": header.decode_header(first.get("subject", "")),
        "Date": header.decode_header(first.get("date", "")[:_LONGEST]),
    }


def _listed(part: ListedPart) -> dict[str, Any]:
    found = part.json()
    del found["Checksums"]
    return found


def remote_images(html: str) -> dict[str, int]:
    """Return how many images of other hosts HTML names, and how many hosts these are."""
    found: list[str] = []
    for piece in cut_at_tags(html):
        for image in _IMAGE.finditer(piece):
            found += _SOURCE.findall(image[1])[:1]
        found += _BACKGROUND.findall(piece)
    return {"Count": len(found), "Hosts": len({_host(url) for url in found})}


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return url
