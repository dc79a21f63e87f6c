"""Our own routes below ``/api/``: refused attempts, sessions, faults, messages, export."""

import io
import json
import mailbox
import traceback
import zipfile
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from aiosmtpd.inbox.export import exported
from aiosmtpd.inbox.records import Attempt, Line, SessionLog
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Keep, Store
from aiosmtpd.observers.faults import Faults
from tests.inbox.own_support import PAGE, asking, client_of
from tests.inbox.support import add, mail


async def got(store: Store, path: str, status: int = 200, **more: Any) -> Any:
    """Return the JSON that a GET answers."""
    async with asking(store, **more) as client:
        answer = await client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def test_refused_attempts_in_pages(store: Store) -> None:
    for number in range(3):
        store.add_attempt(Attempt(1, "RCPT", "a@b.c", f"{number}@e.f", "550 no")).result()
    found = await got(store, "/api/rejected?start=1&limit=1")
    assert (found["total"], [one["to"] for one in found["attempts"]]) == (3, ["1@e.f"])
    found = await got(store, "/api/rejected?query=2@e.f")
    assert (found["total"], [one["id"] for one in found["attempts"]]) == (1, [3])
    async with asking(store) as client:
        assert (await client.delete("/api/rejected")).json() == {"deleted": 3}
    assert await got(store, "/api/rejected") == {"total": 0, "attempts": []}


async def test_a_session(store: Store) -> None:
    log = SessionLog(7, "127.0.0.1:9", lines=[Line(0.1, "C", "EHLO x")])
    # A session without a message and without a refusal is not kept.
    store.add_attempt(Attempt(7, "RCPT")).result()
    store.save_session(log).result()
    found = await got(store, "/api/sessions/7")
    assert found["lines"] == [{"at": 0.1, "who": "C", "text": "EHLO x"}]
    for unknown in "8", "x", "\u0667", "9" * 30:
        assert "error" in await got(store, f"/api/sessions/{unknown}", 404)


async def test_the_dialogue_of_a_message(store: Store) -> None:
    own = [Line(0.2, "C", "MAIL FROM:<a@b.c>"), Line(0.3, "S", "250 OK")]
    id = add(store, session=7, transaction=own)
    store.save_session(SessionLog(7, lines=[Line(0.1, "C", "EHLO x"), *own])).result()
    found = await got(store, f"/api/message/{id}/smtp")
    assert found["transaction"] == [1, 3]
    assert found["envelope"] == {"from": "ann@example.org", "to": ["bob@example.org"]}
    assert (found["session"], found["messages"]) == (7, [id])


async def test_the_dialogue_without_a_session(store: Store) -> None:
    found = await got(store, f"/api/message/{add(store)}/smtp")
    assert (found["lines"], found["transaction"]) == ([], [0, 0])


async def test_the_latest_message_and_unknown_ones(store: Store) -> None:
    first = add(store, mail(subject="First"))
    add(store)
    parts = await got(store, "/api/message/latest/parts?query=subject:first")
    assert parts == await got(store, f"/api/message/{first}/parts")
    for kind in "parts", "links", "checks", "smtp", "copy":
        found = await got(store, f"/api/message/{'x' * 22}/{kind}", 404)
        assert found["error"] == f"no message {'x' * 22!r}"


async def test_the_tree_of_parts(store: Store) -> None:
    tree = await got(store, f"/api/message/{add(store, PAGE)}/parts")
    assert (tree["number"], tree["type"], tree["checksums"]) == ("0", "multipart/alternative", None)
    plain, html = tree["parts"]
    assert (plain["number"], html["number"], html["type"]) == ("1", "2", "text/html")
    assert (plain["size"], len(plain["checksums"]["sha256"])) == (62, 64)


async def test_the_links_and_checks_of_a_message(store: Store) -> None:
    id = add(store, PAGE)
    found = (await got(store, f"/api/message/{id}/links"))["links"]
    assert [(one["place"], one["text"], one["host"]) for one in found] == [
        ("html", "there", "shop.example.org"),
        ("text", "", "shop.example.org"),
    ]
    checks = await got(store, f"/api/message/{id}/checks")
    assert [one["id"] for one in checks][:2] == ["no-date", "no-message-id"]


async def test_copies_name_the_places_of_the_request(store: Store) -> None:
    id = add(store, PAGE)
    async with asking(store, smtp={"host": "::1", "port": 25}) as client:
        answer = await client.get(f"/api/message/{id}/copy?as=send", headers={"Host": "box:1"})
        assert f"'http://box:1/api/message/{id}/copy?as=eml'" in answer.text
        assert "aiosmtpd send '[::1]:25' --from=ann@example.org" in answer.text
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        answer = await client.get(f"/api/message/{id}/copy?as=eml")
        assert answer.content == PAGE
        assert answer.headers["content-security-policy"].startswith("sandbox;")
        assert answer.headers["content-disposition"] == f'attachment; filename="{id}.eml"'
        answer = await client.get(f"/api/message/{id}/copy?as=cow")
        assert answer.status_code == 400
        assert "pytest" in answer.json()["hint"]


