"""The events of the inbox: frames of a WebSocket as Mailpit has them, and SSE with a replay."""

import asyncio
import json
import smtplib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest
from wsproto.events import TextMessage

from aiosmtpd.inbox import events
from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.events import Client, Hub
from aiosmtpd.inbox.records import Attempt
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Event, Store
from tests.inbox.sockets import WebSocket
from tests.inbox.support import add, mail
from tests.inbox.web import Box, scope_of, serving

EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with serving() as box:
        yield box


@contextmanager
def connected(box: Box, path: str = "/api/events", **headers: str) -> Iterator[WebSocket]:
    socket = WebSocket(box.port, path, **headers)
    try:
        yield socket
    finally:
        socket.close()


def until(frames: Iterator[Any], kind: str) -> list[Any]:
    """Return the frames that come, but numbers, up to one of this kind."""
    found = []
    for frame in frames:
        if frame[0] != "stats" or kind == "stats":
            found.append(frame)
        if frame[0] == kind:
            return found
    raise AssertionError(f"{kind} did not come, only {found}")


# WebSocket.


def test_frames_are_those_of_mailpit(box: Box) -> None:
    store = box.store
    with connected(box) as socket:
        assert (socket.status, socket.deflates) == (101, True)
        frames = socket.frames()
        # A quarter of a second after the connection, without a change.
        [(_, stats)] = until(frames, "stats")
        assert stats.keys() == {"Total", "Unread", "Version"}
        id = add(store, mail(more="X-Tags: b\r\n"))
        [(_, row)] = until(frames, "new")
        assert (row["ID"], row["Tags"], row["Read"], row["Cc"]) == (id, ["b"], False, [])
        store.set_read([id], True)
        assert until(frames, "update") == [("update", {"ID": id, "Read": True})]
        store.set_tags([id], ["c"])
        assert until(frames, "update") == [("update", {"ID": id, "Tags": ["c"]})]
        store.rename_tag("c", "d")
        assert until(frames, "prune") == [("prune", None)]
        store.delete([id])
        assert until(frames, "delete") == [("delete", {"ID": id})]
        store.delete(None)
        assert until(frames, "truncate") == [("truncate", None)]


def test_a_refusal_is_an_error(box: Box) -> None:
    with connected(box) as socket, smtplib.SMTP("127.0.0.1", box.smtp_port) as client:
        frames = socket.frames()
        until(frames, "stats")
        client.docmd("MAIL FROM:<a@b")
        [(_, error), (_, attempt)] = until(frames, "rejected")
        assert error.keys() == {"Level", "Type", "IP", "Message"}
        assert (error["Level"], error["Type"], error["IP"]) == ("error", "smtpd", "127.0.0.1")
        assert error["Message"] == attempt["reply"]
    later = Attempt(1, "MAIL", reply="451 later", client="::1")
    [first, _] = events.frames_of(events.Numbered(1, "rejected", later.json()))
    assert '"Level":"warning"' in first
    assert len(events.frames_of(events.Numbered(1, "rejected", "null"))) == 1


def test_frames_of_the_client_are_ignored(box: Box) -> None:
    with connected(box) as socket:
        message = TextMessage(data="x" * 1000)
        for _ in range(100):
            socket.send(message)
        until(socket.frames(), "stats")


@pytest.mark.parametrize(
    "path", ["/api/events", "/%61pi/events", "//api/events", "/x/../api/events", "/API/events"]
)
def test_other_sites_cannot_connect(box: Box, path: str) -> None:
    for headers in (
        *({"origin": EVIL}, {"origin": "null"}, {"origin": f"http://127.0.0.1:{box.port + 1}"}),
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "websocket"},
    ):
        with connected(box, path, **headers) as socket:
            assert socket.status == 403
    with connected(box, path, host="evil.example") as socket:
        assert socket.status == 421


def test_the_own_page_can_connect(box: Box) -> None:
    with connected(box, origin=f"http://127.0.0.1:{box.port}") as socket:
        assert socket.status == 101


def test_a_login_and_a_root_are_needed() -> None:
    with serving(users={"a": "b"}, root="/mail/") as box:
        with connected(box, "/mail/api/events") as socket:
            assert socket.status == 401
        with connected(box, "/mail/api/events", authorization="Basic YTpi") as socket:
            assert socket.status == 101
        with connected(box, "/api/events", authorization="Basic YTpi") as socket:
            assert socket.status == 404
        with connected(box, "/mail//api/events", authorization="Basic YTpi") as socket:
            assert socket.status == 307


