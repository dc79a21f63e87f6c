"""Messages that are safe and not yet read: each method sees them, and a kill loses none."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.inbox import changes, tidying, writer
from aiosmtpd.inbox.records import Attempt, Event, Line, SessionLog, Tagging
from aiosmtpd.inbox.store import Store, StoreError
from tests.inbox.support import mail, received, row, subjects
from tests.inbox.web import client_of

TAGGED = mail("some word", subject="Taken", more="X-Tags: blue\r\n")


@pytest.fixture(autouse=True)
def no_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be read before another method needs it."""
    monkeypatch.setattr(writer, "PAUSE", 3600.0)
    monkeypatch.setattr(writer, "LATEST", 3600.0)


def take(store: Store, content: bytes = TAGGED) -> str:
    return store.take(received(content, session=7)).result(30)


@pytest.mark.parametrize(
    "seen",
    [
        lambda store, id: store.summary().rows,
        lambda store, id: store.search("word").rows,
        lambda store, id: store.find("tag:blue"),
        lambda store, id: store.matches(id, "word"),
        lambda store, id: store.message(id),
        lambda store, id: store.newest(),
        lambda store, id: store.rows([id]),
        lambda store, id: store.tags(),
        lambda store, id: id in "".join(store.stream()),
        lambda store, id: store.set_read([id], True).result(30),
        lambda store, id: store.set_tags([id], ["red"]).result(30),
        lambda store, id: store.delete([id]).result(30),
        lambda store, id: store.delete(None).result(30),
    ],
)
def test_each_method_sees_it(store: Store, seen: Callable[[Store, str], object]) -> None:
    assert seen(store, take(store))


def test_the_index_keeps_up_with_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUIET", 3600.0)
    monkeypatch.setattr(tidying, "MOST_PENDING", 20)
    monkeypatch.setattr(tidying, "INDEXED_AT_ONCE", 1)
    for _ in range(100):
        take(store)
    for read in (True, False):
        # The second begins after all that follows the commit of the first.
        store.set_read(None, read).result(30)
    with closing(sqlite3.connect(str(store.path))) as connection:
        indexed = connection.execute("select value from state where name = 'indexed'").fetchone()
    assert indexed[0] > 80


def test_it_counts_at_once(store: Store) -> None:
    take(store)
    counts = store.counts()
    assert (counts.total, counts.unread, counts.accepted) == (1, 1, 1)
    assert store.summary().total == store.counts().total == 1


async def test_the_numbers_of_the_api_have_it(store: Store) -> None:
    id = take(store)
    store.add_attempt(Attempt(7, "RCPT"))
    found = (await client_of(store).get("/api/v1/info")).json()
    stats = found["RuntimeStats"]
    assert (found["Messages"], found["Tags"], stats["SMTPRejected"]) == (1, {"blue": 1}, 1)
    assert stats["SMTPAcceptedSize"] == row(store, id)["Size"]


def test_its_session_has_it(store: Store) -> None:
    store.watch_session(SessionLog(7))
    id = take(store)
    found = store.session(7)
    assert found is not None
    assert found.messages == (id,)


def test_an_attempt_is_seen_at_once(store: Store) -> None:
    attempt = store.add_attempt(Attempt(7, "RCPT", recipient="late@x"))
    assert not attempt.done()
    assert [one.recipient for one in store.attempts().attempts] == ["late@x"]
    store.add_attempt(Attempt(7, "RCPT", recipient="other@x"))
    found = store.attempt(attempt.result() + 1)
    assert found is not None
    assert found.recipient == "other@x"


def test_a_session_is_saved_after_its_messages(store: Store) -> None:
    id = take(store)
    saved = store.save_session(SessionLog(7, lines=[Line(0.5, "C", "QUIT")]))
    assert store.newest() == id
    assert saved.result(30) == 7
    found = store.session(7)
    assert found is not None
    assert [line.text for line in found.lines] == ["QUIT"]


def test_they_keep_their_order(store: Store) -> None:
    ids = [take(store, mail(subject=str(number))) for number in range(20)]
    listed = [json.loads(one)["ID"] for one in store.summary().rows]
    assert listed == ids[::-1]


def test_its_event_comes_by_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PAUSE", 0.001)
    came = threading.Event()
    found: list[Event] = []

    def hear(event: Event) -> None:
        found.append(event)
        if event.kind == "stats":
            came.set()

    store.subscribe(hear)
    id = take(store)
    assert came.wait(30)
    assert [event.kind for event in found] == ["new", "stats"]
    assert json.loads(found[0].data) == row(store, id)


def test_the_first_is_not_delayed_by_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each pause begins anew, and one of them would be too long.
    monkeypatch.setattr(writer, "LATEST", 0.0)
    came = threading.Event()
    store.subscribe(lambda event: came.set())
    take(store)
    assert came.wait(30)


@pytest.mark.parametrize("is_before", [True, False])
def test_a_hurry_brings_its_event(store: Store, is_before: bool) -> None:
    came = threading.Event()
    store.subscribe(lambda event: came.set())
    if is_before:
        take(store)
        assert not came.is_set()
        with store.hurry():
            assert came.wait(30)
    else:
        with store.hurry():
            take(store)
            assert came.wait(30)
    came.clear()
    take(store)
    assert not came.is_set()


