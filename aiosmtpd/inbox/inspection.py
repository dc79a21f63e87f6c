"""The routes of Mailpit's API that check a message, and the one that sends it on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox import compatibility, people, wire
from aiosmtpd.inbox.answers import UNKNOWN, Fields, json_answer, json_of, ok
from aiosmtpd.inbox.linkcheck import LinkChecker, Result
from aiosmtpd.inbox.message import Finder
from aiosmtpd.inbox.records import NotSent
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import StoredMail
from aiosmtpd.mail import links
from aiosmtpd.mail.html_tokens import Tokens, attributes_of
from aiosmtpd.protocol import paths

MOST_LINKS = 100

MOST_RECIPIENTS = 100
"""Addresses to which a message is released at once."""

LAST_SECONDS = 0.2
"""Seconds that the relay has when the inbox stops."""

NOT_CHECKED = "not checked"
"""The status of a link if the server sends no requests."""

_WANTED = frozenset({"href", "src", "rel"})
_READ = 1 << 20
"""Characters of HTML and text that are searched for links."""


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes; ``sa-check`` does not exist without SpamAssassin."""
    inspector = Inspector(services)
    return [
        Route("/api/v1/message/{id}/html-check", inspector.html),
        Route("/api/v1/message/{id}/link-check", inspector.links),
        Route("/api/v1/message/{id}/release", inspector.release, methods=["POST"]),
    ]


class Inspector(Finder):
    """Answers requests about what is in a message.

    It connects to other servers only if the options allow the check of links or have a relay.
    """

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._checker = LinkChecker() if services.options.link_check else None
        self._relay = services.relay

    async def html(self, request: Request) -> Response:
        """Return which mail programs show the HTML as it is meant."""
        mail = await self.find(request, unknown_latest=UNKNOWN)
        try:
            async with self._turn(mail):
                result = await asyncio.to_thread(_html_check, mail)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        return await json_answer(request, lambda: wire.dump(result))

    async def links(self, request: Request) -> Response:
        """Return the links of a message; ``follow`` is for redirects."""
        mail = await self.find(request, unknown_latest=UNKNOWN)
        async with self._turn(mail):
            found = await asyncio.to_thread(links_of, mail)
        await self.mark_read(mail)
        results, errors = [Result(0, NOT_CHECKED)] * len(found), 0
        if self._checker is not None:
            follow = request.query_params.get("follow") in ("true", "1")
            results = await self._checker.check(found, follow=follow)
            errors = sum(1 for one in results if not 0 < one.code < 400)
        rows = [
            {"URL": link, "StatusCode": code, "Status": status}
            for link, (code, status) in zip(found, results, strict=True)
        ]
        return await json_answer(request, lambda: wire.dump({"Errors": errors, "Links": rows}))

    async def release(self, request: Request) -> Response:
        """Send a message on to the addresses in the body, if all of them are allowed."""
        mail = await self.find(request, unknown_latest=UNKNOWN)
        recipients = _recipients(Fields(await json_of(await request.body())).texts("To"))
        relay = self._relay
        if relay is None:
            raise HTTPException(400, "no relay is configured: messages are not sent on")
        if refused := [one for one in recipients if not relay.allows(one)]:
            raise HTTPException(400, f"the relay is not for {', '.join(refused)[:1000]}")
        try:
            await self._until_stopping(relay.send(mail, recipients))
        except NotSent as error:
            raise HTTPException(400, str(error)) from None
        return ok()

    async def _until_stopping(self, sending: Coroutine[Any, Any, None]) -> None:
        """Wait for the relay, but not when the inbox stops: HTTPException 503."""
        task = asyncio.create_task(sending)
        stopping = asyncio.create_task(self._services.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=LAST_SECONDS)
            if not task.done():
                raise HTTPException(503, "the inbox is stopping, and the relay has not replied")
            task.result()
        finally:
            task.cancel()
            stopping.cancel()


def _recipients(texts: list[str]) -> list[str]:
    """Return the addresses in texts, each once; HTTPException 400 if one is not an address."""
    if not texts:
        raise HTTPException(400, "no recipients: To is empty")
    if len(texts) > MOST_RECIPIENTS:
        raise HTTPException(400, f"more than {MOST_RECIPIENTS} recipients")
    found = []
    for one in texts:
        read = [_mailbox(person.address) for person in people.read(one)]
        if len(read) != 1 or not read[0]:
            raise HTTPException(400, f"{one!r:.100} is not an address")
        found.append(read[0])
    return list(dict.fromkeys(found))


def _mailbox(address: str) -> str:
    """Return an address as it is sent, ``""`` if a server could read another one in it."""
    try:
        parsed, rest = paths.parse(f"<{address}>")
    except ValueError:
        return ""
    return parsed if parsed.isprintable() and not rest else ""


def _html_check(mail: StoredMail) -> dict[str, Any]:
    if not mail.html:
        raise ValueError("the message has no HTML")
    return compatibility.check(mail.html)


def links_of(mail: StoredMail) -> list[str]:
    """Return the web addresses of a message, each once: of links, images, style sheets, text."""
    anchors, sheets, images = [], [], []
    for token in Tokens(mail.html[:_READ]):
        if isinstance(token, str) or token.closes or token.name not in ("a", "link", "img"):
            continue
        attributes = attributes_of(token.source, _WANTED)
        if token.name == "a":
            anchors.append(attributes.get("href", ""))
        elif token.name == "img":
            images.append(attributes.get("src", ""))
        elif "stylesheet" in attributes.get("rel", "").lower().split():
            sheets.append(attributes.get("href", ""))
    found = [one for one in map(str.strip, anchors + sheets + images) if links.is_web_address(one)]
    found += links.find(mail.first_text(_READ))
    return list(dict.fromkeys(found))[:MOST_LINKS]
