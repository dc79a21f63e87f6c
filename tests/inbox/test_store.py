"""The store: its lists, changes, events, limits and files."""

import json
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.inbox.changes import delete_all, drop_some
from aiosmtpd.inbox.keep import Keep
from aiosmtpd.inbox.records import Attempt, Event, Line, SessionLog, Tagging
from aiosmtpd.inbox.store import LARGE, Store, StoreError
from aiosmtpd.inbox.writer import Change
from tests.inbox.support import add, mail, received, row, subjects, without_index

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
LARGE_MAIL = mail("x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * (LARGE // 70), subject="large")


@pytest.fixture
def events(store: Store) -> list[Event]:
    found: list[Event] = []
    store.subscribe(found.append)
    return found


def ids_of(store: Store) -> list[str]:
    return [json.loads(one)["ID"] for one in store.summary(limit=1000).rows]


def wait_for(store: Store, act: Callable[[], object], check: Callable[[Store], bool]) -> None:
    """Act, and wait until a change makes *check* true."""
    came = threading.Event()
    end = store.subscribe(lambda _: came.set() if check(store) else None)
    act()
    assert came.wait(30)
    end()


# Lists.


def test_a_summary_has_the_newest_first(store: Store) -> None:
    ids = [add(store, mail(subject=str(n))) for n in range(5)]
    page = json.loads(store.summary(limit=2).json())
    assert [one["ID"] for one in page.pop("messages")] == [ids[4], ids[3]]
    assert page == {
        "total": 5,
        "unread": 5,
        "count": 2,
        "messages_count": 5,
        "messages_unread": 5,
        "start": 0,
        "tags": [],
    }


@pytest.mark.parametrize("query", ["", "hello"])
def test_pages(store: Store, query: str) -> None:
    ids = [add(store, mail(subject=str(n))) for n in range(5)][::-1]

    def page(**place: object) -> list[str]:
        read = store.search(query, **place) if query else store.summary(**place)  # type: ignore[arg-type]
        return [json.loads(one)["ID"] for one in read.rows]

    assert page(start=1, limit=2) == ids[1:3]
    assert page(below=ids[1], limit=2) == ids[2:4]
    assert page(start=9) == []
    assert page(limit=0) == []
    store.delete([ids[0]]).result(30)
    assert page(below=ids[0]) == ids[1:]


def test_before_limits_a_list_by_time(store: Store) -> None:
    for minutes in range(3):
        add(store, mail(subject=str(minutes)), created=NOON + timedelta(minutes=minutes))
    before = NOON + timedelta(minutes=2)
    page = store.summary(before=before)
    assert (len(page.rows), page.matches) == (2, 3)
    found = store.search("hello", before=before)
    assert (len(found.rows), found.matches) == (2, 2)


def test_a_stream_has_all_messages(store: Store) -> None:
    assert json.loads("".join(store.stream()))["messages"] == []
    ids = [one.result(30) for one in [store.add(received(mail())) for _ in range(1201)]]
    whole = json.loads("".join(store.stream()))
    assert [one["ID"] for one in whole["messages"]] == ids[::-1]
    assert (whole["count"], whole["total"], whole["tags"]) == (1201, 1201, [])


def test_ids_of_a_search(store: Store) -> None:
    ids = [add(store, mail(subject=f"number {n}")) for n in range(3)]
    assert store.find("number") == ids[::-1]
    assert store.newest("number -2") == ids[1]
    assert store.newest() == ids[2]
    assert store.newest("nothing") is None
    assert store.matches(ids[1], "subject:1 hello")
    assert not store.matches(ids[1], "subject:2")
    assert not store.matches("unknown", "")


def test_counts_of_a_search_know_what_is_read(store: Store) -> None:
    ids = [add(store, mail(subject="odd" if n % 2 else "even")) for n in range(9)]
    for some in ids[:1], ids[:3], ids[:8], ids:
        store.set_read(some, True).result(30)
        for query in "odd", "even", "hello", "is:unread hello":
            page = store.search(query)
            unread = [one for one in page.rows if not json.loads(one)["Read"]]
            assert (page.matches, page.matches_unread) == (len(page.rows), len(unread))


# Read, delete.


def test_read_and_unread(store: Store, events: list[Event]) -> None:
    ids = [add(store) for _ in range(3)]
    events.clear()
    assert store.set_read([ids[0], ids[0], "unknown"], True).result(30) == 1
    assert store.set_read([ids[0]], True).result(30) == 0
    assert row(store, ids[0])["Read"] is True
    assert store.counts().unread == store.summary().unread == 2
    assert events == [
        Event("update", f'{{"ID":"{ids[0]}","Read":true}}'),
        Event("stats", '{"Total":3,"Unread":2}'),
    ]
    events.clear()
    assert store.set_read(None, True).result(30) == 2
    assert store.set_read(None, False).result(30) == 3
    assert [event.kind for event in events] == ["stats", "stats"]


def test_deletion(store: Store, events: list[Event]) -> None:
    ids = [add(store, mail(more="X-Tags: a\r\n")) for _ in range(3)]
    events.clear()
    assert store.delete([ids[1], ids[1], "unknown"]).result(30) == 1
    assert ids_of(store) == [ids[2], ids[0]]
    assert store.message(ids[1]) is None
    assert store.search("hello").matches == 2
    assert store.tags() == {"a": 2}
    assert events == [
        Event("delete", f'{{"ID":"{ids[1]}"}}'),
        Event("stats", '{"Total":2,"Unread":2}'),
    ]
    assert store.delete([]).result(30) == 0
    assert store.counts().deleted == 1


def test_deleting_indexed_messages_leaves_others(store: Store) -> None:
    ids = [add(store, mail(f"word{n}")) for n in range(6)]
    assert store.search("word3").matches == 1
    store.delete(ids[3:5]).result(30)
    new = add(store, mail("word3 again"))
    assert store.find("word3") == [new]
    assert store.find("word") == [new, ids[5], *ids[2::-1]]


def test_many_deletions_are_one_event(store: Store, events: list[Event]) -> None:
    for future in [store.add(received(mail())) for _ in range(1001)]:
        future.result(30)
    events.clear()
    assert store.delete(ids_of(store)[:999]).result(30) == 999
    assert [event.kind for event in events] == ["prune", "stats"]
    assert store.counts().total == 2


def test_deleting_all(store: Store, events: list[Event]) -> None:
    for number in range(3):
        add(store, mail(f"number{number}", more="X-Tags: a\r\n"), session=number)
    add(store, LARGE_MAIL)
    store.search("number")
    events.clear()
    assert store.delete(None).result(30) == 4
    assert events == [Event("truncate", "null"), Event("stats", '{"Total":0,"Unread":0}')]
    assert (ids_of(store), store.tags(), store.search("number").matches) == ([], {}, 0)
    id = add(store, mail("number9"))
    assert store.find("number") == [id]
    assert store.delete(None).result(30) == 1
    assert store.counts()[:3] == (0, 0, 0)
    assert store.counts().deleted == 5


def test_compacting_gives_space_back(tmp_path: Path) -> None:
    path = tmp_path / "box.db"
    with Store(path) as store:
        for future in [store.add(received(mail("x" * 5000))) for _ in range(300)]:
            future.result(30)
        store.compact().result(30)
        store.delete(None).result(30)
        id = add(store)
        full = store.database_size()
        store.compact().result(30)
        assert store.find("hello") == [id]
    assert path.stat().st_size < full / 4


# Tags.


def test_tags_on_arrival(store: Store) -> None:
    content = mail(sender="a+From@x", to="Bob <b+To+more@x>", more="X-Tags: One, two!,ONE\r\n")
    id = add(store, content, recipients=["b+to+more@x", "c+bcc@x"])
    assert row(store, id)["Tags"] == ["bcc", "From", "more", "One", "To", "two"]
    again = add(store, mail(more="X-Tags: FROM\r\n"))
    assert row(store, again)["Tags"] == ["From"]
    assert store.tags()["From"] == 2
    assert list(store.tags()) == store.summary().tags == ["bcc", "From", "more", "One", "To", "two"]


def test_tags_by_settings() -> None:
    tagging = Tagging([("subject:hi from:ann", ["match"])], False, False, True)
    with Store(tagging=tagging) as store:
        content = mail(to="a+x@y", more="X-Tags: y\r\n")
        assert row(store, add(store, content, username="joe"))["Tags"] == ["joe", "match"]
        assert row(store, add(store, mail(subject="no")))["Tags"] == []


def test_setting_tags(store: Store, events: list[Event]) -> None:
    ids = [add(store, mail(more="X-Tags: a, b\r\n")) for _ in range(2)]
    events.clear()
    assert store.set_tags([ids[0], "unknown"], ["B", "new/!"]).result(30) == 1
    assert events == [Event("update", f'{{"ID":"{ids[0]}","Tags":["b","new"]}}')]
    assert store.tags() == {"a": 1, "b": 2, "new": 1}
    assert store.set_tags(ids, []).result(30) == 2
    assert store.tags() == {}
    assert store.find("is:tagged") == []


def test_renaming_a_tag(store: Store, events: list[Event]) -> None:
    id = add(store, mail(more="X-Tags: a, b\r\n"))
    events.clear()
    store.rename_tag("A", "new name/").result(30)
    assert row(store, id)["Tags"] == ["b", "new name"]
    assert store.tags() == {"b": 1, "new name": 1}
    assert store.find('tag:"NEW name"') == [id]
    assert [event.kind for event in events] == ["prune"]
    store.rename_tag("b", "B").result(30)
    assert row(store, id)["Tags"] == ["B", "new name"]
    for old, new, error in (
        ("unknown", "x", LookupError),
        ("b", "/!", ValueError),
        ("b", "NEW NAME", ValueError),
    ):
        with pytest.raises(error):
            store.rename_tag(old, new).result(30)
    assert store.tags() == {"B": 1, "new name": 1}


def test_deleting_a_tag(store: Store) -> None:
    id = add(store, mail(more="X-Tags: a, b\r\n"))
    store.delete_tag("A").result(30)
    assert row(store, id)["Tags"] == ["b"]
    assert store.tags() == {"b": 1}
    with pytest.raises(LookupError):
        store.delete_tag("a").result(30)


def test_a_tag_goes_with_its_last_message(store: Store) -> None:
    id = add(store, mail(more="X-Tags: a\r\n"))
    store.delete([id]).result(30)
    assert store.tags() == {}


# Events.


def test_the_event_of_a_message_is_before_its_result(store: Store, events: list[Event]) -> None:
    id = add(store, mail(more="X-Tags: a\r\n"))
    [new, stats] = events
    assert (new.kind, json.loads(new.data)) == ("new", row(store, id))
    assert stats == Event("stats", '{"Total":1,"Unread":1}')


def test_a_callback_that_fails_harms_nothing(
    store: Store, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Event) -> None:
        raise ZeroDivisionError

    end = store.subscribe(fail)
    end_ours = store.subscribe(events.append)
    add(store)
    assert len(events) == 4
    end()
    end_ours()
    add(store)
    assert len(events) == 6
    assert caplog.text.count("\nZeroDivisionError") == 2


def test_a_store_that_cannot_be_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "vacuum":
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Full))
    with Store() as store:
        store.compact().result(10)
        add(store)


