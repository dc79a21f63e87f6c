"""The outlet of a webhook, against a real HTTP server."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery.item import Full, Item, Later, Misconfigured, Never, Results
from aiosmtpd.delivery.outlets import make_outlet
from tests.conftest import Certificates
from tests.delivery.hops import CONTENT, SENDER, item_of
from tests.delivery.support import QUICK, Place, given, messages, route
from tests.delivery.webhook_server import Receiver, Request, receiving

SECRET = "whsec_" + base64.b64encode(b"a key of 24 bytes or so.").decode()


async def deliver(url: str, item: Item | None = None, **options: Any) -> Results:
    outlet = make_outlet(url, **options)
    await outlet.open()
    try:
        return await outlet.put(item or item_of())
    finally:
        await outlet.close()


async def failure(receiver: Receiver, **options: Any) -> Later | Never:
    with pytest.raises((Later, Never)) as caught:
        await deliver(receiver.url, **options)
    assert isinstance(caught.value, Later | Never)
    return caught.value


async def test_a_message_is_posted_as_it_came() -> None:
    with receiving() as receiver:
        item = item_of("a@example.com", "j\xf6rg@example.com", client="192.0.2.1", helo="me")
        assert await deliver(receiver.url, item) is None
    request = receiver.request
    assert request.path == "/mail"
    assert request.body == CONTENT
    assert request.headers["content-type"] == "message/rfc822"
    assert request.headers["webhook-id"] == item.id
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    assert "webhook-signature" not in request.headers
    envelope = json.loads(request.headers["aiosmtpd-envelope"])
    assert envelope["sender"] == SENDER
    assert envelope["recipients"] == ["a@example.com", "j\xf6rg@example.com"]
    assert envelope["arrival"]["client"] == "192.0.2.1"


def signatures(request: Request, key: bytes) -> str:
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}."
    digest = hmac.new(key, signed.encode() + request.body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize("form", ["raw", "json"])
async def test_the_signature_is_that_of_standard_webhooks(form: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"a: b\r\n\r\n" + b"line\r\n" * 100_000)
    other = "whsec_" + base64.b64encode(b"b" * 32).decode()
    for item in item_of(), item_of(content=path):
        with receiving() as receiver:
            await deliver(receiver.url, item, secret=[SECRET, other], format=form)
        request = receiver.request
        keys = (b"a key of 24 bytes or so.", b"b" * 32)
        expected = " ".join(signatures(request, key) for key in keys)
        assert request.headers["webhook-signature"] == expected


def test_the_signature_of_the_specification() -> None:
    # The example in the text of Standard Webhooks.
    key = base64.b64decode("C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    request = Request(
        "/",
        {
            "webhook-id": "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "webhook-timestamp": "1649367553",
        },
        b'{"email":"test@example.com","username":"test_user"}',
    )
    assert signatures(request, key) == "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="


async def test_a_large_message_has_its_length(tmp_path: Path) -> None:
    path = tmp_path / "large"
    content = b"a: b\r\n\r\n" + b"line\r\n" * 1_000_000
    path.write_bytes(content)
    with receiving() as receiver:
        assert await deliver(receiver.url, item_of(content=path)) is None
    assert receiver.request.body == content
    assert "transfer-encoding" not in receiver.request.headers


MULTIPART = b"""\
From: =?utf-8?q?J=C3=B6rg?= <j@example.com>
Subject: =?utf-8?q?h=C3=A9?=
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

caf=C3=A9
--x
Content-Type: text/html

<p>hi</p>
--x
Content-Type: image/png
Content-Disposition: attachment; filename=a.png
Content-Transfer-Encoding: base64

