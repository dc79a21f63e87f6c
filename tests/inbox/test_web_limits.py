"""The limits of requests, over a socket: bodies, odd requests, and the server that goes on."""

import http.client
import json
import socket
from collections.abc import Iterator, MutableMapping
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from aiosmtpd.inbox import bodies
from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import LARGE, Store
from tests.inbox.support import add, mail, received
from tests.inbox.web import Box, scope_of, serving


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with serving(max_size=3 << 20) as box:
        yield box


def pieces(size: int) -> Iterator[bytes]:
    """Yield a body without a length, as chunks."""
    for _ in range(size >> 16):
        yield b" " * (1 << 16)


@pytest.mark.parametrize("method", ["DELETE", "PUT"])
@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_change_nothing(box: Box, method: str, chunked: bool) -> None:
    add(box.store)
    before = box.store.counts()
    size = 16 << 20
    content = pieces(size) if chunked else b'{"IDs":["' + b"a" * size + b'"]}'
    answer = box.web.request(method, box.url + "api/v1/messages", content=content)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "text/plain")
    assert box.store.counts() == before


@pytest.mark.parametrize("chunked", [False, True])
def test_large_messages_are_refused(box: Box, chunked: bool) -> None:
    size = 8 << 20
    content = pieces(size) if chunked else json.dumps({"Text": "x" * size}).encode()
    answer = box.web.post(box.url + "api/v1/send", content=content)
    assert (answer.status_code, list(answer.json())) == (413, ["Error"])


def test_a_body_without_an_end_is_given_up(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DRAINED", 8 << 20)
    with socket.create_connection(("127.0.0.1", box.port), 10) as connection:
        head = (
            "PUT /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        sent = 0
        try:
            while sent < 200:
                connection.sendall(chunk)
                sent += 1
        except ConnectionError:
            pass
        assert sent < 200


def test_a_body_that_does_not_come(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SECONDS_FOR_A_PIECE", 0.05)
    with socket.create_connection(("127.0.0.1", box.port), 10) as connection:
        head = "PUT /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_goes_in_its_body(store: Store) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> MutableMapping[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: MutableMapping[str, Any]) -> None:
        """Drop the answer: the client is gone."""

    # The server would log an exception, with a traceback.
    await make_app(Services(store))(scope_of("POST", "/api/v1/send"), receive, send)
    assert next(messages, None) is None


def test_a_large_body_within_the_limit(box: Box) -> None:
    ids = [add(box.store), add(box.store)]
    body = {"IDs": [*ids, *(f"unknown{n}" for n in range(200_000))]}
    answer = box.web.request("DELETE", box.url + "api/v1/messages", json=body, timeout=30)
    assert answer.status_code == 200
    assert box.store.rows(ids) == []


def test_an_upgrade_to_another_protocol_is_ignored(box: Box) -> None:
    id = add(box.store)
    client = http.client.HTTPConnection("127.0.0.1", box.port, timeout=10)
    headers = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    }
    client.request("DELETE", "/api/v1/messages", json.dumps({"ids": [id]}), headers)
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"ok")
    assert box.store.rows([id]) == []
    client.close()


def test_each_answer_has_a_date_and_a_phrase(box: Box) -> None:
    client = http.client.HTTPConnection("127.0.0.1", box.port, timeout=10)
    for method, path, status, phrase in (
        *(("GET", "/livez", 200, "OK"), ("HEAD", "/api/v1/messages", 200, "OK")),
        *(("GET", "/api/v1/message/x", 404, "Not Found"), ("PUT", "/livez", 405, None)),
        *(("GET", "//view/x.txt", 307, None), ("OPTIONS", "/api/v1/x", 200, "OK")),
    ):
        client.request(method, path)
        answer = client.getresponse()
        assert answer.status == status, path
        assert phrase in (None, answer.reason)
        assert parsedate_to_datetime(answer.headers["date"]).tzinfo is not None
        assert "server" not in answer.headers or answer.headers["server"] == "uvicorn"
        body = answer.read()
        assert not (method == "HEAD" and body)
    client.close()


def test_all_messages_are_streamed(box: Box) -> None:
    box.store.delete(None).result(30)
    for n in range(1200):
        last = box.store.add(received(mail(subject=str(n))))
    last.result(60)
    with box.web.stream("GET", box.url + "api/v1/messages?limit=0") as answer:
        assert "content-length" not in answer.headers
        page = json.loads(answer.read())
    assert (len(page["messages"]), page["count"]) == (1200, 1200)
    assert len({one["ID"] for one in page["messages"]}) == 1200


def test_a_large_part_and_its_message(box: Box) -> None:
    text = "--m\r\nContent-Type: application/x-big; name=big\r\n\r\n" + "x" * (2 * LARGE)
    more = "Content-Type: multipart/mixed; boundary=m\r\n"
    id = add(box.store, mail(text + "\r\n--m--", more=more))
    answer = box.web.get(f"{box.url}api/v1/message/{id}/part/1")
    assert len(answer.content) == 2 * LARGE
    box.store.delete([id]).result(30)
    assert box.web.get(f"{box.url}api/v1/message/{id}/part/1").status_code == 404
