"""The command line as real processes: what it prints, where it listens, what it refuses."""

import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

import aiosmtpd
from tests.client import PATIENCE, Client
from tests.conftest import Certificates

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

ROOT = Path(aiosmtpd.__file__).parent.parent
MODULE = ("-m", "aiosmtpd")
LISTENING = "Server is listening on "
MESSAGE = b"Subject: x\r\n\r\nbody\r\n.\r\n"

HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
IPV6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


def environment(**more: str) -> dict[str, str]:
    """Return our environment without what changes how Python prints, warns or debugs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ours = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, **ours, **more}


class Ended(NamedTuple):
    """What is left of a process."""

    code: int
    out: str
    err: str


class Program:
    """A process that ends with the `with` at the latest, and after some time by itself."""

    def __init__(self, *args: str, python: Sequence[str] = MODULE, **keywords: Any) -> None:
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
        keywords = {"stdin": subprocess.DEVNULL, "env": environment(), **keywords}
        # Unbuffered, so that communicate() finds what readline() has left.
        command = [sys.executable, *python, *args]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(command, bufsize=0, **keywords)
        self.addresses: list[str] = []
        # Whoever waits for its output sees an end instead.
        self._watchdog = threading.Timer(2 * PATIENCE, self.process.kill)
        self._watchdog.start()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()
        self._watchdog.join()

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    def out_line(self) -> str:
        return self._line(self.process.stdout)

    def err_line(self) -> str:
        return self._line(self.process.stderr)

    def _line(self, stream: IO[bytes] | None) -> str:
        assert stream is not None
        return stream.readline().decode()

    def message(self) -> list[str]:
        """Read one printed message."""
        lines = [self.out_line()]
        while lines[-1] and "END MESSAGE" not in lines[-1]:
            lines.append(self.out_line())
        return lines

    def until(self, text: str) -> str:
        """Read the standard error up to the line with this text; return that line."""
        lines = [self.err_line()]
        while lines[-1] and text not in lines[-1]:
            lines.append(self.err_line())
        assert text in lines[-1], "".join(lines)
        return lines[-1]

    def listens(self) -> None:
        """Read where it listens."""
        where = self.until(LISTENING).partition(LISTENING)[2]
        self.addresses = where.strip().split(" and ")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> Ended:
        out, err = self.process.communicate(timeout=PATIENCE)
        return Ended(self.process.returncode, (out or b"").decode(), (err or b"").decode())

    def end(self, number: int = signal.SIGTERM) -> Ended:
        self.send(number)
        return self.ended()


@contextmanager
def serving(*args: str, **keywords: Any) -> Iterator[Program]:
    """Run a server; without a `-l` among the arguments on a free port."""
    where = () if "-l" in args else ("-l", "127.0.0.1:0")
    with Program("-n", *where, *args, **keywords) as program:
        program.listens()
        yield program


def refused(*args: str, code: int = 2, **keywords: Any) -> str:
    """Return the one line that a command says before it ends with this code."""
    with Program(*args, **keywords) as program:
        ended = program.ended()
    assert (ended.code, ended.out) == (code, ""), ended
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    return ended.err


def reach(address: str, tls: ssl.SSLContext | None = None) -> Client:
    """Connect to an address as the server spells it; any greeting will do."""
    host, _, port = address.rpartition(":")
    place = address if address.startswith("/") else (host.strip("[]"), int(port))
    client = Client(place, tls=tls, greet=False)
    client.greeting = client.reply()
    return client


def reach_tls(address: str, certificates: Certificates) -> Client:
    return reach(address, certificates.client_context())


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as sock:
        return int(sock.getsockname()[1])


def cert(certificates: Certificates, name: str) -> tuple[str, ...]:
    files = str(certificates.cert_file), str(certificates.key_file)
    return f"--{name}cert", files[0], f"--{name}key", files[1]


# What is printed.


def test_a_message_is_printed_at_once() -> None:
    with serving() as program, Client(program.port) as client:
        for _ in range(2):
            client.transaction()
            client.send(MESSAGE)
            assert client.reply() == b"250 2.0.0 OK\r\n"
            assert program.message() == [
                "---------- MESSAGE FOLLOWS ----------\n",
                "Subject: x\n",
                f"X-Peer: {client.socket.getsockname()!r}\n",
                "\n",
                "body\n",
                "------------ END MESSAGE ------------\n",
            ]
        assert program.end() == (0, "", "")


def test_messages_on_the_standard_error() -> None:
    with serving("stderr") as program, Client(program.port) as client:
        client.transaction()
        client.send(MESSAGE)
        assert client.reply() == b"250 2.0.0 OK\r\n"
        assert program.err_line() == "---------- MESSAGE FOLLOWS ----------\n"
        program.until("END MESSAGE")
        assert program.end() == (0, "", "")


def test_a_message_that_the_output_has_no_letters_for() -> None:
    env = environment(PYTHONIOENCODING="ascii")
    with serving(env=env) as program, Client(program.port) as client:
        client.transaction()
        client.send("Subject: h\xe9\r\n.\r\n".encode())
        assert client.reply() == b"250 2.0.0 OK\r\n"
        assert program.message()[1] == "Subject: h\\xe9\n"


def test_a_file_with_line_ends_of_unix() -> None:
    # As `curl -T` sends it: the README's own example.
    with serving() as program, Client(program.port) as client:
        client.transaction()
        client.send(b"Subject: x\n\n" + b"y" * 70 + b"\n" * 2000 + b"\r\n.\r\n")
        assert client.reply() == b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize("option", ["--pretty", "--json"])
def test_messages_for_people_and_for_programs(option: str) -> None:
    with serving(option) as program:
        with Client(program.port) as client:
            client.transaction()
            client.send(b"Subject: =?utf-8?q?=C3=A9=1B?=\r\n\r\nbody\r\n.\r\n")
            assert client.reply() == b"250 2.0.0 OK\r\n"
        out = program.end().out
    expected = "Subject    é\\x1b\n" if option == "--pretty" else '"subject": "\\u00e9\\u001b",'
    assert expected in out


def test_letters_of_old_charsets_whoever_one_is() -> None:
    # A server that was root's can load no charset any more where Python is in root's folder.
    with Program("-l", "127.0.0.1:0", "--pretty") as program:
        program.listens()
        with Client(program.port) as client:
            client.transaction()
            client.send(b"Subject: =?iso-8859-1?q?=E9?= =?shift_jis?q?=93=FA?=\r\n\r\n.\r\n")
            assert client.reply() == b"250 2.0.0 OK\r\n"
        assert "Subject    é日\n" in program.end().out


@pytest.mark.parametrize("words", [["-c", "Sink"], ["stderr"]])
def test_two_things_that_print(words: list[str]) -> None:
    assert refused("-n", "--pretty", *words) == (
        "aiosmtpd: error: --pretty and --json print messages themselves: leave out -c and "
        "CLASSARGS\n"
    )


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_version(flag: str) -> None:
    with Program(flag) as program:
        assert program.ended() == (0, f"aiosmtpd {aiosmtpd.__version__}\n", "")


def test_help() -> None:
    with Program("--help") as program:
        code, out, err = program.ended()
    assert (code, err) == (0, "")
    options = set(re.findall(r"--[a-z0-9-]+", out))
    assert options >= {
        *("--class", "--debug", "--extensions", "--group", "--help", "--hostname", "--listen"),
        *("--json", "--pretty"),
        *("--no-requiretls", "--nosetuid", "--quiet", "--size", "--smtpscert", "--smtpskey"),
        *("--smtputf8", "--timeout", "--tlscert", "--tlskey", "--user", "--version"),
    }


def test_port_0_is_told() -> None:
    with Program("-n", "-l", "127.0.0.1:0") as program:
        assert re.fullmatch(r"Server is listening on 127\.0\.0\.1:[1-9]\d+\n", program.err_line())
        assert program.end() == (0, "", "")


@contextmanager
def inherited(*args: str, **keywords: Any) -> Iterator[tuple[Program, int]]:
    """Run a server on a socket of ours: clients may come before it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        with Program("-n", "-l", f"fd:{fd}", *args, pass_fds=[fd], **keywords) as program:
            yield program, port


