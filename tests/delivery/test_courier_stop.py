"""A courier that stops before the results of its tries are written."""

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Never
from aiosmtpd.delivery.spool import Spool, SpoolFull
from tests.client import PATIENCE
from tests.delivery.support import Place, counts, delivering, route, send, until

NO_USER = Never("550 5.1.1 No such user")


def test_before_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, begun = Spool.put, threading.Event()

    def slow(spool: Spool, **values: Any) -> Future[None]:
        future = put(spool, **values)
        if values["sender"] != "<>":
            return future
        begun.set()
        return Future()

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
            future: Future[Any] = Future()
            future.set_exception(full.pop())
            return future
        return done(spool, job)

    monkeypatch.setattr(Spool, "done", done_unless_full)
    place = Place()
    with delivering(tmp_path, route(place), grace=0) as (_, controller):
        send(controller, "bo@b.test")
        until(lambda: not full)
    with delivering(tmp_path, route(place)) as (handler, _):
        until(lambda: counts(handler).messages == 0)
    assert place.tried == 1
