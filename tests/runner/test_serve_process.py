"""``aiosmtpd serve`` as a process, with a file."""

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TextIO, TypeAlias

import pytest

from tests.net.support import free_port

pwd = pytest.importorskip("pwd")

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc"),
]

ME = pwd.getpwuid(os.geteuid()).pw_name
COMMAND = [sys.executable, "-m", "aiosmtpd", "serve"]

Started: TypeAlias = tuple["subprocess.Popen[bytes]", int]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for at most 10 seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def text(port: int) -> str:
    return (
        f'user = "{ME}"\nworkers = 1\nlisten = "smtp://127.0.0.1:{port}"\nspool.path = "spool"\n'
        '[[route]]\nto = "maildir:mail"\nmatch = "*@a.test"\n'
    )


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Start a server with a file; its log is in a file too."""
    port = free_port()
    (tmp_path / "a.toml").write_text(text(port))
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*COMMAND, "a.toml"], cwd=tmp_path, stderr=log)
    try:
        wait_for(lambda: "is listening on" in (tmp_path / "log").read_text())
        yield process, port
    finally:
        process.kill()
        process.wait()


def check(folder: Path, name: str) -> str:
    done = subprocess.run(
        [*COMMAND, "--check", name], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_a_file_is_served(started: Started, tmp_path: Path) -> None:
    process, port = started
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("b@b.test", ["a@a.test"], "Subject: hello\r\n\r\n")
        assert client.rcpt("other@b.test")[0] != 250
    wait_for(lambda: any((tmp_path / "mail").glob("new/*")))
    # The port is taken by the server of this very file; for another file that is a fault.
    assert f":{port} is used" not in check(tmp_path, "a.toml")
    (tmp_path / "b.toml").write_text(text(port))
    assert f"b.toml:3: listen.1: 127.0.0.1:{port} is used by another program" in check(
        tmp_path, "b.toml"
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_wrong_file_changes_nothing_at_a_reload(started: Started, tmp_path: Path) -> None:
    process, port = started
    (tmp_path / "a.toml").write_text(text(port) + "[limits]\nsize = '25X'\n")
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: "a.toml:9: limits.size: expected a size" in (tmp_path / "log").read_text())
    with smtplib.SMTP("127.0.0.1", port) as client:
        assert client.noop()[0] == 250


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_folder_of_root_is_named_with_the_user(open_path: Path) -> None:
    places = ["--spool", "spool", "--deliver", "*@a.test=maildir:box"]
    done = subprocess.run(
        [*COMMAND, "-l", "127.0.0.1:0", *places],
        cwd=open_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert f"maildir:{open_path}/box: Permission denied; workers run as the user nobody: " in said
    assert '"reason": "start"' in done.stderr
    assert '"reason": "crash"' not in done.stderr


def test_closed_streams_are_not_sockets(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "loud.py").write_text("def take(mail): print('x' * 100, flush=True)\n")
    (tmp_path / "a.toml").write_text(
        f'user = "{ME}"\nworkers = 1\nlisten = "127.0.0.1:{port}"\nhandler = "loud:take"\n'
    )
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND, "a.toml"]
    with subprocess.Popen(shell, cwd=tmp_path) as process:
        try:
            wait_for(lambda: takes_mail(port))
            # The channel to the worker is not what the handler has printed to.
            assert takes_mail(port)
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


def takes_mail(port: int) -> bool:
    try:
        with smtplib.SMTP("127.0.0.1", port) as client:
            return not client.sendmail("b@b.test", ["a@a.test"], "Subject: hello\r\n\r\n")
    except (OSError, smtplib.SMTPException):
        return False


@contextmanager
def held_up(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", TextIO]]:
    """Start a server whose file is a pipe; return its process and the end to write to."""
    os.mkfifo(folder / "a.toml")
    process = subprocess.Popen(
        [*COMMAND, "a.toml"], cwd=folder, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        # This waits until the process that reads has opened it.
        with open(folder / "a.toml", "w") as pipe:
            yield process, pipe
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_file_is_read_ends_it(tmp_path: Path, number: int) -> None:
    with held_up(tmp_path) as (process, _):
        # Programs that rotate logs send this one: it does nothing.
        process.send_signal(signal.SIGUSR1)
        process.send_signal(number)
        assert process.communicate(timeout=10)[1] == ""
        assert process.returncode == 0


def test_the_first_lines_hash_addresses_with_a_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = f'relay_networks = "0.0.0.0/1"\n{text(port)}[log]\naddresses = "hash"\n'
        (tmp_path / "a.toml").write_text(file)
        command = [*COMMAND, "a.toml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    found = re.search("open relay: ([0-9a-f]{12})/1 holds hosts", done.stderr)
    assert found is not None, done.stderr
    assert found[1] != blake2b(b"0.0.0.0").hexdigest()[:12]


ENDS = """
import os, signal, sys
from aiosmtpd.cli.serve import main
code = main(["a.toml"], "aiosmtpd serve")
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""


def test_a_signal_at_the_very_end_changes_no_code(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    process = subprocess.Popen([sys.executable, "-c", ENDS], cwd=tmp_path)
    try:
        with open(tmp_path / "a.toml", "w"):
            process.terminate()
            assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_a_hangup_while_the_file_is_read_reloads(tmp_path: Path) -> None:
    with held_up(tmp_path) as (process, pipe):
        process.send_signal(signal.SIGHUP)
        (tmp_path / "next.toml").write_text(text(free_port()))
        os.replace(tmp_path / "next.toml", tmp_path / "a.toml")
        pipe.write((tmp_path / "a.toml").read_text())
        pipe.close()
        assert process.stderr is not None
        assert any('"event": "config.reload"' in line for line in process.stderr)
        process.terminate()
        process.communicate(timeout=10)
        assert process.returncode == 0
