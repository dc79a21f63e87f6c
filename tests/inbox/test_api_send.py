"""Mailpit's API: messages that programs put into the inbox without SMTP."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox import send
from aiosmtpd.inbox.store import Store
from tests.inbox.web import client_of

SIMPLE: dict[str, Any] = {
    "From": {"Email": "ann@shop.test"},
    "To": [{"Email": "bob@shop.test"}],
    "Subject": "Hi",
    "Text": "hello",
}
NOTE = b64encode(b"a note").decode()


@pytest.fixture
def web(store: Store) -> httpx.AsyncClient:
    return client_of(store)


@pytest.fixture(scope="module")
def empty() -> Iterator[Store]:
    """Return a store in which no test puts a message."""
    with Store() as store:
        yield store


async def sent(web: httpx.AsyncClient, **values: Any) -> Any:
    answer = await web.post("/api/v1/send", content=json.dumps({**SIMPLE, **values}))
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"ID"}
    found = await web.get(f"/api/v1/message/{answer.json()['ID']}")
    return found.json()


async def source(web: httpx.AsyncClient) -> str:
    return (await web.get("/api/v1/message/latest/raw")).text


@pytest.mark.parametrize(
    "text",
    ["one\ntwo", "one\r\ntwo\r\n", "\n\n", "a \n\tb =\n.\r..\n", "x" * 3000, "Grüße ✓\n", " "],
)
async def test_line_ends_are_kept(web: httpx.AsyncClient, text: str) -> None:
    found = await sent(web, Text=text, HTML=f"<p>{text}</p>")
    assert (found["Text"], found["HTML"]) == (text, f"<p>{text}</p>")
    assert (await sent(web, Text=text))["Text"] == text
    assert max(map(len, (await source(web)).split("\r\n"))) < 200


async def test_people_and_envelope(store: Store, web: httpx.AsyncClient) -> None:
    names = ['Bob, the "builder"', "Grüße ✓ " * 20, "=?utf-8?q?x?=", "back\\slash", "plain"]
    to = [{"Email": f"to{n}@shop.test", "Name": name} for n, name in enumerate(names)]
    found = await sent(
        web,
        To=to,
        Cc=[{"Email": "cc@shop.test"}],
        Bcc=["bcc@shop.test", "Hidden <hidden@shop.test>"],
        ReplyTo=[{"Email": "reply@shop.test", "Name": "R"}],
    )
    assert [one["Name"] for one in found["To"]] == [name.strip() for name in names]
    assert [one["Address"] for one in found["Bcc"]] == ["bcc@shop.test", "hidden@shop.test"]
    assert found["ReturnPath"] == "ann@shop.test"
    mail = store.message(found["ID"])
    assert mail is not None
    assert mail.recipients == [
        *(one["Email"] for one in to),
        *("cc@shop.test", "bcc@shop.test", "hidden@shop.test"),
    ]
    assert "Received:" not in await source(web)


async def test_the_source_has_the_lines_of_the_text(web: httpx.AsyncClient) -> None:
    await sent(web, Text="one\ntwo")
    assert (await source(web)).endswith("\r\n\r\none=0A=\r\ntwo")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "x" * 5000,
        "y" * 850 + " z" * 200,
        "word " * 500,
        "Grüße ✓ " * 100,
        "=?x?=",
        "a  b",
        " lead",
    ],
)
async def test_subjects(web: httpx.AsyncClient, subject: str) -> None:
    found = await sent(web, Subject=subject, Headers={"X-Other": subject})
    assert " ".join(found["Subject"].split()) == " ".join(subject.split())
    assert max(len(line) for line in (await source(web)).split("\r\n")) <= 998 or "x" in subject


async def test_halves_of_characters(web: httpx.AsyncClient) -> None:
    cut = {"Email": "ann@example.org", "Name": "cut \ud83d"}
    found = await sent(web, From=cut, To=[cut], Subject="\ud83d\ude00 \ud83d", Text="\ude00 x")
    assert (found["Subject"], found["Text"]) == ("\U0001f600 \ufffd", "\ufffd x")
    assert found["From"]["Name"] == found["To"][0]["Name"] == "cut \ufffd"


async def test_attachments(web: httpx.AsyncClient) -> None:
    found = await sent(
        web,
        HTML="<img src='cid:logo'>",
        Attachments=[
            {"Content": f"data:text/plain;base64,{NOTE}", "Filename": "a b.txt"},
            {"Content": NOTE[:4] + "\n" + NOTE[4:], "Filename": 'Grüße "✓".bin'},
            {"Content": b64encode(b"\x89PNG\r\n\x1a\n\0").decode(), "ContentID": "<logo>"},
            {"Content": NOTE, "ContentType": "application/x-own"},
        ],
    )
    names = [(one["FileName"], one["ContentType"], one["Size"]) for one in found["Attachments"]]
    assert names == [
        ("a b.txt", "text/plain", 6),
        ('Grüße "✓".bin', "application/octet-stream", 6),
        ("attachment", "application/x-own", 6),
    ]
    [inline] = found["Inline"]
    assert (inline["ContentID"], inline["ContentType"]) == ("logo", "image/png")


async def test_tags_fields_and_user(store: Store) -> None:
    web = client_of(store, users={"ann": "secret"})
    web.auth = ("ann", "secret")
    found = await sent(web, Tags=["Tag 1", "b"], Headers={"X-IP": "1.2.3.4", "Message-ID": "<a@b>"})
    assert (found["Tags"], found["Username"]) == (["b", "Tag 1"], "ann")
    assert found["MessageID"] == "a@b"
    assert "\r\nX-IP: 1.2.3.4\r\n" in await source(web)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"From": {}}, {"From": {"Name": "x"}}, {"From": {"Email": "nope"}}, {"From": "a@b"}),
        *({"To": []}, {"To": [{"Email": "nope"}]}, {"Cc": [{"Email": "a b@c"}]}, {"To": "x"}),
        *({"Bcc": ["nope"]}, {"Bcc": [{"Email": "a@b"}]}, {"ReplyTo": [{"Email": "x@"}]}),
        *({"To": [{"Email": "a@b\r\nX: y"}]}, {"To": [{"Email": "a@b", "Name": "x\r\nX: y"}]}),
        *({"Subject": "a\r\nBcc: x@y"}, {"Subject": "a\nb"}, {"Subject": "\0"}, {"Subject": 1}),
        *({"Headers": {"X\r\nBcc": "a"}}, {"Headers": {"X: a": "b"}}, {"Headers": {"": "b"}}),
        *({"Headers": {"X-A": "b\r\nc"}}, {"Headers": {"X-A": 1}}, {"Headers": []}),
        *({"Headers": {name: "x"}} for name in ("to", "FROM", "Bcc", "Date", "mime-version")),
        *({"Headers": {"X-Tags": "a"}, "Tags": ["b"]}, {"Tags": ["a\r\nb"]}, {"Tags": [1]}),
        *({"Attachments": [{"Content": "%"}]}, {"Attachments": ["x"]}),
        {"Attachments": [{"Content": NOTE, "Filename": "a\r\nX: y"}]},
        {"Attachments": [{"Content": NOTE, "ContentType": "text/plain\r\nX: y"}]},
        {"Attachments": [{"Content": NOTE, "ContentID": "a>\r\nX: y"}]},
    ],
)
async def test_wrong_requests_say_why(empty: Store, wrong: dict[str, Any]) -> None:
    answer = await client_of(empty).post("/api/v1/send", json={**SIMPLE, **wrong})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert answer.json().keys() == {"Error"}
    assert "\n" not in answer.json()["Error"]
    assert empty.counts().total == 0


@pytest.mark.parametrize("body", ["", "{", "[]", "null"])
async def test_a_body_that_is_not_an_object(web: httpx.AsyncClient, body: str) -> None:
    answer = await web.post("/api/v1/send", content=body)
    assert (answer.status_code, list(answer.json())) == (400, ["Error"])


async def test_the_largest_message(store: Store) -> None:
    web = client_of(store, max_size=2000)
    for text in ("x" * 3000, "€" * 550):
        answer = await web.post("/api/v1/send", json={**SIMPLE, "Text": text})
        assert (answer.status_code, list(answer.json())) == (413, ["Error"])
    assert store.counts().total == 0
    unlimited = client_of(store, max_size=0, max_body=10)
    answer = await unlimited.post("/api/v1/send", json={**SIMPLE, "Text": "x" * 3000})
    assert answer.status_code == 200


async def test_too_much_at_once_has_to_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "AT_ONCE", 1)
    web = client_of(store, max_size=1000)
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Any:
        began.set()
        yield json.dumps(SIMPLE).encode()
        await go_on.wait()

    first = asyncio.create_task(web.post("/api/v1/send", content=slow()))
    await began.wait()
    answer = await web.post("/api/v1/send", json=SIMPLE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    go_on.set()
    assert (await first).status_code == 200
    assert (await web.post("/api/v1/send", json=SIMPLE)).status_code == 200
