"""The routes of Mailpit's API for one message: decoded, its header, its source."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox import wire
from aiosmtpd.inbox.answers import NOT_FOUND, UNKNOWN, done, json_answer, zone_of
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import StoredMail, StoreError

CLOSED = "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
"""The Content-Security-Policy of bytes that a sender made."""


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes for one message."""
    reader = Reader(services)
    return [
        Route("/api/v1/message/{id}", reader.message),
        Route("/api/v1/message/{id}/headers", reader.headers),
        Route("/api/v1/message/{id}/raw", reader.raw),
    ]


class Finder:
    """Finds the message that a request names by its id or as ``latest``."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._services = services

    def _turn(self, mail: StoredMail) -> AbstractAsyncContextManager[None]:
        return self._services.turn(mail.size)

    async def find(self, request: Request, *, unknown_latest: str = NOT_FOUND) -> StoredMail:
        """Return the message; HTTPException 404 if there is no such message."""
        id = request.path_params["id"]
        if id != "latest":
            return await self.with_id(id)
        newest = await asyncio.to_thread(
            self._store.newest, request.query_params.get("query", ""), zone=zone_of(request)
        )
        if newest is None:
            raise HTTPException(404, unknown_latest)
        return await self.with_id(newest)

    async def with_id(self, id: str) -> StoredMail:
        """Return the message with an id; HTTPException 404 if there is no such message."""
        mail = await asyncio.to_thread(self._store.message, id)
        if mail is None:
            raise HTTPException(404, UNKNOWN)
        return mail

    async def mark_read(self, mail: StoredMail) -> None:
        """Mark a message as read; if the store cannot do that, it is shown all the same."""
        if not mail.read:
            with suppress(StoreError):
                await done(self._store.set_read([mail.id], True))


class Reader(Finder):
    """Answers requests about one message."""

    async def message(self, request: Request) -> Response:
        """Return the decoded message, and mark it as read."""
        mail = await self.find(request)
        async with self._turn(mail):
            answer = await json_answer(request, mail.json_pieces)
        await self.mark_read(mail)
        return answer

    async def headers(self, request: Request) -> Response:
        """Return the header fields by their names."""
        mail = await self.find(request)
        return await json_answer(request, lambda: wire.dump(mail.headers()))

    async def raw(self, request: Request) -> Response:
        """Return the source."""
        mail = await self.find(request)
        headers = {
            "content-type": "text/plain; charset=utf-8",
            "content-length": str(mail.size),
            "content-security-policy": CLOSED,
        }
        if request.query_params.get("dl") == "1":
            headers["content-disposition"] = f'attachment; filename="{mail.id}.eml"'
        # A large message is a file, which may have been deleted meanwhile.
        pieces = await asyncio.to_thread(mail.raw_pieces)
        return StreamingResponse(pieces, 200, headers)
