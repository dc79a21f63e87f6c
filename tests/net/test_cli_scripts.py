"""Help for scripts: sockets from systemd, commands for messages, an end, a file when ready."""

import json
import os
import signal
import smtplib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosmtpd import main
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.program import MESSAGE, Program, environment, inherited, reach, refused, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")


def delivered(client: Client, message: bytes = MESSAGE) -> bytes:
    """Send a message; return the reply to it."""
    client.transaction()
    client.send(message)
    return client.reply()


# Sockets from systemd.

PASS = """
import os, sys
# As systemd does: descriptors from 3 on, and the process that they are for.
fds = [os.dup(int(number)) for number in sys.argv[1].split(",")]
for place, number in enumerate(fds, 3):
    os.dup2(number, place)
    os.set_inheritable(place, True)
os.environ.update(LISTEN_FDS=str(len(sys.argv[1].split(","))), LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "aiosmtpd", *sys.argv[2:]])
"""


class Passed:
    """Two listening sockets and a server that gets them as systemd passes its own."""

    def __init__(self, folder: Path) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.path = str(folder / "socket")
        self.unix.bind(self.path)
        self.unix.listen()

    def serving(self, *places: str, names: str = "") -> Program:
        fds = [self.tcp.fileno(), self.unix.fileno()]
        where = [part for place in places for part in ("-l", place)]
        python = ("-c", PASS, ",".join(map(str, fds)))
        env = environment(LISTEN_FDNAMES=names)
        return Program("-n", "-d", *where, python=python, pass_fds=fds, env=env)


@pytest.fixture
def passed(tmp_path: Path) -> Iterator[Passed]:
    passed = Passed(tmp_path)
    yield passed
    passed.tcp.close()
    passed.unix.close()


def test_all_sockets_that_systemd_passes(passed: Passed) -> None:
    with passed.serving("systemd") as program:
        program.listens()
        host, port = passed.tcp.getsockname()
        assert program.addresses == [f"{host}:{port}", passed.path]
        for address in program.addresses:
            with reach(address) as client:
                assert client.ask(b"NOOP") == b"250 OK\r\n"
        assert program.end().code == 0
    assert os.path.exists(passed.path)


def test_sockets_by_name(passed: Passed) -> None:
    with passed.serving("lmtp://systemd:local", "fd:3", names="smtp:local") as program:
        program.listens()
        assert program.addresses[0] == passed.path
        with reach(passed.path) as client:
            assert client.ask(b"LHLO x")[:3] == b"250"
        with Client(passed.tcp.getsockname()[1]) as client:
            assert client.ask(b"HELO x")[:3] == b"250"
        assert program.end().code == 0


