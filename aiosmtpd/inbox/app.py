"""The web application of the inbox: routes, and the wall around them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from public import public
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aiosmtpd.inbox import (
    attachments,
    chaos,
    events,
    information,
    inspection,
    message,
    messages,
    metrics,
    openapi,
    own,
    send,
    static,
    tags,
    view,
)
from aiosmtpd.inbox.answers import text
from aiosmtpd.inbox.auth import Auth
from aiosmtpd.inbox.bodies import BodyLimit
from aiosmtpd.inbox.paths import Redirects, Root
from aiosmtpd.inbox.records import TooManyConditions
from aiosmtpd.inbox.services import Services, WebOptions
from aiosmtpd.inbox.store import Store, StoreError
from aiosmtpd.inbox.wall import HostCheck, OriginCheck, Proxies, SafeHeaders
from aiosmtpd.inbox.wire import dump

SECONDS_TO_BE_READY = 5

_MODULES = (
    *(messages, message, attachments, inspection, view, send),
    *(tags, chaos, information, metrics, openapi, events),
)
"""Modules with routes that clients of Mailpit know."""

_PARTS = (Root, SafeHeaders, Proxies, HostCheck, OriginCheck, Auth, Redirects, BodyLimit)
"""The parts of the wall, the first outermost."""


class Wall:
    """All checks around the routes."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._inside = self._outside = app
        for part in reversed(_PARTS):
            self._outside = part(self._outside, options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_request = scope["type"] in ("http", "websocket")
        await (self._outside if is_request else self._inside)(scope, receive, send)


@public
def make_app(services: Services, more: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application; *more* are routes that are asked after those of both APIs."""
    routes = [
        *(route for module in _MODULES for route in module.routes(services)),
        *own.routes(services),
        *more,
        *_probes(services),
        *static.routes(services),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Wall, options=services.options)],
        exception_handlers={
            HTTPException: _refused,
            ClientDisconnect: _gone,
            TooManyConditions: _too_many_conditions,
            StoreError: _store_failed,
        },
    )
    app.router.redirect_slashes = False
    return app


@public
def inbox_app(store: Store, options: WebOptions | None = None) -> Starlette:
    """Return the page and the API of a store, for any ASGI server or framework."""
    return make_app(Services(store, options or WebOptions()))


def _probes(services: Services) -> list[BaseRoute]:
    async def live(request: Request) -> Response:
        return Response()

    async def ready(request: Request) -> Response:
        """Answer 200 if the database can be read."""
        try:
            async with asyncio.timeout(SECONDS_TO_BE_READY):
                await asyncio.to_thread(services.store.summary, limit=1)
        except (TimeoutError, StoreError):
            return Response(status_code=503)
        return Response()

    return [Route("/livez", live), Route("/readyz", ready)]


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if error.status_code in (404, 405):
        # A GET of a path without one is asked for as a file of the page, which does not exist.
        methods = _methods_of(request)
        if not methods:
            return refusal(request, 404, error.detail if error.status_code == 404 else "Not Found")
        if request.method not in methods:
            allowed = {**headers, "Allow": ", ".join(methods)}
            return refusal(request, 405, "Method Not Allowed", allowed)
    return refusal(request, error.status_code, error.detail, headers)


def _methods_of(request: Request) -> list[str]:
    """Return the methods of a path, which may have several routes, but no file of the page."""
    path = str(request.scope["inbox.path"])
    return sorted(
        {
            method
            for route in request.app.routes
            if isinstance(route, Route) and route.path != static.FILES
            if route.path_regex.match(path)
            for method in route.methods or ()
        }
    )


async def _gone(request: Request, error: Exception) -> Response:
    # It went while it sent its body: no client reads this answer.
    return refusal(request, 400, "the body has no end")


async def _too_many_conditions(request: Request, error: Exception) -> Response:
    return refusal(request, 400, str(error))


async def _store_failed(request: Request, error: Exception) -> Response:
    return refusal(request, 503, str(error))


def refusal(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error as the API under this path spells errors."""
    path = str(request.scope["inbox.path"])
    if path == "/api/v1/send" and status != 405:
        answer = Response(dump({"Error": detail}) + "\n", status, media_type="application/json")
    elif path.startswith("/api/") and not path.startswith("/api/v1/"):
        body = dump({"error": detail, "hint": ""}) + "\n"
        answer = Response(body, status, media_type="application/json")
    else:
        answer = text(
            "File not found" if (status, detail) == (404, "Not Found") else detail, status
        )
    answer.headers.update(headers or {})
    return answer