AAEC
--x--
""".replace(b"\n", b"\r\n")


async def test_a_message_as_json() -> None:
    arrival: dict[str, Any] = {
        "client": "192.0.2.1",
        "port": 7,
        "helo": "me",
        "user": "u",
        "time": 1.5,
    }
    item = item_of("a@example.com", content=MULTIPART, mail_options=("SIZE=9",), **arrival)
    with receiving() as receiver:
        assert await deliver(receiver.url, item, format="json") is None
    assert receiver.request.headers["content-type"] == "application/json"
    mail = json.loads(receiver.request.body)
    assert mail["id"] == receiver.request.headers["webhook-id"] == item.id
    assert (mail["sender"], mail["recipients"]) == (SENDER, ["a@example.com"])
    assert mail["subject"] == "h\xe9"
    assert mail["headers"][0] == ["From", "J\xf6rg <j@example.com>"]
    assert mail["text"].strip() == "caf\xe9"
    assert mail["html"].strip() == "<p>hi</p>"
    expected = {"name": "a.png", "type": "image/png", "size": 3, "base64": "AAEC"}
    assert mail["attachments"] == [expected]
    assert mail["received"] == "1970-01-01T00:00:01.500+00:00"
    assert mail["mail_options"] == ["SIZE=9"]
    assert (mail["client_address"], mail["client_port"], mail["user"]) == ("192.0.2.1", 7, "u")
    assert (mail["tls"], mail["size"], mail["attempts"]) == (None, len(MULTIPART), 0)


async def test_a_broken_message_as_json() -> None:
    content = b"Subject: \xff\r\nContent-Type: multipart/mixed\r\n\r\n\x00\xfe"
    with receiving() as receiver:
        assert await deliver(receiver.url, item_of(content=content), format="json") is None
    assert json.loads(receiver.request.body)["size"] == len(content)


async def test_own_headers_are_sent() -> None:
    with receiving() as receiver:
        own = {"Authorization": "Bearer x", "Webhook-Id": "mine", "User-Agent": "shop"}
        await deliver(receiver.url, headers=own)
    headers = receiver.request.headers
    assert headers["authorization"] == "Bearer x"
    assert headers["user-agent"] == "shop"
    assert headers["webhook-id"] == "queue-id-1"


async def test_control_characters_of_a_client_are_escaped() -> None:
    with receiving() as receiver:
        assert await deliver(receiver.url, item_of(helo="a\x7f\r\nb: c\x00\u2028")) is None
    field = receiver.request.headers["aiosmtpd-envelope"]
    assert field.isascii()
    assert field.isprintable()
    envelope = json.loads(field)
    assert envelope["arrival"]["helo"] == "a\x7f\r\nb: c\x00\u2028"
    assert "b" not in receiver.request.headers


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_2xx_is_delivered(status: int) -> None:
    with receiving(answer=status) as receiver:
        assert await deliver(receiver.url) is None


@pytest.mark.parametrize("status", [301, 302, 307, 408, 425, 429, 500, 502, 503, 504, 507])
async def test_trouble_of_the_server_is_later(status: int) -> None:
    with receiving(answer=status) as receiver:
        found = await failure(receiver)
    assert type(found) is (Full if status == 507 else Later)
    assert f"HTTP {status} " in str(found)
    assert str(found).startswith(receiver.url)
    assert isinstance(found, Later)
    assert found.after is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422])
async def test_4xx_is_never(status: int) -> None:
    with receiving(answer=status, text=b"no\r\n \x1b[31m such customer") as receiver:
        found = await failure(receiver)
    assert isinstance(found, Never)
    assert found.reply.startswith("552 5.3.4 " if status == 413 else "554 5.3.0 ")
    assert f"HTTP {status} " in found.reply
    assert found.reply.endswith(": no ?[31m such customer")


async def test_too_many_recipients_for_a_header() -> None:
    with receiving(answer=431, text=b"") as receiver:
        found = await failure(receiver)
    assert isinstance(found, Never)
    assert found.reply.endswith("(with format=json, the envelope is in the body)")


@pytest.mark.parametrize("has_page", [True, False])
def test_a_report_has_no_error_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_page: bool
) -> None:
    post = Place()
    with receiving(text=b"no password at db.internal") as receiver:
        receiver.answer = 500 if has_page else receiver.close
        one = route(receiver.url, bounce=post, retry={**QUICK, "give_up": 0.1})
        with given(tmp_path, one):
            report = post.next()[1]
    assert b"Status: 4.4.7" in report
    assert b"db.internal" not in report
    assert receiver.url.encode() not in report
    assert receiver.url in messages(caplog)
    assert ("db.internal" in messages(caplog)) is has_page


async def test_a_redirect_is_not_followed() -> None:
    with receiving() as target:
        location = f"{target.url}?token=hidden"
        with receiving(answer=307, headers={"Location": location}) as receiver:
            found = await failure(receiver)
        assert not target.requests
    assert str(found).endswith(f"redirects are not followed: {target.url}?token=***")


async def test_a_location_beside_an_error_hides_no_reason() -> None:
    place = {"Location": "https://example.com/login"}
    with receiving(answer=403, text=b"wrong key", headers=place) as receiver:
        assert str(await failure(receiver)).endswith(": wrong key")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("99999999999999999999", 86400.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("Fri, 31 Dec 9999 99:99:99 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
async def test_retry_after_is_honoured(value: str, expected: float | None) -> None:
    with receiving(answer=429, headers={"Retry-After": value}) as receiver:
        found = await failure(receiver)
    assert isinstance(found, Later)
    assert found.after == expected


async def test_retry_after_may_be_a_date() -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    with receiving(answer=503, headers={"Retry-After": value}) as receiver:
        found = await failure(receiver)
    assert isinstance(found, Later)
    assert found.after == pytest.approx(600, abs=30)


FAULTS: dict[str, tuple[Callable[[Receiver], Any], str]] = {
    "hang": (lambda one: one.hang, "no reply in|ReadTimeout"),
    "reset": (lambda one: one.reset, "reset|ReadError|disconnected"),
    "close": (lambda one: one.close, "without sending a response|disconnected"),
    "nonsense": (lambda one: one.nonsense, "illegal|status line"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_broken_connection_is_later(name: str) -> None:
    answer, said = FAULTS[name]
    with receiving() as receiver:
        receiver.answer = answer(receiver)
        with pytest.raises(Later, match=said):
            await deliver(receiver.url, reply_timeout=0.5)


@pytest.mark.parametrize(("kind", "seconds"), [("endless", 60.0), ("silent_body", 0.6)])
async def test_a_body_without_an_end_changes_nothing(
    kind: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One body is over at its longest length, the other after the time for it.
    monkeypatch.setattr("aiosmtpd.delivery.outlets.webhook._BODY", seconds)
    with receiving() as receiver:
        async with asyncio.timeout(20):
            receiver.answer = getattr(receiver, kind)(200)
            assert await deliver(receiver.url, reply_timeout=0.3) is None
            receiver.answer = getattr(receiver, kind)(400)
            found = await failure(receiver, reply_timeout=0.3)
    assert isinstance(found, Never)
    assert len(found.reply) < 300


async def test_a_server_that_is_down_is_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Later, match=rf"^http://127\.0\.0\.1:{port}/x: .+"):
        await deliver(f"http://127.0.0.1:{port}/x")
    with pytest.raises(Later, match=r"^https://\*\*\*@host\.invalid/: .+"):
        await deliver("https://a:hidden@host.invalid/")


async def test_one_outlet_posts_many_at_a_time() -> None:
    with receiving() as receiver:
        outlet = make_outlet(receiver.url)
        items = [item_of(id=f"id-{number}") for number in range(25)]
        assert await asyncio.gather(*map(outlet.put, items)) == [None] * 25
        await outlet.close()
    assert {request.headers["webhook-id"] for request in receiver.requests} == {
        item.id for item in items
    }


async def test_tls_is_verified_by_default(certificates: Certificates, tmp_path: Path) -> None:
    with receiving(certificates.server_context()) as receiver:
        with pytest.raises(Later, match=r"(?i)certificate"):
            await deliver(receiver.url)
        assert await deliver(receiver.url, cafile=certificates.ca_file) is None
        assert await deliver(receiver.url, verify=False) is None
    with pytest.raises(Misconfigured, match="cafile: "):
        await deliver(receiver.url, cafile=tmp_path / "missing")


async def warnings_of(url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    outlet = make_outlet(url)
    with caplog.at_level(logging.WARNING, "mail.log"):
        await outlet.open()
    await outlet.close()
    return caplog.messages


async def test_a_secret_in_the_url_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await warnings_of("https://127.0.0.1/?token=hidden", caplog)
    assert line.startswith("https://127.0.0.1/?token=***: a secret in a URL")
    assert await warnings_of("https://127.0.0.1/mail", caplog) == []


async def test_plain_http_to_the_world_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await warnings_of("http://192.88.99.1/mail", caplog)
    assert line == "http://192.88.99.1/mail: mail goes unencrypted to a public address"
    for url in (
        "https://192.88.99.1/mail",
        "http://127.0.0.1/mail",
        "http://[::1]/mail",
        "http://10.1.2.3/",
        "http://localhost/mail",
        "http://host.invalid/mail",
    ):
        assert await warnings_of(url, caplog) == []


async def test_a_secret_in_the_url_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving() as receiver:
        url = receiver.url.replace("://", "://anna:one-secret@") + "?token=other-secret"
        assert await deliver(url) is None
    assert "HTTP Request: POST" in caplog.text
    assert "secret@" not in caplog.text
    assert "other-secret" not in caplog.text
