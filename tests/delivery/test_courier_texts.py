"""Texts of the courier that tell an operator what to do."""

import logging
import shutil
import smtplib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Mail, Route, Spool, SpoolError
from tests.client import PATIENCE
from tests.delivery.spooling import beside, opened, put
from tests.delivery.support import (
    QUICK,
    Place,
    counts,
    delivering,
    messages,
    route,
    send,
    until,
)


def test_names_are_checked_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "spool"
    with opened(folder) as spool:
        put(spool, "one", parts=[("two*", ("bo@b.test",))], due=time.time() + 1000).result()
    with delivering(tmp_path, route(Place()), route(Place(), name="b")) as (handler, _):
        until(lambda: handler.missing == {"two*"})
    text = f"one of app, b: aiosmtpd queue retry --spool {folder} --route 'two*' --to NAME"
    assert text in messages(caplog)


def test_a_bug_has_one_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Exception] = [KeyError("a"), KeyError("a"), ValueError("b")]

    def receive(mail: Mail) -> None:
        if answers:
            raise answers.pop(0)

    with delivering(tmp_path, Route(receive, name="app", retry=QUICK)) as (handler, controller):
        send(controller, "bo@b.test")
        until(lambda: counts(handler).messages == 0)
    bugs = [one for one in caplog.records if "test_courier_texts.py:" in one.getMessage()]
    bugs = [one for one in bugs if one.levelno == logging.WARNING]
    assert [bool(one.exc_info) for one in bugs] == [True, False, True]


def test_a_bug_is_stored_with_its_place(tmp_path: Path) -> None:
    def receive(mail: Mail) -> None:
        raise KeyError("shop")

    one = Route(receive, name="app", retry={"first": 100})
    query = "select error from delivery where error is not null"
    with delivering(tmp_path, one) as (_, controller), beside(tmp_path / "spool") as connection:
        send(controller, "bo@b.test")
        until(lambda: bool(connection.execute(query).fetchall()))
        ((error,),) = connection.execute(query).fetchall()
    assert error.startswith("test_courier_texts.py:")
    assert error.endswith(": KeyError: 'shop'")


def test_a_blocked_loop_is_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.courier.LAST_RESORT", 0.1)
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    async def receive(mail: Mail) -> None:
        begun.set()
        release.wait()
        ended.set()

    with delivering(tmp_path, Route(receive), grace=0.1) as (_, controller):
        send(controller, "bo@b.test")
        begun.wait()
    assert not ended.is_set()
    assert "blocks the courier" in messages(caplog)
    release.set()
    for thread in threading.enumerate():
        if thread.name == "aiosmtpd courier":
            thread.join()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PermissionError(13, "no")])
def test_a_spool_that_cannot_be_looked_at(
    tmp_path: Path,
    error: OSError,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Any) -> None:
        raise error

    with delivering(tmp_path, route(Place())) as (_, controller):
        monkeypatch.setattr(shutil, "disk_usage", fail)
        with smtplib.SMTP(controller.hostname, controller.port, timeout=PATIENCE) as client:
            client.ehlo("client.test")
            assert client.mail("ann@a.test")[1].startswith(b"4.3.0 Mail system not available")
    assert "The spool cannot be used, a message is refused: " in messages(caplog)
    assert "Traceback" not in caplog.text


def test_a_spool_in_use_by_this_process(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(SpoolError, match=r"which is this process: open it once"):
        Spool(tmp_path).open()
