"""A courier that stops before the results of its tries are written."""

import asyncio
import gc
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Item
from aiosmtpd.delivery.item import Results
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.spool import Spool, SpoolFull
from tests.client import PATIENCE
from tests.delivery.spooling import due, opened
from tests.delivery.support import (
    NO_USER,
    Place,
    counts,
    delivering,
    given,
    messages,
    route,
    send,
    until,
    until_left,
)


def test_before_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, begun = Spool.put, threading.Event()

    def slow(spool: Spool, **values: Any) -> Outcome[None]:
        future = put(spool, **values)
        if values["sender"] != "<>":
            return future
        begun.set()
        return Outcome()

    place, post = Place({"bo@b.test": NO_USER}), Place()
    one = route(place, bounce=post)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "put", slow)
        with delivering(tmp_path, one, grace=0) as (_, controller):
            send(controller, "ann@b.test", "bo@b.test")
            assert begun.wait(PATIENCE)
    with delivering(tmp_path, one) as (handler, _):
        until(lambda: counts(handler).routes.keys() == {"app"})
        assert (counts(handler).messages, counts(handler).dead) == (1, 1)
    assert (place.tried, post.tried) == (1, 1)


def test_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, full = Spool.done, [SpoolFull("make room")]

    def done_unless_full(spool: Spool, job: Any) -> Any:
        if full:
            future: Outcome[Any] = Outcome()
            future.set_exception(full.pop())
            return future
        return done(spool, job)

    monkeypatch.setattr(Spool, "done", done_unless_full)
    place = Place()
    with given(tmp_path, route(place), grace=0):
        until(lambda: not full)
    with delivering(tmp_path, route(place)) as (handler, _):
        until_left(handler, messages=0)
    assert place.tried == 1


def test_an_outlet_that_refuses_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.courier.LAST_RESORT", 0.1)

    class Stubborn(Place):
        async def put(self, item: Item) -> Results:
            self.items.put((item, b""))
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()

    place = Stubborn()
    with given(tmp_path, route(place), grace=0):
        place.item()
    gc.collect()
    assert "internal error" not in messages(caplog)
    with opened(tmp_path / "spool") as spool:
        assert due(spool, time.time())[0].item.attempts == 0
