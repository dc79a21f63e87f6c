"""Large messages: reading some of them leaves threads for others, and nothing in them changes."""

import asyncio
import re
import threading

import pytest

from aiosmtpd.inbox import checks, pieces, wire
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
    assert wire.dump_message(value) == wire.dump(value)


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
