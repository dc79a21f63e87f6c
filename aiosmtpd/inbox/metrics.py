"""``/metrics``: the numbers of the inbox for Prometheus, by the names that Mailpit has for them."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox.answers import json_answer
from aiosmtpd.inbox.information import memory
from aiosmtpd.inbox.services import Services

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def routes(services: Services) -> list[BaseRoute]:
    """Return the route; it is unknown unless the options allow it."""
    began = monotonic()

    async def metrics(request: Request) -> Response:
        """Return the numbers as they are now."""
        if not services.options.metrics:
            raise HTTPException(404)
        lines = lambda: "\n".join(_lines(services, began))  # noqa: E731
        return await json_answer(request, lines, MEDIA_TYPE)

    return [Route("/metrics", metrics)]


def _lines(services: Services, began: float) -> Iterator[str]:
    store = services.store
    # The tags wait for messages that have just arrived, which the counts have already.
    tags, counts = store.tags(), store.counts()
    yield from _gauge("database_size_bytes", "Bytes of the database.", store.database_size())
    yield from _gauge("memory_usage_bytes", "Bytes of memory of the process.", memory())
    yield from _gauge("messages", "Messages in the inbox.", counts.total)
    yield from _gauge("messages_unread", "Unread messages in the inbox.", counts.unread)
    yield from _gauge("uptime_seconds", "Seconds since the start.", int(monotonic() - began))
    yield from _head("tag_messages", "gauge", "Messages with a tag.")
    for tag, count in tags.items():
        name = tag.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        yield f'mailpit_tag_messages{{tag="{name}"}} {count}'
    for name, help, number in (
        ("messages_deleted_total", "Messages deleted.", counts.deleted),
        ("smtp_accepted_total", "Messages accepted.", counts.accepted),
        ("smtp_accepted_size_bytes_total", "Bytes of accepted messages.", counts.accepted_size),
        ("smtp_rejected_total", "Attempts refused.", counts.rejected),
        ("smtp_ignored_total", "Messages left out as duplicates.", counts.ignored),
    ):
        yield from _head(name, "counter", help)
        yield f"mailpit_{name} {number}"


def _gauge(name: str, help: str, number: int) -> Iterator[str]:
    yield from _head(name, "gauge", help)
    yield f"mailpit_{name} {number}"


def _head(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP mailpit_{name} {help}"
    yield f"# TYPE mailpit_{name} {kind}"