# Large messages.


def test_a_large_message_is_a_file(store: Store) -> None:
    with store.new_file() as file:
        file.write(LARGE_MAIL)
    id = store.add(received(Path(file.name))).result(30)
    found = store.message(id)
    assert found is not None
    assert found.pristine() == LARGE_MAIL
    assert found.raw() == found.added + LARGE_MAIL
    assert b"".join(found.raw_pieces()) == found.raw()
    assert found.source.read_at(10, 500) == found.raw()[10:510]
    assert found.size == row(store, id)["Size"] == len(found.raw())
    assert store.find("subject:large yyyy") == [id]
    assert not Path(file.name).exists()
    kept = list(Path(f"{store.path}.large").iterdir())
    assert [one.name for one in kept] == [id]
    store.delete([id]).result(30)
    assert not kept[0].exists()
    with pytest.raises(StoreError, match="deleted"):
        found.open()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other calls")
def test_a_large_message_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    synced: dict[int, int] = {}

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def run(number: int) -> None:
            mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
            synced[os.fstat(number).st_ino] = mode
            sync(number)

        return run

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    with Store(tmp_path / "x.db", durable=True) as store:
        file = tmp_path / "x.db.large" / add(store, LARGE_MAIL)
        # Windows syncs no file that is open for reading only.
        assert synced == {file.stat().st_ino: os.O_RDWR, file.parent.stat().st_ino: os.O_RDONLY}


