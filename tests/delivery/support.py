"""Outlets and helpers for the tests of the courier and its handler."""

import asyncio
import logging
import smtplib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.delivery import Delivery, Item, Later, Never, Route
from aiosmtpd.delivery.item import Results
from aiosmtpd.delivery.spool import Spool, SpoolFull
from tests.client import PATIENCE

QUICK = {"first": 0.02, "max": 0.1}
NO_USER = Never("550 5.1.1 No such user")
MESSAGE = b"Subject: hello\r\n\r\nbody\r\n"

Answer = Callable[[Item], Results | BaseException]


class Place:
    """An outlet that keeps each item that it takes; *answers* come first, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.items: Queue[tuple[Item, bytes]] = Queue()
        self.opened = self.closed = self.tried = 0

    async def open(self) -> None:
        self.opened += 1

    async def put(self, item: Item) -> Results:
        self.tried += 1
        answer = self.answers[0] if self.answers else None
        if len(self.answers) > 1:
            del self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = answer(item)
        self.items.put((item, await item.body()))
        return answer

    async def close(self) -> None:
        self.closed += 1

    def next(self) -> tuple[Item, bytes]:
        return self.items.get(timeout=PATIENCE)

    def item(self) -> Item:
        return self.next()[0]


class Hanging(Place):
    """An outlet that never answers."""

    async def put(self, item: Item) -> Results:
        self.items.put((item, b""))
        await asyncio.Event().wait()
        return None


def route(place: Any, match: str | Sequence[str] = "*", name: str = "app", **options: Any) -> Route:
    return Route(place, match, name, **{"retry": QUICK, **options})


@contextmanager
def delivering(
    folder: Path, *routes: Route, make: Any = Delivery, **keywords: Any
) -> Iterator[tuple[Delivery, Controller]]:
    """Serve with a spool in *folder*."""
    handler = make(folder / "spool", routes, **keywords)
    controller = Controller(
        handler, "127.0.0.1", 0, extensions="all", server_hostname="mx.test", shutdown_timeout=1
    )
    controller.start()
    try:
        yield handler, controller
    finally:
        controller.stop(no_assert=True)


def send(
    controller: Controller,
    *recipients: str,
    sender: str = "ann@a.test",
    content: bytes = MESSAGE,
    options: Sequence[str] = (),
    rcpt_options: Sequence[str] = (),
) -> str:
    """Send a message; return the reply, or the refusal of the first recipient that is refused."""
    with smtplib.SMTP(controller.hostname, controller.port, timeout=PATIENCE) as client:
        client.ehlo("client.test")
        client.mail(sender, options)
        for recipient in recipients:
            code, text = client.rcpt(recipient, rcpt_options)
            if code != 250:
                return f"{code} {text.decode()}"
        code, text = client.data(content)
        return f"{code} {text.decode()}"


@contextmanager
def given(folder: Path, one: Route, *recipients: str, **keywords: Any) -> Iterator[Delivery]:
    """Serve with this route, and send it one message."""
    with delivering(folder, one, **keywords) as (handler, controller):
        send(controller, *(recipients or ("bo@b.test",)))
        yield handler


def until(happened: Callable[[], bool]) -> None:
    """Look again and again until this is so."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def counts(handler: Delivery) -> Any:
    return asyncio.run(handler.counts())


def until_left(handler: Delivery, **wanted: int) -> None:
    """Wait until the spool has as many ``messages``, or as many that are ``dead``."""
    until(lambda: {name: getattr(counts(handler), name) for name in wanted} == wanted)


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.ERROR) -> str:
    return "\n".join(one.getMessage() for one in caplog.records if one.levelno >= level)


__all__ = ["Later", "Never"]


def full_for_ends(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[SpoolFull]:
    """Let the disk be full for the first ends of deliveries; return the errors still to come."""
    done, full = Spool.done_for, [SpoolFull("make room") for _ in range(times)]

    def done_unless_full(spool: Spool, receiver: Any, job: Any) -> None:
        if full:
            receiver.set_exception(full.pop())
            if receiver.bell is not None:
                receiver.bell()
        else:
            done(spool, receiver, job)

    monkeypatch.setattr(Spool, "done_for", done_unless_full)
    return full
