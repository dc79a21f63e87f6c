"""Senders and pages that attack the inbox, in the ways that published advisories name.

docs/explain/threat-model lists the advisories and the tests for each.
"""

import asyncio
import hmac
import re
import smtplib
import socket
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings, strategies as st
from starlette.routing import Route
from wsproto.events import TextMessage

from aiosmtpd.cli.mirror import Mirror
from aiosmtpd.controller import Controller
from aiosmtpd.inbox import auth
from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.intake import Intake
from aiosmtpd.inbox.services import Services, WebOptions
from aiosmtpd.inbox.store import LARGE, Store
from aiosmtpd.testing import Inbox
from tests.inbox.sockets import WebSocket
from tests.inbox.support import add, mail
from tests.inbox.web import HOST, client_of

DECENT = 15
"""Seconds of computing that no request here comes near to, on the slowest machine."""

PAGES = ("api/v1/messages", "api/v1/message/{}", "view/{}.html", "view/{}.html?embed=1")
MORE = ("view/{}.txt", "api/message/{}/parts", "api/message/{}/links", "api/message/{}/checks")
COPY = ("api/message/{}/copy?as=pytest", "api/v1/search?query=bomb")


@pytest.fixture
def web(store: Store) -> httpx.AsyncClient:
    return client_of(store)


# Requests to other hosts.


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a port that no request may reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def paths_of(services: Services, id: str) -> list[str]:
    """Return the path of each route that answers a GET, with an id in its place."""
    values = {"id": id, "part": "2", "session": "1", "number": "1", "tag": "a"}
    return [
        re.sub(r"\{(\w+)[^}]*\}", lambda found: values[found[1]], route.path)
        for route in make_app(services).routes
        if isinstance(route, Route)
        if "GET" in (route.methods or ()) and "{name" not in route.path
    ]


async def test_no_route_connects_to_a_host_of_a_message(
    store: Store, web: httpx.AsyncClient, listener: socket.socket
) -> None:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    html = (
        f'<link rel="stylesheet" href="{url}.css"><img src="{url}.png"><a href="{url}">x</a>'
        f'<style>@import "{url}"; p {{background: url({url})}}</style><script src="{url}"></script>'
    )
    fields = f"List-Unsubscribe: <{url}>\r\nDisposition-Notification-To: a@[127.0.0.1]\r\n"
    text = f"--m\r\nContent-Type: text/html\r\n\r\n{html}\r\n--m\r\n"
    part = f'Content-Type: message/external-body; access-type=URL; URL="{url}"; name=x\r\n\r\n\r\n'
    more = f"{fields}Content-Type: multipart/mixed; boundary=m\r\n"
    id = add(store, mail(f"{text}{part}--m--", more=more))
    paths = paths_of(Services(store), id)
    assert len(paths) > 25
    for path in paths:
        if "wait" not in path and path != "/api/events":
            assert (await web.get(path)).status_code < 500, path
    with pytest.raises(BlockingIOError):
        listener.accept()


# The dialogue of SMTP.


@pytest.fixture
def client(store: Store) -> Iterator[smtplib.SMTP]:
    intake = Intake(store)
    controller = Controller(
        intake, hostname="127.0.0.1", port=0, observers=[intake], data_size_limit=5000
    )
    controller.start()
    with smtplib.SMTP("127.0.0.1", controller.port) as client:
        client.ehlo("client.test")
        yield client
    controller.stop()


@pytest.mark.parametrize("address", ["a\rX: y@b.test", "a\0@b.test", "a\r\r@b.test", "a\x0b b@c"])
def test_an_envelope_has_no_control_characters(
    store: Store, client: smtplib.SMTP, address: str
) -> None:
    client.send(f"MAIL FROM:<{address}>\r\n".encode())
    assert client.getreply()[0] in (500, 501, 553)
    client.docmd("MAIL FROM:<ann@b.test>")
    client.send(f"RCPT TO:<{address}>\r\n".encode())
    assert client.getreply()[0] in (500, 501, 553)
    assert store.counts().total == 0


ODD = st.text(st.sampled_from("a@b.<>\r\n\0\t :\u2028\u0085\u00fc"), max_size=30)
NAMES = ("Return-Path: ", "Received: ", "Message-ID: ", "Bcc: ", "X-Continued:")


@pytest.fixture(scope="module")
def large() -> Iterator[Store]:
    """Yield a store for many messages."""
    with Store() as store:
        yield store