def test_a_message_is_read_to_its_end_if_it_is_deleted(store: Store) -> None:
    id = add(store, LARGE_MAIL)
    found = store.message(id)
    assert found is not None
    pieces = found.raw_pieces()
    first = next(pieces)
    store.delete([id]).result(30)
    assert first + b"".join(pieces) == found.added + LARGE_MAIL
    with pytest.raises(StoreError, match="deleted"):
        found.raw_pieces()


def test_large_bytes_become_a_file_too(store: Store) -> None:
    content = b"Return-Path: <old@x>\r\n" + LARGE_MAIL
    found = store.message(store.add(received(content)).result(30))
    assert found is not None
    assert found.raw() == found.added + LARGE_MAIL
    assert found.pristine() == content
    assert len(list(Path(f"{store.path}.large").iterdir())) == 1


# Sessions and attempts.


def test_a_session_is_kept_with_its_messages(store: Store) -> None:
    number = store.new_session()
    ids = [add(store, session=number, transaction=[Line(0.1, "C", "MAIL")]) for _ in range(2)]
    log = SessionLog(number, "127.0.0.1:1", NOON, tls=("TLSv1.3", "AES"), user="ann")
    log.lines.append(Line(0.12345, "S", "250 é"))
    assert store.session(number) is None
    store.watch_session(log)
    log.ended = NOON + timedelta(seconds=1)
    running = store.session(number)
    assert store.save_session(log).result(30) == number
    saved = store.session(number)
    assert saved is not None
    assert running is not None
    assert saved.json() == running.json()
    found = json.loads(saved.json())
    assert found.pop("began").startswith("2026-11-28T")
    assert found.pop("ended").startswith("2026-11-28T")
    assert found == {
        "session": number,
        "client": "127.0.0.1:1",
        "tls": {"version": "TLSv1.3", "cipher": "AES"},
        "user": "ann",
        "messages": ids,
        "lines": [{"at": 0.1235, "who": "S", "text": "250 é"}],
        "cut": False,
    }
    message = store.message(ids[0])
    assert message is not None
    assert message.transaction == [Line(0.1, "C", "MAIL")]
    store.delete(ids).result(30)
    assert store.session(number) is None


