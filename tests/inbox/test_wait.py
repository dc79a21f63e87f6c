"""``GET /api/wait`` and ``/api/wait/none``: messages that are there, that come, and that do not."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aiosmtpd.inbox import waiting, writer
from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.letter import Letter
from aiosmtpd.inbox.records import Attempt, Event
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store
from tests.inbox.own_support import asking, client_of
from tests.inbox.support import add, mail, received

PATIENCE = 10


async def ask(store: Store, path: str = "/api/wait", **values: Any) -> httpx.Response:
    async with asking(store) as client:
        return await client.get(path, params=values)


class Watched(Store):
    """Counts the waits that watch it."""

    waits = 0

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Count a wait until it ends."""
        end = super().subscribe(callback)
        if callback.__module__ != waiting.__name__:
            return end
        self.waits += 1

        def end_and_count() -> None:
            end()
            self.waits -= 1

        return end_and_count

    async def until_watched(self, waits: int = 1) -> None:
        """Return when so many waits watch."""
        async with asyncio.timeout(PATIENCE):
            while self.waits < waits:  # noqa: ASYNC110
                await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a look at the messages that are there all the time it needs."""
    monkeypatch.setattr(waiting, "LEAST", PATIENCE)


@pytest.fixture
def store() -> Iterator[Watched]:
    with Watched() as opened:
        yield opened


def ids(answer: httpx.Response) -> list[str]:
    return [one["ID"] for one in answer.json()["messages"]]


@pytest.mark.parametrize(
    ("wish", "is_met"),
    [
        ({}, True),
        ({"query": "from:ann is:unread"}, True),
        ({"query": "from:eve"}, False),
        ({"to": "bob@example.org"}, True),
        ({"to": "bob@*"}, True),
        ({"to": "bob"}, False),
        ({"to": "BOB@EXAMPLE.ORG", "subject": "hI"}, True),
        ({"from": "ann@example.org"}, True),
        ({"from": "Ann"}, False),
        ({"subject": "H?"}, True),
        ({"subject": 'H"'}, False),
        ({"text": "ell"}, True),
        ({"text": "nothing"}, False),
        ({"query": "subject:hi", "text": "nothing"}, False),
        ({"query": 'subject:"hi', "since": "now"}, False),
    ],
)
async def test_a_message_that_is_there(store: Watched, wish: dict[str, str], is_met: bool) -> None:
    id = add(store)
    answer = await ask(store, **wish, timeout=0)
    assert answer.status_code == (200 if is_met else 408)
    if is_met:
        assert ids(answer) == [id]
        assert answer.json()["messages_count"] == answer.json()["messages_unread"] == 1
    answer = await ask(store, "/api/wait/none", **wish, within=0)
    assert answer.status_code == (409 if is_met else 200)
    assert [one["ID"] for one in answer.json().get("came", [])] == [id] * is_met


async def test_a_message_that_comes(store: Watched) -> None:
    add(store)
    answering = asyncio.create_task(ask(store, to="eve@example.org", timeout=PATIENCE))
    await store.until_watched()
    await asyncio.to_thread(add, store)
    id = await asyncio.to_thread(add, store, recipients=["eve@example.org"])
    answer = await answering
    assert answer.status_code == 200
    assert ids(answer) == [id]
    assert answer.json()["total"] == 3
    assert store.waits == 0


async def test_since_bears_a_clock_that_is_set_back(store: Watched) -> None:
    noon = datetime(2026, 11, 28, 12, tzinfo=UTC)
    times = noon, noon + timedelta(hours=1), noon - timedelta(hours=1), noon
    first, second, third, last = (add(store, created=time) for time in times)
    assert ids(await ask(store, since=first, timeout=0)) == [last, third, second]
    assert ids(await ask(store, since=third, timeout=0)) == [last]
    answer = await ask(store, "/api/wait/none", since=last, within=0)
    assert (answer.status_code, answer.json()) == (200, {})


async def test_since_now_leaves_out_old_ones(store: Watched) -> None:
    old = add(store)
    answers = [
        asyncio.create_task(ask(store, since=since, timeout=PATIENCE)) for since in ("now", old)
    ]
    await store.until_watched(2)
    new = await asyncio.to_thread(add, store)
    assert [ids(await one) for one in answers] == [[new], [new]]
    assert ids(await ask(store, since=old, query="subject:hi")) == [new]


async def test_since_leaves_out_messages_that_have_just_come(store: Watched) -> None:
    for since in ("now", ""):
        first, last = (store.take(received(mail())).result() for _ in range(2))
        answer = await ask(store, "/api/wait/none", since=since or last, within=0.5)
        assert (answer.status_code, answer.json()) == (200, {}), (first, last)


async def test_since_leaves_out_old_ones_that_change(store: Watched) -> None:
    old, last = add(store), add(store)
    answers = [
        asyncio.create_task(ask(store, since=since, timeout=PATIENCE)) for since in ("now", last)
    ]
    await store.until_watched(2)
    await asyncio.wrap_future(store.set_read([old], True))
    new = await asyncio.to_thread(add, store)
    assert [ids(await one) for one in answers] == [[new], [new]]


async def test_an_unknown_message_to_begin_after(store: Watched) -> None:
    answer = await ask(store, since="x" * 22)
    assert answer.status_code == 404
    assert answer.json()["error"] == f"no message {'x' * 22!r}"


async def test_the_count_is_waited_for(store: Watched) -> None:
    first = add(store)
    answering = asyncio.create_task(ask(store, count=3, timeout=PATIENCE))
    await store.until_watched()
    others = [await asyncio.to_thread(add, store) for _ in range(2)]
    assert ids(await answering) == [*reversed(others), first]


async def test_a_deleted_message_does_not_count(store: Watched) -> None:
    first = add(store)
    answering = asyncio.create_task(ask(store, count=2, timeout=PATIENCE))
    await store.until_watched()
    await asyncio.wrap_future(store.delete([first]))
    others = [await asyncio.to_thread(add, store) for _ in range(2)]
    assert ids(await answering) == [*reversed(others)]


async def test_a_tag_that_is_set_later_counts(store: Watched) -> None:
    id = add(store)
    answering = asyncio.create_task(ask(store, query="tag:Done", timeout=PATIENCE))
    await store.until_watched()
    await asyncio.wrap_future(store.set_tags([id], ["Done"]))
    assert ids(await answering) == [id]


async def test_the_answer_says_why_others_do_not_match(store: Watched) -> None:
    id = add(store, mail(subject="Welcome"))
    store.add_attempt(Attempt(1, "RCPT", "a@b.c", "d@e.f", "550 5.1.1 no")).result()
    answer = await ask(store, subject="Reset", query="from:ann from:eve", timeout=0.01)
    assert answer.status_code == 408
    found = answer.json()
    assert found["error"] == (
        "no message with subject 'Reset' that matches from:ann from:eve came within 0.01 s"
    )
    [other] = found["came"]
    assert other["ID"] == id
    assert other["why"] == "subject 'Welcome', not 'Reset'; it does not match from:eve"
    assert [one["reply"] for one in found["rejected"]] == ["550 5.1.1 no"]


async def test_old_refusals_are_left_out(store: Watched) -> None:
    old = datetime(2020, 1, 1).astimezone()
    store.add_attempt(Attempt(1, "RCPT", at=old)).result()
    assert (await ask(store, timeout=0)).json()["rejected"] == []


async def test_few_old_messages_are_read(store: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_READ", 2)
    add(store, mail("wanted"))
    for _ in range(2):
        add(store)
    assert (await ask(store, text="wanted", timeout=0)).status_code == 408
    add(store, mail("wanted"))
    assert (await ask(store, text="wanted", timeout=0)).status_code == 200


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"timeout": "x"}, "timeout is to be a number of seconds from 0 to 300, not 'x'"),
        ({"timeout": "301"}, "timeout is to be a number of seconds from 0 to 300, not '301'"),
        ({"timeout": "nan"}, "timeout is to be a number of seconds from 0 to 300, not 'nan'"),
        ({"count": "0"}, "count is to be 1 or more"),
        ({"count": "-1"}, "count is to be a number from 0 on, not '-1'"),
        ({"sender": "ann"}, "unknown parameter 'sender'"),
        ({"text": "x" * 501}, "a pattern has more than 500 characters"),
    ],
)
async def test_wrong_parameters(store: Watched, values: dict[str, str], text: str) -> None:
    answer = await ask(store, **values)
    assert answer.status_code == 400
    assert answer.json()["error"] == text


@pytest.mark.parametrize("path", ["/api/wait", "/api/wait/none", "/api/message/latest/parts"])
async def test_a_wrong_filter_has_a_hint(store: Store, path: str) -> None:
    async with asking(store) as client:
        answer = await client.get(path, params={"query": "is:unred"})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "there is no filter is:unred",
        "hint": "did you mean is:unread? there are is:read, is:unread, is:tagged",
    }


async def test_the_end_answers_waits(store: Watched) -> None:
    services = Services(store)
    async with client_of(services) as client:
        answers = [
            asyncio.create_task(client.get(path, params={"since": "now", name: 60}))
            for path, name in (("/api/wait", "timeout"), ("/api/wait/none", "within"))
        ]
        await store.until_watched(2)
        services.stopping.set()
        for one in answers:
            answer = await one
            assert answer.status_code == 503
            assert answer.json() == {"error": "the inbox is stopping"}
    assert store.waits == 0


async def test_more_waits_than_allowed(store: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.inbox.own.MOST_WAITS", 0)
    answer = await ask(store)
    assert answer.status_code == 503
    assert answer.json() == {"error": "0 clients wait already"}


async def test_a_client_that_goes_ends_its_wait(store: Watched) -> None:
    app, gone = make_app(Services(store)), asyncio.Event()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "scheme": "http"}
    scope |= {"method": "GET", "path": "/api/wait", "raw_path": b"/api/wait", "root_path": ""}
    scope |= {"query_string": b"timeout=60", "headers": [(b"host", b"localhost")]}
    scope |= {"client": ("127.0.0.1", 9), "server": ("127.0.0.1", 8025)}
    answering = asyncio.create_task(app(scope, receive, send))
    await store.until_watched()
    gone.set()
    await answering
    assert store.waits == 0
    assert sent[0]["status"] == 503


async def test_a_wait_looks_once_more_at_its_end(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAUSE", "LATEST", "SOON"):
        monkeypatch.setattr(writer, name, 3600.0)
    monkeypatch.setattr(waiting, "LATE", PATIENCE)
    answering = asyncio.create_task(ask(store, query="subject:late", timeout=0.3))
    await store.until_watched()
    id = store.take(received(mail(subject="late"))).result(PATIENCE)
    assert ids(await answering) == [id]


@pytest.mark.parametrize(("path", "status"), [("/api/wait", 408), ("/api/wait/none", 503)])
@pytest.mark.parametrize("comes", ["before", "meanwhile"])
async def test_a_slow_message_is_not_waited_for(
    store: Watched, monkeypatch: pytest.MonkeyPatch, path: str, status: int, comes: str
) -> None:
    for name in ("LEAST", "LATE", "TEXTS_EXPLAINED"):
        monkeypatch.setattr(waiting, name, 0)
    is_over = threading.Event()

    class Slow(Letter):
        @property
        def readable(self) -> str:
            """Return the text at the end of the test."""
            is_over.wait(PATIENCE)
            return ""

    monkeypatch.setattr(waiting, "Letter", Slow)
    if comes == "before":
        add(store, mail())
    name = "within" if path.endswith("none") else "timeout"
    answering = asyncio.create_task(ask(store, path, **{"text": "x", name: 0.2}))
    try:
        if comes == "meanwhile":
            await store.until_watched()
            await asyncio.to_thread(add, store, mail())
        answer = await answering
    finally:
        is_over.set()
    assert answer.status_code == status
    assert "not all messages" in answer.json()["error"]
    for one in answer.json().get("came", []):
        assert one["why"] == "its long text was not compared again"