def test_an_inherited_socket() -> None:
    with inherited() as (program, port):
        with Client(port) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"
        assert program.end() == (0, "", "")


def test_quiet() -> None:
    with inherited("-q", "-l", "127.0.0.1:0") as (program, port):
        with Client(port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply() == b"250 2.0.0 OK\r\n"
        assert len(program.message()) == 6
        assert program.end() == (0, "", "")


TELL_DEBUG = """
import asyncio
class Tell:
    async def handle_NOOP(self, server, session, envelope, arg):
        return f"250 {asyncio.get_running_loop().get_debug()}"
"""


@pytest.mark.parametrize(
    ("flag", "commands", "loop"),
    [("-d", False, False), ("-dd", True, False), ("-ddd", True, True)],
)
def test_debug(flag: str, commands: bool, loop: bool, tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL_DEBUG)
    with serving(flag, "-c", "tell.Tell", cwd=tmp_path) as program:
        with Client(program.port) as client:
            assert client.ask(b"NOOP marked") == f"250 {loop}\r\n".encode()
            client.ask(b"QUIT")
        code, out, err = program.end()
    assert (code, out) == (0, "")
    assert " INFO mail.log: " in err
    assert LISTENING not in err
    assert ("sent NOOP 'marked'" in err) is commands
    assert (" DEBUG mail.log: " in err) is commands


def test_without_debug_nothing_is_said_of_clients() -> None:
    with serving() as program:
        with Client(program.port) as client:
            client.ask(b"JUNK")
        assert program.end() == (0, "", "")


# Where it listens.


@pytest.mark.parametrize("place", ["127.0.0.1:0", "smtp://127.0.0.1:0", "SMTP://127.0.0.1:0/"])
def test_host_and_port(place: str) -> None:
    with serving("-l", place) as program:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", program.addresses[0])
        with reach(program.addresses[0]) as client:
            assert client.greeting.startswith(b"220 ")


@IPV6
@pytest.mark.parametrize("place", ["[::1]:0", "::1:0", "smtp://[::1]:0"])
def test_ipv6(place: str) -> None:
    with serving("-l", place) as program:
        (address,) = program.addresses
        assert re.fullmatch(r"\[::1]:\d+", address)
        with reach(address) as client:
            assert client.greeting.startswith(b"220 ")


@IPV6
@pytest.mark.parametrize("place", [":0", "0", "smtp://:0"])
def test_a_port_alone_is_that_of_all_loopbacks(place: str) -> None:
    with serving("-l", place) as program:
        port = program.port
        assert program.addresses == [f"[::1]:{port}", f"127.0.0.1:{port}"]
        for address in program.addresses:
            with reach(address) as client:
                assert client.greeting.startswith(b"220 ")


@pytest.mark.parametrize("spelling", ["127.0.0.1:{}", ":{}", "{}", "localhost:{}"])
def test_a_port_of_choice(spelling: str) -> None:
    port = free_port()
    with serving("-d", "-l", spelling.format(port)) as program:
        assert f"127.0.0.1:{port}" in program.addresses
        with Client(port) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"


@pytest.mark.parametrize("args", [[], ["-l", "127.0.0.1"], ["-l", "localhost:"]])
def test_the_port_by_default(args: list[str]) -> None:
    with Program("-n", "-d", *args) as program:
        line = program.err_line()
        if "address already in use" in line:
            pytest.skip("port 8025 is somebody else's")
        assert "127.0.0.1:8025" in line
        with Client(8025) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.mark.parametrize("spelling", ["unix:{}", "unix://{}", "smtp://unix:{}"])
def test_a_unix_socket(spelling: str, path: str) -> None:
    with serving("-d", "-l", spelling.format(path)) as program:
        assert program.addresses == [path]
        with reach(path) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"
        assert program.end().code == 0
    assert not os.path.exists(path)


def test_a_relative_unix_socket(tmp_path: Path) -> None:
    with serving("-d", "-l", "unix:here", cwd=tmp_path) as program:
        with reach(str(tmp_path / "here")) as client:
            assert client.ask(b"NOOP") == b"250 OK\r\n"
        assert program.end().code == 0
    assert not (tmp_path / "here").exists()


def test_a_unix_socket_that_a_dead_server_left(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with serving("-d", "-l", f"unix:{path}"), reach(path) as client:
        assert client.ask(b"NOOP") == b"250 OK\r\n"


def test_a_unix_socket_of_another_server(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        error = refused("-n", "-l", f"unix:{path}")
    assert error.startswith(f"aiosmtpd: error: Cannot listen on '{path}': address already in use; ")
    assert os.path.exists(path)


def test_an_inherited_unix_socket_keeps_its_file(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(path)
        ours.listen()
        fd = ours.fileno()
        with Program("-n", "-l", f"lmtp://fd:{fd}", pass_fds=[fd]) as program:
            with reach(path) as client:
                assert client.ask(b"LHLO x")[:3] == b"250"
            assert program.end() == (0, "", "")
        assert os.path.exists(path)


def test_each_scheme_is_served(certificates: Certificates) -> None:
    places = [part for name in ("smtp", "smtps") for part in ("-l", f"{name}://127.0.0.1:0")]
    more = ("-l", "127.0.0.1:0", "-l", "lmtp://127.0.0.1:0")
    with serving(*cert(certificates, "smtps"), *places, *more) as program:
        smtp, smtps, default, lmtp = program.addresses
        with reach(smtp) as client:
            assert client.ask(b"EHLO x")[:3] == b"250"
        for address in smtps, default:
            with reach_tls(address, certificates) as client:
                assert client.ask(b"EHLO x")[:3] == b"250"
        with reach(lmtp) as client:
            assert client.ask(b"EHLO x")[:3] == b"500"
            assert client.ask(b"LHLO x")[:3] == b"250"
        assert program.end() == (0, "", "")


def test_addresses_are_told_in_the_order_given(path: str) -> None:
    with serving("-l", f"lmtp://unix:{path}", "-l", "smtp://127.0.0.1:0") as program:
        assert program.addresses[0] == path


# What cannot work: one line, exit code 2.

NO_DNS = ("no-such-host.invalid:0", "Cannot listen: ")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        NO_DNS,
        ("a..b:0", "Cannot listen: Not a host name: a..b; name a host or an address"),
        ("192.0.2.1:0", "Cannot listen on ('192.0.2.1', 0): cannot assign requested address; "),
        ("fd:99", "Cannot listen on fd:99 "),
        ("fd:0", "Cannot listen on fd:0 "),
        ("fd:x", "Invalid file descriptor: x"),
        ("unix:/no/such/folder", "Cannot listen on '/no/such/folder': no such file or directory; "),
        (f"unix:{__file__}", f"Cannot listen on '{__file__}': address already in use; "),
        ("unix:/" + "x" * 200, "path too long; choose another place with -l"),
        ("[::1:25", "write [IPV6-ADDRESS]:PORT"),
        (":65536", "Invalid port number: 65536"),
        ("ftp://:0", "Unknown scheme 'ftp'"),
        ("a\nb", "Invalid address"),
    ],
)
def test_places_that_cannot_be(place: str, said: str) -> None:
    assert said in refused("-n", "-l", "127.0.0.1:0", "-l", place)


@pytest.mark.parametrize("flags", [[], ["-d"], ["-q"]])
def test_a_port_in_use(flags: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        error = refused("-n", *flags, "-l", f"127.0.0.1:{port}")
    assert error == (
        f"aiosmtpd: error: Cannot listen on ('127.0.0.1', {port}): address already in use; "
        "stop the program that listens there or choose another place with -l\n"
    )


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_inherited_socket_that_nothing_can_be_accepted_on(kind: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=kind) as sock:
        sock.connect(server.getsockname())
        fd = sock.fileno()
        error = refused("-n", "-l", f"fd:{fd}", pass_fds=[fd])
    assert f"Cannot listen on fd:{fd} " in error


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--nothing"], "unrecognized arguments: --nothing"),
        (["-s"], "argument -s/--size: expected one argument"),
        (["-s", "1.5M"], "invalid size: '1.5M'"),
        (["--timeout", "0"], "invalid number of seconds: '0'"),
        (["--hostname", "a b"], "invalid host name: 'a b'"),
        (["-d", "-q"], "not allowed with argument"),
        (["-c", "Nothing"], "No class Nothing in aiosmtpd.handlers: -c takes Debugging, "),
        (["-c", "nowhere.Handler"], "Cannot import nowhere for -c nowhere.Handler: "),
        (["-c", "odd.Broken", "x"], "Cannot import odd for -c odd.Broken: ZeroDivisionError: "),
        (["-c", "fine.Fine", "x"], "Handler class fine takes no arguments"),
        (["-c", "fine.Picky"], "The handler class cannot be used so: ValueError: two lines"),
        (["-c", "fine.FromCli", "a", "b"], "The handler class cannot be used so: TypeError: "),
        (["-c", "fine.FromCli", "bad"], "not bad, please"),
        (["-c", "Mailbox"], "The directory for the maildir is required"),
        (["-c", "Mailbox", "a", "b"], "Too many arguments for Mailbox handler"),
        (["-c", "Mailbox", "no/such/folder"], "no/such/folder: No such file or directory; name"),
        (["-c", "Mailbox", "odd.py"], "; name another file or folder"),
        (["-c", "Sink", "x"], "Sink handler does not accept arguments"),
        (["-c", "Proxy"], "The handler class cannot be used so: TypeError: "),
        (["nothing"], "Debugging usage: [stdout|stderr]"),
        (["--user", "nobody"], "--user and --group have no meaning with -n"),
        (["--group", "daemon"], "--user and --group have no meaning with -n"),
    ],
)
def test_options_that_cannot_be(args: list[str], said: str, folder: Path) -> None:
    error = refused("-n", *args, cwd=folder)
    assert error.startswith("aiosmtpd: error: ")
    assert said in error


FINE = """
import asyncio
class Fine:
    async def handle_NOOP(self, server, session, envelope, arg):
        return "250 from here"
class Picky(Fine):
    def __init__(self):
        raise ValueError("two\\nlines")
class FromCli(Fine):
    @classmethod
    def from_cli(cls, parser, word):
        if word == "bad":
            parser.error("not bad, please")
        return cls()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A current folder with classes in it."""
    (tmp_path / "fine.py").write_text(FINE)
    (tmp_path / "odd.py").write_text("1 / 0\n")
    return tmp_path


@pytest.fixture
def pem(certificates: Certificates, tmp_path: Path) -> dict[str, str]:
    """Files that are a certificate and a key, and some that are not."""
    other = certificates.authority.issue_cert("localhost")
    other.private_key_pem.write_to_path(str(tmp_path / "other"))
    (tmp_path / "text").write_text("no PEM\n")
    (tmp_path / "broken").write_bytes(certificates.cert_file.read_bytes()[:300])
    (tmp_path / "empty").touch()
    files = {name: str(tmp_path / name) for name in ("other", "text", "broken", "empty", "gone")}
    ours = {"cert": str(certificates.cert_file), "key": str(certificates.key_file)}
    return {**files, **ours, "folder": str(tmp_path)}


@pytest.mark.parametrize("name", ["tls", "smtps"])
@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("gone", "key", "Cert file {gone} not found"),
        ("cert", "gone", "Key file {gone} not found"),
        ("cert", "other", "Certificate {cert} with key {other}: they do not belong together"),
        ("text", "key", "Certificate {text} with key {key}: one is no PEM file"),
        ("cert", "text", "Certificate {cert} with key {text}: one is no PEM file"),
        ("broken", "key", "Certificate {broken} with key {key}: one is no PEM file"),
        ("empty", "empty", "Certificate {empty} with key {empty}: one is no PEM file"),
        ("key", "cert", "Certificate {key} with key {cert}: one is no PEM file"),
        ("folder", "key", "Certificate {folder} with key {key}: "),
        ("cert", "", "--{name}cert and --{name}key must be specified together"),
        ("", "key", "--{name}cert and --{name}key must be specified together"),
    ],
)
def test_certificates_that_cannot_be(
    name: str, cert: str, key: str, said: str, pem: dict[str, str]
) -> None:
    args = [(f"--{name}cert", cert), (f"--{name}key", key)]
    parts = [part for option, file in args if file for part in (option, pem[file])]
    assert said.format(name=name, **pem) in refused("-n", "-l", "127.0.0.1:0", *parts)


