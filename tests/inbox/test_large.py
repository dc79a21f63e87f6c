"""Large messages: reading some of them leaves threads for others, and nothing in them changes."""

import asyncio
import re
import threading

import pytest

from aiosmtpd.inbox import checks, pieces, stored, wire
from aiosmtpd.inbox.letter import Letter
from aiosmtpd.inbox.pieces import replace_tags, search
from aiosmtpd.inbox.services import LARGE_AT_ONCE, LARGE_MAIL
from aiosmtpd.inbox.store import Store
from tests.inbox.support import add, mail
from tests.inbox.web import client_of


async def test_others_are_answered_while_large_messages_are_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, running, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def check(letter: Letter) -> list[checks.Finding]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert go_on.wait(30)
        with lock:
            running -= 1
        return []

    monkeypatch.setattr(checks, "check", check)
    id = add(store, mail("x" * LARGE_MAIL))
    web = client_of(store)
    path = f"/api/message/{id}/checks"
    waiting = [asyncio.create_task(web.get(path)) for _ in range(40)]
    try:
        async with asyncio.timeout(20):
            assert (await web.get("/api/v1/messages")).json()["total"] == 1
    finally:
        go_on.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert most <= LARGE_AT_ONCE


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_pieces_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", size)
    monkeypatch.setattr(wire, "PIECE", size)
    monkeypatch.setattr(pieces, "_LONGEST_MATCH", 9)
    text = 'a<link <x> <lin<LINK> "\\ \u00fc\U0001f600 end\nword {{name}} <link/'
    tag = re.compile(r"<(?=link[\s/>])", re.IGNORECASE)
    assert replace_tags(tag, "<x-", text) == tag.sub("<x-", text)
    for pattern in (r"\bwor\b", r"\{\{\w+\}\}", r"end$", r"nd(?=\nw)", r"(?<=a)<", "none"):
        found = re.compile(pattern, re.MULTILINE)
        expected = found.search(text)
        got = search(found, text)
        assert (got and got.span()) == (expected and expected.span())
    value = {"a": text, "b": [1, text], "c": None, "d": ""}
    assert "".join(wire.dump_pieces(value)) == wire.dump(value)


@pytest.mark.parametrize("form", ["html", "txt"])
async def test_large_answers_are_whole(store: Store, form: str) -> None:
    text = "<p>one</p>\r\n" * 100_000
    id = add(
        store, mail(text, more=f"Content-Type: text/{'html' if form == 'html' else 'plain'}\r\n")
    )
    web = client_of(store)
    answer = await web.get(f"/view/{id}.{form}")
    assert answer.text.strip() == text.strip()
    assert int(answer.headers["content-length"]) == len(answer.content)
    found = (await web.get(f"/api/v1/message/{id}")).json()
    assert found["HTML" if form == "html" else "Text"].strip() == text.strip()


async def test_the_text_of_large_html_is_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "LONGEST_HTML", 1000)
    kind = "Content-Type: text/html\r\n"
    long = add(store, mail("<p>word</p>\r\n" * 200, more=kind))
    short = add(store, mail("<p>word</p>\r\n" * 9, more=kind))
    plain = add(store, mail("word\r\n" * 900))
    web = client_of(store)
    found = (await web.get(f"/api/v1/message/{long}")).json()
    assert found["Cut"] is True
    assert found["HTML"].count("word") == 200
    assert 0 < found["Text"].count("word") < 100
    shown = (await web.get(f"/view/{long}.txt")).text
    assert shown.startswith(found["Text"])
    assert "The text is cut here" in shown
    for id, number in (short, 9), (plain, 900):
        whole = (await web.get(f"/api/v1/message/{id}")).json()
        assert "Cut" not in whole
        assert whole["Text"].count("word") == number
        assert (await web.get(f"/view/{id}.txt")).text == whole["Text"]


async def test_images_of_large_html_are_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 10)
    image = (
        "Content-Type: image/png\r\nContent-ID: <one@x>\r\nContent-Disposition: inline\r\n\r\nx\r\n"
    )
    html = "Content-Type: text/html\r\n\r\n" + '<p>text</p><IMG alt="a" src="CID:one@x">' * 9
    text = f"--b\r\n{html}\r\n--b\r\n{image}--b--"
    id = add(store, mail(text, more='Content-Type: multipart/related; boundary="b"\r\n'))
    answer = await client_of(store).get(f"/view/{id}.html")
    assert answer.text.count(f'src="/api/v1/message/{id}/part/2"') == 9


@pytest.mark.parametrize("before", [0, 9000])
def test_lines_are_found_in_any_block(store: Store, before: int) -> None:
    content = mail("short line\r\n" * 3 * before + "y" * 999 + "\r\nbare\nhigh \u00fc\r\nend")
    id = add(store, content)
    stored = store.message(id)
    assert stored is not None
    found = {one.id: one.where for one in checks.check(Letter(stored))}
    first = 5 + 3 * before
    assert found["long-line"] == f"source:{first}"
    assert found["bare-line-end"] == f"source:{first + 1}"
