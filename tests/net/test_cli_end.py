"""How the command line ends, and which user it becomes."""

import os
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.client import Client
from tests.conftest import Certificates
from tests.net.program import MESSAGE, ROOT_ONLY, Program, reach_tls, refused_by_process, serving
from tests.net.support import free_port

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

# How it ends.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(number: int) -> None:
    with serving() as program, Client(program.port) as client:
        client.ask(b"EHLO x")
        program.send(number)
        assert client.reply()[:9] == b"421 4.3.2"
        assert program.ended() == (0, "", "")


SLOW = """
import asyncio, sys, time
from aiosmtpd.process import exit
exit.SETTLE = 0.2
def tell(text):
    print(text, flush=True)
class Slow:
    async def handle_DATA(self, server, session, envelope):
        tell("begun")
        await asyncio.sleep(float(sys.argv[-1]))
        tell("done")
        return "250 OK"
    @classmethod
    def from_cli(cls, parser, seconds):
        return cls()
class Stubborn(Slow):
    async def handle_DATA(self, server, session, envelope):
        tell("begun")
        while True:
            try:
                await asyncio.sleep(float(sys.argv[-1]))
            except asyncio.CancelledError:
                tell("cancelled")
class Thread(Slow):
    def handle_DATA(self, server, session, envelope):
        tell("begun")
        time.sleep(float(sys.argv[-1]))
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


def test_a_running_transaction_may_end(slow: Path) -> None:
    with serving("-c", "slow.Slow", "0.5", cwd=slow) as program, Client(program.port) as client:
        client.transaction()
        client.send(MESSAGE)
        assert program.out_line() == "begun\n"
        program.send(signal.SIGTERM)
        assert program.out_line() == "done\n"
        assert client.reply() == b"250 2.0.0 OK\r\n"
        assert program.ended() == (0, "", "")


def test_a_second_signal_ends_it_at_once(slow: Path) -> None:
    with (
        serving("-d", "-c", "slow.Slow", "60", cwd=slow) as program,
        Client(program.port) as client,
    ):
        client.transaction()
        client.send(MESSAGE)
        assert program.out_line() == "begun\n"
        program.send(signal.SIGINT)
        program.until("a second signal stops at once")
        assert program.end(signal.SIGINT).code == 0


def read_until(output: IO[bytes], text: bytes) -> None:
    """Read what a process writes to its terminal; raises OSError at its end."""
    found = b""
    while text not in found:
        found += output.read(4096)


def test_a_terminal_says_that_it_waits(slow: Path) -> None:
    terminal, end = os.openpty()
    port = free_port()
    words = ("-n", "-l", f"127.0.0.1:{port}", "-c", "slow.Slow", "60")
    with (
        open(terminal, "rb", 0) as output,
        open(end, "wb", 0) as error,
        Program(*words, cwd=slow, stderr=error) as program,
    ):
        read_until(output, b"127.0.0.1")
        with Client(port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert program.out_line() == "begun\n"
            program.send(signal.SIGINT)
            read_until(output, b"a second signal stops at once")
            assert program.end(signal.SIGINT).code == 0


@pytest.mark.parametrize("words", [("wait", "-n"), ("-n", "--exit-after", "1")])
def test_a_terminal_says_nothing_of_its_own_end(words: tuple[str, ...]) -> None:
    terminal, end = os.openpty()
    port = free_port()
    with (
        open(terminal, "rb", 0) as output,
        open(end, "wb", 0) as error,
        Program(*words, "-l", f"127.0.0.1:{port}", stderr=error) as program,
    ):
        error.close()
        read_until(output, b"Ctrl-C\r\n")
        with Client(port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply() == b"250 2.0.0 OK\r\n"
            client.ask(b"QUIT")
        assert program.ended().code == 0
        with pytest.raises(OSError):
            read_until(output, b"Stopping")


@pytest.mark.parametrize("name", ["Stubborn", "Thread"])
def test_nothing_keeps_it_from_ending(name: str, slow: Path) -> None:
    with (
        serving("-d", "-c", f"slow.{name}", "60", cwd=slow) as program,
        Client(program.port) as client,
    ):
        client.transaction()
        client.send(MESSAGE)
        assert program.out_line() == "begun\n"
        program.send(signal.SIGTERM)
        program.until("a second signal stops at once")
        assert program.end().code == 0


NO_NOHUP = pytest.mark.skipif(
    os.name == "posix" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
    reason="these tests run under nohup",
)


@NO_NOHUP
def test_a_closed_terminal_ends_it(certificates: Certificates) -> None:
    terminal, end = os.openpty()
    args = ("--tlscert", str(certificates.cert_file), "--tlskey", str(certificates.key_file))
    with open(end, "rb", 0) as keyboard, serving("-d", *args, stdin=keyboard) as program:
        program.send(signal.SIGHUP)
        program.until("loaded again")
        os.close(terminal)
        assert program.end(signal.SIGHUP).code == 0


@NO_NOHUP
def test_hangup_without_certificates_ends_it_as_ever() -> None:
    with serving() as program:
        assert program.end(signal.SIGHUP).code == -signal.SIGHUP


def test_hangup_loads_the_certificates_again(certificates: Certificates, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("cert", "key")}

    def issue() -> bytes:
        issued = certificates.authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(files["key"]))
        issued.cert_chain_pems[0].write_to_path(str(files["cert"]))
        return ssl.PEM_cert_to_DER_cert(files["cert"].read_text())

    def shown(program: Program) -> bytes | None:
        with reach_tls(program.addresses[0], certificates) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            return client.socket.getpeercert(binary_form=True)

    first = issue()
    args = ("--smtpscert", str(files["cert"]), "--smtpskey", str(files["key"]))
    with serving("-d", *args) as program:
        assert shown(program) == first
        second = issue()
        program.send(signal.SIGHUP)
        program.until("loaded again")
        assert shown(program) == second != first
        files["key"].write_text("no key")
        program.send(signal.SIGHUP)
        program.until("the old certificate stays")
        assert shown(program) == second
        assert program.end().code == 0


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_stream_at_the_start(closed: int) -> None:
    # As some supervisors start their programs.
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        with Program(
            *("-n", "-l", f"fd:{fd}", "-c", "Sink"),
            pass_fds=[fd],
            preexec_fn=lambda: os.close(closed),
        ) as program:
            with Client(port) as client:
                client.transaction()
                client.send(MESSAGE)
                assert client.reply() == b"250 2.0.0 OK\r\n"
            assert program.end() == (0, "", "")


# Users.


WHO = """
import os
class Who:
    async def handle_NOOP(self, server, session, envelope, arg):
        return f"250 {os.getuid()} {os.getgid()} {os.getgroups()}"
