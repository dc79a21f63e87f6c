"""``aiosmtpd send``: many messages, and real processes."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from aiosmtpd.cli import load as _load
from aiosmtpd.cli.load import Result
from tests.client import PATIENCE
from tests.net.program import MODULE, Program, environment, serving as program_serving
from tests.net.sending import Sent, at, without_times
from tests.net.support import Catcher
from tests.net.test_faults_injected import serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes get POSIX signals")

# Many messages.


def test_many_messages_and_a_summary(send: Callable[..., Sent]) -> None:
    catcher = Catcher()
    with serving(handler=catcher) as controller:
        sent = send(at(controller), "--repeat", "25", "--concurrency", "3")
    assert (sent.code, sent.error) == (0, "")
    assert catcher.caught.qsize() == 25
    assert re.fullmatch(
        r"25 messages: 25 accepted, 0 failed in [0-9.]+ s: [0-9.,]+/s", sent.lines[0]
    )
    assert re.fullmatch(
        r"latency in ms: p50 [0-9.]+, p90 [0-9.]+, p99 [0-9.]+, max [0-9.]+", sent.lines[1]
    )
    assert len(sent.lines) == 2


def test_many_messages_with_failures(send: Callable[..., Sent]) -> None:
    with serving("end-of-data: 452 4.3.1 full x2") as controller:
        sent = send(at(controller), "--repeat", "5", "-q")
        assert sent.code == 1
        assert sent.lines == []
        assert "5 messages: 3 accepted, 2 failed in " in sent.error
        assert "2 failed: the message was refused: 452 4.3.1 full (temporary" in sent.error
        assert send(at(controller), "--concurrency", "9", "-q") == (0, [], "")


def test_a_fault_of_our_own_counts_as_a_failure(
    send: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            raise RuntimeError("oops")

    monkeypatch.setattr(_load, "Conversation", Broken)
    sent = send("mx.test", "--repeat", "2")
    assert sent.code == 1
    assert sent.lines[1] == "2 failed: RuntimeError: oops"


def test_the_summary_of_results() -> None:
    results = [Result(number / 1000) for number in range(1, 101)]
    lines = list(_load.summary(results, 2.0))
    assert lines == [
        "100 messages: 100 accepted, 0 failed in 2.00 s: 50.0/s",
        "latency in ms: p50 50.0, p90 90.0, p99 99.0, max 100.0",
    ]
    failed = [Result(9.0, f"reason {number}") for number in (1, 2, 2, 3, 4, 5, 6, 7)]
    lines = list(_load.summary([Result(0.004), *failed], 1.0))
    assert lines[:3] == [
        "9 messages: 1 accepted, 8 failed in 1.00 s: 1.0/s",
        "latency in ms: p50 4.0, p90 4.0, p99 4.0, max 4.0",
        "2 failed: reason 2",
    ]
    assert lines[-1] == "2 other reasons"
    assert list(_load.summary([], 0.0)) == ["0 messages: 0 accepted, 0 failed in 0.00 s: 0.0/s"]


# Real processes.


def test_a_process_sends_to_a_process() -> None:
    with program_serving() as server:
        with Program("send", server.addresses[0], "--subject", "Hi") as client:
            ended = client.ended()
        assert (ended.code, ended.err) == (0, "")
        assert "S: 250 2.0.0 OK" in without_times(ended.out)
        assert "Subject: Hi\n" in [re.sub("\r", "", line) for line in server.message()]


def test_help_and_errors_of_a_process() -> None:
    with Program("send", "--help") as client:
        ended = client.ended()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("usage: aiosmtpd send [OPTIONS] [SERVER]\n")
    with Program("send", "--repeat", "x") as client:
        ended = client.ended()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1


def test_help_fits_forty_columns() -> None:
    with Program("send", "--help", env=environment(COLUMNS="40")) as client:
        assert max(map(len, client.ended().out.splitlines())) <= 40


def test_neither_asyncio_nor_attrs_nor_the_server_is_imported() -> None:
    code = (
        "import sys; from aiosmtpd.cli.send import make_parser; make_parser('x').parse_args([]); "
        "print({'asyncio', 'attrs', 'attr', 'aiosmtpd.smtp'} & set(sys.modules))"
    )
    with Program(python=["-c", code]) as process:
        assert process.ended() == (0, "set()\n", "")


@contextmanager
def interruptible() -> Iterator[None]:
    """Let child processes get Ctrl-C, which a shell takes from those in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Return a listening socket that sends no greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        yield listening


def test_ctrl_c_ends_it(silent: socket.socket) -> None:
    where = f"127.0.0.1:{silent.getsockname()[1]}"
    with interruptible(), Program("send", where) as client, closing(silent.accept()[0]):
        assert client.out_line().startswith("*  connecting")
        assert client.out_line().startswith("*  connected")
        ended = client.end(signal.SIGINT)
    assert ended.code == 130
    text = "interrupted: the message may or may not have been accepted"
    assert ended.err == f"aiosmtpd send: {text}\n"


def test_ctrl_c_ends_many_with_a_summary(silent: socket.socket) -> None:
    where = f"127.0.0.1:{silent.getsockname()[1]}"
    with (
        interruptible(),
        Program("send", where, "--repeat", "50", "--concurrency", "2") as client,
        closing(silent.accept()[0]),
        closing(silent.accept()[0]),
    ):
        ended = client.end(signal.SIGINT)
    first, second = ended.out.splitlines()
    assert first == "interrupted: 0 of 50 messages have a result"
    assert second.startswith("0 messages: 0 accepted, 0 failed in ")
    assert (ended.code, ended.err) == (130, "")


def test_a_broken_pipe_loses_no_message() -> None:
    with program_serving() as server:
        with Program("send", server.addresses[0]) as client:
            assert client.process.stdout is not None
            client.out_line()
            client.process.stdout.close()
            client.process.stdout = None
            ended = client.ended()
        assert (ended.code, ended.err) == (0, "")
        assert "END MESSAGE" in server.message()[-1]


def on_a_terminal(*args: str, **variables: str) -> str:
    """Run a command with a terminal for its output, and return all that it shows."""
    import pty  # not on every system

    ours, theirs = pty.openpty()
    shown = b""
    env = environment(**{"TERM": "xterm", **variables})
    with subprocess.Popen(
        [sys.executable, *MODULE, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            # Linux says so if the other side is closed.
            pass
        os.close(ours)
        assert process.wait(PATIENCE) in (0, 1)
    return shown.decode()


def test_colours_are_for_terminals_that_want_them() -> None:
    with serving("mail: 450 busy") as controller:
        assert "S: \x1b[1m450 busy\x1b[0m\x1b[2m  (" in on_a_terminal("send", at(controller))
        for variables in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
            assert "\x1b" not in on_a_terminal("send", at(controller), **variables)


def test_a_progress_line_is_for_terminals() -> None:
    with serving("end-of-data: delay 0.15") as controller:
        shown = on_a_terminal("send", at(controller), "--repeat", "4", "--concurrency", "2")
    assert re.search(r"\r\x1b\[K[0-4]/4 sent, 0 failed, [0-9]+/s", shown)
    assert "\r\x1b[K4 messages: 4 accepted" in shown
