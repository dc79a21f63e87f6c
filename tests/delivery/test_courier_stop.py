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
from aiosmtpd.delivery.spool import Spool
from tests.client import PATIENCE
from tests.delivery.spooling import due, opened
from tests.delivery.support import (
    NO_USER,
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
    # The second try comes at once, the third after a pause in which the courier ends.
    full = full_for_ends(monkeypatch, times=2)
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