"""


@pytest.fixture
def who() -> Iterator[Path]:
    """A folder with a class in it that everybody can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "who.py").write_text(WHO)
        yield folder


BLIND = """
import os, sys
from aiosmtpd import main
from aiosmtpd.cli import program
from aiosmtpd.process import rights
os.getgrouplist = lambda *_: []
rights.Identity.become = lambda *_: sys.meta_path.clear()
program.identity_to_assume = lambda *_, **__: rights.Identity("another user", -1, -1)
main.main()
"""
"""The program of a user who cannot read the folders of Python's modules."""


@pytest.mark.parametrize("words", [[], ["--json"], ["--pretty"], ["wait", "--json"]])
def test_a_user_who_cannot_read_python(words: list[str]) -> None:
    port = free_port()
    where = ("-l", f"127.0.0.1:{port}")
    with Program(*words, *where, "-d", python=("-c", BLIND)) as program:
        program.until("listening on")
        with Client(port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply() == b"250 2.0.0 OK\r\n"


def test_a_user_who_cannot_read_the_client_of_nats(tmp_path: Path) -> None:
    pytest.importorskip("nats")
    place = f"nats://127.0.0.1:{free_port()}/mail.in"
    words = ("-l", "127.0.0.1:0", "--spool", str(tmp_path), "--deliver", place)
    with Program(*words, python=("-c", BLIND)) as program:
        assert program.until("cannot be reached now").endswith("connection refused\n")


@ROOT_ONLY
@pytest.mark.parametrize("more", [[], ["--user", "daemon"], ["--group", "daemon"]])
def test_root_binds_and_becomes_another_user(more: list[str], who: Path) -> None:
    pwd, grp = pytest.importorskip("pwd"), pytest.importorskip("grp")
    user = pwd.getpwnam(more[1] if more[:1] == ["--user"] else "nobody")
    gid = grp.getgrnam("daemon").gr_gid if more[:1] == ["--group"] else user.pw_gid
    port = free_port()
    args = ("-d", "-l", f"127.0.0.1:{port}", "-c", "who.Who", *more)
    with Program(*args, cwd=who) as program:
        program.listens()
        with Client(port) as client:
            answer = client.ask(b"NOOP").decode()
        assert answer.startswith(f"250 {user.pw_uid} {gid} [")
        assert program.end().code == 0


@ROOT_ONLY
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--user", "no-such-user"], "There is no user no-such-user on this system; "),
        (["--group", "no-such-group"], "There is no group no-such-group on this system; "),
        (["-c", "Mailbox", "box"], "box cannot be written by nobody: give it to nobody"),
        (["--spool", "S", "--deliver", "maildir:M"], "may write: without -n, the server becomes "),
    ],
)
def test_users_that_it_cannot_become(args: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused_by_process("-l", "127.0.0.1:0", *args, cwd=tmp_path)
