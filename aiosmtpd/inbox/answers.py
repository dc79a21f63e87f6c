"""Read requests and write answers as the clients of Mailpit expect them."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

T = TypeVar("T")

SMALLEST_ZIPPED = 1000
LARGEST_ZIPPED = 1 << 20
"""Bytes of answers that are worth compressing; above, the time is not."""

LARGEST_AT_ONCE = 1 << 18
"""Bytes of an answer that are given to the connection at once."""

PARSED_AT_ONCE = 1 << 16
"""Bytes of JSON that are parsed in the event loop: more would delay other clients."""

UNKNOWN = "404 page not found"
NOT_FOUND = "Message not found"

_HALF = re.compile(r"[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def text(body: str, status: int = 200) -> Response:
    """Return an answer of plain text."""
    return Response(body, status, {"content-type": "text/plain"})


def ok() -> Response:
    """Return the answer of a change."""
    return text("ok")


def wants_gzip(headers: Mapping[str, str]) -> bool:
    """Return True if a client accepts compressed answers."""
    for one in headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() in ("gzip", "*") and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return True
    return False


async def json_answer(
    request: Request, make: Callable[[], str | Iterator[str]], media_type: str = "application/json"
) -> Response:
    """Return the text that *make* returns in a thread, compressed if the client accepts it.

    It may also be pieces of a text: a large one is never joined, because others wait for that.
    """
    body, zipped = await asyncio.to_thread(_encoded, make, wants_gzip(request.headers))
    headers = {
        "content-type": media_type,
        "vary": "Accept-Encoding",
        "cross-origin-resource-policy": "same-origin",
    }
    if zipped:
        headers["content-encoding"] = "gzip"
    return octets_answer(body, headers)


def encoded(text: str) -> list[bytes]:
    """Return a text as UTF-8, in pieces: one call for all of it would stop other threads."""
    return [
        text[at : at + LARGEST_AT_ONCE].encode("utf-8", "replace")
        for at in range(0, len(text), LARGEST_AT_ONCE)
    ]


def octets_answer(body: bytes | list[bytes], headers: dict[str, str]) -> Response:
    """Return an answer that is sent in pieces if it is large, so that others wait less."""
    made = [body] if isinstance(body, bytes) else body
    size = sum(map(len, made))
    if size <= LARGEST_AT_ONCE:
        return Response(b"".join(made), headers=headers)

    async def pieces() -> AsyncIterator[memoryview]:
        for piece in made:
            view = memoryview(piece)
            for at in range(0, len(piece), LARGEST_AT_ONCE):
                yield view[at : at + LARGEST_AT_ONCE]

    return StreamingResponse(pieces(), headers={**headers, "content-length": str(size)})


def _encoded(make: Callable[[], str | Iterator[str]], zip: bool) -> tuple[list[bytes], bool]:
    made = make()
    pieces = [made] if isinstance(made, str) else made
    body = [*(piece.encode("utf-8", "replace") for piece in pieces), b"\n"]
    if zip and SMALLEST_ZIPPED <= sum(map(len, body)) <= LARGEST_ZIPPED:
        return [gzip.compress(b"".join(body), 1, mtime=0)], True
    return body, False


def json_stream(pieces: Iterator[str]) -> Response:
    """Return JSON that is made while it is sent; each piece is made in a thread."""
    headers = {
        "content-type": "application/json",
        "cross-origin-resource-policy": "same-origin",
    }
    return StreamingResponse((piece.encode("utf-8", "replace") for piece in pieces), 200, headers)


async def json_of(body: bytes) -> Any:
    """Return the first JSON value of a body, whatever its type says; HTTPException 400 if none."""
    if len(body) > PARSED_AT_ONCE:
        return await asyncio.to_thread(_json_of, body)
    return _json_of(body)


def _json_of(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig").strip()
        value = json.JSONDecoder().raw_decode(text)[0]
        return _whole(value) if _ESCAPED_HALF.search(text) else value
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None


def _whole(value: Any) -> Any:
    """Return a value with U+FFFD in place of lone surrogates, which no message can have.

    JavaScript makes them when it cuts a text in the middle of an emoji.
    """
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(one) for name, one in value.items()}
    return value


class Fields:
    """An object of a JSON body; the case of its keys does not matter, and null is as missing."""

    def __init__(self, value: Any, place: str = "") -> None:
        if not isinstance(value, dict):
            raise HTTPException(400, f"{place or 'the body'} is not a JSON object")
        self._values = {key.lower(): one for key, one in value.items() if one is not None}
        self._place = place

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def get(self, name: str, kind: type[T], default: T) -> T:
        """Return a value; HTTPException 400 if it has another type."""
        value = self._values.get(name.lower(), default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise HTTPException(400, f"{self._named(name)} has a wrong type")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, ``[]`` if it is missing."""
        values = self.get(name, list, [])
        if not all(isinstance(one, str) for one in values):
            raise HTTPException(400, f"{self._named(name)} is not a list of texts")
        return values

    def objects(self, name: str) -> list[Fields]:
        """Return a list of objects, ``[]`` if it is missing."""
        values = self.get(name, list, [])
        return [Fields(one, f"{self._named(name)}[{n}]") for n, one in enumerate(values)]

    def pairs(self, name: str) -> dict[str, str]:
        """Return an object whose values are texts."""
        values = self.get(name, dict, {})
        if not all(isinstance(one, str) for one in values.values()):
            raise HTTPException(400, f"{self._named(name)} has a value that is not a text")
        return values

    def _named(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name


def number_of(request: Request, name: str, default: int) -> int:
    """Return a number of the query that is at least 0, else the default."""
    try:
        number = int(request.query_params.get(name, "")[:20])
    except ValueError:
        return default
    return number if 0 <= number < 1 << 62 else default


def zone_of(request: Request) -> tzinfo | None:
    """Return the zone that ``tz`` names, None if it does not name one."""
    name = request.query_params.get("tz", "")
    try:
        return ZoneInfo(name) if 0 < len(name) < 100 else None
    except (ValueError, LookupError, OSError):
        return None


def done(future: Future[T]) -> Awaitable[T]:
    """Return an awaitable for a change of the store; it ends after the commit."""
    return asyncio.wrap_future(future)
