"""The routes of Mailpit's API that list, search, mark and delete messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime, tzinfo
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox.answers import (
    Fields,
    done,
    json_answer,
    json_of,
    json_stream,
    number_of,
    ok,
    zone_of,
)
from aiosmtpd.inbox.records import Summary
from aiosmtpd.inbox.search import parse, parse_date
from aiosmtpd.inbox.services import Services

PAGE = 50
"""Messages of a page if the request does not say how many."""

LARGEST_PAGE = 1000
"""Messages that are read at once: more are sent while they are read."""

MOST_FIELDS = 100_000
"""Fields of a form that are read."""

_EVERYTHING = 1 << 62


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes for many messages at a time."""
    lists = Lists(services)
    return [
        Route("/api/v1/messages", lists.messages, methods=["GET"]),
        Route("/api/v1/messages", lists.mark, methods=["PUT"]),
        Route("/api/v1/messages", lists.delete, methods=["DELETE"]),
        Route("/api/v1/search", lists.search, methods=["GET"]),
        Route("/api/v1/search", lists.delete_found, methods=["DELETE"]),
    ]


class Lists:
    """Answers requests about many messages."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._options = services.options

    async def messages(self, request: Request) -> Response:
        """List all messages; ``limit=0`` lists all on one page."""
        before, limit = _before(request), number_of(request, "limit", PAGE)
        start = number_of(request, "start", 0)
        if limit == 0 and before is None:
            return json_stream(self._store.stream())
        if limit == 0:
            start, limit = 0, _EVERYTHING
        page = partial(self._store.summary, before=before)
        return await self._page(request, page, start, limit)

    async def search(self, request: Request) -> Response:
        """List the messages that match a query; ``limit=0`` gives only their number."""
        limit = number_of(request, "limit", PAGE)
        query, before = query_of(request), _before(request)
        page = partial(self._store.search, query, before=before, zone=zone_of(request))
        return await self._page(request, page, number_of(request, "start", 0), limit)

    async def _page(
        self, request: Request, page: partial[Summary], start: int, limit: int
    ) -> Response:
        if limit > LARGEST_PAGE:
            return json_stream(streamed(page, start, limit))
        return await json_answer(request, lambda: page(start=start, limit=limit).json())

    async def mark(self, request: Request) -> Response:
        """Mark messages as read or unread: those with ids, those that match, or all."""
        body = Fields(await json_of(await request.body()))
        read, ids = body.get("Read", bool, False), body.texts("IDs")
        query = body.get("Search", str, "")
        if ids and query:
            raise HTTPException(400, "give IDs or Search, not both")
        if query.strip():
            ids = await self._found(query, zone_of(request))
        elif not ids:
            await done(self._store.set_read(None, read))
            return ok()
        await done(self._store.set_read(ids, read))
        return ok()

    async def delete(self, request: Request) -> Response:
        """Delete messages with these ids; all, if the body is empty or has no ids."""
        body = await request.body()
        ids = await _ids_of(body) if body.strip() else []
        if not ids and not self._options.delete_all:
            raise HTTPException(403, "deleting all messages at once is switched off here")
        await done(self._store.delete(ids or None))
        return ok()

    async def delete_found(self, request: Request) -> Response:
        """Delete the messages that match a query."""
        query = query_of(request)
        if parse(query).is_empty:
            raise HTTPException(400, "this query has no condition: it would delete all messages")
        ids = await self._found(query, zone_of(request))
        await done(self._store.delete(ids))
        return ok()

    async def _found(self, query: str, zone: tzinfo | None) -> list[str]:
        return await asyncio.to_thread(self._store.find, query, zone=zone)


def query_of(request: Request) -> str:
    """Return the query of a request; HTTPException 400 if it is blank."""
    query = request.query_params.get("query", "")
    if not query.strip():
        raise HTTPException(400, "no search query")
    return query


def _before(request: Request) -> datetime | None:
    return parse_date(request.query_params.get("before", "")[:100])


async def _ids_of(body: bytes) -> list[str]:
    """Return the ids in a body; HTTPException 400 unless it is JSON or a form with ids."""
    try:
        value: Any = await json_of(body)
    except HTTPException:
        # mailpit-api-client sends a form.
        if body.startswith(b"ids=") and (ids := _form_of(body).get("ids")):
            return ids
        raise
    return Fields(value).texts("IDs")


def _form_of(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise HTTPException(400, f"the form has more than {MOST_FIELDS} fields") from None


def streamed(page: partial[Summary], start: int, limit: int) -> Iterator[str]:
    """Yield the JSON of a long page in pieces."""
    first = page(start=start, limit=min(limit, LARGEST_PAGE))
    # The number of the rows comes after them: it is not known before.
    head = first.json().replace(f'"count":{len(first.rows)},', "", 1)
    yield head.removesuffix("]}")
    rows, count, last = first.rows, len(first.rows), set[str]()
    while len(rows) == LARGEST_PAGE and count < limit:
        last.add(json.loads(rows[-1])["ID"])
        rows = page(below=json.loads(rows[-1])["ID"], limit=min(limit - count, LARGEST_PAGE)).rows
        if rows and json.loads(rows[-1])["ID"] in last:
            # The last row was deleted meanwhile: its place in the list is not known.
            break
        count += len(rows)
        yield "".join(f",{row}" for row in rows)
    yield f'],"count":{count}}}\n'
