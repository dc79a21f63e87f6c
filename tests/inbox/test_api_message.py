"""Mailpit's API: one message, its header, its source, its parts and its checks."""

import json
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox import compatibility
from aiosmtpd.inbox.records import StoreError
from aiosmtpd.inbox.store import LARGE, Store
from aiosmtpd.observers.faults import Faults
from tests.inbox.support import add, mail
from tests.inbox.web import client_of

MESSAGE = {
    *("ID", "MessageID", "From", "To", "Cc", "Bcc", "ReplyTo", "ReturnPath", "Subject"),
    *("ListUnsubscribe", "Date", "Tags", "Username", "Text", "HTML", "Size", "Inline"),
    "Attachments",
}
MIXED = b"""\
From: Ann <ann@example.org>
To: bob@example.org
Subject: Pictures and files
Date: Sat, 28 Nov 2026 08:00:02 +0100
Message-ID: <mixed-1@example.org>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: multipart/related; boundary=r

--r
Content-Type: text/html

<p style="text-align:center"><img src="cid:logo@example.org"> https://a.test/x
--r
Content-Type: image/png; name=logo.png
Content-ID: <logo@example.org>
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--r--
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename=report.pdf

%PDF-1.4
--b
Content-Type: text/calendar

BEGIN:VCALENDAR
--b--
""".replace(b"\n", b"\r\n")


@pytest.fixture
def web(store: Store) -> httpx.AsyncClient:
    return client_of(store)


