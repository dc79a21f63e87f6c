"""Rows and messages as the API writes them: the exact keys, and any message at all."""

import json
from hashlib import md5, sha1, sha256
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.inbox.fields import by_name, unsubscribe
from aiosmtpd.inbox.store import Store, StoredMail
from tests.inbox.support import add, mail, received, row

LOGO = b"\x89PNG logo"
MIXED = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: Pictures and files\r\n"
    b"Message-ID: <mixed-1@example.org>\r\nDate: Sat, 28 Nov 2026 08:00:02 +0100\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\n"
    b"--outer\r\nContent-Type: multipart/related; boundary=inner\r\n\r\n"
    b"--inner\r\nContent-Type: text/html\r\n\r\n<p>Logo: <img src='cid:logo@x'> and <b>more</b></p>"
    b"\r\n--inner\r\nContent-Type: image/png\r\nContent-ID: <logo@x>\r\n"
    b"Content-Disposition: inline; filename=logo.png\r\n\r\n" + LOGO + b"\r\n--inner--\r\n"
    b"--outer\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment; filename*=utf-8''r%C3%A9port.pdf\r\n\r\nJVBERg==\r\n"
    b"--outer\r\nContent-Type: application/json\r\nContent-Disposition: attachment\r\n\r\n{}\r\n"
    b"--outer\r\nContent-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR\r\n"
    b"--outer--\r\n"
)


def stored(store: Store, content: bytes, **more: Any) -> StoredMail:
    found = store.message(add(store, content, **more))
    assert found is not None
    return found


def as_json(found: StoredMail) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(found.json())
    return value


def test_a_row_has_the_keys_of_the_api(store: Store) -> None:
    id = add(store, MIXED, username="ann")
    found = row(store, id)
    assert found.pop("Created").endswith(("Z", ":00", ":30", ":45"))
    assert found == {
        "ID": id,
        "MessageID": "mixed-1@example.org",
        "Read": False,
        "From": {"Name": "Ann", "Address": "ann@example.org"},
        "To": [{"Name": "", "Address": "bob@example.org"}],
        "Cc": [],
        "Bcc": [],
        "ReplyTo": [],
        "Subject": "Pictures and files",
        "Username": "ann",
        "Tags": [],
        "Size": stored_size(store, id),
        "Attachments": 2,
        "Snippet": "Logo: and more",
    }


def stored_size(store: Store, id: str) -> int:
    found = store.message(id)
    assert found is not None
    return len(found.raw())


def test_a_message_has_the_keys_of_the_api(store: Store) -> None:
    found = as_json(stored(store, MIXED))
    assert list(found) == [
        *("ID", "MessageID", "From", "To", "Cc", "Bcc", "ReplyTo", "ReturnPath", "Subject"),
        *("ListUnsubscribe", "Date", "Tags", "Username", "Text", "HTML", "Size", "Inline"),
        "Attachments",
    ]
    assert found["Date"] == "2026-11-28T08:00:02+01:00"
    assert found["HTML"] == "<p>Logo: <img src='cid:logo@x'> and <b>more</b></p>"
    assert found["ReturnPath"] == "ann@example.org"
    assert found["Inline"] == [
        {
            "PartID": "1.2",
            "FileName": "logo.png",
            "ContentType": "image/png",
            "ContentID": "logo@x",
            "Size": len(LOGO),
            "Checksums": {
                "MD5": md5(LOGO).hexdigest(),
                "SHA1": sha1(LOGO).hexdigest(),
                "SHA256": sha256(LOGO).hexdigest(),
            },
        }
    ]
    [attachment] = found["Attachments"]
    assert (attachment["PartID"], attachment["FileName"]) == ("2", "réport.pdf")
    assert attachment["Size"] == 4


def test_a_part_is_found_by_its_number(store: Store) -> None:
    found = stored(store, MIXED)
    part = found.part("2")
    assert part is not None
    assert part.content == b"%PDF"
    assert found.part("9") is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"Subject: x\r\n\r\none\r\ntwo\r\n", "one\r\ntwo\r\n"),
        (
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n"
            b"--b\r\nContent-Disposition: inline; filename=n.txt\r\n\r\ntwo\r\n"
            b"--b\r\nContent-Disposition: attachment\r\n\r\nthree\r\n--b--",
            "one\n--\ntwo",
        ),
        (b"Content-Transfer-Encoding: base64\r\n\r\nYQpi\r\n", "a\nb"),
        (b"Content-Type: text/plain; charset=nope\r\n\r\nk\xc3\xb6\r\n", "kö\r\n"),
        (b"Content-Type: multipart/mixed\r\n\r\nno boundary\r\n", "no boundary\r\n"),
    ],
)
def test_the_text_is_as_it_came(store: Store, content: bytes, text: str) -> None:
    assert as_json(stored(store, content))["Text"] == text


