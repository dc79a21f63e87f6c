"""The limits on the body of a request."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiosmtpd.inbox.paths import path_of
from aiosmtpd.inbox.services import WebOptions

SECONDS_FOR_A_PIECE = 30
"""Seconds in which the next piece of a body must come."""

DRAINED = 64 << 20
SECONDS_TO_DRAIN = 10
"""Bytes and seconds of a body over the limit that are read, so that the client gets the answer."""

CLOSE = {"connection": "close"}
"""Else the server would go on reading the body, and drop it."""


class TooLarge(HTTPException):
    """The body of a request is larger than the limit."""

    def __init__(self) -> None:
        super().__init__(413, "the body is too large", CLOSE)


class BodyLimit:
    """Ends requests whose body is too large or too slow, while it is read."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_send = path_of(scope) == "/api/v1/send"
        limit = self._options.max_size if is_send else self._options.max_body
        length = Headers(scope=scope).get("content-length", "")[:20]
        is_over = bool(limit) and length.isdecimal() and int(length) > limit
        await self._app(scope, _Body(receive, limit, is_over=is_over).receive, send)


class _Body:
    def __init__(self, receive: Receive, limit: int, *, is_over: bool) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._is_over = is_over
        self._has_ended = False

    async def receive(self) -> Message:
        """Return the next message; raises TooLarge, or HTTPException 408."""
        if self._has_ended:
            return await self._receive()
        message: Message = {}
        if not self._is_over:
            message = await self._next()
            self._is_over = bool(self._limit) and self._size > self._limit
        if self._is_over:
            await self._drain()
            raise TooLarge
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(SECONDS_FOR_A_PIECE):
                message = await self._receive()
        except TimeoutError:
            self._has_ended = True
            raise HTTPException(408, "the body did not come in time", CLOSE) from None
        self._size += len(message.get("body", b""))
        self._has_ended = not message.get("more_body", False)
        return message

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(SECONDS_TO_DRAIN):
                while not self._has_ended and self._size < DRAINED:
                    await self._next()
        except (TimeoutError, HTTPException):
            pass
        self._has_ended = True
