"""Describe the whole tree of a message's parts, also those that no list of attachments has."""

from __future__ import annotations

from hashlib import md5, sha1, sha256
from typing import Any

from public import public

from aiosmtpd.mail.tree import Part


@public
def tree_of(part: Part) -> dict[str, Any]:
    """Return a part and those in it, as ``GET /api/message/{id}/parts`` answers them.

    Sums are those of the decoded bytes, in hex; a part that has parts has none.
    """
    return {
        "number": part.number,
        "type": part.type,
        "charset": part.charset,
        "encoding": part.encoding,
        "disposition": part.disposition,
        "name": part.name,
        "content_id": part.content_id,
        "size": part.size,
        "position": part.position,
        "end": part.end,
        "notice": part.notice,
        "checksums": None if part.parts else _sums(part),
        "parts": [tree_of(one) for one in part.parts],
    }


def _sums(part: Part) -> dict[str, str]:
    sums = {"md5": md5(usedforsecurity=False), "sha1": sha1(usedforsecurity=False)}
    sums["sha256"] = sha256()
    for piece in part.pieces():
        for one in sums.values():
            one.update(piece)
    return {name: one.hexdigest() for name, one in sums.items()}