def test_attempts(store: Store, events: list[Event]) -> None:
    first = store.add_attempt(Attempt(1, "MAIL", "a@x", reply="550 5.7.1 No", at=NOON))
    second = store.add_attempt(
        Attempt(2, "RCPT", "a@x", "bob@y", "450 Busy", "rcpt: 450", line=7, recipients=1)
    )
    assert (first.result(30), second.result(30)) == (1, 2)
    page = store.attempts(limit=1)
    assert (page.total, [one.number for one in page.attempts]) == (2, [2])
    assert store.attempts(start=1).attempts[0] == store.attempt(1)
    assert store.attempts(query="BOB rcpt").total == 1
    assert store.attempt(9) is None
    found = json.loads(store.attempts().attempts[0].json())
    assert found.pop("at")
    assert found == {
        "id": 2,
        "session": 2,
        "stage": "RCPT",
        "from": "a@x",
        "to": "bob@y",
        "reply": "450 Busy",
        "fault": "rcpt: 450",
        "client": "",
        "tls": "",
        "user": "",
        "line": 7,
        "recipients": 1,
    }
    assert [event.kind for event in events] == ["rejected", "rejected"]
    assert json.loads(events[1].data)["id"] == 2
    assert (store.counts().attempts, store.counts().rejected) == (2, 2)
    assert store.delete_attempts().result(30) == 2
    assert (store.counts().attempts, store.counts().rejected) == (0, 2)


