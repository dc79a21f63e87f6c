"""Clients that vanish, stall or flood, over real sockets: nothing is lost, nothing is left."""

import asyncio
import logging
import os
import socket
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.client import PATIENCE, Client
from tests.net.support import Catcher, serving

DIALOGUE = [
    b"EHLO client.test\r\n",
    b"MAIL FROM:<a@b.test>\r\n",
    b"RCPT TO:<c@d.test>\r\n",
    b"DATA\r\n",
    b"Subject: hi\r\n\r\nhello\r\n.\r\n",
    b"QUIT\r\n",
]
WHOLE = b"".join(DIALOGUE)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0


def tasks_left(controller: Any) -> int:
    """Count the tasks in the server's loop, when each has had its chance to end."""

    async def count() -> int:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=PATIENCE)
        return len([task for task in others if not task.done()])

    return asyncio.run_coroutine_threadsafe(count(), controller.loop).result(PATIENCE)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_client_that_goes_anywhere(reset: bool, caplog: pytest.LogCaptureFixture) -> None:
    handler = Catcher()
    end_of_data = WHOLE.index(b".\r\nQUIT") + 3
    with caplog.at_level(logging.INFO), serving(handler) as controller:
        with Client(controller.port) as client:
            client.ask(b"NOOP")
        before = descriptors()
        for at in range(end_of_data):
            client = Client(controller.port, greet=False)
            client.send(WHOLE[:at])
            if reset:
                client.reset_at_close()
            client.close()
        with Client(controller.port) as client:
            client.send(WHOLE)
            assert client.rest().endswith(b"221 Bye\r\n")
        assert handler.envelope().content == b"Subject: hi\r\n\r\nhello\r\n"
        assert handler.caught.empty()
        assert tasks_left(controller) == 0
        assert descriptors() <= before
    ours = [record for record in caplog.records if record.name == "mail.log"]
    assert not [record for record in ours if record.levelno >= logging.WARNING]


def test_half_close_after_a_pipelined_transaction() -> None:
    """docs/reference/limits, "half-closed client": every reply arrives, and one delivery."""
    handler = Catcher()
    with serving(handler) as controller, Client(controller.port) as client:
        client.send(b"".join(DIALOGUE[:-1]))
        client.socket.shutdown(socket.SHUT_WR)
        left = client.rest()
        assert left.endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n250 OK\r\n")
        assert handler.envelope().content == b"Subject: hi\r\n\r\nhello\r\n"


def test_half_close_inside_the_data() -> None:
    handler = Catcher()
    with serving(handler) as controller, Client(controller.port) as client:
        client.transaction()
        client.send(b"half a mess")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
        assert handler.caught.empty()


def test_a_silent_client_gets_a_reply() -> None:
    with serving(Catcher(), timeout=0.2) as controller, Client(controller.port) as client:
        assert client.rest() == b"421 4.4.2 Timeout, closing connection\r\n"


def test_only_a_known_verb_gives_more_time() -> None:
    with serving(Catcher(), timeout=0.5) as controller, Client(controller.port) as client:
        assert client.ask(b"NOOP")[:3] == b"250"
        assert client.ask(b"WHAT")[:3] == b"500"
        assert client.rest() == b"421 4.4.2 Timeout, closing connection\r\n"


def test_the_timer_restarts_when_a_command_has_ended() -> None:
    keywords = {"timeout": 0.9, "auth_require_tls": False}
    with serving(Catcher(), **keywords) as controller, Client(controller.port) as client:
        client.ask(b"EHLO client.test")
        assert client.ask(b"AUTH PLAIN") == b"334 \r\n"
        # A client that thinks for half of the time.
        time.sleep(0.45)
        assert client.ask(b"AHUAcA==")[:3] == b"535"
        answered = time.monotonic()
        assert client.rest() == b"421 4.4.2 Timeout, closing connection\r\n"
        assert time.monotonic() - answered > 0.7


class Slow(Catcher):
    """A handler whose hook waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.ended: Queue[str] = Queue()

    async def handle_NOOP(
        self, server: SMTP, session: Session, envelope: Envelope, arg: str | None
    ) -> str:
        self.entered.set()
        try:
            await asyncio.to_thread(self.let_go.wait, PATIENCE)
        except asyncio.CancelledError:
            self.ended.put("cancelled")
            raise
        self.ended.put("done")
        return "250 late"


def test_a_slow_hook_is_not_the_clients_silence() -> None:
    handler = Slow()
    with serving(handler, timeout=0.1) as controller, Client(controller.port) as client:
        client.send(b"NOOP\r\n")
        assert handler.entered.wait(PATIENCE)
        assert client.socket.getblocking()
        # Longer than the timeout: the timer fires, and finds that the server is the slow one.
        client.socket.settimeout(0.4)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(PATIENCE)
        handler.let_go.set()
        assert client.reply() == b"250 late\r\n"


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_hook_whose_client_went_is_cancelled(
    reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule is docs/reference/limits, "vanished client"."""
    monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 0.1)
    handler = Slow()
    with serving(handler) as controller:
        with Client(controller.port) as client:
            client.send(b"NOOP\r\n")
            assert handler.entered.wait(PATIENCE)
            if reset:
                client.reset_at_close()
        assert handler.ended.get(timeout=PATIENCE) == "cancelled"
        handler.let_go.set()


