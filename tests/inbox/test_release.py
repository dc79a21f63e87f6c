"""Messages are sent on by a relay, to addresses that are allowed."""

import signal
import socket
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.relay import Relay
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store
from aiosmtpd.testing import Inbox
from tests.client import PATIENCE
from tests.inbox.command import running
from tests.inbox.support import add, mail
from tests.inbox.web import HOST

ALLOWED = r"@shop[.]test$"


@pytest.fixture
def hop() -> Iterator[Inbox]:
    """Yield the server that is the relay."""
    with Inbox() as hop:
        yield hop


@pytest.fixture
async def web(store: Store, hop: Inbox) -> AsyncIterator[httpx.AsyncClient]:
    relay = Relay(f"127.0.0.1:{hop.port}", ALLOWED, "^boss@")
    await relay.open()
    transport = httpx.ASGITransport(app=make_app(Services(store, relay=relay)))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as web:
        yield web
    await relay.close()


async def release(web: httpx.AsyncClient, id: str, *to: str) -> tuple[int, str]:
    answer = await web.post(f"/api/v1/message/{id}/release", json={"To": to})
    return answer.status_code, answer.text


async def released(web: httpx.AsyncClient, hop: Inbox, store: Store, content: bytes) -> Any:
    """Return the message that the relay gets for one in the store."""
    assert await release(web, add(store, content), "ann@shop.test") == (200, "ok")
    return hop.messages[-1]


async def test_the_relay_gets_the_message(web: httpx.AsyncClient, hop: Inbox, store: Store) -> None:
    content = mail(
        ".dots\r\nand Gr\u00fc\u00dfe",
        more="Return-Path: <x@a.test>\r\nBcc: eve@a.test,\r\n bob@a.test\r\nX-Kept: yes\r\n"
        "Message-ID: <old@a.test>\r\nDate: Sat, 1 Nov 2025 08:00:00 +0100\r\n",
    )
    add(store, content, recipients=["secret@a.test"])
    to = ["ann@shop.test", "Bob <bob@SHOP.test>", "ann@shop.test"]
    assert await release(web, "latest", *to) == (200, "ok")
    [got] = hop.messages
    assert got.recipients == ["ann@shop.test", "bob@SHOP.test"]
    assert got.sender == "ann@example.org"
    source = bytes(got.content)
    assert b"\r\nX-Kept: yes\r\n" in source
    assert source.endswith("\r\n\r\n.dots\r\nand Gr\u00fc\u00dfe\r\n".encode())
    for gone in (b"eve@", b"bob@a.test", b"secret@", b"x@a.test", b"old@a.test", b"Nov 2025"):
        assert gone not in source
    names = [line.partition(b":")[0].lower() for line in source.splitlines()]
    assert (names.count(b"date"), names.count(b"message-id")) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "sender"),
    [
        ("From: Ann <ann@a.test>\r\nSender: bob@b.test\r\n", "bob@b.test"),
        ("From: ann@a.test, bob@b.test\r\n", "ann@a.test"),
        ("From: shop\r\n", "ann@example.org"),
    ],
)
async def test_the_reverse_path(
    web: httpx.AsyncClient, hop: Inbox, store: Store, fields: str, sender: str
) -> None:
    got = await released(web, hop, store, f"{fields}\r\nhello\r\n".encode())
    assert got.sender == sender


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (b"no field at all\r\n", b"\r\n\r\nno field at all\r\n"),
        (b"Subject: no body", b"Subject: no body\r\n\r\n"),
        (b"Bcc: eve@a.test\r\n\r\nhello\r\n", b"\r\n\r\nhello\r\n"),
        (b"\xef\xbb\xbfBcc: eve@a.test\r\nA: b\r\n\r\nx\r\n", b"\r\nA: b\r\n\r\nx\r\n"),
        (b"From a Sat Nov 1\r\nA: b\r\n\r\nx\r\n", b"00\r\nA: b\r\n\r\nx\r\n"),
        # A relay may take a bare CR for the end of a line.
        (b"A: b\rBcc: eve@a.test\r\n\r\nx\r\n", b"\r\nA: b\r\n\r\nx\r\n"),
    ],
)
async def test_malformed_headers(
    web: httpx.AsyncClient, hop: Inbox, store: Store, content: bytes, end: bytes
) -> None:
    got = await released(web, hop, store, content)
    source = bytes(got.content)
    assert source.endswith(end)
    assert b"eve@" not in source
    assert source.partition(b"\r\n\r\n")[0].count(b"\r\n") <= 3