async def read(web: httpx.AsyncClient, path: str) -> Any:
    answer = await web.get(f"/api/v1/message/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_message_has_exactly_these_keys(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store, MIXED)
    found = await read(web, id)
    assert found.keys() == MESSAGE
    assert found["ListUnsubscribe"].keys() == {"Header", "Links", "Errors", "HeaderPost"}
    assert (found["ID"], found["MessageID"]) == (id, "mixed-1@example.org")
    assert found["Date"] == "2026-11-28T08:00:02+01:00"
    [inline], [attached] = found["Inline"], found["Attachments"]
    assert inline.keys() == {
        *("PartID", "FileName", "ContentType", "ContentID", "Size", "Checksums")
    }
    assert inline["Checksums"].keys() == {"MD5", "SHA1", "SHA256"}
    assert (inline["PartID"], inline["Size"]) == ("1.2", 8)
    assert (attached["PartID"], attached["FileName"]) == ("2", "report.pdf")
    assert [found[name] for name in ("Cc", "Bcc", "ReplyTo", "Tags")] == [[], [], [], []]
    assert found["Size"] == len((await web.get(f"/api/v1/message/{id}/raw")).content)


async def test_latest_may_have_a_query(store: Store, web: httpx.AsyncClient) -> None:
    first = add(store, mail(subject="first"))
    second = add(store, mail(subject="second"))
    assert (await read(web, "latest"))["ID"] == second
    assert (await read(web, "latest?query=subject:first"))["ID"] == first
    source = await web.get("/api/v1/message/latest/raw?query=subject:first")
    assert b"Subject: first\r\n" in source.content
    headers = await read(web, "latest/headers?query=first")
    assert headers["Subject"] == ["first"]


@pytest.mark.parametrize("path", ["", "/headers", "/raw", "/part/1", "/html-check", "/link-check"])
async def test_unknown_messages(store: Store, web: httpx.AsyncClient, path: str) -> None:
    for id in ("unknown", "0" * 22, "..%2f..%2fetc%2fpasswd", "%00", "x" * 5000):
        answer = await web.get(f"/api/v1/message/{id}{path}")
        assert answer.status_code == 404 or (answer.status_code, ".." in id) == (307, True)
    answer = await web.get(f"/api/v1/message/unknown{path}")
    assert (answer.text, answer.headers["content-type"]) == ("404 page not found", "text/plain")
    answer = await web.get(f"/api/v1/message/latest{path}")
    expected = "404 page not found" if "check" in path else "Message not found"
    assert (answer.status_code, answer.text) == (404, expected)


async def test_headers_are_merged_and_canonical(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store, mail(more="x-ip: 1\r\nX-IP: 2\r\nX-Long: a\r\n b\r\n"))
    headers = await read(web, f"{id}/headers")
    assert list(headers) == sorted(headers)
    assert (headers["X-Ip"], headers["X-Long"]) == (["1", "2"], ["a b"])


async def test_the_source_is_sent_as_it_is(store: Store, web: httpx.AsyncClient) -> None:
    content = mail() + b"caf\xe9 \xff\r\n"
    id = add(store, content)
    answer = await web.get(f"/api/v1/message/{id}/raw")
    assert answer.content.endswith(content)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert "content-disposition" not in answer.headers
    answer = await web.get(f"/api/v1/message/{id}/raw?dl=1")
    assert answer.headers["content-disposition"] == f'attachment; filename="{id}.eml"'


async def test_a_large_message(store: Store, web: httpx.AsyncClient) -> None:
    content = mail("x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * (LARGE // 60))
    id = add(store, content)
    answer = await web.get(f"/api/v1/message/{id}/raw")
    assert answer.content.endswith(content)
    assert len(answer.content) == int(answer.headers["content-length"])
    assert len((await read(web, id))["Text"]) > LARGE


# Parts.


async def test_parts_are_decoded(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store, MIXED)
    answer = await web.get(f"/api/v1/message/{id}/part/1.2")
    assert answer.content == b"\x89PNG\r\n\x1a\n"
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"].startswith('inline; filename="logo.png"')
    assert (await web.get("/api/v1/message/latest/part/2")).content == b"%PDF-1.4"
    # Without a name it is not listed.
    assert (await web.get(f"/api/v1/message/{id}/part/3")).content == b"BEGIN:VCALENDAR"
    for number in ("0", "1", "1.1", "9", "x"):
        assert (await web.get(f"/api/v1/message/{id}/part/{number}")).status_code == 404


async def test_a_thumbnail_is_a_blank_picture(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store, MIXED)
    for path in (f"{id}/part/1.2", "latest/part/2", f"{id}/part/1.2"):
        answer = await web.get(f"/api/v1/message/{path}/thumb")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.content.startswith(b"\xff\xd8\xff")
    for path in ("unknown/part/1.2", f"{id}/part/9"):
        assert (await web.get(f"/api/v1/message/{path}/thumb")).status_code == 400


# Checks.


async def test_the_html_check(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store, MIXED)
    found = await read(web, f"{id}/html-check")
    assert found.keys() == {"Warnings", "Platforms", "Total"}
    [warning] = found["Warnings"]
    assert (warning["Slug"], warning["Category"]) == ("css-text-align", "css")
    assert {one["Support"] for one in warning["Results"]} == {"yes", "partial"}
    assert warning["Results"][0].keys() == {
        *("Name", "Platform", "Family", "Version", "Support", "NoteNumber")
    }
    total = found["Total"]
    assert total["Nodes"] == 2
    assert total["Supported"] + total["Partial"] + total["Unsupported"] == pytest.approx(100)
    add(store)
    assert (await web.get("/api/v1/message/latest/html-check")).status_code == 400


def test_the_html_check_knows_elements_and_rules() -> None:
    html = (
        "<style>/* position: fixed */ @media (x) { a { display:flex; --x:1 } }</style>"
        '<svg></svg><img srcset=a><script></script><p style="background-image:url(cid:a)">'
    )
    slugs = {one["Slug"] for one in compatibility.check(html)["Warnings"]}
    assert slugs == {
        *("html-style", "html-svg", "html-srcset", "html-script"),
        *("css-at-media", "css-display-flex", "css-variables", "css-background-image"),
    }


async def test_links_are_listed_and_not_followed(store: Store, web: httpx.AsyncClient) -> None:
    html = (
        '<a href="https://a.test/1">a</a><a href="mailto:x@a.test">m</a><a href="#x">x</a>'
        '<link rel="stylesheet" href="https://a.test/2"><img src="https://a.test/3">'
        '<a href="https://a.test/1">again</a>'
    )
    content = mail(html, more="Content-Type: text/html\r\n")
    id = add(store, content)
    for follow in ("", "?follow=true"):
        found = await read(web, f"{id}/link-check{follow}")
        assert found["Errors"] == 0
        assert [one["URL"] for one in found["Links"]] == [f"https://a.test/{n}" for n in (1, 2, 3)]
        assert {json.dumps(one["StatusCode"]) + one["Status"] for one in found["Links"]} == {
            "0not checked"
        }
    assert store.counts().unread == 0


async def test_release_and_spam_check(store: Store, web: httpx.AsyncClient) -> None:
    id = add(store)
    for to in (["ann@example.org"], ["nonsense"], []):
        answer = await web.post(f"/api/v1/message/{id}/release", json={"To": to})
        assert answer.status_code == 400
    answer = await web.post("/api/v1/message/unknown/release", json={"To": []})
    assert answer.status_code == 404
    assert (await web.get(f"/api/v1/message/{id}/sa-check")).status_code == 404


# The server.


async def test_information_has_exactly_these_keys(store: Store, web: httpx.AsyncClient) -> None:
    add(store, mail(more="X-Tags: Billing\r\n"))
    info = (await web.get("/api/v1/info")).json()
    stats = info.pop("RuntimeStats")
    assert info.keys() == {
        *("Version", "LatestVersion", "Database", "DatabaseSize", "Messages", "Unread", "Tags")
    }
    assert stats.keys() == {
        *("Uptime", "Memory", "MessagesDeleted", "SMTPAccepted", "SMTPAcceptedSize"),
        *("SMTPRejected", "SMTPIgnored"),
    }
    assert all(type(number) is int for number in [*stats.values(), info["DatabaseSize"]])
    assert (info["Messages"], info["Tags"], stats["SMTPAccepted"]) == (1, {"Billing": 1}, 1)
    assert stats["Memory"] > 1 << 20


async def test_settings_of_the_page(store: Store, web: httpx.AsyncClient) -> None:
    found = (await web.get("/api/v1/webui")).json()
    assert found.keys() == {
        *("Label", "MessageRelay", "SpamAssassin", "ChaosEnabled", "DuplicatesIgnored"),
        "HideDeleteAllButton",
    }
    assert found["MessageRelay"].keys() == {
        *("Enabled", "SMTPServer", "ReturnPath", "AllowedRecipients", "BlockedRecipients"),
        *("OverrideFrom", "PreserveMessageIDs", "RecipientAllowlist"),
    }
    assert found["ChaosEnabled"] is False


async def test_the_probes(store: Store) -> None:
    web = client_of(store, users={"ann": "secret"})
    for path in ("/livez", "/readyz"):
        answer = await web.get(path, headers={"host": "evil.example"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert "content-type" not in answer.headers
    store.close()
    assert (await web.get("/livez")).status_code == 200
    assert (await web.get("/readyz")).status_code == 503
    answer = await web.get("/api/v1/messages", auth=("ann", "secret"))
    assert answer.status_code == 503


# Chaos.

OFF = {
    "Sender": {"ErrorCode": 451, "Probability": 0},
    "Recipient": {"ErrorCode": 451, "Probability": 0},
    "Authentication": {"ErrorCode": 535, "Probability": 0},
}


async def test_chaos_makes_faults(store: Store) -> None:
    faults = Faults(["quit: drop"])
    web = client_of(store, faults=faults)
    assert (await web.get("/api/v1/chaos")).json() == OFF
    body = {"sender": {"errorcode": 421, "probability": 5}, "Recipient": {"Probability": 100}}
    answer = await web.put("/api/v1/chaos", json=body)
    expected = {
        **OFF,
        "Sender": {"ErrorCode": 421, "Probability": 5},
        "Recipient": {"ErrorCode": 451, "Probability": 100},
    }
    assert answer.json() == expected
    rules = [str(fault).partition(" seed")[0] for fault in faults]
    assert rules == [
        "quit: drop",
        "mail: 421 Chaos sender error 5%",
        "rcpt: 451 Chaos recipient error 100%",
    ]
    assert (await web.put("/api/v1/chaos", content="{}")).json() == OFF
    assert len(list(faults)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({"ErrorCode": 200}, {"ErrorCode": 600}, {"Probability": 101}, {"Probability": -1}),
        *({"Probability": "x"}, {"Probability": True}, []),
    ],
)
async def test_wrong_chaos_changes_nothing(store: Store, wrong: Any) -> None:
    faults = Faults()
    web = client_of(store, faults=faults)
    before = (await web.put("/api/v1/chaos", json={"Recipient": {"Probability": 7}})).json()
    body = {"Sender": {"ErrorCode": 450, "Probability": 50}, "Authentication": wrong}
    answer = await web.put("/api/v1/chaos", json=body)
    assert answer.status_code == 400
    assert (await web.get("/api/v1/chaos")).json() == before


async def test_no_chaos_without_faults(web: httpx.AsyncClient) -> None:
    assert (await web.get("/api/v1/chaos")).status_code == 400
    assert (await web.put("/api/v1/chaos", json={})).status_code == 400


async def test_times_have_milliseconds(store: Store, web: httpx.AsyncClient) -> None:
    add(store, created=datetime(2026, 11, 28, 7, 22, 7, 930_999, tzinfo=UTC))
    [row] = (await web.get("/api/v1/messages")).json()["messages"]
    assert row["Created"] == "2026-11-28T07:22:07.93Z"


async def test_a_full_disk_shows_its_messages(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = add(store, MIXED)
    failed = Future[int]()
    failed.set_exception(StoreError("The disk is full"))
    monkeypatch.setattr(Store, "set_read", lambda *_: failed)
    web = client_of(store)
    for path in f"api/v1/message/{id}", f"view/{id}.html", f"view/{id}.txt":
        assert (await web.get(f"/{path}")).status_code == 200
    assert not (await web.get("/api/v1/messages")).json()["messages"][0]["Read"]
