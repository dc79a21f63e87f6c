"""Fourteen defects that other mail catchers had: one test for each, in the order of a list."""

import asyncio
import json
import random
import smtplib
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.records import Attempt
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store
from tests.inbox.sockets import WebSocket
from tests.inbox.support import add, mail, received
from tests.inbox.web import Box, client_of, serving


@pytest.fixture
def web(store: Store) -> httpx.AsyncClient:
    return client_of(store)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with serving() as box:
        yield box


def nested(levels: int) -> bytes:
    """Return a message with so many multiparts, each in the one before."""
    begin = "".join(
        f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(levels)
    )
    return f"From: a@b.test\r\nSubject: deep\r\n{begin}\r\nhello\r\n".encode()


async def test_1_unknown_and_repeated_ids_block_nothing(
    store: Store, web: httpx.AsyncClient
) -> None:
    id, kept = add(store), add(store)
    body = json.dumps({"IDs": [id, id, "unknown", "0" * 22]})
    for _ in range(2):
        answer = await web.request("DELETE", "/api/v1/messages", content=body)
        assert (answer.status_code, answer.text) == (200, "ok")
    page = (await web.get("/api/v1/messages")).json()
    assert [one["ID"] for one in page["messages"]] == [kept]


@pytest.mark.parametrize("body", ["{", "nonsense", "id=x", "ids", "ids=", "<x/>", '"a"', "\0"])
async def test_2_a_wrong_body_does_not_delete_all(
    store: Store, web: httpx.AsyncClient, body: str
) -> None:
    add(store)
    answer = await web.request("DELETE", "/api/v1/messages", content=body)
    assert (answer.status_code, store.counts().total) == (400, 1)


async def test_2_a_large_body_does_not_delete_all(store: Store, web: httpx.AsyncClient) -> None:
    add(store)
    body = b"[" + b" " * (6 << 20)
    answer = await web.request("DELETE", "/api/v1/messages", content=body)
    assert (answer.status_code, store.counts().total) == (413, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"Content-Type: multipart/mixed\r\n\r\nhello\r\n",
        b"Content-Type: multipart/mixed; boundary=\r\n\r\nhello\r\n",
        b"no colon here\r\nSubject: x\r\n\r\nhello\r\n",
        b"Subject: \xff\xfe\r\n\r\nhello\r\n",
        b"Sub\0ject: x\r\n\r\nhe\0llo\r\n",
        b"\r\n",
        b"\r\n\r\n\r\n",
        b": \r\n",
    ],
)
def test_3_mail_that_was_accepted_is_shown(box: Box, content: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", box.smtp_port) as client:
        client.ehlo()
        client.mail("ann@shop.test")
        client.rcpt("bob@shop.test")
        code, reply = client.data(content)
    assert code == 250
    id = reply.decode().rpartition(" ")[2]
    message = box.web.get(f"{box.url}api/v1/message/{id}").json()
    assert message["ID"] == id
    assert content.strip() in box.web.get(f"{box.url}api/v1/message/{id}/raw").content
    [row] = box.web.get(f"{box.url}api/v1/messages?limit=1").json()["messages"]
    assert row["ID"] == id
    for path in ("headers", "link-check"):
        assert box.web.get(f"{box.url}api/v1/message/{id}/{path}").status_code == 200


@pytest.mark.parametrize("levels", [60, 500, 5000])
async def test_4_deep_nesting_costs_little(
    store: Store, web: httpx.AsyncClient, levels: int
) -> None:
    begin = time.process_time()
    id = add(store, nested(levels))
    assert (await web.get(f"/api/v1/message/{id}")).json()["Subject"] == "deep"
    assert (await web.get(f"/api/v1/message/{id}/part/1")).status_code in (200, 404)
    assert time.process_time() - begin < 15


async def test_5_all_messages_at_once_are_sent_in_pieces(store: Store) -> None:
    for n in range(1100):
        last = store.add(received(mail(subject=str(n))))
    last.result(60)
    sizes: list[int] = []

    async def send(message: Any) -> None:
        sizes.append(len(message.get("body", b"")))

    async def receive() -> Any:
        await asyncio.sleep(0 if not sizes else 60)
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/messages",
        "query_string": b"limit=0",
        "headers": [],
    }
    await make_app(Services(store))(scope, receive, send)
    assert max(sizes) < sum(sizes) / 2


async def test_6_names_are_escaped(store: Store, web: httpx.AsyncClient) -> None:
    more = 'Content-Disposition: attachment; filename="a\\"b.exe"\r\n'
    id = add(store, mail("x", more=more))
    thumb = await web.get(f"/api/v1/message/{id}/part/0/thumb")
    assert "content-disposition" not in thumb.headers
    part = await web.get(f"/api/v1/message/{id}/part/0")
    value = part.headers["content-disposition"]
    assert value == "inline; filename=\"a_b.exe\"; filename*=UTF-8''a%22b.exe"


@pytest.mark.parametrize("type", ["text/html", "image/svg+xml"])
async def test_7_active_parts_are_downloads(
    store: Store, web: httpx.AsyncClient, type: str
) -> None:
    more = f"Content-Type: {type}\r\nContent-Disposition: attachment; filename=x\r\n"
    id = add(store, mail("<script>", more=more))
    answer = await web.get(f"/api/v1/message/{id}/part/0")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment;")


