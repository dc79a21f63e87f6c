"""Errors of outlets and of the courier itself: mail goes on, and the log says what has happened."""

import asyncio
import errno
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from aiosmtpd.delivery import Delivery, Item, Later, Mail, Route
from aiosmtpd.delivery.item import Results
from tests.client import PATIENCE
from tests.delivery.support import (
    Hanging,
    Place,
    delivering,
    given,
    messages,
    route,
    send,
    until,
    until_left,
)


class Silent(Exception):
    """An exception of a program that cannot be shown: a mistake in its ``__str__``."""

    def __str__(self) -> str:
        return str(self.args[1])


def test_an_error_that_has_no_text_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with given(tmp_path, route(Place(Silent("x"), None))) as handler:
        until_left(handler, messages=0)
    assert "internal error" not in messages(caplog)


def test_an_error_that_has_no_text_is_a_451(tmp_path: Path) -> None:
    place = route(Place(Silent("x")), mode="direct", fallback=None)
    with delivering(tmp_path, place) as (_, controller):
        assert send(controller, "bo@b.test").startswith("451 4.4.1 Next hop unavailable")


def test_a_start_that_fails_leaves_the_spool_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Delivery(tmp_path / "spool", Route(Place()))

    def no_loop() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    async def open_twice() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "new_event_loop", no_loop)
            with pytest.raises(OSError, match="Too many open files"):
                await handler.open()
        async with handler:
            assert (await handler.counts()).messages == 0

    asyncio.run(open_twice())


class Counting(Place):
    """An outlet that counts the tries at one time: the second one gives the third time to begin."""

    def __init__(self) -> None:
        super().__init__(Later("busy"), None)
        self.now = self.most = 0
        self.began = threading.Event()
        self.company = asyncio.Event()

    async def put(self, item: Item) -> Results:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now > 1:
            self.company.set()
        try:
            result = await super().put(item)
            self.began.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self.company.wait()
            return result
        finally:
            self.now -= 1


def test_direct_deliveries_share_the_concurrency(tmp_path: Path) -> None:
    place = Counting()
    with delivering(tmp_path, route(place, mode="direct", concurrency=1)) as (_, controller):
        assert "OK queued as" in send(controller, "bo@b.test")
        assert place.began.wait(PATIENCE)
        assert "OK delivered as" in send(controller, "cy@b.test")
    assert (place.tried, place.most) == (3, 1)


def test_messages_that_always_fail_do_not_keep_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.courier.POLL", 0.05)
    tried: list[str] = []
    delivered = threading.Event()

    def receive(mail: Mail) -> None:
        tried.append(mail.sender)
        if mail.sender == "bad@a.test":
            raise KeyError("a mistake in this function")
        delivered.set()

    retry = {"first": 0.1, "max": 0.1}
    with delivering(tmp_path, route(receive, retry=retry)) as (_, controller):
        for _ in range(40):
            send(controller, "bo@b.test", sender="bad@a.test")
        send(controller, "bo@b.test", sender="good@a.test")
        assert delivered.wait(PATIENCE)
    # One after the other, as long as the route counts as down.
    assert tried.index("good@a.test") < 40


def test_a_direct_delivery_when_the_spool_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.courier.POLL", 0.05)
    monkeypatch.setattr("aiosmtpd.delivery.spool.LOOK", 0.01)
    place, replies = Hanging(), list[str]()
    one = route(place, mode="direct", fallback=None)
    with delivering(tmp_path, one, grace=0.1) as (handler, controller):

        def send_one() -> None:
            replies.append(send(controller, "bo@b.test"))

        sending = threading.Thread(target=send_one)
        sending.start()
        place.item()
        (tmp_path / "spool" / "spool.db").unlink()
        until(lambda: not handler.has_room)
        sending.join(PATIENCE)
    assert replies == ["451 4.3.0 Delivery has failed for now, try again later"]
    assert "internal error" not in messages(caplog)