def test_an_attempt_cannot_be_cancelled(store: Store) -> None:
    future = store.add_attempt(Attempt(1, "MAIL"))
    assert not future.cancel()
    assert store.attempts().total == 1


def test_deleting_all_again_while_tables_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    with Store(path) as store:
        add(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for steps in range(30):
            delete_all(connection, Change(), tmp_path, index=True)
            for _ in range(steps):
                drop_some(connection)
        assert connection.execute("select count(*) from msg").fetchone() == (0,)


def test_deleting_all_messages_keeps_attempts(store: Store) -> None:
    number = store.new_session()
    store.add_attempt(Attempt(number, "RCPT")).result(30)
    store.save_session(SessionLog(number)).result(30)
    store.save_session(SessionLog(store.new_session())).result(30)
    store.delete(None).result(30)
    assert store.attempts().total == 1
    assert store.session(number) is not None
    assert store.session(number + 1) is None
    store.delete_attempts().result(30)
    assert store.session(number) is None


# Retention.


def test_old_messages_are_removed_and_told() -> None:
    with Store(keep=Keep(count=3)) as store:
        wait_for(
            store,
            lambda: [add(store, mail(subject=str(n))) for n in range(5)],
            lambda store: store.counts().pruned == 2,
        )
        assert subjects(store, "") == ["2", "3", "4"]
        [gone] = store.gone()
        assert (gone.count, gone.why) == (store.counts().pruned, "3") == (2, "3")
        assert store.counts().size == sum(json.loads(one)["Size"] for one in store.summary().rows)


def test_large_and_old_messages_are_removed() -> None:
    with Store(keep=Keep(None, 10_000, 3600)) as store:
        long_ago = datetime.now(UTC) - timedelta(days=1)
        add(store, mail(subject="old"), created=long_ago)
        content = mail("x" * 9000, subject="big")
        wait_for(store, lambda: add(store, content), lambda store: store.counts().pruned == 1)
        assert subjects(store, "") == ["big"]
        content = mail("x" * 2000, subject="new")
        wait_for(store, lambda: add(store, content), lambda store: store.counts().pruned == 2)
        assert subjects(store, "") == ["new"]
        assert sorted(one.why for one in store.gone()) == ["1h", "9.766K"]


def test_messages_become_old_while_none_come() -> None:
    with Store(keep=Keep(age=0.3)) as store:
        wait_for(
            store,
            lambda: [add(store, mail(subject=str(n))) for n in range(2)],
            lambda store: store.counts().pruned == 1,
        )
        assert subjects(store, "") == ["1"]


def test_a_retained_store_stays_near_its_limit() -> None:
    with Store(keep=Keep(count=100)) as store:
        for future in [store.add(received(mail())) for _ in range(1000)]:
            future.result(30)
            assert store.counts().total <= 100 + 64 + 10


# Duplicates.


def test_duplicates_may_be_ignored() -> None:
    content = mail(more="Message-ID: <one@x>\r\n")
    with Store(ignore_duplicates=True) as store:
        assert add(store, content) == add(store, content)
        add(store, LARGE_MAIL.replace(b"Subject", b"Message-ID: <one@x>\r\nSubject"))
        assert list(Path(f"{store.path}.large").iterdir()) == []
        assert add(store) != add(store)
        assert store.counts()[:1] == (3,)
        assert (store.counts().ignored, store.counts().accepted) == (2, 3)


# Files.


def test_a_store_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "box.db"
    with Store(path) as store:
        id = add(store, mail(more="X-Tags: a\r\n"), session=store.new_session())
        large = add(store, LARGE_MAIL)
        store.set_read([id], True).result(30)
        store.add_attempt(Attempt(5, "RCPT")).result(30)
        counts = store.counts()
    (tmp_path / "box.db.large" / "stray").write_bytes(b"x")
    with Store(path, durable=True) as store:
        assert store.counts()[:4] == counts[:4]
        assert store.tags() == {"a": 1}
        assert store.new_session() == 6
        assert ids_of(store) == [large, id]
        assert sorted(one.name for one in (tmp_path / "box.db.large").iterdir()) == [large]
        newer = add(store, LARGE_MAIL)
        assert ids_of(store) == [newer, large, id]
        assert store.search("hello").matches == 1


def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    path = tmp_path / "box.db"
    with Store(path) as store:
        ids = [add(store, mail("first")) for _ in range(2)]
        store.search("first")
        store.delete(ids).result(30)
    with Store(path) as store:
        id = add(store, mail("second"))
        assert (store.find("second"), store.find("first")) == ([id], [])


def test_a_temporary_store_leaves_nothing() -> None:
    store = Store()
    store.open()
    assert store.path is not None
    folder = store.path.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store.close()
    store.close()
    assert not folder.exists()
    assert store.path is None


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with Store(tmp_path / "box.db") as store:
            add(store, LARGE_MAIL)
            modes = {
                one.name: stat.S_IMODE(one.stat().st_mode) & 0o77 for one in tmp_path.rglob("*")
            }
    finally:
        os.umask(old)
    assert len(modes) >= 4
    assert set(modes.values()) == {0}


def test_two_processes_cannot_open_one_store(tmp_path: Path) -> None:
    with Store(tmp_path / "box.db"), pytest.raises(StoreError, match="in use"):
        Store(tmp_path / "box.db").open()


def test_a_folder_is_refused_and_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for path in folder, Path(), Path("/"):
        with pytest.raises(StoreError, match="is a folder: name a file"):
            Store(path).open()
    assert [*tmp_path.iterdir()] == [folder]


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("text.db", "other.db", "newer.db", "missing/x.db")]
    paths[0].write_bytes(b"this is not a database" * 100)
    Store(paths[2]).__enter__().close()
    for path, statement in (
        (paths[1], "create table x (y)"),
        (paths[2], "pragma user_version = 9"),
    ):
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.close()
    for path in paths:
        with pytest.raises(StoreError, match=r"^[^\n]+$"):
            Store(path).open()


