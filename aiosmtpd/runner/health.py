"""``/metrics``, ``/healthz`` and ``/readyz``: a small HTTP server of the desk.

It reads one request of each connection, and nothing of its body. It changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from aiosmtpd.runner.door import PATIENCE, Door

REQUEST = 8192
"""Bytes of a request, at most."""

CLIENTS = 64
"""Clients at the same time, at most."""

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

log = logging.getLogger("mail.log")


class Answer(NamedTuple):
    """An answer, as text."""

    status: int
    text: str
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[str], Awaitable[Answer]]
"""Gets the query, without its question mark."""


class Health(Door):
    """Serves *pages* by their paths to GET and HEAD."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        super().__init__(CLIENTS, REQUEST)
        self._pages = pages

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See Door."""
        method, answer = "", Answer(400, "Bad request\n")
        async with asyncio.timeout(PATIENCE):
            # Raised by a request that is too long, or that ends too soon.
            with suppress(asyncio.LimitOverrunError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                method, answer = await self._found(head)
        body = answer.text.encode()
        lines = [
            f"HTTP/1.1 {answer.status} {REASONS[answer.status]}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *(["Allow: GET, HEAD"] if answer.status == 405 else []),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        if method != "HEAD":
            writer.write(body)

    async def _found(self, head: bytes) -> tuple[str, Answer]:
        line = head.partition(b"\r\n")[0].decode("latin-1")
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", Answer(400, "Bad request\n")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return method, Answer(405, "Only GET and HEAD\n")
        path, _, query = target.partition("?")
        page = self._pages.get(path)
        if page is None:
            return method, Answer(404, f"One of {' '.join(sorted(self._pages))}\n")
        try:
            return method, await page(query)
        except Exception:
            log.exception("The page %s has failed", path)
            return method, Answer(500, "Internal error\n")
