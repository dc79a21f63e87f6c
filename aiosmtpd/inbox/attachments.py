"""The routes of Mailpit's API for the parts of a message: their bytes, and small pictures."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox.answers import UNKNOWN
from aiosmtpd.inbox.message import CLOSED, Finder
from aiosmtpd.inbox.rows import placed
from aiosmtpd.inbox.services import Services
from aiosmtpd.mail.tree import Part

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100}")
_ACTIVE = re.compile(r"html|xml|svg|script|xsl|mathml|flash|java|multipart/|x-mixed-replace|mhtml")
"""Media types that a browser runs or draws as a page."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of a name."""

BLANK = b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KS"
    "EiMEExNDk7Pj4+JS5ESUM8SDc9Pjv/wAALCAB4ALQBAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAAf/xAAUEAEAAAAA"
    "AAAAAAAAAAAAAAAA/9oACAEBAAA/ALMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAD//2Q=="
)
"""A white picture of 180 by 120 pixels."""


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes for parts."""
    parts = Parts(services)
    return [
        Route("/api/v1/message/{id}/part/{part}", parts.content),
        Route("/api/v1/message/{id}/part/{part}/thumb", parts.thumb),
    ]


class Parts(Finder):
    """Answers requests about one part of a message."""

    async def content(self, request: Request) -> Response:
        """Return the decoded bytes of an attachment or an inline part."""
        mail = await self.find(request)
        part = await asyncio.to_thread(mail.part, request.path_params["part"])
        if part is None or not placed(part, await asyncio.to_thread(mail.tree)):
            raise HTTPException(404, UNKNOWN)
        type, kind = safe_type(part)
        is_image = type.startswith("image/")
        if request.headers.get("sec-fetch-dest") == "image" and not is_image:
            # Pages of messages may load images only.
            raise HTTPException(403, "this part is not an image")
        headers = {
            "content-type": type,
            "content-disposition": disposition(kind, part.name or part.content_id),
            "content-security-policy": CLOSED,
        }
        return StreamingResponse(part.pieces(), 200, headers)

    async def thumb(self, request: Request) -> Response:
        """Return a blank picture: nothing of a sender is decoded here."""
        try:
            mail = await self.find(request)
        except HTTPException as error:
            raise HTTPException(400, error.detail) from None
        if await asyncio.to_thread(mail.part, request.path_params["part"]) is None:
            raise HTTPException(400, "there is no such part")
        return Response(BLANK, media_type="image/jpeg", headers={"content-security-policy": CLOSED})


def safe_type(part: Part) -> tuple[str, str]:
    """Return the type and the disposition with which a part is sent.

    A type that a browser would run, or that is not spelt as RFC 6838 allows, is a download.
    """
    if not _TYPE.fullmatch(part.type) or _ACTIVE.search(part.type):
        return "application/octet-stream", "attachment"
    return part.type, "attachment" if part.type.startswith("message/") else "inline"


def disposition(kind: str, name: str) -> str:
    """Return the value of Content-Disposition (RFC 6266) for a name of the sender."""
    name = _UNSAFE.sub("", name)[:200].strip()
    if not name:
        return kind
    plain = re.sub(r'[^ -~]|["\\%/]', "_", name)
    encoded = quote(name.encode("utf-8", "replace"), safe="")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