def test_long_html_is_found_by_text_and_links(store: Store) -> None:
    rows = b"<tr><td>f<b>ir</b>st</td><td>second</td></tr>" * 2000
    rest = b"<style>hidden{}</style><p>last&uuml;<a href='https://x.test/deep'>here</a>"
    id = add(store, b"Content-Type: text/html\r\n\r\n<table>" + rows + b"</table>" + rest)
    for query in ("first second", '"st second"', "lastü", "x.test/deep", "here"):
        assert store.find(query) == [id], query
    for query in ("hidden", "stsecond"):
        assert store.find(query) == [], query


def test_the_text_of_html_alone_is_rendered(store: Store) -> None:
    html = b"Content-Type: text/html\r\n\r\n<p>one</p><p>two <a href='https://x.test/'>here</a></p>"
    text = as_json(stored(store, html))["Text"]
    assert text.split("\n\n") == ["one", "two here <https://x.test/>"]


def test_a_file_name_is_left_as_it_is(store: Store) -> None:
    content = (
        b'Content-Type: application/x; name="../../a\\"b.exe"\r\n'
        b"Content-Disposition: attachment\r\n\r\nx"
    )
    assert as_json(stored(store, content))["Attachments"][0]["FileName"] == '../../a"b.exe'


# The source.


def test_recipients_that_no_field_names_are_in_bcc(store: Store) -> None:
    content = mail(more="Cc: carol@x\r\nBcc: dave@x\r\n")
    found = stored(store, content, recipients=["BOB@example.org", "carol@x", "eve@x", "fay@x"])
    assert [one["Address"] for one in as_json(found)["Bcc"]] == ["eve@x", "fay@x", "dave@x"]
    assert [one["Address"] for one in row(store, found.id)["Bcc"]] == ["dave@x", "eve@x", "fay@x"]
    assert found.headers()["Bcc"] == ["eve@x, fay@x", "dave@x"]


def test_fields_are_added_before_the_message(store: Store) -> None:
    found = stored(store, mail(), host_name="client", client="::1", sender="x@y", protocol="ESMTPS")
    begin, middle, rest = found.raw().partition(b"From: Ann")
    assert found.pristine() == mail() == middle + rest
    assert begin.startswith(b"Return-Path: <x@y>\r\nReceived: from client ([IPv6:::1])\r\n\tby ")
    assert b"with ESMTPS\r\n\tfor <bob@example.org>; " in begin
    assert f"\r\nMessage-ID: <{found.id}@inbox>\r\n".encode() in begin
    assert found.size == len(found.raw()) == row(store, found.id)["Size"]
    assert as_json(found)["MessageID"] == f"{found.id}@inbox"


def test_our_return_path_replaces_others(store: Store) -> None:
    content = b"Return-Path: <old@x>\r\nSubject: a\r\nreturn-path: <older@x>\r\n folded\r\n\r\nb"
    found = stored(store, content)
    assert found.headers()["Return-Path"] == ["<ann@example.org>"]
    assert found.raw().endswith(b"\r\nSubject: a\r\n\r\nb")
    assert found.pristine() == content
    kept = stored(store, content, sender="")
    assert kept.headers()["Return-Path"] == ["<old@x>", "<older@x> folded"]


def test_a_message_of_the_api_has_no_received_field(store: Store) -> None:
    found = stored(store, mail(), trace=False)
    assert set(found.headers()) == {"From", "To", "Subject", "Return-Path", "Message-Id"}


@pytest.mark.parametrize(
    "content", [b"no header", b"\r\nbody", b"", b" folded\r\nSubject: x\r\n\r\n"]
)
def test_added_fields_do_not_mix_with_the_message(store: Store, content: bytes) -> None:
    found = stored(store, content, recipients=["hidden@x"])
    assert found.headers()["Bcc"] == ["hidden@x"]
    assert found.headers()["Return-Path"] == ["<ann@example.org>"]
    assert found.raw().endswith(content)


def test_an_address_cannot_add_a_field(store: Store) -> None:
    found = stored(store, mail(), sender="a\r\nX-Bad: 1@x", recipients=["b\nX-Bad: 2@x"])
    assert "X-Bad" not in found.headers()


def test_headers_are_sorted_and_not_decoded() -> None:
    block = (
        b"x-ip: 1\r\nDKIM-signature: a\r\n\tb\r\nsubject: =?utf-8?q?a?=\r\nX-IP: 2\r\n"
        b"MIME-version: 1.0\r\n\r\n"
    )
    assert by_name(block) == {
        "Dkim-Signature": ["a b"],
        "Mime-Version": ["1.0"],
        "Subject": ["=?utf-8?q?a?="],
        "X-Ip": ["1", "2"],
    }
    assert list(by_name(block)) == sorted(by_name(block))


