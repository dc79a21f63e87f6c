"""The events of deliveries, as the function ``on_event`` gets them."""

from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Later, Never, Retry, Route
from aiosmtpd.delivery.events import Event
from tests.delivery.support import Place, delivering, route, send, until


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def test_a_message_is_stored_then_delivered(tmp_path: Path) -> None:
    told = Told()
    with delivering(tmp_path, route(Place(), name="app"), on_event=told) as (_, controller):
        reply = send(controller, "bo@b.test", "cy@b.test")
        until(lambda: bool(told.of("delivered")))
    stored, delivered = sorted(told.events, key=lambda event: event.kind, reverse=True)
    assert reply.endswith(stored.queue_id)
    assert (stored.kind, delivered.kind) == ("stored", "delivered")
    assert (delivered.queue_id, delivered.route) == (stored.queue_id, "app")
    assert (delivered.recipients, delivered.attempts) == (2, 1)
    assert 0 < delivered.seconds <= delivered.lag + 0.1
    assert stored.seconds > 0


def test_some_recipients_wait_and_some_are_dead(tmp_path: Path) -> None:
    told = Told()
    failures = {"bo@b.test": Later("busy"), "cy@b.test": Never("550 5.1.1 No such user")}
    with delivering(tmp_path, route(Place(failures, None)), on_event=told) as (_, controller):
        send(controller, "ann@b.test", "bo@b.test", "cy@b.test")
        until(lambda: len(told.of("delivered")) == 2)
    (deferred,), (dead,) = told.of("deferred"), told.of("dead")
    assert [event.recipients for event in told.of("delivered")] == [1, 1]
    assert (deferred.recipients, deferred.error) == (1, "busy")
    assert deferred.due is not None
    assert (dead.recipients, dead.error) == (1, "550 5.1.1 No such user")
    assert [event.attempts for event in told.of("delivered")] == [1, 2]


def test_a_route_goes_down_and_comes_up(tmp_path: Path) -> None:
    told = Told()
    place = Place(*[Later("no room")] * 5, None)
    with delivering(tmp_path, route(place, name="app"), on_event=told) as (handler, controller):
        assert handler.routes_up == {"app": True}
        send(controller, "bo@b.test")
        until(lambda: bool(told.of("down")))
        until(lambda: bool(told.of("up")))
        assert handler.routes_up == {"app": True}
    assert [(event.route, event.error) for event in told.of("down")] == [("app", "no room")]


@pytest.mark.parametrize(
    ("failure", "kind", "error"),
    [
        (None, "delivered", ""),
        (Later("busy"), "deferred", "busy"),
        (Never("550 5.7.1 No"), "dead", "550 5.7.1 No"),
    ],
    ids=["delivered", "deferred", "dead"],
)
def test_direct_deliveries_are_events(tmp_path: Path, failure: Any, kind: str, error: str) -> None:
    told = Told()
    direct = Route(Place(failure), mode="direct", fallback=None, retry=Retry(), name="app")
    with delivering(tmp_path, direct, on_event=told) as (_, controller):
        send(controller, "bo@b.test")
    (event,) = told.events
    assert (event.kind, event.route, event.error) == (kind, "app", error)
    assert (event.recipients, event.attempts) == (1, 0)


def test_a_function_that_fails_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise ValueError(event.kind)

    place = Place()
    with delivering(tmp_path, route(place), on_event=fail) as (_, controller):
        assert send(controller, "bo@b.test").startswith("250 ")
        place.next()
        until(lambda: len(caplog.records) >= 2)
    texts = {record.getMessage() for record in caplog.records if record.levelname == "ERROR"}
    assert texts == {"The function on_event has failed"}
