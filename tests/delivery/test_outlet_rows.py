"""Mail on its way through the spool to next hops and webhooks that fail."""

import asyncio
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.delivery import Spool
from tests.delivery import test_outlet_engines as engines
from tests.delivery.hops import Taking
from tests.delivery.support import counts, delivering, route, send, until
from tests.delivery.webhook_server import Receiver, receiving

HOOKS, REST = "*@hook.test", "*"


def quick(url: str, match: str = REST, name: str = "app", **options: Any) -> Any:
    return route(url, match, name, **options)


def files(folder: Path) -> int:
    return len([*folder.glob("new/*")])


@contextmanager
def hop_of(handler: Any, port: int = 0, **keywords: Any) -> Iterator[Controller]:
    """Serve a next hop in a thread of its own."""
    with Controller(handler, "127.0.0.1", port, **keywords) as controller:
        yield controller


def ids(receiver: Receiver) -> set[str]:
    return {request.headers["webhook-id"] for request in receiver.requests}


@pytest.mark.parametrize("fault", ["hang", "reset", "500", "429"])
def test_a_webhook_in_trouble_delays_no_other_route(tmp_path: Path, fault: str) -> None:
    with receiving() as receiver:
        receiver.answer = int(fault) if fault.isdigit() else getattr(receiver, fault)
        hook = quick(receiver.url, HOOKS, "hook", reply_timeout=0.3)
        others = quick(f"maildir:{tmp_path}/mail", name="others")
        with delivering(tmp_path, hook, others) as (handler, controller):
            for number in range(15):
                assert send(controller, f"n{number}@hook.test").startswith("250")
            assert send(controller, "you@example.com").startswith("250")
            until(lambda: files(tmp_path / "mail") == 1)
            until(lambda: counts(handler).messages == 15)
            tried = ids(receiver)
            receiver.requests.clear()
            receiver.answer = 200
            receiver.ended.set()
            until(lambda: counts(handler).messages == 0)
    # The same message has the same id at each try.
    assert tried <= ids(receiver)
    assert len(ids(receiver)) == 15


def test_a_refused_webhook_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with receiving(answer=404, text=b"no such shop") as receiver:
        hook = quick(receiver.url)
        with (
            delivering(tmp_path, hook) as (handler, controller),
            caplog.at_level(logging.ERROR, "mail.log"),
        ):
            send(controller, "you@example.com")
            until(lambda: counts(handler).dead == 1)
            assert counts(handler).messages == 1
        assert len(receiver.requests) == 1
    assert "554 5.3.0 HTTP 404 Not Found: no such shop" in caplog.text


def test_the_pause_of_a_webhook_is_kept(tmp_path: Path) -> None:
    with receiving(answer=429, headers={"Retry-After": "3600"}) as receiver:
        with delivering(tmp_path, quick(receiver.url)) as (_, controller):
            send(controller, "you@example.com")
            until(lambda: len(receiver.requests) == 1)
        assert len(receiver.requests) == 1
    spool = Spool(tmp_path / "spool")
    spool.open()
    due = spool.next_due().result()
    spool.close()
    assert due is not None
    assert 3000 < due - time.time() < 3700


def test_a_hop_that_refuses_one_of_two_gets_the_other_once(tmp_path: Path) -> None:
    hop = Taking({"two@example.com": "450 4.2.1 Mailbox busy"})
    with hop_of(hop) as server:
        route = quick(f"smtp://127.0.0.1:{server.port}")
        with delivering(tmp_path, route) as (handler, controller):
            send(controller, "one@example.com", "two@example.com")
            until(lambda: len(hop.envelopes) == 1)
            until(lambda: counts(handler).messages == 1)
            hop.refusals = {}
            until(lambda: counts(handler).messages == 0)
    assert [envelope.rcpt_tos for envelope in hop.envelopes] == [
        ["one@example.com"],
        ["two@example.com"],
    ]


def test_mail_waits_for_a_hop_that_is_down(tmp_path: Path) -> None:
    hop = Taking()
    with hop_of(hop) as server:
        port = server.port
    with delivering(tmp_path, quick(f"smtp://127.0.0.1:{port}")) as (handler, controller):
        for number in range(20):
            assert send(controller, f"n{number}@example.com").startswith("250")
        assert counts(handler).messages == 20
        with hop_of(hop, port):
            until(lambda: counts(handler).messages == 0)
    assert len(hop.envelopes) == 20


def test_a_message_that_a_hop_cannot_take_is_dead(tmp_path: Path) -> None:
    with hop_of(Taking(), enable_SMTPUTF8=False) as server:
        route = quick(f"smtp://127.0.0.1:{server.port}")
        with delivering(tmp_path, route) as (handler, controller):
            options = ["SMTPUTF8", "BODY=8BITMIME"]
            content = "Subject: \xe9\r\n\r\nx\r\n".encode()
            send(controller, "you@example.com", content=content, options=options)
            until(lambda: counts(handler).dead == 1)


@pytest.mark.engines
@engines.needs_sink
@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_mail_survives_a_hop_that_is_killed(tmp_path: Path, how: str) -> None:
    async with engines.sink() as hop:
        url = f"smtp://{hop.place}"
        route = quick(url, reply_timeout=1.0, final_timeout=1.0)
        with delivering(tmp_path, route) as (handler, controller):

            def send_all(begin: int, end: int) -> None:
                for number in range(begin, end):
                    content = f"Subject: number {number}.\r\n\r\n".encode()
                    assert send(controller, "you@example.com", content=content).startswith("250")

            await asyncio.to_thread(send_all, 0, 100)
            hop.process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            await asyncio.to_thread(send_all, 100, 200)
            if how == "stop":
                hop.process.send_signal(signal.SIGCONT)
                await asyncio.to_thread(until, lambda: counts(handler).messages == 0)
                stored = b"".join(hop.messages)
            else:
                before = hop.messages
                port = int(hop.place.rpartition(":")[2])
                async with engines.sink(port=port) as again:
                    await asyncio.to_thread(until, lambda: counts(handler).messages == 0)
                    stored = b"".join([*before, *again.messages])
    assert [n for n in range(200) if f"Subject: number {n}.".encode() not in stored] == []
