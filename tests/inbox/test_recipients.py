"""The recipients of the envelope in the lists and events of our own API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.inbox.packing import read_attempt
from aiosmtpd.inbox.store import Store
from aiosmtpd.observers.faults import Faults
from tests.inbox.own_support import asking
from tests.inbox.sockets import WebSocket
from tests.inbox.support import add, mail
from tests.inbox.test_intake import client_of, serving as receiving
from tests.inbox.web import Box, serving

MANY = [f"r{number}@example.org" for number in range(100)]


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with serving() as box:
        yield box


async def listed(store: Store, query: str = "", status: int = 200) -> Any:
    async with asking(store) as client:
        answer = await client.get(f"/api/messages{query}")
    assert answer.status_code == status
    return answer.json()


async def shown(store: Store) -> list[tuple[str, int]]:
    found = await listed(store)
    return [(one["Recipient"], one["Recipients"]) for one in found["messages"]]


async def test_rows_have_two_members_more(store: Store) -> None:
    add(store, mail(more="X-Tags: a\r\n"), recipients=["eve@example.org"])
    async with asking(store) as client:
        theirs = (await client.get("/api/v1/messages")).json()
    ours = await listed(store)
    [row] = ours["messages"]
    assert (row.pop("Recipient"), row.pop("Recipients")) == ("eve@example.org", 1)
    assert ours == theirs


@pytest.mark.parametrize(
    ("recipients", "expected"),
    [
        (["eve@example.org"], ("eve@example.org", 1)),
        (["eve@example.org", "bob@example.org"], ("eve@example.org", 2)),
        (MANY, ("r0@example.org", 100)),
        (["\u7528\u6237@\u4f8b\u5b50.org"], ("\u7528\u6237@\u4f8b\u5b50.org", 1)),
        (['"a, \\"recipients\\":["@x.org'], ('"a, \\"recipients\\":["@x.org', 1)),
        ([], ("", 0)),
    ],
)
async def test_the_first_recipient_and_their_number(
    store: Store, recipients: list[str], expected: tuple[str, int]
) -> None:
    add(store, recipients=recipients, sender='"recipients":[1]@x.org')
    assert await shown(store) == [expected]


async def test_a_message_that_cannot_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: object) -> None:
        raise RecursionError

    monkeypatch.setattr("aiosmtpd.inbox.rows.read", broken)
    add(store, recipients=["eve@example.org"])
    assert await shown(store) == [("eve@example.org", 1)]


async def test_pages_and_searches(store: Store) -> None:
    for number in range(4):
        add(store, mail(subject=f"Number {number}"), recipients=[f"r{number}@example.org"])
    found = await listed(store, "?start=1&limit=2")
    assert [one["Recipient"] for one in found["messages"]] == ["r2@example.org", "r1@example.org"]
    assert (found["total"], found["messages_count"], found["start"]) == (4, 4, 1)
    found = await listed(store, '?query=addressed:r3@+after:"2020-01-01"&tz=Europe/Berlin')
    assert [one["Recipient"] for one in found["messages"]] == ["r3@example.org"]
    assert (found["total"], found["messages_count"]) == (4, 1)
    assert "limit is to be" in (await listed(store, "?limit=x", 400))["error"]
    assert "unknown parameter" in (await listed(store, "?before=x", 400))["error"]


async def test_messages_of_the_api(store: Store) -> None:
    body = {"From": {"Email": "a@x.org"}, "To": [{"Email": "b@x.org"}], "Bcc": ["c@x.org"]}
    async with asking(store) as client:
        assert (await client.post("/api/v1/send", json=body)).status_code == 200
    assert await shown(store) == [("b@x.org", 2)]


async def test_a_store_that_is_opened_again(tmp_path: Path) -> None:
    with Store(tmp_path / "box.db") as store:
        add(store, recipients=MANY)
    with Store(tmp_path / "box.db") as store:
        assert await shown(store) == [("r0@example.org", 100)]


@pytest.mark.parametrize("is_lmtp", [False, True])
async def test_recipients_that_came_by_smtp(store: Store, is_lmtp: bool) -> None:
    faults = Faults()
    faults.add("rcpt no@*: 550 5.1.1 no")
    with receiving(store, lmtp=is_lmtp, observers=[faults]) as server, client_of(server) as client:
        if is_lmtp:
            client.docmd("LHLO client.test")
        client.command_encoding = "utf-8"
        client.docmd("MAIL FROM:<ann@x.org> SMTPUTF8")
        for one in "no@x.org", "gr\u00fc\u00dfe@x.org", "eve@x.org":
            client.docmd(f"RCPT TO:<{one}>")
        client.docmd("DATA")
        client.send(mail() + b".\r\n")
        # LMTP has a reply for each recipient.
        assert client.getreply()[0] == 250
        if is_lmtp:
            assert client.getreply()[0] == 250
        client.docmd("NOOP")
    assert await shown(store) == [("gr\u00fc\u00dfe@x.org", 2)]


# Events.


def test_events_have_the_rows_of_the_list(box: Box) -> None:
    socket = WebSocket(box.port, "/api/events?envelope=1")
    plain = WebSocket(box.port, "/api/events")
    url = box.url + "api/events?envelope=1"
    with box.web.stream("GET", url) as stream:
        lines = stream.iter_lines()
        next(lines)
        add(box.store, mail(more="X-Tags: a, b\r\n"), recipients=MANY)
        data = next(line for line in lines if '"Recipients"' in line)
        framed = next(data for kind, data in socket.frames() if kind == "new")
        theirs = next(data for kind, data in plain.frames() if kind == "new")
    socket.close()
    plain.close()
    [row] = box.web.get(box.url + "api/messages?limit=1").json()["messages"]
    assert (row["Recipient"], row["Recipients"]) == ("r0@example.org", 100)
    assert json.loads(data.removeprefix("data: ")) == framed == row
    assert [*framed] == [*row], "the page compares them as texts"
    assert theirs == box.web.get(box.url + "api/v1/messages?limit=1").json()["messages"][0]


# Refused attempts.


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("data: 452 4.3.1 full", ("DATA", 12)),
        ("rcpt r11@*: 550 5.1.1 no", ("RCPT", 1)),
        ("mail: 451 4.3.0 later", ("MAIL", 0)),
    ],
)
def test_refused_attempts_count_recipients(
    store: Store, rule: str, expected: tuple[str, int]
) -> None:
    faults = Faults()
    faults.add(rule)
    with receiving(store, observers=[faults]) as server, client_of(server) as client:
        client.mail("ann@example.org")
        for one in MANY[:12]:
            client.rcpt(one)
        if client.docmd("DATA")[0] == 354:
            client.docmd(".")
    last = next(one for one in store.attempts().attempts if one.stage == expected[0])
    assert (last.stage, last.recipients) == expected
    assert json.loads(last.json())["recipients"] == expected[1]


def test_attempts_of_older_stores_have_no_number() -> None:
    kept = [1, "DATA", "a@x.org", "b@x.org, c@x.org", "550 no", "", "::1", "", "", 7]
    attempt = read_attempt(1, 0, json.dumps(kept))
    assert (attempt.recipient, attempt.line, attempt.recipients) == ("b@x.org, c@x.org", 7, 0)