def test_a_hook_may_end_if_its_client_asked_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule is docs/reference/limits, "half-closed client"."""
    monkeypatch.setattr("aiosmtpd.engine.connection.VANISHED_GRACE", 0.1)
    handler = Slow()
    with serving(handler) as controller, Client(controller.port) as client:
        client.send(b"NOOP\r\nQUIT\r\n")
        assert handler.entered.wait(PATIENCE)
        client.socket.shutdown(socket.SHUT_WR)
        client.socket.settimeout(0.4)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(PATIENCE)
        handler.let_go.set()
        assert client.rest() == b"250 late\r\n221 Bye\r\n"


def test_an_endless_command_line_is_dropped_and_then_refused() -> None:
    with serving(Catcher()) as controller, Client(controller.port) as client:
        assert client.ask(b"NOOP " + b"x" * 40_000) == b"500 Command line too long\r\n"
        assert client.ask(b"NOOP") == b"250 OK\r\n"
        client.send(b"x" * 70_000)
        assert client.reply()[:4] == b"421 "


def test_a_refusal_does_not_repeat_a_long_argument() -> None:
    limits = {"command_size_limit": 200_000, "line_length_limit": 200_000}
    with serving(Catcher(), **limits) as controller, Client(controller.port) as client:
        reply = client.ask(b"VRFY " + b"(" * 100_000)
        assert reply.startswith(b"502")
        assert reply.count(b"(") == 512


def test_a_flood_of_mail_data_ends_the_session() -> None:
    handler = Catcher()
    with serving(handler, data_size_limit=100) as controller, Client(controller.port) as client:
        client.transaction()
        client.send((b"x" * 50 + b"\r\n") * 5)
        assert client.reply() == b"552 Error: Too much mail data\r\n"
        assert client.rest() == b""
        assert handler.caught.empty()


def test_another_protocol_is_sent_away() -> None:
    """docs/reference/limits, "foreign protocol": a web page's POST delivers no mail."""
    handler = Catcher()
    with serving(handler) as controller, Client(controller.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + WHOLE)
        assert client.reply()[:4] == b"421 "
        assert handler.caught.empty()


class Wordy(Catcher):
    """A handler whose reply is long."""

    async def handle_NOOP(self, *_: Any) -> str:
        return "250 " + "x" * 500


def test_a_peer_that_does_not_read_is_cut_off() -> None:
    handler = Wordy()
    with serving(handler, timeout=0.3) as controller:
        client = Client(controller.port)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 - at any of them
            for _ in range(1000):
                client.send(b"NOOP\r\n" * 2000)
        client.close()
        assert tasks_left(controller) == 0


def test_a_peer_that_reads_late_gets_every_reply() -> None:
    with serving(Catcher()) as controller, Client(controller.port) as client:
        number = 100_000
        sender = threading.Thread(target=client.send, args=(b"NOOP\r\n" * number,))
        sender.start()
        replies = 0
        while replies < number:
            assert client.line() == b"250 OK\r\n"
            replies += 1
        sender.join(PATIENCE)


def test_stop_tells_idle_clients() -> None:
    with serving(Catcher()) as controller, Client(controller.port) as client:
        assert client.ask(b"NOOP")[:3] == b"250"
        controller.stop()
        assert client.rest() == b"421 4.3.2 Service shutting down, closing connection\r\n"


def test_stop_lets_a_running_hook_end() -> None:
    handler = Slow()
    with serving(handler) as controller:
        with Client(controller.port) as client:
            client.send(b"NOOP\r\nNOOP\r\n")
            assert handler.entered.wait(PATIENCE)
            stopper = threading.Thread(target=controller.stop)
            stopper.start()
            handler.let_go.set()
            assert client.reply() == b"250 late\r\n"
            assert client.rest()[-56:].endswith(b"closing connection\r\n")
        stopper.join(PATIENCE)
        assert not stopper.is_alive()


def test_stop_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    handler = Slow()
    with serving(handler, shutdown_timeout=0.1) as controller, Client(controller.port) as client:
        client.send(b"NOOP\r\n")
        assert handler.entered.wait(PATIENCE)
        stopper = threading.Thread(target=controller.stop)
        stopper.start()
        assert handler.ended.get(timeout=PATIENCE) == "cancelled"
        handler.let_go.set()
        stopper.join(PATIENCE)
        assert not stopper.is_alive()
    assert "disconnected: aborted, the server stops" in caplog.text


def test_no_other_client_waits_for_a_stalled_one() -> None:
    with serving(Catcher()) as controller, Client(controller.port) as stalled:
        stalled.send(b"NOO")
        with Client(controller.port) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"
        stalled.send(b"P\r\n")
        assert stalled.reply() == b"250 OK\r\n"


def test_without_a_limit_for_lines_commands_have_no_limit() -> None:
    handler = Catcher()
    with serving(handler, line_length_limit=0) as controller, Client(controller.port) as client:
        client.transaction()
        assert client.ask(b"x" * 5000 + b"\r\n.") == b"250 OK\r\n"
    assert handler.envelope().content == b"x" * 5000 + b"\r\n"
