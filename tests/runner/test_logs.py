"""The log of ``serve``: JSON or text, and addresses as the configuration says."""

import io
import json
import logging
import re
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from aiosmtpd.delivery.events import Event
from aiosmtpd.protocol.replies import Reply
from aiosmtpd.runner import logs
from aiosmtpd.runner.logs import Addresses
from aiosmtpd.runner.sessions import SessionLog
from aiosmtpd.runner.tables import Log

MAIL = logging.getLogger("mail.log")


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """Give back the handlers and the level that pytest has set."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Written:
    def __init__(self, slot: int | None = 0, **log: Any) -> None:
        self._stream = io.StringIO()
        self.addresses = logs.set_up(Log(**log), slot, b"key", self._stream)
        self.sessions = SessionLog(self.addresses)

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def connection() -> Any:
    transport = SimpleNamespace(get_extra_info={"sockname": ("192.0.2.9", 25)}.get)
    session = SimpleNamespace(
        client_address=("192.0.2.1", 4000),
        host_name="client.test",
        ssl={"cipher": ("TLS_AES", "TLSv1.3", 256)},
        authenticated=True,
        auth_data=SimpleNamespace(login=b"ann", password=b"secret"),
    )
    server = type("Server", (), {})()
    vars(server).update(
        transport=transport, session=session, protocol_family="SMTP", session_id="abcd"
    )
    return server


def message(reply: str = "250 2.0.0 OK") -> Any:
    envelope = SimpleNamespace(
        mail_from="ann@a.test", rcpt_tos=["bo@b.test"], received_id="id1", content=b"Subject: x"
    )
    return SimpleNamespace(
        envelope=envelope,
        size=100,
        replies=[Reply(reply)],
        reply=Reply(reply),
        data_seconds=0.001,
        handler_seconds=0.0025,
    )


def play(written: Written, reply: str = "250 2.0.0 OK") -> None:
    server = connection()
    written.sessions.began(server)
    written.sessions.line(server, b"AUTH PLAIN c2VjcmV0", True)
    written.sessions.reply(server, "AUTH", Reply("235 OK"))
    written.sessions.taken(server, message(reply))
    written.sessions.ended(server, "connection lost: ('192.0.2.1', 4000)")


def test_a_session_is_one_line_and_a_message_is_another() -> None:
    written = Written(3)
    play(written)
    taken, closed = written.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", taken.pop("ts"))
    assert taken.pop("pid") > 0
    assert taken == {
        "level": "info",
        "event": "message.accepted",
        "slot": 3,
        "session": "abcd",
        "client": "192.0.2.1",
        "queue_id": "id1",
        "from": "ann@a.test",
        "to_count": 1,
        "size": 100,
        "ms": {"data": 1.0, "handler": 2.5},
        "code": 250,
        "reply": "250 2.0.0 OK",
        "helo": "client.test",
        "tls": "TLSv1.3 TLS_AES",
        "auth": "ann",
    }
    assert (closed["event"], closed["commands"], closed["messages"]) == ("connection.close", 1, 1)
    assert closed["listener"] == "smtp:25"


def test_more_is_logged_at_debug() -> None:
    written = Written(level="debug")
    play(written)
    opened, taken, _ = written.lines
    assert (opened["event"], opened["level"]) == ("connection.open", "debug")
    assert taken["to"] == ["bo@b.test"]


def test_a_probe_is_logged_at_debug_alone() -> None:
    written = Written()
    server = connection()
    written.sessions.began(server)
    written.sessions.ended(server, "the client has gone")
    assert written.text == ""


def test_refusals_are_logged() -> None:
    written = Written()
    server = connection()
    written.sessions.began(server)
    written.sessions.refused(server, Reply("421 4.7.0 Too many"))
    written.sessions.ended(server, "421 4.7.0 Too many")
    play(written, "550 5.7.1 <bo@b.test> refused")
    refused, message, _ = written.lines
    assert (refused["event"], refused["reply"]) == ("connection.refused", "421 4.7.0 Too many")
    assert (message["event"], message["code"]) == ("message.refused", 550)


@pytest.mark.parametrize("mode", ["hash", "none"])
@pytest.mark.parametrize("format", ["json", "text"])
def test_addresses_are_hidden(mode: str, format: str) -> None:
    written = Written(addresses=mode, format=format, level="debug")
    play(written, "550 5.7.1 <bo@b.test> refused")
    written.sessions.on_event(Event(kind="deferred", error="no bo@b.test at [2001:db8::1]:25"))
    try:
        raise ValueError("bo@b.test")
    except ValueError:
        MAIL.exception("%r failed for %s", ("192.0.2.1", 4000), "ann@a.test")
    for secret in "192.0.2.1", "2001:db8", "@", "client.test", '"ann"', "secret", "Subject":
        assert secret not in written.text
    assert "message.refused" in written.text
    assert "failed for" in written.text


@pytest.mark.parametrize("word", ["x", "a@[", "1.", ":", "@"])
def test_hiding_the_addresses_of_a_long_text_is_fast(word: str) -> None:
    text = word * (200_000 // len(word))
    before = time.process_time()
    Addresses("hash", b"key").in_text(text)
    assert time.process_time() - before < 3


def test_a_hash_is_the_same_for_the_same_key() -> None:
    first, second = Addresses("hash", b"a"), Addresses("hash", b"b")
    assert first.one("Bo@b.test") == first.one("bo@b.test") == first.in_text("bo@b.test")
    assert first.one("bo@b.test") != second.one("bo@b.test")
    assert (first.one(""), Addresses("none").one("bo@b.test")) == ("", None)


def test_lines_of_sessions_are_not_logged_twice() -> None:
    written = Written()
    MAIL.info("%r disconnected", "x")
    MAIL.warning("a warning")
    logging.getLogger("shop").info("a line of the handler")
    assert [line["message"] for line in written.lines] == ["a warning", "a line of the handler"]
    logs.set_level("debug")
    MAIL.info("a line of a session")
    assert written.lines[-1]["message"] == "a line of a session"


def test_the_master_tells_an_event_or_a_line() -> None:
    for format, told in ("json", "worker.ready"), ("text", "Worker 0 is ready"):
        written = Written(None, format=format)
        MAIL.info("Worker %d is ready", 0, extra=logs.TOLD)
        logs.event("worker.ready", slot=0)
        assert written.text.count("\n") == 1
        assert told in written.text


def test_an_error_is_one_line() -> None:
    for format in "json", "text":
        written = Written(format=format)
        MAIL.error("failed", exc_info=ValueError("a\nb"))
        assert written.text.count("\n") == 1
        assert "ValueError" in written.text


@pytest.mark.parametrize("mode", ["hash", "none"])
def test_the_addresses_of_the_server_are_plain(mode: str) -> None:
    written = Written(None, addresses=mode)
    MAIL.info("Server is listening on %s", "192.0.2.1:25", extra=logs.OWN)
    MAIL.info("a line about %s", "192.0.2.1")
    first, second = written.lines
    assert first["message"] == "Server is listening on 192.0.2.1:25"
    assert "192.0.2.1" not in second["message"]


def test_a_message_with_line_ends_is_one_line() -> None:
    for format in "json", "text":
        written = Written(format=format)
        MAIL.error("first\n2026-11-28 INFO [1] \x1b[31mé")
        assert written.text.count("\n") == 1
        assert "\x1b" not in written.text


@pytest.mark.parametrize(
    ("event", "level", "fields"),
    [
        (
            Event(kind="delivered", route="app", queue_id="id1", attempts=1, seconds=0.5),
            "info",
            {"event": "delivery.done", "route": "app", "attempts": 1, "ms": 500.0},
        ),
        (
            Event(kind="deferred", due=9.0, error="x"),
            "info",
            {"event": "delivery.deferred", "next": 9},
        ),
        (
            Event(kind="dead", error="550 No"),
            "warning",
            {"event": "delivery.dead", "error": "550 No"},
        ),
        (
            Event(kind="down", route="app", error="x"),
            "warning",
            {"event": "route.down", "error": "x"},
        ),
        (Event(kind="up", route="app"), "info", {"event": "route.up", "route": "app"}),
    ],
    ids=lambda value: value.kind if isinstance(value, Event) else "",
)
def test_deliveries_are_logged(event: Event, level: str, fields: dict[str, Any]) -> None:
    written = Written()
    written.sessions.on_event(event)
    written.sessions.on_event(Event(kind="stored"))
    (line,) = written.lines
    assert line["level"] == level
    assert line.items() >= fields.items()


def test_open_sessions_are_listed() -> None:
    written = Written(addresses="none")
    servers = [connection() for _ in range(3)]
    for server in servers:
        written.sessions.began(server)
    first, second = written.sessions.sessions(2)
    assert first.pop("seconds") >= second.pop("seconds")
    assert first == {
        "session": "abcd",
        "client": None,
        "listener": "smtp:25",
        "tls": True,
        "auth": True,
        "commands": 0,
        "messages": 0,
        "last": "",
    }


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="a level is one of debug, info"):
        logs.set_level("loud")