async def test_8_an_unknown_message_makes_no_tag(store: Store, web: httpx.AsyncClient) -> None:
    answer = await web.put("/api/v1/tags", json={"IDs": ["unknown"], "Tags": ["lost"]})
    assert (answer.status_code, answer.text) == (200, "ok")
    assert (await web.get("/api/v1/tags")).json() == []
    assert (await web.get("/api/v1/info")).json()["Tags"] == {}


async def test_9_latest_has_a_thumbnail_and_a_release(store: Store, web: httpx.AsyncClient) -> None:
    add(store)
    answer = await web.get("/api/v1/message/latest/part/0/thumb")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    answer = await web.post("/api/v1/message/latest/release", json={"To": ["a@b.test"]})
    assert (answer.status_code, "no relay" in answer.text) == (400, True)


async def test_10_no_request_asks_another_server(
    store: Store, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def connect(*place: object, **more: object) -> None:
        asked.append(place)
        raise OSError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "create_connection", connect, raising=False)
    monkeypatch.setattr(loop, "getaddrinfo", connect, raising=False)
    monkeypatch.setattr("socket.socket.connect", lambda *place: asked.append(place))
    monkeypatch.setattr("socket.getaddrinfo", lambda *place, **_: asked.append(place))
    html = (
        '<link rel="stylesheet" href="http://127.0.0.1:9/x.css"><img src="http://127.0.0.1:9/">'
        '<a href="http://169.254.169.254/">x</a><style>@import "http://127.0.0.1:9/y";</style>'
    )
    id = add(store, mail(html, more="Content-Type: text/html\r\n"))
    for path in (
        *("api/v1/info", "api/v1/webui", "api/v1/messages", f"api/v1/message/{id}"),
        *(f"api/v1/message/{id}/html-check", f"api/v1/message/{id}/link-check?follow=true"),
        *(f"view/{id}.html", f"view/{id}.html?embed=1", f"view/{id}.txt", ""),
    ):
        assert (await web.get(f"/{path}")).status_code == 200
    info = (await web.get("/api/v1/info")).json()
    assert info["LatestVersion"] == info["Version"]
    for path in ("proxy?url=http://127.0.0.1:9/", "proxy?data=eDpodHRwOi8vMTI3LjAuMC4xOjkv"):
        assert (await web.get(f"/{path}")).status_code == 404
    assert asked == []


async def test_11_numbers_are_current(store: Store, web: httpx.AsyncClient) -> None:
    async def numbers() -> tuple[int, ...]:
        info = (await web.get("/api/v1/info")).json()
        stats = info["RuntimeStats"]
        return (
            info["Messages"],
            info["Unread"],
            stats["SMTPAccepted"],
            stats["SMTPRejected"],
            stats["MessagesDeleted"],
        )

    assert await numbers() == (0, 0, 0, 0, 0)
    id = add(store)
    assert await numbers() == (1, 1, 1, 0, 0)
    await web.get(f"/api/v1/message/{id}")
    store.add_attempt(Attempt(1, "MAIL", reply="550 no")).result(30)
    assert await numbers() == (1, 0, 1, 1, 0)
    await web.delete("/api/v1/messages")
    assert await numbers() == (0, 0, 1, 1, 1)


async def test_12_another_name_of_this_address_is_refused(
    store: Store, web: httpx.AsyncClient
) -> None:
    add(store)
    headers = {"host": "rebound.example:8025"}
    for path in ("/", "/api/v1/messages", "/view/latest.html", "/api/events", "/x"):
        assert (await web.get(path, headers=headers)).status_code == 421


def test_13_no_spelling_of_a_path_goes_around_the_origin(box: Box) -> None:
    for path in ("/api/events", "/%61pi/events", "/api/%65vents", "//api/events", "/api//events"):
        socket = WebSocket(box.port, path, origin="http://evil.example")
        assert socket.status == 403, path
        socket.close()


async def test_14_a_bcc_field_does_not_hide_recipients(
    store: Store, web: httpx.AsyncClient
) -> None:
    id = add(
        store,
        mail(more="Bcc: known@shop.test\r\n"),
        recipients=["bob@example.org", "known@shop.test", "hidden@shop.test"],
    )
    message = (await web.get(f"/api/v1/message/{id}")).json()
    addresses = {one["Address"] for one in message["Bcc"]}
    assert addresses == {"known@shop.test", "hidden@shop.test"}
    found = await web.get("/api/v1/search", params={"query": "bcc:hidden@shop.test"})
    assert found.json()["messages_count"] == 1


# Pictures that are small as files.


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 2000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


async def test_pictures_are_not_decoded(store: Store, web: httpx.AsyncClient) -> None:
    frames = b"GIF89a\xff\xff\xff\xff\0\0\0" + b",\0\0\0\0\xff\xff\xff\xff\0\2\0" * 10_000
    for content in (png(50_000, 50_000), frames, random.Random(1).randbytes(1000)):
        more = "Content-Type: image/png; name=x.png\r\n"
        id = add(store, mail("", more=more)[:-2] + content)
        begin = time.process_time()
        answer = await web.get(f"/api/v1/message/{id}/part/0/thumb")
        assert time.process_time() - begin < 5
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert len(answer.content) < 1000