@pytest.mark.parametrize(
    ("value", "links", "is_wrong"),
    [
        ("<mailto:a@x>, <https://x/u?a=1>", ["mailto:a@x", "https://x/u?a=1"], False),
        ("(by mail) <mailto:a@x> (or not)", ["mailto:a@x"], False),
        ("<https://x/1>, <http://x/2>", [], True),
        ("https://x/1", [], True),
        ("<ftp://x/1>", [], True),
    ],
)
def test_list_unsubscribe(value: str, links: list[str], is_wrong: bool) -> None:
    found = unsubscribe([value], "List-Unsubscribe=One-Click")
    assert (found["Links"], bool(found["Errors"])) == (links, is_wrong)
    assert found["Header"] == value


# Any message.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00",
        b"\xff\xfe: \xff\r\n\r\n\xff",
        b"no colon\r\nSubject\r\n\r\nbody",
        b"Content-Type: multipart/mixed\r\n\r\nx",
        b"Date: never\r\nFrom: nobody@x\r\nSubject: \xff\xfe\r\n\r\n",
        b"\xef\xbb\xbfSubject: bom\r\n\r\n",
    ],
)
def test_broken_messages_are_stored_as_they_are(store: Store, content: bytes) -> None:
    found = stored(store, content)
    assert found.pristine() == content
    assert as_json(found)["ID"] == found.id
    assert json.loads(store.summary().json())["messages"][0]["ID"] == found.id


def nested(levels: int) -> bytes:
    parts = [
        f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(levels)
    ]
    return b"Subject: nested\r\n" + "".join(parts).encode() + b"\r\nx"


BOMBS = {
    "60 levels": nested(60),
    "5,000 levels": nested(5000),
    "100,000 parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b"--b\r\n\r\nx\r\n" * 100_000,
    "100,000 fields": b"A: b\r\n" * 100_000 + b"\r\n",
    "a long field": b"Subject: " + b"x" * 10_000_000 + b"\r\n\r\n",
    "encoded words": b"Subject: " + b"=?utf-8?q?a?= " * 70_000 + b"\r\n\r\n",
    "lines like delimiters": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b"--\r\n" * 1_200_000,
    "tags": b"Content-Type: text/html\r\n\r\n" + b"<b>" * 300_000,
    "recipients": b"To: " + b"a@x, " * 200_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_no_minutes(store: Store, name: str) -> None:
    began = process_time()
    found = stored(store, BOMBS[name])
    assert process_time() - began < 10
    began = process_time()
    store.search("x")
    as_json(found)
    found.headers()
    assert process_time() - began < 10
    assert len(row(store, found.id)["Snippet"]) <= 203


def test_parts_that_are_too_deep_have_a_notice(store: Store) -> None:
    assert "deeper than 50 levels" in stored(store, nested(60)).notices[0]


def test_a_reader_that_fails_loses_no_message(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.inbox.rows.html_text.read", 1 / 1)
    found = stored(store, b"Content-Type: text/html\r\n\r\n<p>x")
    assert found.pristine() == b"Content-Type: text/html\r\n\r\n<p>x"
    assert found.notices == ["this message cannot be read (TypeError): see its source"]
    assert row(store, found.id)["From"] == {"Name": "", "Address": "ann@example.org"}
    assert store.find("to:bob") == [found.id]


@given(st.lists(st.binary(max_size=30) | st.sampled_from(MIXED.split(b"\r\n")), max_size=40))
@settings(max_examples=60)
def test_any_bytes_are_stored_and_read(lines: list[bytes]) -> None:
    content = b"\r\n".join(lines)
    with Store() as store:
        found = store.message(store.add(received(content)).result(30))
        assert found is not None
        assert found.pristine() == content
        assert found.size == len(found.raw()) == sum(map(len, found.raw_pieces()))
        assert as_json(found)["Size"] == found.size
        json.loads(store.summary().json())
        json.dumps(found.headers()).encode()
        assert not any("cannot be read" in notice for notice in found.notices)


def test_a_snippet_is_one_short_line(store: Store) -> None:
    @given(st.text(max_size=300))
    def check(text: str) -> None:
        body = text.encode("utf-8", "replace").decode()
        snippet = row(store, add(store, mail(body, more="Content-Type: text/plain\r\n")))["Snippet"]
        assert len(snippet.encode()) <= 203
        assert "\n" not in snippet
        assert snippet.removesuffix("...") in " ".join(body.split()) + "..."

    check()
