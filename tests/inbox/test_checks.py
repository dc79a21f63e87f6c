"""Checks of a message: what each one finds, and that a good message has no finding."""

import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from aiosmtpd.inbox.checks import Finding, check
from aiosmtpd.inbox.letter import Letter
from aiosmtpd.inbox.records import Line
from aiosmtpd.inbox.store import Store
from tests.inbox.support import add

GOOD = {
    "From": "Ann <ann@example.org>",
    "To": "bob@example.org",
    "Subject": "Your order",
    "Date": format_datetime(datetime.now(UTC)),
    "Message-ID": "<1@example.org>",
    "MIME-Version": "1.0",
}
TEXT = "Your order has been sent and will arrive tomorrow.\r\n"
LINK = '<a href="https://example.org/">See it</a>'


def message(text: str = TEXT, **fields: str | None) -> bytes:
    """Return a good message with other fields; a field that is None is left out."""
    changed = {name.replace("_", "-"): value for name, value in fields.items()}
    head = "".join(
        f"{name}: {value}\r\n" for name, value in {**GOOD, **changed}.items() if value is not None
    )
    return f"{head}\r\n{text}".encode("utf-8", "surrogateescape")


def html(page: str, text: str | None = TEXT, **fields: str | None) -> bytes:
    """Return a message of HTML and, unless it is None, text."""
    if text is None:
        return message(page, Content_Type="text/html; charset=utf-8", **fields)
    parts = [("text/plain", text), ("text/html", page)]
    body = "".join(f"--b\r\nContent-Type: {kind}\r\n\r\n{part}\r\n" for kind, part in parts)
    return message(f"{body}--b--\r\n", Content_Type="multipart/alternative; boundary=b", **fields)


def findings(store: Store, content: bytes, **more: Any) -> list[Finding]:
    stored = store.message(add(store, content, **more))
    assert stored is not None
    return check(Letter(stored))


@pytest.mark.parametrize(
    "content",
    [
        message(),
        html(f"<p>{TEXT}</p>{LINK}"),
        html(f"<p>{TEXT}</p><img src='cid:x' alt='' width=5>"),
        message(List_Unsubscribe="<mailto:x@example.org>", List_Id="<x.example.org>"),
        message(
            List_Unsubscribe="<https://example.org/u>",
            List_Unsubscribe_Post="List-Unsubscribe=One-Click",
        ),
        message(From="no-reply@example.org", Auto_Submitted="auto-generated"),
    ],
)
def test_a_good_message_has_no_finding(store: Store, content: bytes) -> None:
    assert findings(store, content) == []


