"""``/api/events``: changes as they happen, by WebSocket as Mailpit sends them or as SSE."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from threading import Lock
from time import time
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from aiosmtpd._version import __version__
from aiosmtpd.inbox.answers import text
from aiosmtpd.inbox.paths import refuse
from aiosmtpd.inbox.rows import extended
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Event, Store
from aiosmtpd.inbox.wire import dump

KEPT = 1000
"""Events that are kept for clients that come back."""

MOST_CLIENTS = 100
"""Clients of each kind at the same time."""

MOST_WAITING = 1000
"""Events that wait for a client. One that is later gets ``prune`` in their place: read anew."""

PAUSE = 0.25
"""Seconds after a change before its numbers are sent, together with those of later changes."""

KEEP_ALIVE = 15
"""Seconds without an event after which a client gets a sign of life."""

SECONDS_TO_READ = 30
"""Seconds in which a client must take a frame."""


class Numbered(NamedTuple):
    """An event as it is sent; *number* is 0 for numbers, which are not kept."""

    number: int
    kind: str
    data: str
    more: str = ""
    """Members of a row that only our own page gets."""


class Client:
    """One stream of events: what waits for it.

    Any thread may add events. Events that come together wake the event loop once.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._gate = Lock()
        self._waiting: deque[Numbered] = deque()
        self._came = asyncio.Event()
        self._is_called = self._is_marked = False

    def add(self, event: Numbered) -> None:
        """Put an event after the others."""
        with self._gate:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.clear()
                event = event._replace(kind="prune", data="null", more="")
            self._waiting.append(event)
            if not self._is_called:
                self._is_called = True
                self._call(self._wake)

    def _call(self, act: Callable[..., object], *values: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(act, *values)

    def _wake(self) -> None:
        self._is_called = False
        self._came.set()

    def stats_soon(self, hub: Hub) -> None:
        """Add the numbers of the store after a pause, once."""
        with self._gate:
            if not self._is_marked:
                self._is_marked = True
                self._call(self.loop.call_later, PAUSE, self._add_stats, hub)

    def _add_stats(self, hub: Hub) -> None:
        self._is_marked = False
        self.add(hub.stats())

    async def next(self, seconds: float) -> Numbered | None:
        """Return the next event, None if none came for so long."""
        if not self._waiting:
            try:
                async with asyncio.timeout(seconds):
                    # It may be woken for an event that was taken before.
                    while not self._waiting:
                        self._came.clear()
                        await self._came.wait()
            except TimeoutError:
                return None
        with self._gate:
            return self._waiting.popleft()

    def rest(self) -> list[Numbered]:
        """Return the events that came together with the last one."""
        with self._gate:
            found, self._waiting = self._waiting, deque()
        return [*found]


class Hub:
    """Passes the events of the store to the clients, and keeps the last ones."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gate = Lock()
        self._kept: deque[Numbered] = deque(maxlen=KEPT)
        # After a restart, the numbers are larger than all before.
        self._last = self._first = int(time() * 1000)
        self._clients: set[Client] = set()
        store.subscribe(self._happened)

    def stats(self) -> Numbered:
        """Return the numbers of the store as an event."""
        counts = self._store.counts()
        data = {"Total": counts.total, "Unread": counts.unread, "Version": f"v{__version__}"}
        return Numbered(0, "stats", dump(data))

    def enter(self, client: Client, last: int | None = None) -> None:
        """Send events to a client from now on; *last* is the number of the last that it has."""
        with self._gate:
            missed: list[Numbered] = []
            if last is not None:
                missed = [event for event in self._kept if event.number > last]
                oldest = self._kept[0].number if self._kept else self._last + 1
                if not self._first <= last <= self._last or last + 1 < oldest:
                    missed = [Numbered(self._last, "prune", "null")]
            for event in missed:
                client.add(event)
            self._clients.add(client)
        client.stats_soon(self)

    def leave(self, client: Client) -> None:
        """Send no more events to a client."""
        with self._gate:
            self._clients.discard(client)

    def _happened(self, event: Event) -> None:
        """Pass an event on; called in the writer's thread."""
        with self._gate:
            if event.kind == "stats":
                for client in self._clients:
                    client.stats_soon(self)
                return
            self._last += 1
            numbered = Numbered(self._last, event.kind, event.data, event.more)
            self._kept.append(numbered)
            for client in self._clients:
                client.add(numbered)


class Room:
    """Counts the clients of a kind."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *error: object) -> None:
        self.count -= 1


def routes(services: Services) -> list[BaseRoute]:
    """Return the two routes of the events, which have the same path."""
    hub = Hub(services.store)
    streams, sockets = Room(), Room()

    async def stream(request: Request) -> Response:
        """Send events as SSE; Last-Event-ID sends the missed ones first."""
        if streams.count >= MOST_CLIENTS or services.stopping.is_set():
            raise HTTPException(503, "too many clients, or the server stops")
        last = request.headers.get("last-event-id", request.query_params.get("last", ""))
        headers = {"content-type": "text/event-stream", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers)
        number = int(last[:20]) if last.isdecimal() and last.isascii() else None
        return _Stream(streams, _lines(services, hub, number, _is_own(request)), headers)

    async def connect(socket: WebSocket) -> None:
        if sockets.count >= MOST_CLIENTS or services.stopping.is_set():
            answer = text("too many clients, or the server stops", 503)
            await refuse(socket.scope, socket.receive, socket.send, answer)
            return
        with sockets:
            await socket.accept()
            await Frames(services, hub, socket, own=_is_own(socket)).run()

    return [Route("/api/events", stream), WebSocketRoute("/api/events", connect)]


def _is_own(connection: HTTPConnection) -> bool:
    """Return True if a client asks for the recipients of the envelope in new rows."""
    return connection.query_params.get("envelope") == "1"


class _Stream(StreamingResponse):
    """A stream that is in a room from its first moment: others may come in the same one."""

    def __init__(self, room: Room, lines: AsyncIterator[str], headers: dict[str, str]) -> None:
        super().__init__(lines, headers=headers)
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._room:
            await super().__call__(scope, receive, send)


async def _lines(services: Services, hub: Hub, last: int | None, own: bool) -> AsyncIterator[str]:
    client = Client()
    hub.enter(client, last)
    try:
        yield "retry: 2000\n\n"
        async for events in until_stopped(services, client, KEEP_ALIVE):
            yield "".join(_lines_of(event, own) for event in events) or ":\n\n"
    finally:
        hub.leave(client)


def _data_of(event: Numbered, own: bool) -> str:
    return extended(event.data, event.more) if own else event.data


def _lines_of(event: Numbered, own: bool) -> str:
    number = f"id: {event.number}\n" if event.number else ""
    return f"{number}event: {event.kind}\ndata: {_data_of(event, own)}\n\n"


async def until_stopped(
    services: Services, client: Client, seconds: float
) -> AsyncIterator[list[Numbered]]:
    """Yield the events of a client that came together, until the server stops.

    After seconds without one, yield an empty list.
    """
    stopped = asyncio.ensure_future(services.stopping.wait())
    coming: asyncio.Future[Numbered | None] | None = None
    try:
        with services.store.hurry():
            while not stopped.done():
                coming = asyncio.ensure_future(client.next(seconds))
                await asyncio.wait((stopped, coming), return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    first = coming.result()
                    yield [first, *client.rest()] if first is not None else []
    finally:
        stopped.cancel()
        if coming is not None:
            coming.cancel()


class Frames:
    """One WebSocket; frames from the client are ignored.

    With *own*, new rows have the recipients of the envelope, too.
    """

    def __init__(self, services: Services, hub: Hub, socket: WebSocket, *, own: bool) -> None:
        self._services = services
        self._hub = hub
        self._socket = socket
        self._is_own = own

    async def run(self) -> None:
        """Send events until one side ends."""
        client = Client()
        self._hub.enter(client)
        tasks = [asyncio.ensure_future(self._send(client)), asyncio.ensure_future(self._receive())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hub.leave(client)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> None:
        while (await self._socket.receive())["type"] != "websocket.disconnect":
            pass

    async def _send(self, client: Client) -> None:
        with suppress(WebSocketDisconnect, TimeoutError):
            async for events in until_stopped(self._services, client, KEEP_ALIVE):
                async with asyncio.timeout(SECONDS_TO_READ):
                    for event in events or [self._hub.stats()]:
                        for frame in frames_of(event, own=self._is_own):
                            await self._socket.send_text(frame)
            await self._socket.close(1001)


def frames_of(event: Numbered, *, own: bool = False) -> list[str]:
    """Return an event as Mailpit sends it; a refused attempt is its ``error``, too.

    With *own*, a new row has the recipients of the envelope, too.
    """
    frames = [f'{{"Type":"{event.kind}","Data":{_data_of(event, own)}}}']
    if event.kind == "rejected" and event.data != "null":
        attempt = json.loads(event.data)
        error = {
            "Level": "error" if attempt["reply"].startswith("5") else "warning",
            "Type": "smtpd",
            "IP": attempt["client"],
            "Message": attempt["reply"],
        }
        frames.insert(0, f'{{"Type":"error","Data":{dump(error)}}}')
    return frames