async def test_addresses_that_are_not_allowed(
    web: httpx.AsyncClient, hop: Inbox, store: Store
) -> None:
    id = add(store)
    refused = [["x@shop.test.evil"], ["ann@shop.test", "BOSS@shop.test"], ["a@shop.test\n@b"]]
    for to in refused:
        assert (await release(web, id, *to))[0] == 400
    assert await release(web, id, "ann@shop.test", "boss@shop.test", "eve@a.test") == (
        400,
        "the relay is not for boss@shop.test, eve@a.test",
    )
    assert await release(web, id) == (400, "no recipients: To is empty")
    many = [f"{number}@shop.test" for number in range(101)]
    assert await release(web, id, *many) == (400, "more than 100 recipients")
    assert (await release(web, "unknown", "ann@shop.test"))[0] == 404
    assert hop.messages == []


@pytest.mark.parametrize(
    "address", ["eve@a.test>@shop.test", "eve@a.test>x@shop.test", "a\\b@shop.test"]
)
async def test_an_address_hides_another_one(
    web: httpx.AsyncClient, hop: Inbox, store: Store, address: str
) -> None:
    code, text = await release(web, add(store), address)
    assert (code, text) == (400, f"{address!r} is not an address")
    assert "RCPT" not in hop.transcript.upper()


async def test_the_answer_says_why_the_relay_refuses(
    web: httpx.AsyncClient, hop: Inbox, store: Store
) -> None:
    id = add(store)
    hop.fail("rcpt", "550 5.1.1 no such user", recipient="bob@*")
    assert await release(web, id, "ann@shop.test", "bob@shop.test") == (
        400,
        "bob@shop.test: 550 5.1.1 no such user; it was sent to the others",
    )
    assert await release(web, id, "bob@shop.test") == (
        400,
        "bob@shop.test: 550 5.1.1 no such user",
    )
    assert [one.recipients for one in hop.messages] == [["ann@shop.test"]]
    hop.stop()
    status, why = await release(web, id, "ann@shop.test")
    assert (status, why.startswith("smtp://127.0.0.1:")) == (400, True)


async def test_the_settings_tell_of_the_relay(web: httpx.AsyncClient, hop: Inbox) -> None:
    found = (await web.get("/api/v1/webui")).json()["MessageRelay"]
    assert found == {
        "Enabled": True,
        "SMTPServer": f"127.0.0.1:{hop.port}",
        "ReturnPath": "",
        "AllowedRecipients": ALLOWED,
        "BlockedRecipients": "^boss@",
        "OverrideFrom": "",
        "PreserveMessageIDs": False,
        "RecipientAllowlist": ALLOWED,
    }


def test_the_command_releases(hop: Inbox) -> None:
    args = ("--relay", f"127.0.0.1:{hop.port}", "--relay-allow", ALLOWED)
    with running(*args) as inbox:
        assert f"releases messages by 127.0.0.1:{hop.port}, to {ALLOWED}" in inbox.banner
        inbox.send()
        url = f"{inbox.url}api/v1/message/latest/release"
        answer = httpx.post(url, json={"To": ["ann@shop.test"]})
        assert (answer.status_code, answer.text) == (200, "ok")
    assert hop.messages[0].recipients == ["ann@shop.test"]


def test_a_relay_that_is_silent_does_not_delay_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        args = ("--relay", f"127.0.0.1:{silent.getsockname()[1]}", "--relay-allow", ".")
        with running(*args) as inbox:
            inbox.send()
            body = b'{"To":["ann@shop.test"]}'
            head = "POST /api/v1/message/latest/release HTTP/1.1\r\nHost: a\r\nContent-Length: "
            with socket.create_connection(inbox.place, PATIENCE) as client:
                client.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
                connection, _ = silent.accept()
                with connection:
                    began = monotonic()
                    ended = inbox.program.end(signal.SIGINT)
                    assert monotonic() - began < 5
                    assert ended == (0, "", "")
                assert b" 503 " in client.recv(1000)