def test_an_end_completes_it(tmp_path: Path) -> None:
    with Store(tmp_path / "box.db") as store:
        take(store)
    with sqlite3.connect(tmp_path / "box.db") as connection:
        assert connection.execute("select count(*) from msg").fetchone() == (1,)
    connection.close()


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from aiosmtpd.inbox import writer
from aiosmtpd.inbox.store import Line, Received, Store

writer.PAUSE = writer.LATEST = 3600.0
store = Store(Path(sys.argv[1]))
store.open()
for number in range(3):
    content = b"Subject: number %d\\r\\nX-Tags: blue\\r\\n\\r\\nsome word\\r\\n" % number
    received = Received(
        content, "ann@x", ["bob@x", "carol@x"], session=4, host_name="client.test",
        client="127.0.0.1", protocol="ESMTPS", username="ann", tls="TLSv1.3",
        created=datetime(2026, 11, 28, 12, tzinfo=UTC), transaction=[Line(0.5, "C", "MAIL")],
    )
    print(store.take(received).result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "box.db"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, check=False, timeout=60
    )
    ids = done.stdout.decode().split()
    with Store(path, tagging=Tagging([("number", ["mine"])])) as store:
        assert [json.loads(one)["ID"] for one in store.summary().rows] == ids[::-1]
        assert len(store.find("word tag:blue tag:mine")) == store.counts().unread == len(ids) == 3
        found = store.message(ids[1])
        assert found is not None
        assert (found.sender, found.recipients) == ("ann@x", ["bob@x", "carol@x"])
        assert (found.username, found.client, found.tls) == ("ann", "127.0.0.1", "TLSv1.3")
        assert found.created == datetime(2026, 11, 28, 12, tzinfo=UTC)
        assert found.transaction == [Line(0.5, "C", "MAIL")]
        assert found.raw().startswith(b"Return-Path: <ann@x>\r\nReceived: from client.test")
        assert found.session_number == 4
        assert take(store) not in ids
        assert store.counts().total == 4


def test_a_disk_that_is_full_for_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    came, has_room = threading.Event(), threading.Event()
    store.subscribe(lambda event: came.set())
    insert = changes.insert

    def refuse(*values: object) -> None:
        if not has_room.is_set():
            raise sqlite3.OperationalError("full")
        insert(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(changes, "insert", refuse)
    monkeypatch.setattr(writer, "AGAIN", 0.01)
    take(store, mail(subject="first"))
    take(store, mail(subject="second"))
    assert store.summary().rows == []
    has_room.set()
    assert came.wait(30)
    assert subjects(store, "") == ["first", "second"]


def test_a_disk_that_is_full_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("full")

    with monkeypatch.context() as patched:
        patched.setattr(changes, "insert", refuse)
        with Store(tmp_path / "box.db") as store:
            take(store)
    with Store(tmp_path / "box.db") as store:
        assert subjects(store, "word") == ["Taken"]


def test_a_mistake_loses_no_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    insert = changes.insert

    def fail(on: Any, change: Any, messages: Sequence[changes.Message], filters: Any) -> None:
        if any(one.number == 2 for one in messages):
            raise LookupError("a mistake")
        insert(on, change, messages, filters)

    with monkeypatch.context() as patched:
        patched.setattr(changes, "insert", fail)
        for number in range(3):
            take(store, mail(subject=str(number)))
        assert subjects(store, "") == ["0", "2"]
    assert "a mistake" in caplog.text
    assert store.counts().total == 2


def test_many_wait_for_the_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.inbox.taking.MOST_ARRIVED", 3)
    came = threading.Event()
    store.subscribe(lambda event: came.set())
    for number in range(4):
        assert not came.is_set()
        take(store, mail(subject=str(number)))
    assert came.is_set()
    assert subjects(store, "") == ["0", "1", "2", "3"]


@pytest.mark.parametrize("options", [{"durable": True}, {"ignore_duplicates": True}])
def test_some_stores_take_nothing_early(options: dict[str, bool]) -> None:
    with Store(**options) as store:  # type: ignore[arg-type]
        content = mail(more="Message-ID: <a@x>\r\n")
        ids = [take(store, content), take(store, content)]
        assert len({*ids}) == store.counts().total
        assert [*Path(f"{store.path}").parent.glob("*-new?")] != []
        assert {file.stat().st_size for file in Path(f"{store.path}").parent.glob("*-new?")} == {0}


def test_deleted_messages_do_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "box.db"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, check=False, timeout=60
    )
    left = (tmp_path / "box.db-new1").read_bytes()
    assert left
    with Store(path) as store:
        first = done.stdout.decode().split()[0]
        store.delete([first]).result(30)
        store.delete(None).result(30)
    # As if the end had come before the file was emptied.
    (tmp_path / "box.db-new1").write_bytes(left)
    with Store(path) as store:
        assert store.counts().total == 0
        take(store)
    with Store(path) as store:
        assert subjects(store, "word") == ["Taken"]


def test_a_filter_that_cannot_be_used() -> None:
    query = " ".join(f"subject:{number}" for number in range(5000))
    store = Store(tagging=Tagging([(query, ["many"])]))
    with pytest.raises(StoreError, match="too large"):
        store.open()


def test_a_clock_that_is_set_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries for tests of times do so at the end of a test."""
    came = threading.Event()
    store.subscribe(lambda event: came.set())
    with monkeypatch.context() as later:
        later.setattr(writer, "monotonic", lambda: 1e11)
        later.setattr(writer, "PAUSE", 0.01)
        take(store)
    assert came.wait(30)