@pytest.mark.parametrize(
    ("content", "id", "level", "where"),
    [
        (message(Date=None), "no-date", "error", "header"),
        (message(From=None), "no-from", "error", "header"),
        (message(Message_ID=None), "no-message-id", "warn", "header"),
        (message(date="Sat, 1 Jan 2000 00:00:00 +0000"), "repeated-date", "error", "header"),
        (message(Date="soon"), "bad-date", "error", "header"),
        (message(Date="Sat, 1 Jan 2000 00:00:00 +0000"), "far-date", "warn", "header"),
        (message(From=", ,"), "bad-from", "error", "header"),
        (message(From="Ann <ann@example.net>"), "from-envelope", "info", "header"),
        (message(Subject="Grüße"), "raw-header", "warn", "header"),
        (message(Reply_To="x@example.net"), "reply-to", "info", "header"),
        (message(From="no-reply@example.org"), "auto-submitted", "info", "header"),
        (message(Precedence="bulk"), "precedence", "info", "header"),
        (message(List_Id="<x>"), "unsubscribe", "warn", "header"),
        (message(List_Unsubscribe="https://example.org"), "unsubscribe", "warn", "header"),
        (message(List_Unsubscribe="<https://example.org>"), "one-click", "info", "header"),
        (message(List_Unsubscribe_Post="yes"), "one-click", "warn", "header"),
        (message(Subject=""), "no-subject", "warn", "subject"),
        (message(Subject="x" * 61), "long-subject", "info", "subject"),
        (message(" \r\n"), "no-body", "warn", "text"),
        (html(f"<p>{TEXT}</p>", None), "no-text", "warn", "text"),
        (html(f"<p>{TEXT}</p>", "See the HTML"), "text-differs", "warn", "text"),
        (html(f"<p>{TEXT}</p>" + "\n" * 102_400), "gmail-clip", "warn", "html:102344"),
        (html(f"<p>{TEXT}</p><img src=x width=1>"), "image-alt", "warn", "html"),
        (html(f"<p>{TEXT}</p><img src=x alt=''>"), "image-size", "info", "html"),
        (html(f"<p>{TEXT}</p><form></form>"), "removed", "warn", "html"),
        (html(f"<link rel=stylesheet href=x><p>{TEXT}</p>"), "removed", "warn", "html"),
        (html(f"<p>View in your browser</p>{TEXT}"), "preheader", "info", "html"),
        (message(f"\r\nHello {{{{ name }}}}, {TEXT}"), "placeholder", "warn", "text:2"),
        (message("Dear undefined\r\n"), "placeholder", "warn", "text:1"),
        (message(Subject="Hello %(name)s"), "placeholder", "warn", "subject"),
        (html(f"<p>{TEXT} Dear None,</p>"), "placeholder", "warn", "html"),
        (html(f"<p>{TEXT}</p>{LINK.replace('https', 'http')}"), "links", "info", "links"),
        (message(Content_Type="text/plain; charset=x"), "unreadable", "error", "part 0"),
        (message("x\r\n" + "x" * 999 + "\r\n"), "long-line", "warn", "source:9"),
        (message("x\nx\r\n"), "bare-line-end", "warn", "source:8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_mistake_is_found(
    store: Store, content: bytes, id: str, level: str, where: str
) -> None:
    found = {one.id: one for one in findings(store, content)}
    assert (found[id].level, found[id].where) == (level, where)
    assert found[id].title


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot change its zone")
def test_a_date_of_an_unknown_zone_is_in_utc(
    store: Store, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(time.tzset)
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "EAST-14")
        time.tzset()
        date = format_datetime(datetime.now(UTC) - timedelta(hours=20)).replace("+0000", "-0000")
        assert findings(store, message(Date=date)) == []


def test_large_images_are_found(store: Store) -> None:
    image = message("x" * 1_000_001, Content_Type="image/png")
    assert "image-bytes" in [one.id for one in findings(store, image)]


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("MAIL FROM:<ann@example.org>", True),
        ("MAIL FROM:<ann@example.org> BODY=8BITMIME", False),
        ("", False),
    ],
)
def test_bytes_of_8_bits_are_to_be_announced(store: Store, line: str, is_found: bool) -> None:
    content = message("Grüße\r\n", Content_Type="text/plain; charset=utf-8")
    transaction = [Line(0.1, "C", line)] if line else []
    found = [one.id for one in findings(store, content, transaction=transaction)]
    assert found == ["8bit"] * is_found


def test_errors_come_first(store: Store) -> None:
    levels = [one.level for one in findings(store, message(Date=None, Subject="x" * 61, From=""))]
    assert levels == sorted(levels, key=["error", "warn", "info"].index)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"no colon\r\n",
        b"Content-Type: multipart/mixed\r\n\r\nx",
        b"From: <\r\nDate: \xff\r\nList-Unsubscribe: <\r\n\r\n" + b"{{" * 50_000,
        b"Content-Type: text/html\r\n\r\n" + b"<a href=<img " * 20_000,
        b"Content-Type: text/html\r\n\r\n" + b"<a href='http://[::1'>x</a>" * 5000,
    ],
    ids=range(7),
)
def test_any_message_can_be_checked(store: Store, content: bytes) -> None:
    assert all(one.title for one in findings(store, content))
