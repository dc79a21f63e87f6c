"""``/metrics``, ``/healthz`` and ``/readyz``: a small HTTP server in the master's event loop.

It reads one request of each connection, and nothing of its body. It changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

REQUEST = 8192
"""Bytes of a request, at most."""

PATIENCE = 5.0
"""Seconds that a client has for its request, and to take the answer."""

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


Page = Callable[[str], Answer]
"""Gets the query, without its question mark."""


class Health:
    """Serves *pages* by their paths to GET and HEAD."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._server: asyncio.AbstractServer | None = None
        self._clients = 0

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; return the address. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST)
        found: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return found

    async def stop(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            # A client that goes or says nothing is not worth a line in the log.
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    if self._clients <= CLIENTS:
                        await self._answer(reader, writer)
        finally:
            self._clients -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, answer = "", Answer(400, "Bad request\n")
        # Raised by a request that is too long, or that ends too soon.
        with suppress(asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, answer = self._found(head)
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
        await writer.drain()

    def _found(self, head: bytes) -> tuple[str, Answer]:
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
            return method, page(query)
        except Exception:
            log.exception("The page %s has failed", path)
            return method, Answer(500, "Internal error\n")
