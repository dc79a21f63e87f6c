"""Mailpit's API: lists, searches, read states, deletion and tags."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox import messages
from aiosmtpd.inbox.store import Store
from tests.inbox.support import add, mail
from tests.inbox.web import client_of

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
SUMMARY = {
    *("total", "unread", "count", "messages_count", "messages_unread", "start", "tags"),
    "messages",
}
ROW = {
    *("ID", "MessageID", "Read", "From", "To", "Cc", "Bcc", "ReplyTo", "Subject", "Created"),
    *("Username", "Tags", "Size", "Attachments", "Snippet"),
}


@pytest.fixture
def web(store: Store) -> httpx.AsyncClient:
    return client_of(store)


def fill(store: Store, count: int = 5) -> list[str]:
    """Store messages, one each minute, and return their ids, newest first."""
    return [
        add(store, mail(subject=f"number {n}"), created=NOON + timedelta(minutes=n))
        for n in range(count)
    ][::-1]


async def listed(web: httpx.AsyncClient, path: str, **query: Any) -> list[str]:
    answer = await web.get(f"/api/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return [one["ID"] for one in answer.json()["messages"]]


async def test_a_list_has_exactly_these_keys(store: Store, web: httpx.AsyncClient) -> None:
    add(store, username="ann")
    for path in ("/api/v1/messages", "/api/v1/search?query=hello", "/api/v1/messages?limit=0"):
        answer = await web.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.text.endswith("}\n") or "limit" in path
        page = answer.json()
        assert page.keys() == SUMMARY
        [row] = page["messages"]
        assert row.keys() == ROW
        assert row["From"].keys() == {"Name", "Address"}
        assert (row["Read"], row["Attachments"], row["Username"]) == (False, 0, "ann")
        # Never null.
        assert [row[name] for name in ("Cc", "Bcc", "ReplyTo", "Tags")] == [[], [], [], []]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({}, range(5)),
        ({"start": 1, "limit": 2}, range(1, 3)),
        ({"start": -1, "limit": -1}, range(5)),
        ({"start": "x", "limit": "y"}, range(5)),
        ({"start": 9}, range(0)),
        ({"limit": 100_000}, range(5)),
        ({"before": "2026-11-28T12:02:00Z"}, range(3, 5)),
        ({"before": "nonsense"}, range(5)),
    ],
)
@pytest.mark.parametrize("path", ["messages", "search"])
async def test_pages(
    store: Store, web: httpx.AsyncClient, path: str, query: dict[str, Any], places: range
) -> None:
    ids = fill(store)
    found = await listed(web, path, **({"query": "number"} if path == "search" else {}), **query)
    assert found == [ids[n] for n in places]


async def test_limit_0_lists_all_or_only_counts(store: Store, web: httpx.AsyncClient) -> None:
    ids = fill(store)
    assert await listed(web, "messages", limit=0, start=3) == ids
    assert await listed(web, "messages", limit=0, before="2026-11-28T12:02:00Z") == ids[3:]
    page = (await web.get("/api/v1/search?query=number&limit=0")).json()
    assert (page["messages"], page["messages_count"], page["count"]) == ([], 5, 0)


async def test_long_pages_are_sent_in_pieces(
    store: Store, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "LARGEST_PAGE", 2)
    ids = fill(store)
    assert await listed(web, "search", query="number", limit=4) == ids[:4]
    assert await listed(web, "search", query="number", limit=9, start=1) == ids[1:]
    page = (await web.get("/api/v1/search?query=number&limit=9")).json()
    assert (page["count"], page["messages_count"], page["total"]) == (5, 5, 5)


async def test_a_row_that_vanishes_ends_a_long_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "LARGEST_PAGE", 2)
    ids = fill(store)

    class Vanishing(Store):
        def search(self, *args: Any, **more: Any) -> Any:
            page = store.search(*args, **more)
            store.delete([ids[1]]).result(30)
            return page

    page = partial(Vanishing().search, "number")
    found = json.loads("".join(messages.streamed(page, 0, 9)))
    assert len(found["messages"]) == found["count"] < 9


@pytest.mark.parametrize("query", ["", "   "])
async def test_a_blank_query_is_refused(web: httpx.AsyncClient, query: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await web.request(method, "/api/v1/search", params={"query": query})
        assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain")


async def test_the_zone_of_dates(store: Store, web: httpx.AsyncClient) -> None:
    [id] = fill(store, 1)
    query = 'after:"2026-11-28 13:30"'
    assert await listed(web, "search", query=query, tz="Europe/Berlin") == []
    assert await listed(web, "search", query=query, tz="America/Chicago") == []
    assert await listed(web, "search", query='after:"2026-11-28 06:00"', tz="Asia/Tokyo") == [id]
    assert await listed(web, "search", query='after:"2026-11-28 12:30"', tz="Etc/UTC") == []
    for wrong in ("Nowhere/Town", "../../etc/passwd", "Europe", "x" * 200):
        assert await listed(web, "search", query="number", tz=wrong) == [id]


# Read states.


@pytest.mark.parametrize(
    ("body", "unread"),
    [
        ({"Read": True}, 0),
        ({}, 3),
        ({"IDs": [], "Read": True}, 0),
        ({"ids": ["first", "unknown"], "read": True}, 1),
        ({"IDs": ["first"], "Read": False}, 2),
        ({"Search": 'subject:"number 1"', "Read": True}, 1),
        ({"Search": "subject:none", "Read": True}, 2),
        ({"IDs": None, "Read": True, "Unknown": 1}, 0),
    ],
)
async def test_marking(
    store: Store, web: httpx.AsyncClient, body: dict[str, Any], unread: int
) -> None:
    ids = fill(store, 3)
    store.set_read([ids[2]], True).result(30)
    body = {
        key: [ids[0] if one == "first" else one for one in value]
        if isinstance(value, list)
        else value
        for key, value in body.items()
    }
    answer = await web.put("/api/v1/messages", content=json.dumps(body))
    assert (answer.status_code, answer.text) == (200, "ok")
    assert answer.headers["content-type"] == "text/plain"
    assert store.counts().unread == unread


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "[]", "1", '{"IDs":"x"}', '{"Read":"yes"}', '{"IDs":[1]}', '{"Read":1}'),
        '{"IDs":["a"],"Search":"b"}',
        "[" * 100_000,
        b"\xff",
    ],
)
async def test_wrong_bodies_change_nothing(
    store: Store, web: httpx.AsyncClient, body: str | bytes
) -> None:
    add(store)
    answer = await web.put("/api/v1/messages", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain")
    assert store.counts().unread == 1


async def test_only_a_message_is_marked_as_read(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store)
    for path in (f"message/{id}/raw", f"message/{id}/headers", "messages", "search?query=hello"):
        assert (await web.get(f"/api/v1/{path}")).status_code == 200
    assert store.counts().unread == 1
    await web.get(f"/api/v1/message/{id}")
    assert store.counts().unread == 0


# Deletion.


@pytest.mark.parametrize("body", ["", "  ", "{}", '{"IDs":[]}', '{"IDs":null}', '{"x":1} {'])
async def test_deletion_of_all(store: Store, web: httpx.AsyncClient, body: str) -> None:
    fill(store, 3)
    answer = await web.request("DELETE", "/api/v1/messages", content=body)
    assert (answer.status_code, answer.text, store.counts().total) == (200, "ok", 0)


@pytest.mark.parametrize(
    "body", ['{"IDs":["%s"]}', '{"ids":["%s","%s"]}', "ids=%s", "ids=%s&ids=unknown"]
)
async def test_deletion_by_ids(store: Store, web: httpx.AsyncClient, body: str) -> None:
    ids = fill(store, 3)
    content = body.replace("%s", ids[1])
    answer = await web.request("DELETE", "/api/v1/messages", content=content)
    assert answer.status_code == 200
    assert await listed(web, "messages") == [ids[0], ids[2]]


async def test_deletion_by_too_many_ids(store: Store, web: httpx.AsyncClient) -> None:
    content = "&".join(["ids=x"] * 100_001)
    answer = await web.request("DELETE", "/api/v1/messages", content=content)
    assert (answer.status_code, answer.text) == (400, "the form has more than 100000 fields")


async def test_deletion_of_all_can_be_forbidden(store: Store) -> None:
    ids = fill(store, 2)
    web = client_of(store, delete_all=False)
    assert (await web.delete("/api/v1/messages")).status_code == 403
    assert (await web.get("/api/v1/webui")).json()["HideDeleteAllButton"] is True
    await web.request("DELETE", "/api/v1/messages", content=json.dumps({"IDs": ids[:1]}))
    assert store.counts().total == 1


async def test_deletion_by_search(store: Store, web: httpx.AsyncClient) -> None:
    ids = fill(store, 3)
    for query in ('subject:"number 1"', "subject:none"):
        answer = await web.delete("/api/v1/search", params={"query": query})
        assert (answer.status_code, answer.text) == (200, "ok")
    assert await listed(web, "messages") == [ids[0], ids[2]]


@pytest.mark.parametrize("query", ["to:", "before:yesterday", "-", '""'])
async def test_a_query_without_a_condition_deletes_nothing(
    store: Store, web: httpx.AsyncClient, query: str
) -> None:
    fill(store, 2)
    answer = await web.delete("/api/v1/search", params={"query": query})
    assert store.counts().total == 2
    assert answer.status_code in (200, 400)


# Tags.


async def test_tags(store: Store, web: httpx.AsyncClient) -> None:
    ids = fill(store, 2)

    async def put(path: str, **body: Any) -> int:
        return (await web.put(f"/api/v1/tags{path}", json=body)).status_code

    assert await put("", IDs=ids, Tags=["b/!", "A a", "@c"]) == 200
    assert (await web.get("/api/v1/tags")).json() == ["@c", "A a", "b"]
    assert await put("", IDs=[], Tags=["x"]) == 200
    assert await put("/A%20a", Name="z") == 200
    assert await put("/z", Name="z") == 200
    assert [await put("/z", Name=name) for name in ("B", "!", "")] == [400] * 3
    assert await put("/unknown", Name="y") == 400
    assert (await web.delete("/api/v1/tags/%40c")).text == "ok"
    assert (await web.delete("/api/v1/tags/a%2Fb")).status_code == 400
    assert await put("", IDs=ids[:1]) == 200
    rows = (await web.get("/api/v1/messages")).json()["messages"]
    assert [row["Tags"] for row in rows] == [[], ["b", "z"]]
    await web.request("DELETE", "/api/v1/messages", json={"IDs": ids})
    assert (await web.get("/api/v1/tags")).json() == []


# Answers.


async def test_large_answers_are_compressed(store: Store, web: httpx.AsyncClient) -> None:
    fill(store)
    for accepted, encoding in (("gzip, br", "gzip"), ("identity", None), ("gzip;q=0", None)):
        answer = await web.get("/api/v1/messages", headers={"accept-encoding": accepted})
        assert answer.headers.get("content-encoding") == encoding
        assert answer.json()["total"] == 5


async def test_other_methods_and_paths(web: httpx.AsyncClient) -> None:
    answer = await web.post("/api/v1/messages")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "text/plain")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"
    for path in ("/api/v1/send", "/api/v1/message/latest/release"):
        answer = await web.get(path)
        assert (answer.status_code, answer.text) == (405, "Method Not Allowed"), path
        assert answer.headers["allow"] == "POST"
        assert answer.headers["content-type"] == "text/plain"
    answer = await web.head("/api/v1/messages")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    answer = await web.options("/api/v1/messages")
    assert (answer.status_code, answer.text) == (200, "")
    for path in ("/api/v1/none", "/api/v1/message/x/", "/api/v1/messages/", "/api/v1/proxy"):
        for method in ("GET", "PUT"):
            answer = await web.request(method, path)
            assert (answer.status_code, answer.text) == (404, "File not found"), path


@pytest.mark.parametrize("word", ["a", "tag:a", "-abc", "from:a", "abcd", "is:read"])
@pytest.mark.parametrize(
    "path",
    ["v1/search", "v1/message/latest", "wait", "rejected", "export", "v1/messages"],
)
async def test_a_query_of_very_many_words(web: httpx.AsyncClient, path: str, word: str) -> None:
    query = f"{word} " * 1200
    if path == "v1/messages":
        answer = await web.put("/api/v1/messages", json={"Search": query})
    else:
        answer = await web.get(f"/api/{path}", params={"query": query})
    assert (answer.status_code, "more than 500 words" in answer.text) == (400, True)


async def test_a_query_of_many_words(store: Store, web: httpx.AsyncClient) -> None:
    [id] = fill(store, 1)
    assert await listed(web, "search", query="h hello " * 250) == [id]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "messages", {"IDs": ["\ud800"]}),
        ("PUT", "messages", {"IDs": ["\ud800"], "Read": True}),
        ("PUT", "messages", {"Search": "tag:\ud800", "Read": True}),
        ("PUT", "tags", {"IDs": ["\ud800"], "Tags": ["a"]}),
    ],
)
async def test_halves_of_characters_match_nothing(
    store: Store, web: httpx.AsyncClient, method: str, path: str, body: dict[str, Any]
) -> None:
    fill(store, 1)
    answer = await web.request(method, f"/api/v1/{path}", content=json.dumps(body))
    assert (answer.status_code, answer.text) == (200, "ok")
    assert store.counts()[:2] == (1, 1)


async def test_a_damaged_store_is_not_ready(store: Store, web: httpx.AsyncClient) -> None:
    fill(store, 1)
    assert (await web.get("/readyz")).status_code == 200
    assert store.path is not None
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("update about set row = cast(x'ff' as text)")
    assert (await web.get("/readyz")).status_code == 503
    assert (await web.get("/api/v1/messages")).status_code == 503
