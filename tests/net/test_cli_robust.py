"""Failures around the command line: readers that go, full disks, keys pressed too often."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aiosmtpd import main
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.program import (
    MESSAGE,
    cert,
    environment,
    inherited,
    refused,
    refused_by_process,
    serving,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and /proc")
GONE = "The reader of the standard output has gone: stopping\n"


@pytest.mark.parametrize("more", [[], ["--pretty"], ["--json"]])
def test_it_ends_when_its_reader_has_gone(more: list[str]) -> None:
    with serving(*more) as program:
        with Client(program.port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply()[:3] == b"250"
            assert program.out_line()
            assert program.process.stdout is not None
            program.process.stdout.close()
            program.process.stdout = None
            # A message that has not begun is refused.
            assert client.reply()[:3] == b"421"
        code, _, err = program.ended()
    assert code == 1
    assert err.endswith(GONE)
    assert "Traceback" not in err


def test_it_ends_when_the_reader_of_stderr_has_gone() -> None:
    with serving("stderr") as program:
        assert program.process.stderr is not None
        program.process.stderr.close()
        program.process.stderr = None
        assert program.ended() == (1, "", "")


def test_a_running_transaction_gets_no_250() -> None:
    with serving() as program, Client(program.port) as client:
        client.transaction()
        assert program.process.stdout is not None
        program.process.stdout.close()
        program.process.stdout = None
        try:
            client.send(MESSAGE)
            reply = client.reply()
        except ConnectionError:
            # It got 421, and was not reading.
            reply = b""
        assert not reply.startswith(b"2")
        assert program.ended().code == 1


def test_a_handler_that_prints_nothing_needs_no_reader() -> None:
    with serving("-c", "Sink") as program:
        assert program.process.stdout is not None
        program.process.stdout.close()
        program.process.stdout = None
        with Client(program.port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply()[:3] == b"250"
        assert program.end().code == 0


def test_a_pipe_into_head() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        server = f"{sys.executable} -m aiosmtpd -n -l fd:{fd}"
        command = f"{server} | head -1; echo ${{PIPESTATUS[0]}}"
        with subprocess.Popen(
            ["bash", "-c", command],
            pass_fds=[fd],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as shell:
            with Client(port) as client:
                client.transaction()
                client.send(MESSAGE)
                assert client.reply()[:3] in (b"250", b"451")
            out, err = shell.communicate(timeout=PATIENCE)
    assert out == "---------- MESSAGE FOLLOWS ----------\n1\n"
    assert err.endswith(GONE)
    assert err.count("\n") <= 2


@LINUX
@pytest.mark.parametrize("more", [[], ["--pretty"], ["--json"]])
def test_a_full_disk(more: list[str]) -> None:
    with open("/dev/full", "wb") as full, serving(*more, stdout=full) as program:
        with Client(program.port) as client:
            for _ in range(2):
                client.transaction()
                client.send(MESSAGE)
                assert client.reply() == b"451 4.3.0 Message cannot be written\r\n"
        code, _, err = program.end()
    assert code == 0
    assert err.count("No space left on device") == 2
    assert "Traceback" not in err


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_command_and_a_closed_stream(closed: int) -> None:
    command = ("--on-message", "cat > /dev/null")
    with inherited(*command, preexec_fn=lambda: os.close(closed)) as (program, port):
        with Client(port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply()[:3] == b"250"
        assert program.end().code == 0


def test_two_servers_on_one_port() -> None:
    with serving() as first:
        error = refused_by_process("-n", "-l", f"127.0.0.1:{first.port}")
        assert f"Cannot listen on 127.0.0.1:{first.port}: address already in use" in error
        with Client(first.port) as client:
            assert client.ask(b"NOOP")[:3] == b"250"
        assert first.end().code == 0


def test_two_servers_on_one_unix_socket(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/s"
    with serving("-l", "127.0.0.1:0", "-l", place) as first:
        assert "address already in use" in refused("-n", "-l", place)
        assert first.end().code == 0


@LINUX
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-c", "Mailbox", "/proc/box"], "/proc/box: No such file or directory; name another"),
        (["-c", "Mailbox", "/proc/version"], "/proc/version/tmp: Not a directory; name another"),
        (["--ready-file", "/proc/ready"], "Cannot write /proc/ready: "),
        (["-l", "unix:/proc/socket"], "Cannot listen on '/proc/socket': "),
    ],
)
def test_a_folder_that_cannot_be_written(args: list[str], said: str) -> None:
    place = [] if "-l" in args else ["-l", "127.0.0.1:0"]
    assert said in refused("-n", *place, *args)


def test_keys_pressed_too_often() -> None:
    with serving("-c", "Sink") as program, Client(program.port) as client:
        client.transaction()
        for _ in range(100):
            # The kernel makes one of two signals that come too fast.
            program.send(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(0.1)
                break
        code, _, err = program.ended()
    assert code in (0, main.INTERRUPTED, -signal.SIGINT)
    assert "Traceback" not in err


def test_an_interrupt_before_there_is_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "parseargs", interrupt)
    with pytest.raises(SystemExit) as caught:
        main.main([])
    assert caught.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_a_client_without_tls_gets_a_reply(certificates: Certificates) -> None:
    with serving(*cert(certificates, "smtps")) as program:
        with Client(program.port, greet=False) as client:
            client.send(b"EHLO x\r\n")
            assert client.reply().startswith(b"421 4.7.0 TLS is required from the start")
            assert client.reply() == b""
        assert program.end().code == 0