def test_there_are_only_so_many_clients(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_CLIENTS", 0)
    with connected(box) as socket:
        assert socket.status == 503
    assert box.web.get(box.url + "api/events").status_code == 503


async def test_clients_that_come_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_CLIENTS", 2)
    services = Services(store)
    app, answers = make_app(services), list[int]()
    scope = scope_of("GET", "/api/events")

    async def receive() -> dict[str, Any]:
        await services.stopping.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])
        if len(answers) == 5:
            services.stopping.set()

    async with asyncio.timeout(10):
        await asyncio.gather(*(app(dict(scope), receive, send) for _ in range(5)))
    assert sorted(answers) == [200, 200, 503, 503, 503]


def test_clients_end_when_the_server_stops() -> None:
    with serving() as box, connected(box) as socket:
        with box.web.stream("GET", box.url + "api/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            box.on_loop(box.services.stopping.set)
            list(lines)
        list(socket.frames())
        assert socket.closed is not None
        assert socket.closed.code == 1001
        assert box.web.get(box.url + "api/events").status_code == 503


# Server-sent events.


def streamed(box: Box, last: int | None = None) -> Iterator[tuple[int, str, Any]]:
    """Yield the number, the kind and the data of each event."""
    headers = {} if last is None else {"last-event-id": str(last)}
    with box.web.stream("GET", box.url + "api/events", headers=headers, timeout=10) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        fields: dict[str, str] = {}
        for line in stream.iter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
                continue
            if "event" in fields:
                yield int(fields.get("id", 0)), fields["event"], json.loads(fields["data"])
            fields = {}


def changes(box: Box, last: int | None, end: str) -> list[tuple[int, str, Any]]:
    """Return the events but numbers, up to one with this id of a message."""
    found = []
    for event in streamed(box, last):
        if event[1] != "stats":
            found.append(event)
            if event[2] is None or event[2].get("ID") == end:
                break
    return found


def test_missed_events_are_sent_again(box: Box) -> None:
    stream = streamed(box)
    number, kind, _ = next(stream)
    assert (number, kind) == (0, "stats")
    first = add(box.store)
    number, _, data = next(event for event in stream if event[1] == "new")
    assert data["ID"] == first
    stream.close()  # type: ignore[attr-defined]
    second, third = add(box.store), add(box.store)
    missed = changes(box, number, third)
    assert [(kind, data["ID"]) for _, kind, data in missed] == [("new", second), ("new", third)]
    assert [one for one, _, _ in missed] == [number + 1, number + 2]
    assert changes(box, number + 1, third) == missed[1:]


@pytest.mark.parametrize("last", [1, 10**14])
def test_a_gap_is_a_prune(box: Box, last: int) -> None:
    [(number, kind, data)] = changes(box, last, "")
    assert (kind, data) == ("prune", None)
    assert number > 10**12


def test_only_the_head_of_a_stream(box: Box) -> None:
    answer = box.web.head(box.url + "api/events")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_number_that_cannot_be_is_ignored(box: Box) -> None:
    headers = {"last-event-id": "x"}
    with box.web.stream("GET", box.url + "api/events", headers=headers, timeout=10) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("event:"))
        assert next(lines) == "event: stats"


# The hub.


async def taken(client: Client) -> list[tuple[str, str]]:
    """Return the events that wait for a client."""
    await asyncio.sleep(0)
    found = []
    while (event := await client.next(0.1)) is not None:
        found.append((event.kind, event.data))
    return found


async def test_a_client_that_is_late_reads_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_WAITING", 10)
    hub = Hub(store)
    client = Client()
    hub.enter(client)
    for number in range(11):
        store.publish(Event("delete", str(number)))
    assert await taken(client) == [("prune", "null")]
    hub.leave(client)
    store.publish(Event("delete", "0"))
    assert await taken(client) == []


async def test_numbers_are_sent_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PAUSE", 0)
    hub = Hub(store)
    client = Client()
    hub.enter(client)
    for _ in range(20):
        store.publish(Event("stats", "{}"))
    assert [kind for kind, _ in await taken(client)] == ["stats"]


async def test_only_the_last_events_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 3)
    hub = Hub(store)
    before = Client()
    hub.enter(before)
    for number in range(5):
        store.publish(Event("delete", str(number)))
    await asyncio.sleep(0)
    first = await before.next(1)
    assert first is not None
    behind, current = Client(), Client()
    hub.enter(behind, first.number)
    assert await taken(behind) == [("prune", "null")]
    hub.enter(current, first.number + 1)
    assert await taken(current) == [("delete", str(number)) for number in (2, 3, 4)]


async def test_a_silent_stream_shows_that_it_lives(store: Store) -> None:
    client = Client()
    services = Services(store)
    stream = events.until_stopped(services, client, 0.01)
    assert await anext(stream) == []
    services.stopping.set()
    assert [several async for several in stream] == []