@settings(max_examples=60)
@given(sender=ODD, recipients=st.lists(ODD, min_size=1, max_size=3), host_name=ODD, id=ODD)
def test_no_envelope_adds_a_field(
    large: Store, sender: str, recipients: list[str], host_name: str, id: str
) -> None:
    content = mail(more=f"Message-ID: {id.encode('ascii', 'replace').decode()}\r\n" if id else "")
    more: dict[str, Any] = {"sender": sender, "recipients": recipients, "host_name": host_name}
    found = large.message(add(large, content, **more))
    assert found is not None
    added = found.added.decode()
    assert "\0" not in added
    lines = added.split("\r\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.startswith((*NAMES, " ", "\t")), line
        assert "\r" not in line
        assert "\n" not in line


def test_the_rest_of_a_large_message_is_not_run(store: Store, client: smtplib.SMTP) -> None:
    client.mail("ann@example.org")
    client.rcpt("bob@example.org")
    client.docmd("DATA")
    hidden = b"MAIL FROM:<eve@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nSubject: no\r\n"
    client.send(b"x" * 900 + b"\r\n" + b"y" * 900 + b"\r\n" * 4000 + hidden + b"\r\n.\r\n")
    assert client.getreply()[0] == 552
    assert client.docmd("NOOP")[0] == 250
    client.sendmail("ann@example.org", ["bob@example.org"], b"Subject: next\r\n\r\n")
    [row] = store.summary().rows
    assert '"Subject":"next"' in row


def test_no_name_of_a_client_is_looked_up(
    store: Store, client: smtplib.SMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    for name in ("gethostbyaddr", "getnameinfo", "getfqdn", "getaddrinfo"):
        monkeypatch.setattr(socket, name, lambda *place, **_: asked.append(place))
    client.sendmail("ann@example.org", ["bob@example.org"], b"Subject: x\r\n\r\n")
    found = store.message(store.newest() or "")
    assert found is not None
    assert b"Received: from client.test ([127.0.0.1])" in found.raw()
    assert asked == []


# Names that look like paths.

ESCAPES = ["../../x", "/etc/cron.d/x", "..", "CON", "a\\..\\b", "x" * 300, "..%2f..%2fx"]


async def test_an_id_is_never_a_path(store: Store, web: httpx.AsyncClient) -> None:
    add(store)
    for id in ("..%2f..%2fetc%2fpasswd", "%2e%2e%5c%2e%2e", "..%00", "a%0d%0aX:y", "..;", "%2fetc"):
        for form in ("api/v1/message/{}", "api/v1/message/{}/raw", "api/message/{}/parts"):
            answer = await web.get(f"/{form.format(id)}")
            assert answer.status_code in (307, 404), id
            assert "root:" not in answer.text
    for part in ("..%2f1", "0%2f..", "-1", "1e9", "9" * 500, "%00"):
        answer = await web.get(f"/api/v1/message/latest/part/{part}")
        assert answer.status_code in (307, 404), part


def files_in(folder: Path) -> set[tuple[str, ...]]:
    return {file.relative_to(folder).parts for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ESCAPES)
async def test_no_file_has_a_name_of_the_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    # A large message has a file of its own.
    size = 2 * LARGE if name == ESCAPES[0] else 10
    text = (
        f'--m\r\nContent-Type: image/png; name="{name}"\r\nContent-ID: <{name}>\r\n'
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n{"x" * size}\r\n--m--'
    )
    more = f"Message-ID: <{name}>\r\nContent-Type: multipart/mixed; boundary=m\r\n"
    with Store(Path("box.db")) as store:
        mirror = Mirror(store, "mirror")
        id = add(store, mail(text, more=more, subject=name))
        web = client_of(store)
        for path in PAGES + MORE + ("api/v1/message/{}/part/1", "api/export?format=mbox"):
            assert (await web.get("/" + path.format(id))).status_code in (200, 404)
        archive = await web.get("/api/export?format=zip")
        with zipfile.ZipFile(BytesIO(archive.content)) as opened:
            assert opened.namelist() == [f"{id}.eml"]
        mirror.close()
    names = files_in(tmp_path)
    assert {parts[:3] for parts in names} <= {
        ("deep", "er", one) for one in ("box.db", "box.db.lock", "box.db.large", "mirror")
    }
    assert not [parts for parts in names if name.strip("./") and parts[-1].endswith(name)]


# Messages that cost more than others.

HEAD = b"From: ann@b.test\r\nSubject: bomb\r\n"
MIXED = HEAD + b"Content-Type: multipart/mixed; boundary=m\r\n\r\n"
HTML = HEAD + b"Content-Type: text/html\r\n\r\n"
PART = b"--m\r\nContent-Disposition: attachment; filename=x\r\n\r\nx\r\n"
BOMBS = {
    "parts": MIXED + PART * 50_000 + b"--m--\r\n",
    "fields": HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"\r\nx\r\n",
    "long field": HEAD + b"X-Long: " + b"y" * 5_000_000 + b"\r\n\r\nx\r\n",
    "recipients": HEAD + b"To: " + b"a@b.test, " * 200_000 + b"\r\n\r\nx\r\n",
    "encoded words": b"Subject: bomb " + b"=?utf-8?q?a?= " * 80_000 + b"\r\n\r\nx\r\n",
    "broken words": b"Subject: bomb " + b"=?utf-8?q?" * 100_000 + b"\r\n\r\nx\r\n",
    "boundaries": MIXED + b"--m\r\n" * 500_000,
    "parameters": HEAD + b"Content-Type: text/plain; " + b"a=b; " * 200_000 + b"\r\n\r\nx\r\n",
    "comments": HEAD + b"List-Unsubscribe: " + b"(" * 500_000 + b"\r\n\r\nx\r\n",
    "attributes": HTML + b"<p " + b"a=b " * 150_000 + b">",
    "brackets": HTML + b"<" * 400_000,
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_message_costs_little(store: Store, web: httpx.AsyncClient, name: str) -> None:
    begin = time.process_time()
    id = add(store, BOMBS[name])
    for path in PAGES + MORE + COPY:
        answer = await web.get("/" + path.format(id))
        assert answer.status_code in (200, 404), path
    assert answer.json()["messages_count"] == 1
    assert time.process_time() - begin < DECENT


PIECES = [
    *(b"\r\n", b"\n", b"\r", b"--m\r\n", b"--m--\r\n", b"Subject: ", b"From: <", b"To: a@b, "),
    *(b"Content-Type: multipart/mixed; boundary=m\r\n", b"Content-Type: text/html; charset=x\r\n"),
    *(b"Content-Transfer-Encoding: base64\r\n", b"Content-Disposition: attachment; filename*0=a\n"),
    *(b"Content-Type: message/rfc822\r\n", b"Content-ID: <x>\r\n", b"=?utf-8?b?/w?=", b"<a href='"),
    *(b"<style>a{", b"List-Unsubscribe: <x", b"Date: Sat, 31 Feb 9999", b"\xff\xfe", b"X-Tags: a,"),
]
ALL = (*PAGES, *MORE, *COPY, "api/v1/message/{}/headers", "api/v1/message/{}/html-check")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=30))
def test_any_bytes_are_stored_and_shown(large: Store, pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    id = add(large, content)
    found = large.message(id)
    assert found is not None
    assert found.pristine() == content

    async def ask() -> None:
        async with client_of(large) as web:
            for path in ALL:
                answer = await web.get("/" + path.format(id))
                assert answer.status_code in (200, 400, 404), path
            rows = (await web.get("/api/v1/messages?limit=1")).json()["messages"]
            assert [one["ID"] for one in rows] == [id]

    asyncio.run(ask())


STYLES = {
    "selectors": "a," * 500_000 + "{color:red}",
    "rules": "a{display:flex}" * 100_000,
    "brackets": "[" * 1_000_000,
    "comments": "/*" * 500_000,
    "at rules": "@media " * 150_000,
    "spaces": "a" + " " * 1_000_000 + ":",
    "colons": "a:" * 500_000,
}


@pytest.mark.parametrize("name", STYLES)
async def test_a_style_sheet_costs_little(store: Store, web: httpx.AsyncClient, name: str) -> None:
    style = f"<style>{STYLES[name]}</style><p>x".encode()
    id = add(store, HTML + style)
    begin = time.process_time()
    assert (await web.get(f"/api/v1/message/{id}/html-check")).status_code == 200
    assert (await web.get(f"/view/{id}.html?embed=1")).status_code == 200
    assert time.process_time() - begin < DECENT


async def test_many_checks_at_the_same_time(store: Store, web: httpx.AsyncClient) -> None:
    ids = [
        add(store, HTML + f"<style>p{{display:{kind}}}</style><p style='color:red'>".encode())
        for kind in ("flex", "grid")
    ]
    path = "/api/v1/message/{}/html-check"
    expected = [(await web.get(path.format(id))).json() for id in ids]
    assert expected[0] != expected[1]
    answers = await asyncio.gather(*[web.get(path.format(ids[n % 2])) for n in range(50)])
    assert [answer.json() for answer in answers] == [expected[n % 2] for n in range(50)]


# Frames.


@pytest.mark.parametrize("text", ["x" * 200_000, "\u00fc" * 40_000])
def test_a_large_frame_ends_its_connection(text: str) -> None:
    with Inbox(web=True) as inbox:
        port = int(inbox.web_url.rstrip("/").rpartition(":")[2])
        web_socket = WebSocket(port, "/api/events")
        # It is small until it is decompressed.
        assert web_socket.deflates
        web_socket.send(TextMessage(data=text))
        assert {kind for kind, _ in web_socket.frames()} <= {"stats"}
        assert web_socket.closed is not None
        assert web_socket.closed.code == 1009
        web_socket.close()


# Logins.


def test_a_login_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    original = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return original(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    users = {"ann": "secret"}
    # ann:secret, ann:Secret, bob:secret.
    for token, user in (
        ("YW5uOnNlY3JldA==", "ann"),
        ("YW5uOlNlY3JldA==", None),
        ("Ym9iOnNlY3JldA==", None),
    ):
        assert auth.user_of(f"Basic {token}", users) == user
    assert compared == [(b"secret", b"secret"), (b"secret", b"Secret"), (b"", b"secret")]


async def test_below_a_root_origins_are_checked_too(store: Store) -> None:
    app = make_app(Services(store, WebOptions(root="/mail/")))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as web:
        for path in ("/mail/%61pi/events", "/%6dail/api/events", "/mail//api/v1/messages", "/mail"):
            answer = await web.get(path, headers={"origin": "http://evil.example"})
            assert answer.status_code == 403, path
