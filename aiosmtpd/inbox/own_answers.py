"""Answers of our own API: JSON texts, and errors with a hint."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from aiosmtpd.inbox import wire


class Wrong(HTTPException):
    """The request cannot be answered; the text says why, *hint* what to do."""

    def __init__(self, status: int, error: str, hint: str = "") -> None:
        super().__init__(status, error)
        self.hint = hint


def as_json(value: Any, status: int = 200) -> Response:
    """Return a value, or a text that is JSON already, as an answer."""
    text = value if isinstance(value, str) else wire.dump(value)
    return Response(f"{text}\n", status, media_type="application/json")


async def refusal(request: Request, error: Exception) -> Response:
    """Return the answer to a request that raised :exc:`Wrong`."""
    if not isinstance(error, Wrong):
        raise error
    found = {"error": error.detail}
    return as_json({**found, "hint": error.hint} if error.hint else found, error.status_code)


def number(request: Request, name: str, default: int, most: int) -> int:
    """Return a number of the query from 0 to *most*; raises Wrong."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise Wrong(400, f"{name} is to be a number from 0 on, not {text!r:.40}")
    return min(int(text), most)


def seconds(request: Request, name: str, default: float, most: float) -> float:
    """Return a number of seconds of the query from 0 to *most*; raises Wrong."""
    text = request.query_params.get(name)
    try:
        found = default if text is None else float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= most:
        raise Wrong(
            400, f"{name} is to be a number of seconds from 0 to {most:g}, not {text!r:.40}"
        )
    return found


def only(request: Request, *names: str) -> None:
    """Refuse other parameters than these; raises Wrong."""
    for name in request.query_params:
        if name not in names:
            raise Wrong(400, f"unknown parameter {name!r:.40}", f"there are {', '.join(names)}")
