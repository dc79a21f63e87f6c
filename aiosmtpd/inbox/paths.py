"""The web root, clean paths, and answers in place of the application's.

The checks of the wall ask :func:`path_of`: a path that is decoded, cleaned and below the root, so
that no spelling of it goes around them.
"""

from __future__ import annotations

from posixpath import normpath
from urllib.parse import quote

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from aiosmtpd.inbox.answers import text
from aiosmtpd.inbox.services import WebOptions

PROBES = frozenset({"/livez", "/readyz"})
"""Paths that need no password and may be asked for by any name."""


def path_of(scope: Scope) -> str:
    """Return the path of a request below the web root, ``""`` if it is outside."""
    return str(scope["inbox.path"])


def base_of(request: HTTPConnection) -> str:
    """Return the web root as the browser sees it, with a slash at its end."""
    return f"{request.scope.get('inbox.prefix', '')}{request.scope.get('root_path', '')}/"


async def refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    """Send an answer in place of the application's, also to a WebSocket that is not open yet."""
    if scope["type"] != "websocket":
        await answer(scope, receive, send)
        return
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    start = {"status": answer.status_code, "headers": answer.raw_headers}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": bytes(answer.body)})


class Root:
    """Finds the path below the web root. It is around all other parts."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._root = options.root.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Another application may have this one under a path of its own.
        outer, path = str(scope.get("root_path", "")), str(scope["path"])
        if outer and (path == outer or path.startswith(outer + "/")):
            path = path[len(outer) :]
        clean = cleaned(path)
        inside = not self._root or clean.startswith(self._root + "/")
        scope = {
            **scope,
            "root_path": outer + self._root,
            "path": outer + path,
            "inbox.path": clean[len(self._root) :] if inside else "",
            "inbox.clean": outer + clean,
        }
        await self._app(scope, receive, send)


class Redirects:
    """Sends clients to the clean path, and refuses paths outside of the web root."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clean = str(scope["inbox.clean"])
        if path_of(scope):
            if clean == scope["path"]:
                await self._app(scope, receive, send)
            else:
                await refuse(scope, receive, send, _redirect(scope, clean, 307))
        elif clean == scope["root_path"]:
            await refuse(scope, receive, send, _redirect(scope, clean + "/", 302))
        else:
            await refuse(scope, receive, send, text("File not found", 404))


def _redirect(scope: Scope, path: str, status: int) -> Response:
    query = bytes(scope.get("query_string", b"")).decode("latin-1")
    place = str(scope.get("inbox.prefix", "")) + quote(path, safe="/@:+,;=!$&'()*~")
    return RedirectResponse(f"{place}?{query}" if query else place, status)


def cleaned(path: str) -> str:
    """Return a path without repeated slashes and dot segments."""
    if "//" not in path and "/." not in path:
        return path or "/"
    clean = normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith(("/", "/.", "/..")) and clean != "/" else clean
