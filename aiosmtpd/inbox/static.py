"""The files of the page, read once, with an ETag and compressed once."""

from __future__ import annotations

import gzip
import mimetypes
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox.answers import SMALLEST_ZIPPED, wants_gzip
from aiosmtpd.inbox.paths import base_of
from aiosmtpd.inbox.services import Services

BASE = '<base href="/">'
"""The text in ``index.html`` in which the web root is put."""

FILES = "/{name:path}"
"""The path of all that no other route has."""

_TYPES = {".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


class File(NamedTuple):
    """A file of the page."""

    type: str
    content: bytes
    zipped: bytes | None
    tag: str


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes of the page, which are asked after all others."""
    page = Page()
    return [
        Route("/", page.index),
        Route("/view/{id}", page.index),
        Route("/search", page.index),
        Route(FILES, page.file),
    ]


class Page:
    """Answers with the files of the page."""

    def __init__(self) -> None:
        self._files = _files()
        self._indexes: dict[str, File] = {}

    async def index(self, request: Request) -> Response:
        """Return the page; it shows what its address names."""
        base = base_of(request)
        if (found := self._indexes.get(base)) is None:
            html = self._files["index.html"].content.decode()
            html = html.replace(BASE, f'<base href="{escape(base)}">', 1)
            found = made_of("index.html", html.encode())
            if len(self._indexes) < 10:
                self._indexes[base] = found
        return _answer(request, found)

    async def file(self, request: Request) -> Response:
        """Return a file of the page."""
        name = request.path_params["name"]
        found = self._files.get(name)
        if found is None or name == "index.html":
            raise HTTPException(404)
        return _answer(request, found)


@cache
def _files() -> dict[str, File]:
    """Return the files of the page by their names."""
    return {
        file.name: made_of(file.name, file.read_bytes())
        for file in (files("aiosmtpd.inbox") / "page").iterdir()
        if file.is_file() and not file.name.startswith((".", "_"))
    }


def made_of(name: str, content: bytes) -> File:
    """Return a file with its type, its tag and its compressed form."""
    suffix = name[name.rfind(".") :]
    type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    if type in ("text/html", "text/css"):
        type += "; charset=utf-8"
    zipped = gzip.compress(content, 9, mtime=0) if len(content) >= SMALLEST_ZIPPED else b""
    is_smaller = 0 < len(zipped) < len(content)
    tag = sha256(content).hexdigest()[:20]
    return File(type, content, zipped if is_smaller else None, tag)


def _answer(request: Request, file: File) -> Response:
    zipped = file.zipped if wants_gzip(request.headers) else None
    tag = f'"{file.tag}-gzip"' if zipped else f'"{file.tag}"'
    headers = {"etag": tag, "cache-control": "no-cache", "vary": "Accept-Encoding"}
    known = [
        one.strip().removeprefix("W/")
        for one in request.headers.get("if-none-match", "").split(",")
    ]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    headers["content-type"] = file.type
    if zipped:
        headers["content-encoding"] = "gzip"
    return Response(zipped or file.content, headers=headers)