def test_a_pass_phrase_that_nobody_can_be_asked_for(
    certificates: Certificates, tmp_path: Path
) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    secret = serialization.load_pem_private_key(certificates.key_file.read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"secret")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key").write_bytes(secret.private_bytes(pem, pkcs8, how))
    args = ("--tlscert", str(certificates.cert_file), "--tlskey", str(tmp_path / "key"))
    # Without a terminal OpenSSL asks on the standard error all the same.
    with Program("-n", *args, start_new_session=True) as program:
        code, out, err = program.ended()
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "aiosmtpd: error: Certificate " in err


def test_smtps_needs_a_certificate() -> None:
    assert "smtps:// needs --smtpscert" in refused("-n", "-l", "smtps://127.0.0.1:0")


# Classes.


@pytest.mark.parametrize("args", [["fine.Fine"], ["fine.FromCli", "good"]])
@pytest.mark.parametrize("installed", [False, True])
def test_a_class_of_the_current_folder(
    args: list[str], installed: bool, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = tmp_path_factory.mktemp("bin") / "smtpd"
    script.write_text("from aiosmtpd.main import main\nmain()\n")
    python = [str(script)] if installed else MODULE
    with (
        serving("-c", *args, python=python, cwd=folder) as program,
        Client(program.port) as client,
    ):
        assert client.ask(b"NOOP") == b"250 from here\r\n"


def test_a_script_is_called_by_its_name(tmp_path: Path) -> None:
    script = tmp_path / "smtpd"
    script.write_text("from aiosmtpd.main import main\nmain()\n")
    with Program("-l", "x:y", python=[str(script)]) as program:
        assert program.ended() == (2, "", "smtpd: error: Invalid port number: y\n")


def test_a_safe_path_has_no_current_folder(folder: Path) -> None:
    python = ("-P", *MODULE)
    error = refused("-n", "-c", "fine.Fine", python=python, cwd=folder)
    assert "No module named 'fine'" in error


def test_sink() -> None:
    with serving("-c", "Sink") as program, Client(program.port) as client:
        client.transaction()
        client.send(MESSAGE)
        assert client.reply() == b"250 2.0.0 OK\r\n"
        assert program.end() == (0, "", "")


def test_mailbox(tmp_path: Path) -> None:
    with serving("-c", "Mailbox", "box", cwd=tmp_path) as program:
        with Client(program.port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply() == b"250 2.0.0 OK\r\n"
            (stored,) = (tmp_path / "box" / "new").iterdir()
            assert stored.read_bytes().endswith(b"\n\nbody\n")
        assert program.end() == (0, "", "")


# What the options do to the service.


def test_size() -> None:
    with serving("-s", "1K") as program, Client(program.port) as client:
        assert b"250-SIZE 1024\r\n" in client.ask(b"EHLO x")
        assert client.ask(b"MAIL FROM:<a@b.test> SIZE=1025")[:3] == b"552"
        client.transaction()
        client.send((b"y" * 70 + b"\r\n") * 20 + b".\r\n")
        assert client.reply()[:3] == b"552"


def test_size_0_is_any_size() -> None:
    with serving("-s", "0", "-c", "Sink") as program, Client(program.port) as client:
        assert b"250-SIZE 0\r\n" in client.ask(b"EHLO x")
        client.transaction()
        client.send((b"y" * 998 + b"\r\n") * 34_000 + b".\r\n")
        assert client.reply() == b"250 2.0.0 OK\r\n"


def test_smtputf8() -> None:
    for args, offered in ([], False), (["-u"], True):
        with serving(*args) as program, Client(program.port) as client:
            assert (b"SMTPUTF8" in client.ask(b"EHLO x")) is offered


@pytest.mark.parametrize(("preset", "offered"), [("classic", []), ("all", [b"DSN", b"RRVS"])])
def test_extensions(preset: str, offered: list[bytes]) -> None:
    with serving("--extensions", preset) as program, Client(program.port) as client:
        answer = client.ask(b"EHLO x")
    assert [word for word in (b"DSN", b"RRVS", b"PIPELINING") if word in answer][:2] == offered


def test_hostname_and_timeout() -> None:
    with serving("--hostname", "mx.example.com", "--timeout", "0.2") as program:
        with Client(program.port, greet=False) as client:
            assert client.reply().startswith(b"220 mx.example.com ")
            assert client.reply()[:3] == b"421"
            assert client.reply() == b""
        assert program.end() == (0, "", "")


@pytest.mark.parametrize("more", [[], ["--no-requiretls"]])
def test_starttls(more: list[str], certificates: Certificates) -> None:
    with (
        serving(*cert(certificates, "tls"), *more) as program,
        smtplib.SMTP("127.0.0.1", program.port, timeout=PATIENCE) as client,
    ):
        client.ehlo("x")
        assert client.mail("a@b.test")[0] == (250 if more else 530)
        client.starttls(context=certificates.client_context())
        assert client.sendmail("a@b.test", ["c@d.test"], b"Subject: x\r\n\r\nhidden") == {}
        assert "hidden\n" in program.message()


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
        program.until("a second signal ends them")
        assert program.end(signal.SIGINT).code == 0


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
        program.until("a second signal ends them")
        assert program.end().code == 0


@pytest.mark.skipif(
    signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="these tests run under nohup"
)
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


# Who it is.

ROOT_ONLY = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root")

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


@ROOT_ONLY
@pytest.mark.parametrize("more", [[], ["--user", "daemon"], ["--group", "daemon"]])
def test_root_binds_and_becomes_somebody_else(more: list[str], who: Path) -> None:
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
        (["--user", "no-such-user"], "No user no-such-user here: "),
        (["--group", "no-such-group"], "No group no-such-group here: "),
        (["-c", "Mailbox", "box"], "box cannot be written by nobody: give it to nobody"),
    ],
)
def test_who_it_cannot_become(args: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused("-l", "127.0.0.1:0", *args, cwd=tmp_path)


def test_faults_are_those_of_all_places() -> None:
    rules = ("--fault", "mail a@*: 450 4.7.1 greylisted x1", "--fault", "connect: say HO x1")
    with serving(*rules, "-l", "127.0.0.1:0", "-l", "lmtp://127.0.0.1:0") as program:
        with reach(program.addresses[0]) as client:
            assert client.greeting == b"HO\r\n"
            client.ask(b"EHLO client.test")
            assert client.ask(b"MAIL FROM:<a@b.test>") == b"450 4.7.1 greylisted\r\n"
        with reach(program.addresses[1]) as client:
            assert client.greeting[:3] == b"220"
            client.ask(b"LHLO client.test")
            assert client.ask(b"MAIL FROM:<a@b.test>") == b"250 2.1.0 OK\r\n"


def test_a_fault_that_is_none() -> None:
    said = refused("--fault", "mail: shout")
    assert "argument --fault: unknown effect 'shout': write a reply (450 4.2.1 busy)" in said