def test_a_name_that_was_not_passed(passed: Passed) -> None:
    with passed.serving("systemd:other", names="smtp:local") as program:
        code, _, err = program.ended()
    assert code == 2
    assert err.endswith("No socket for 'systemd:other': systemd has passed smtp, local\n")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "No socket for 'systemd': systemd has passed none"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, "systemd has passed none"),
        ({"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())}, "LISTEN_FDS is not a number: 'x'"),
    ],
)
def test_without_sockets(
    variables: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES":
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        main.main(["-l", "systemd"])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_host_may_be_called_so() -> None:
    assert main.parseargs(["-l", "systemd:25"])[1].places[0].host == "systemd"


# A command for each message.

TELL = """
import json, os, sys
told = {name: value for name, value in os.environ.items() if name.startswith("SMTP_")}
with open("told", "w") as file:
    json.dump([told, sys.stdin.read()], file)
print("on stdout")
print("on stderr", file=sys.stderr)
"""


def test_a_command_gets_the_message(tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    command = f"{sys.executable} tell.py"
    with serving("--on-message", command, "--auth-any", cwd=tmp_path) as program:
        with smtplib.SMTP("127.0.0.1", program.port, timeout=PATIENCE) as client:
            client.ehlo("client.test")
            client.login("joe", "secret")
            client.sendmail("", ["a@b.test", "c@d.test"], "Subject: x\n\n.body\n")
            host, port = client.sock.getsockname()  # type: ignore[union-attr]
        lines = {program.err_line(), program.err_line()}
        assert lines == {"on stdout\n", "on stderr\n"}
        assert program.end() == (0, "", "")
    told, message = json.loads((tmp_path / "told").read_text())
    assert message == "Subject: x\n\n.body\n"
    assert told == {
        "SMTP_MAIL_FROM": "",
        "SMTP_RCPT_TO": "a@b.test\nc@d.test",
        "SMTP_HELO": "client.test",
        "SMTP_PEER": host,
        "SMTP_PEER_PORT": str(port),
        "SMTP_USER": "joe",
        "SMTP_TLS": "",
        "SMTP_SIZE": "21",
    }


CODES = [
    ("true", b"250 2.0.0 OK\r\n", ""),
    ("exit 75", b"451 4.3.0 ", "exit code 75"),
    ("no-such-command-at-all", b"451 4.3.0 ", "exit code 127"),
    ("kill -9 $$", b"451 4.3.0 ", "exit code -9"),
    ("exit 143", b"451 4.3.0 ", "exit code 143"),
    ("exit 1", b"554 5.3.0 ", "exit code 1"),
]


def test_an_exit_code_is_the_reply(tmp_path: Path) -> None:
    """One server for all commands: each is in a file that the shell reads."""
    file = tmp_path / "command"
    with serving("--on-message", f". {file}") as program:
        for command, reply, said in CODES:
            file.write_text(command + "\n")
            with Client(program.port) as client:
                assert delivered(client, b"x" * 70 + b"\r\n" + MESSAGE).startswith(reply)
                assert client.ask(b"NOOP")[:3] == b"250"
            if said:
                assert said in program.until("exit code")
        assert "exit code" not in program.end().err


def test_a_command_that_takes_too_long(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    # Both the shell and its child hold the pipe open.
    command = f"exec 3>{fifo}; sleep 600; true"
    with (
        serving("--on-message-timeout", "0.5", "--on-message", command) as program,
        Client(program.port) as client,
    ):
        client.transaction()
        client.send(MESSAGE)
        with open(fifo, "rb") as pipe:
            # Until the last of them has been killed.
            assert pipe.read() == b""
        assert client.reply()[:3] == b"451"
        assert "killed after 0.5 seconds" in program.end().err


def test_a_command_ends_with_the_server(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    command = f"exec 3>{fifo}; sleep 600; true"
    with serving("--on-message", command) as program, Client(program.port) as client:
        client.transaction()
        client.send(MESSAGE)
        with open(fifo, "rb") as pipe:
            program.send(signal.SIGTERM)
            program.send(signal.SIGINT)
            assert pipe.read() == b""
        assert program.ended().code == 0


def test_a_command_without_a_standard_error() -> None:
    with inherited("--on-message", "echo x", preexec_fn=lambda: os.close(2)) as (program, port):
        with Client(port) as client:
            assert delivered(client) == b"250 2.0.0 OK\r\n"
        assert program.end() == (0, "", "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-c", "Sink"], "leave out -c and its arguments"),
        (["stdout"], "leave out -c and its arguments"),
        (["--pretty"], "cannot be combined with --pretty or --json"),
    ],
)
def test_a_command_takes_the_place_of_a_class(args: list[str], said: str) -> None:
    assert said in refused("-n", "--on-message", "true", *args)


def test_no_command() -> None:
    assert "--on-message needs a command" in refused("-n", "--on-message", " ")


# The end after so many messages.


def test_it_ends_after_so_many_messages() -> None:
    with serving("--exit-after", "2") as program:
        with Client(program.port) as client:
            assert delivered(client) == b"250 2.0.0 OK\r\n"
            assert delivered(client) == b"250 2.0.0 OK\r\n"
            # The last client may say goodbye, and no client can send a third message.
            assert delivered(client)[:3] == b"421"
        code, out, err = program.ended()
    assert (code, out.count("MESSAGE FOLLOWS"), err) == (0, 2, "")


def test_it_does_not_wait_for_ever_for_the_last_client() -> None:
    with serving("--exit-after", "1", "-l", "lmtp://127.0.0.1:0") as program:
        with reach(program.addresses[0]) as client:
            for line in b"LHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA":
                client.ask(line)
            client.send(MESSAGE)
            assert client.reply()[:3] == b"250"
            assert client.reply()[:3] == b"421"
            assert client.reply() == b""
        assert program.ended().code == 0


def test_a_message_that_was_given_up_does_not_count() -> None:
    with serving("--exit-after", "1", "-c", "Sink") as program:
        with Client(program.port) as gone:
            gone.transaction()
            gone.send(b"half a message\r\n")
        with Client(program.port) as client:
            for line in b"EHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>":
                client.ask(line)
            client.send(b"BDAT 2\r\nhi")
            assert client.reply()[:3] == b"250"
            assert client.ask(b"RSET")[:3] == b"250"
            assert delivered(client) == b"250 2.0.0 OK\r\n"
            assert client.ask(b"QUIT")[:3] == b"221"
        assert program.ended() == (0, "", "")


# The file with the addresses.


def test_a_ready_file(tmp_path: Path) -> None:
    file, place = tmp_path / "ready", str(tmp_path / "s")
    args = ("-l", "127.0.0.1:0", "-l", f"unix:{place}", "--ready-file", str(file))
    with serving(*args) as program:
        assert file.read_text().splitlines() == program.addresses
        assert [one.name for one in tmp_path.iterdir() if "ready" in one.name] == ["ready"]
        assert program.end().code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_ready_file_that_cannot_be_written(tmp_path: Path) -> None:
    error = refused("-n", "-l", "127.0.0.1:0", "--ready-file", str(tmp_path / "no" / "file"))
    assert f"Cannot write {tmp_path}/no/file: No such file or directory; name another" in error
    error = refused("-n", "-l", "127.0.0.1:0", "--ready-file", str(tmp_path))
    assert f"Cannot write {tmp_path}: Is a directory; name another" in error
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.*"))


# Functions.

FUNCTIONS = """
def plain(mail):
    print(mail.sender, mail.message["subject"], flush=True)
async def coroutine(mail):
    return "250 from a coroutine"
def none():
    pass
class Taker:
    async def handle_NOOP(self, server, session, envelope, arg):
        return "250 from a class"
taker = 5
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return tmp_path


def test_a_function(functions: Path) -> None:
    with (
        serving("-c", "functions:plain", cwd=functions) as program,
        Client(program.port) as client,
    ):
        assert delivered(client)[:3] == b"250"
        assert program.out_line() == "a@b.test x\n"


def test_a_coroutine_function(functions: Path) -> None:
    with (
        serving("-c", "functions:coroutine", cwd=functions) as program,
        Client(program.port) as client,
    ):
        assert delivered(client) == b"250 2.0.0 from a coroutine\r\n"


def test_a_class_after_a_colon(functions: Path) -> None:
    with (
        serving("-c", "functions:Taker", cwd=functions) as program,
        Client(program.port) as client,
    ):
        assert client.ask(b"NOOP") == b"250 from a class\r\n"


def test_a_function_without_a_signature() -> None:
    assert main.parseargs(["-c", "builtins:print"])[1].handler is print
    assert main.parseargs(["-c", "builtins:max"])[1].handler is max


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["functions:none"], "Function functions:none must accept one argument, a Mail"),
        (["functions:plain", "x"], "Function functions:plain takes no arguments of the command"),
        (["functions:nothing"], "No function or class nothing in functions: -c takes Debugging, "),
        (["functions:taker"], "No function or class taker in functions: -c takes "),
        (["nowhere:plain"], "Cannot import nowhere for -c nowhere:plain: "),
    ],
)
def test_invalid_functions(args: list[str], said: str, functions: Path) -> None:
    assert said in refused("-n", "-c", *args, cwd=functions)


# Limits are those of the process.


def test_a_host_has_its_connections_at_all_places_together() -> None:
    places = [part for name in ("smtp", "lmtp", "smtp") for part in ("-l", f"{name}://127.0.0.1:0")]
    with serving("--max-connections-per-host", "2", *places) as program:
        first, second, third = program.addresses
        with reach(first) as one, reach(second) as other:
            assert one.greeting[:3] == other.greeting[:3] == b"220"
            with reach(third) as late:
                assert late.greeting[:3] == b"421"
        assert program.end().code == 0


# Behind a proxy.

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 25\r\n"

REFUSES = """
class Refuses:
    async def handle_PROXY(self, server, session, envelope, proxy_data):
        return proxy_data.src_port == 1
"""


def behind(port: int, header: bytes = HEADER) -> bytes:
    """Return the greeting that a client gets through a proxy; nothing if there is none."""
    with Client(port, greet=False) as client:
        client.send(header)
        try:
            return client.reply()
        except ConnectionResetError:
            return b""


def test_a_proxy_names_the_client() -> None:
    command = ("--on-message", "echo $SMTP_PEER $SMTP_PEER_PORT")
    with serving("--proxy-protocol", "127.0.0.0/8", *command) as program:
        with Client(program.port, greet=False) as client:
            client.send(HEADER)
            assert client.reply()[:3] == b"220"
            assert delivered(client)[:3] == b"250"
        assert program.err_line() == "192.0.2.7 49152\n"
        assert behind(program.port, b"EHLO x\r\n") == b""


def test_other_hosts_are_not_proxies() -> None:
    networks = ("--proxy-protocol", "192.0.2.0/24", "--proxy-protocol", "2001:db8::1")
    with serving(*networks) as program:
        assert behind(program.port) == b""


def test_a_handler_may_refuse_a_proxy_header(tmp_path: Path) -> None:
    (tmp_path / "refuses.py").write_text(REFUSES)
    args = ("--proxy-protocol", "127.0.0.1", "-c", "refuses.Refuses")
    with serving(*args, cwd=tmp_path) as program:
        assert behind(program.port) == b""
        assert behind(program.port, HEADER.replace(b"49152", b"1"))[:3] == b"220"


def test_the_proxy_header_comes_before_tls(certificates: Certificates) -> None:
    files = ("--smtpscert", str(certificates.cert_file), "--smtpskey", str(certificates.key_file))
    command = ("--on-message", "echo $SMTP_PEER $SMTP_PEER_PORT")
    with serving("--proxy-protocol", "127.0.0.0/8", *files, *command) as program:
        with Client(program.port, greet=False) as client:
            client.send(HEADER)
            client.start_tls(certificates.client_context())
            assert client.reply()[:3] == b"220"
            assert delivered(client)[:3] == b"250"
        assert program.err_line() == "192.0.2.7 49152\n"


def test_an_invalid_network_of_proxies() -> None:
    said = "invalid network: '10.0.0.1/8' (write 10.0.0.0/8, "
    assert said in refused("-n", "--proxy-protocol", "10.0.0.1/8")