async def test_faults_are_added_counted_and_removed(store: Store) -> None:
    faults = Faults(["mail: 450 first"])
    async with asking(store, faults=faults) as client:
        answer = await client.post("/api/faults", json={"rule": "rcpt *@slow.test: 450 busy x2"})
        assert answer.json() == {
            "faults": [
                {"id": 2, "rule": "rcpt to=*@slow.test: 450 busy x2"}
                | {"struck": 0, "met": 0, "mark": ""}
            ]
        }
        for _ in range(3):
            faults.struck("rcpt", sender="a@b.c", recipients=["x@slow.test"], client="")
        found = (await client.get("/api/faults")).json()["faults"]
        assert [(one["id"], one["met"], one["struck"]) for one in found] == [(1, 0, 0), (2, 3, 2)]
        found = (await client.delete("/api/faults/1")).json()["faults"]
        assert [one["id"] for one in found] == [2]
        assert (await client.delete("/api/faults/1")).status_code == 404
        assert (await client.delete("/api/faults")).json() == {"faults": []}
    assert list(faults) == []


@pytest.mark.parametrize(
    "body",
    [
        '{"faults": ["mail: 450 a", "rcpt: 450 b"]}',
        '{"faults": [{"rule": "mail: 450 a"}, {"rule": "rcpt: 450 b"}]}',
        '["mail: 450 a", "rcpt: 450 b"]',
        "mail: 450 a\n\nrcpt: 450 b\n",
    ],
)
async def test_faults_in_each_form(store: Store, body: str) -> None:
    faults = Faults(["data: drop"])
    async with asking(store, faults=faults) as client:
        answer = await client.put("/api/faults", content=body)
    assert [one["rule"] for one in answer.json()["faults"]] == ["mail: 450 a", "rcpt: 450 b"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"mail: 450 a\nrcpt: shout", "unknown effect 'shout'"),
        (b'{"rule": 5}', "a fault is a text"),
        (b"{}", "a fault is a text"),
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (json.dumps(["mail: 450 a"] * 101).encode(), "more than 100 faults"),
    ],
)
async def test_wrong_faults_change_nothing(
    store: Store, method: str, body: bytes, error: str
) -> None:
    faults = Faults(["data: drop"])
    async with asking(store, faults=faults) as client:
        answer = await client.request(method, "/api/faults", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)
    assert [str(one) for one in faults] == ["data: drop"]


async def test_an_inbox_without_a_server_has_no_faults(store: Store) -> None:
    assert "no server" in (await got(store, "/api/faults", 404))["error"]


async def test_an_export_as_mbox(store: Store, tmp_path: Path) -> None:
    add(store, mail("From the beginning\r\n>From here"))
    add(store, mail(subject="Second"), sender="")
    async with asking(store) as client:
        answer = await client.get("/api/export?query=to:bob")
    assert answer.headers["content-type"] == "application/mbox"
    assert answer.headers["content-disposition"] == 'attachment; filename="inbox.mbox"'
    assert b"\n>From the beginning\n>>From here\n" in answer.content
    (tmp_path / "box").write_bytes(answer.content)
    box = mailbox.mbox(tmp_path / "box")
    assert [(one["Subject"], one.get_from().split()[0]) for one in box] == [
        ("Second", "MAILER-DAEMON"),
        ("Hi", "ann@example.org"),
    ]
    box.close()


async def test_an_export_as_zip(store: Store) -> None:
    large = add(store, mail("x" * 2_000_000))
    small = add(store, mail(more="Message-ID: <../../x>\r\n"))
    add(store)
    async with asking(store) as client:
        answer = await client.get(f"/api/export?format=zip&ids={small},{large},{'x' * 22}")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{small}.eml", f"{large}.eml"]
        for id in small, large:
            kept = store.message(id)
            assert kept is not None
            assert archive.read(f"{id}.eml") == kept.raw()


@pytest.mark.parametrize("kind", ["mbox", "zip"])
def test_an_export_has_messages_that_are_deleted_meanwhile(store: Store, kind: str) -> None:
    # Random, so that the first piece of a zip comes before the end of the first message.
    first, second = (add(store, mail(token_hex(1_000_000))) for _ in range(2))
    kept = store.message(first)
    assert kept is not None
    size = kept.size
    pieces = exported(store, [first, second], kind)
    begin = next(pieces)
    store.delete(None).result(30)
    content = begin + b"".join(pieces)
    if kind == "mbox":
        assert size * 0.9 < len(content) < size * 1.1
    else:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert [one.file_size for one in archive.infolist()] == [size]


async def test_an_export_in_another_format(store: Store) -> None:
    found = await got(store, "/api/export?format=rar", 400)
    assert found["hint"] == "there are mbox, zip"


async def test_the_settings(tmp_path: Path) -> None:
    with Store(tmp_path / "box", keep=Keep(count=1)) as store:
        for _ in range(2):
            add(store)
        store.compact().result()
        found = await got(store, "/api/settings", smtp={"host": "127.0.0.1", "port": 1025})
    assert (found["host"], found["port"]) == ("127.0.0.1", 1025)
    assert found["retention"]["keep"] == "1,1G"
    assert [(one["count"], one["why"]) for one in found["retention"]["gone"]] == [(1, "1")]
    assert found["delete_all"] is True


async def test_an_export_is_cut_at_the_end(store: Store) -> None:
    add(store)
    services = Services(store)
    services.stopping.set()
    async with client_of(services) as client:
        with pytest.raises(BaseException, match=r"stopping|TaskGroup") as caught:
            await client.get("/api/export")
    assert "the inbox is stopping" in "".join(traceback.format_exception(caught.value))


async def test_the_reply_of_an_unknown_method(store: Store) -> None:
    async with asking(store) as client:
        answer = await client.post("/api/wait")
    assert answer.status_code == 405
    assert answer.json()["error"] == "Method Not Allowed"
