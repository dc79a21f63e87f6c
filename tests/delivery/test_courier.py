"""The courier: tries, pauses, results per recipient, routes that fail."""

import asyncio
import logging
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Delivery, Item, Later, Misconfigured, Never
from aiosmtpd.delivery.backlog import Backlog, Selection
from aiosmtpd.delivery.database import open_beside
from aiosmtpd.delivery.item import Results
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.spool import Spool, SpoolFull
from tests.delivery.spooling import PATIENCE, due, opened, write_locked
from tests.delivery.support import (
    MESSAGE,
    NO_USER,
    QUICK,
    Hanging,
    Place,
    counts,
    delivering,
    full_for_ends,
    given,
    messages,
    route,
    send,
    until,
    until_left,
)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let couriers look at their spools often."""
    monkeypatch.setattr("aiosmtpd.delivery.courier.POLL", 0.05)


def test_a_message_arrives_whole(tmp_path: Path) -> None:
    place = Place()
    with delivering(tmp_path, route(place)) as (handler, controller):
        reply = send(controller, "bo@b.test", "cy@b.test")
        item, content = place.next()
        until_left(handler, messages=0)
    assert reply == f"250 2.0.0 OK queued as {item.id}"
    assert (item.sender, item.recipients) == ("ann@a.test", ("bo@b.test", "cy@b.test"))
    assert content.startswith(b"Return-Path: <ann@a.test>\r\nReceived: from client.test ")
    assert content.endswith(b"\r\n" + MESSAGE)
    assert (place.opened, place.closed, item.size) == (1, 1, len(content))


@pytest.mark.parametrize(
    "failure",
    [Later("busy"), OSError("down"), ValueError(), SystemExit(1), asyncio.CancelledError(), 7],
    ids=repr,
)
def test_failures_are_tried_again(tmp_path: Path, failure: Any) -> None:
    place = Place(failure, failure, None)
    with given(tmp_path, route(place)) as handler:
        until(lambda: place.tried == 3)
        until_left(handler, messages=0)


def test_each_recipient_has_a_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place({"bo@b.test": Later("full"), "cy@b.test": NO_USER}, None)
    with given(tmp_path, route(place), "ann@b.test", "bo@b.test", "cy@b.test") as handler:
        first, second = place.item(), place.item()
        until_left(handler, dead=1)
        assert counts(handler).routes["app"].waiting == 0
    assert first.recipients == ("ann@b.test", "bo@b.test", "cy@b.test")
    assert (second.recipients, second.attempts) == (("bo@b.test",), 1)
    assert "dead: route app, recipient 'cy@b.test': 550 5.1.1 No such user" in messages(caplog)


def test_results_for_others_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place({"other@b.test": NO_USER})
    with given(tmp_path, route(place)) as handler:
        place.next()
        until_left(handler, messages=0)
    assert "put() has named ['other@b.test']" in messages(caplog)


def test_given_up_messages_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place(Later("closed for today"))
    retry = {**QUICK, "give_up": 0.2}
    with given(tmp_path, route(place, retry=retry)) as handler:
        until_left(handler, dead=1)
        assert counts(handler).messages == 1
    assert place.tried >= 2
    assert "4.4.7 Given up, the last try said: closed for today" in messages(caplog)


def test_a_hanging_route_delays_no_other(tmp_path: Path) -> None:
    hanging, place = Hanging(), Place()
    routes = route(hanging, "*@slow.test", "slow", concurrency=2), route(place)
    with delivering(tmp_path, *routes, grace=0.1) as (handler, controller):
        for _ in range(50):
            send(controller, "bo@slow.test")
        send(controller, "bo@b.test")
        place.next()
        assert counts(handler).routes["slow"].waiting == 50
        # No more than its concurrency, and each of them once.
        assert len({hanging.item().id, hanging.item().id}) == 2
        assert hanging.items.empty()


def test_a_try_takes_a_limited_time(tmp_path: Path) -> None:
    class Slow(Place):
        async def put(self, item: Item) -> Results:
            if not item.attempts:
                await asyncio.Event().wait()
            return await super().put(item)

    place = Slow()
    with given(tmp_path, route(place, timeout=0.1)):
        assert place.item().attempts == 1


def test_concurrency_of_a_route(tmp_path: Path) -> None:
    class Busy(Place):
        now = most = 0

        async def put(self, item: Item) -> Results:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().put(item)

    place = Busy()
    idle = route(Place(), "*@c.test", "idle", concurrency=50)
    with delivering(tmp_path, idle, route(place, concurrency=3)) as (_, controller):
        for _ in range(20):
            send(controller, "bo@b.test")
        for _ in range(20):
            place.next()
    assert place.most <= 3


def test_a_message_of_two_routes_waits_for_no_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.courier.POLL", 10 * PATIENCE)
    places = Place(), Place()
    routes = route(places[0], "*@a.test", "a"), route(places[1], "*@b.test", "b")
    with delivering(tmp_path, *routes) as (_, controller):
        send(controller, "bo@a.test", "cy@b.test")
        assert [place.item().recipients for place in places] == [("bo@a.test",), ("cy@b.test",)]


def test_results_that_wait_for_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gated(Place):
        gate = threading.Event()

        async def put(self, item: Item) -> Results:
            await asyncio.to_thread(self.gate.wait, PATIENCE)
            return await super().put(item)

    monkeypatch.setattr("aiosmtpd.delivery.courier.POLL", 10 * PATIENCE)
    monkeypatch.setattr("aiosmtpd.delivery.lane.WRITING", 5)
    place = Gated()
    with delivering(tmp_path, route(place, concurrency=2)) as (handler, controller):
        for _ in range(12):
            send(controller, "bo@b.test")
        with write_locked(tmp_path / "spool"):
            place.gate.set()
            until(lambda: place.tried >= 5)
            for _ in range(5):
                place.next()
            # Five results wait, and one try may have run beside the last of them.
            assert place.tried <= 6
        until_left(handler, messages=0)
        assert place.tried == 12


def test_a_name_that_is_gone_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with delivering(tmp_path, route(Hanging(), name="old"), grace=0.1) as (_, controller):
        for _ in range(5):
            send(controller, "bo@b.test")
    place = Place()
    with delivering(tmp_path, route(place, name="new", concurrency=1)) as (handler, controller):
        send(controller, "cy@b.test")
        assert place.item().recipients == ("cy@b.test",)
        until(lambda: handler.missing == {"old"})
        assert counts(handler).routes["old"].waiting == 5
    assert messages(caplog).count("No route is called 'old'") == 1
    assert place.items.empty()
    with delivering(tmp_path, route(place, name="old")):
        assert place.item().recipients == ("bo@b.test",)


def test_the_configuration_of_now_counts(tmp_path: Path) -> None:
    with given(tmp_path, route(Hanging()), grace=0.1):
        pass
    place = Place()
    with delivering(tmp_path, route(place, "*@c.test")):
        assert place.item().recipients == ("bo@b.test",)


def test_a_down_route_is_probed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place, other = Place(*[OSError("no route to host")] * 6, None), Place()
    routes = route(place, "*@down.test", "down", retry={"first": 0.2, "max": 0.2}), route(other)
    caplog.set_level(logging.WARNING, "mail.log")
    with delivering(tmp_path, *routes) as (handler, controller):
        for _ in range(30):
            send(controller, "bo@down.test")
        send(controller, "bo@b.test")
        other.next()
        until_left(handler, messages=0)
    # Five failures and one failed probe, then all of them.
    assert place.tried == 6 + 30
    text = messages(caplog, logging.WARNING)
    assert text.count("Route down is down: OSError: no route to host") == 1
    assert text.count("Route down is up again") == 1


def test_messages_of_a_down_route_expire(tmp_path: Path) -> None:
    place = Place(OSError("down"))
    retry = {"first": 0.1, "max": 0.1, "give_up": 0.5}
    with delivering(tmp_path, route(place, retry=retry, concurrency=1)) as (handler, controller):
        for _ in range(40):
            send(controller, "bo@b.test")
        until_left(handler, dead=40)
    assert place.tried < 40


def test_a_refusal_does_not_close_a_route(tmp_path: Path) -> None:
    place = Place(NO_USER)
    with delivering(tmp_path, route(place)) as (handler, controller):
        for _ in range(12):
            send(controller, "bo@b.test")
        until_left(handler, dead=12)
    assert place.tried == 12


def test_an_outlet_that_asks_for_a_pause_gets_it(tmp_path: Path) -> None:
    place = Place(Later("come back", after=3600))
    with delivering(tmp_path, route(place)) as (handler, controller):
        send(controller, "bo@b.test")
        until(lambda: place.tried == 1)
        send(controller, "cy@b.test")
        until(lambda: place.tried == 2)
        assert counts(handler).routes["app"].waiting == 2


def test_the_courier_opens_outlets_later_too(tmp_path: Path) -> None:
    class Shy(Place):
        async def open(self) -> None:
            await super().open()
            if self.opened < 3:
                raise OSError("not yet")

    place = Shy()
    with given(tmp_path, route(place)):
        place.next()
    assert (place.opened, place.tried, place.closed) == (3, 1, 1)


def test_open_raises_misconfigured(tmp_path: Path) -> None:
    class Wrong(Place):
        async def open(self) -> None:
            raise Misconfigured("say fsync = true")

    handler = Delivery(tmp_path / "spool", [route(Wrong())])
    with pytest.raises(Misconfigured, match="say fsync"):
        asyncio.run(handler.open())
    with delivering(tmp_path, route(Place())):
        # The lock of the spool was given back.
        pass


def test_stopping_waits_for_tries_that_run(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Slow(Place):
        async def put(self, item: Item) -> Results:
            began.set()
            await asyncio.to_thread(go_on.wait)
            return await super().put(item)

    place = Slow()
    with given(tmp_path, route(place)):
        began.wait()
        threading.Timer(0.2, go_on.set).start()
    place.next()
    with delivering(tmp_path, route(place)) as (handler, _):
        assert counts(handler).messages == 0


def test_an_operator_wakes_a_down_route(tmp_path: Path) -> None:
    place = Place(*[OSError("down")] * 5, None)
    with delivering(tmp_path, route(place, retry={"first": 3600})) as (handler, controller):
        for _ in range(5):
            send(controller, "bo@b.test")
        until(lambda: place.tried == 5)
        connection = open_beside(str(tmp_path / "spool"), 5)
        tried = "select count(*) from delivery where attempts = 1"
        until(lambda: connection.execute(tried).fetchone()[0] == 5)
        connection.executescript("update delivery set due = 0; insert into retried values ('app');")
        connection.close()
        until_left(handler, messages=0)


def test_an_operator_retries_during_a_try(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Place):
        async def put(self, item: Item) -> Results:
            begun.set()
            await asyncio.to_thread(go_on.wait)
            return await super().put(item)

    place = Slow(OSError("down"), None)
    with given(tmp_path, route(place, retry={"first": 3600})) as handler:
        begun.wait()
        with closing(Backlog(str(tmp_path / "spool"))) as backlog:
            assert backlog.retry(Selection()) == 1
        go_on.set()
        until_left(handler, messages=0)
    assert place.tried == 2


def test_loops_end_by_hops(tmp_path: Path) -> None:
    place = Place()
    hops = b"Received: from a by b\r\n" * 101
    with delivering(tmp_path, route(place)) as (handler, controller):
        for size in 10, 400_000:
            content = hops + b"\r\n" + b"x\r\n" * size
            assert send(controller, "bo@b.test", content=content).startswith("554 5.4.6")
        assert counts(handler).messages == 0
        assert list((tmp_path / "spool" / "large").iterdir()) == []


def test_a_spool_that_is_full_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    due, full = Spool.due, [SpoolFull("make room"), SpoolFull("make room")]

    def due_unless_full(spool: Spool, *arguments: Any) -> Any:
        if full and arguments[0] > began:
            future: Outcome[Any] = Outcome()
            future.set_exception(full.pop())
            return future
        return due(spool, *arguments)

    began = time.time()
    monkeypatch.setattr(Spool, "due", due_unless_full)
    place = Place()
    with given(tmp_path, route(place)) as handler:
        place.next()
        until_left(handler, messages=0)
    assert "The spool cannot be used now, next try in 0.05 s: make room" in messages(caplog)


def test_results_wait_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = full_for_ends(monkeypatch, times=2)
    monkeypatch.setattr("aiosmtpd.delivery.ledger.FIRST_PAUSE", 0.05)
    place = Place()
    with given(tmp_path, route(place)) as handler:
        until_left(handler, messages=0)
    assert (place.tried, full) == (1, [])


def test_a_bug_delivers_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("aiosmtpd.delivery.report.make_report", fail)
    place = Place(NO_USER)
    with delivering(tmp_path, route(place, bounce=Place())) as (_, controller):
        send(controller, "bo@b.test")
        until(lambda: "internal error, next try in an hour" in messages(caplog))
        send(controller, "bo@b.test")
        until(lambda: place.tried == 2)
    assert place.tried == 2


def test_texts_of_next_hops_are_one_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(Later("a\r\nb\x1b[2J"), Never("550-5.1.1 No\r\n550 5.1.1 such user"))
    caplog.set_level(logging.INFO, "mail.log")
    with given(tmp_path, route(place)) as handler:
        until_left(handler, dead=1)
    text = messages(caplog, logging.INFO)
    assert "for route app: a b [2J" in text
    assert "'bo@b.test': 550-5.1.1 No 550 5.1.1 such user" in text


def test_a_bug_leaves_delivered_recipients_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    after: Any = "5 minutes"
    place = Place({"bo@b.test": Later("busy", after)})
    with given(tmp_path, route(place), "ann@b.test", "bo@b.test"):
        until(lambda: "internal error, next try in an hour" in messages(caplog))
    with opened(tmp_path / "spool") as spool:
        assert due(spool, time.time() + 4000)[0].item.recipients == ("bo@b.test",)


def test_a_task_that_ends_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Exiting(Place):
        async def put(self, item: Item) -> Results:
            async def leave() -> None:
                raise SystemExit(1)

            if not item.attempts:
                await asyncio.gather(leave())
            return await super().put(item)

    place = Exiting()
    with given(tmp_path, route(place)):
        assert place.item().attempts == 1
    assert "An outlet has raised SystemExit(1), the courier goes on" in messages(caplog)