def test_the_folder_of_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, why in ("missing", "does not exist"), ("file", "is not a folder"):
        path = tmp_path / name / "box.db"
        with pytest.raises(StoreError) as caught:
            Store(path).open()
        assert str(caught.value) == f"Cannot use {path}: the folder {path.parent} {why}"


def test_a_closed_store_says_so(store: Store) -> None:
    id = add(store)
    store.close()
    with pytest.raises(StoreError, match="not open"):
        store.add(received(mail()))
    with pytest.raises(StoreError, match="not open"):
        store.message(id)


def test_closing_finishes_the_writing(tmp_path: Path) -> None:
    with Store(tmp_path / "box.db") as store:
        futures = [store.add(received(mail())) for _ in range(200)]
        futures.append(store.add(received(LARGE_MAIL)))
    assert len({one.result(0) for one in futures}) == 201
    with Store(tmp_path / "box.db") as store:
        assert store.counts().total == 201


def test_an_error_of_the_database_is_a_store_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def insert(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr("aiosmtpd.inbox.changes.insert", insert)
        futures = [store.add(received(content)) for content in (mail(), mail(), LARGE_MAIL)]
        for future in futures:
            with pytest.raises(StoreError, match="disk I/O error"):
                future.result(30)
    assert store.counts().total == 0
    assert list(Path(f"{store.path}.large").iterdir()) == []
    add(store)


def test_a_store_without_the_index_gets_none_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        without_index(patched)
        with Store(tmp_path / "box.db") as store:
            id = add(store)
            store.delete([add(store)]).result(30)
    with Store(tmp_path / "box.db") as store:
        assert store.find("hello") == [id]
        store.delete(None).result(30)
        assert store.find("hello") == []
