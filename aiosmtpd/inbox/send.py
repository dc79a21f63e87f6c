"""The route of Mailpit's API that puts a message into the inbox."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from datetime import datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox import compose, people, wire
from aiosmtpd.inbox.answers import Fields, done, json_answer, json_of
from aiosmtpd.inbox.compose import Attached, Draft
from aiosmtpd.inbox.people import Person
from aiosmtpd.inbox.records import Received
from aiosmtpd.inbox.services import Services

AT_ONCE = 4
"""Bodies of the largest size that are worked on at the same time."""

MOST_AT_ONCE = 200

_BLANKS = re.compile(r"\s+")


def routes(services: Services) -> list[BaseRoute]:
    """Return the route."""
    return [Route("/api/v1/send", Sender(services).send, methods=["POST"])]


class Sender:
    """Stores messages as if they had come by SMTP."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._largest = services.options.max_size
        self._size = self._count = 0

    async def send(self, request: Request) -> Response:
        """Store a message; the answer has its id."""
        size = int(request.headers.get("content-length", self._largest))
        room = self._largest * AT_ONCE
        if self._count and (self._count >= MOST_AT_ONCE or 0 < room < self._size + size):
            raise HTTPException(503, "too much is sent at once", {"retry-after": "1"})
        self._count += 1
        self._size += size
        try:
            value = await json_of(await request.body())
            received = await asyncio.to_thread(self._received, request, value)
            id = await done(self._store.add(received))
        finally:
            self._count -= 1
            self._size -= size
        return await json_answer(request, lambda: wire.dump({"ID": id}))

    def _received(self, request: Request, value: Any) -> Received:
        draft = draft_of(Fields(value))
        date = datetime.now().astimezone()
        try:
            compose.check(draft)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        content = compose.made(draft, date)
        if 0 < self._largest < len(content):
            raise HTTPException(413, f"the message has more than {self._largest} bytes")
        return Received(
            content,
            draft.sender.address,
            draft.recipients,
            client=request.client.host if request.client else "",
            protocol="HTTP",
            username=str(request.scope.get("inbox.user", "")),
            created=date,
            trace=False,
        )


def draft_of(body: Fields) -> Draft:
    """Return the draft in a body; HTTPException 400 if it has a wrong type."""
    groups = {
        name: [_person(one) for one in body.objects(name)] for name in ("To", "Cc", "ReplyTo")
    }
    sender = _person(Fields(body.get("From", dict, {}), "From"))
    if not sender.address:
        raise HTTPException(400, "From.Email is missing")
    return Draft(
        sender,
        groups["To"],
        groups["Cc"],
        [_read(one) for one in body.texts("Bcc")],
        groups["ReplyTo"],
        body.get("Subject", str, ""),
        body.get("Text", str, ""),
        body.get("HTML", str, ""),
        [one for one in body.texts("Tags") if one.strip()],
        list(body.pairs("Headers").items()),
        [_attached(one) for one in body.objects("Attachments")],
    )


def _person(fields: Fields) -> Person:
    return Person(fields.get("Name", str, ""), _read(fields.get("Email", str, "")).address)


def _read(text: str) -> Person:
    """Return a mailbox, which may have a name; text that is not one is left to the check."""
    found = people.read(text)
    return found[0] if len(found) == 1 and ("<" in text) else Person("", text.strip())


def _attached(fields: Fields) -> Attached:
    # It may be a data: address.
    content = fields.get("Content", str, "").rpartition(",")[2]
    try:
        data = b64decode(_BLANKS.sub("", content), validate=True)
    except ValueError:
        raise HTTPException(400, "the Content of an attachment is not base64") from None
    return Attached(
        data,
        fields.get("Filename", str, ""),
        fields.get("ContentType", str, ""),
        fields.get("ContentID", str, ""),
    )
