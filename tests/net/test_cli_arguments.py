"""Arguments of the command line: refusals, and the class that a name means."""

import errno
import os
import socket
from pathlib import Path

import pytest

from tests.client import Client
from tests.conftest import Certificates
from tests.net.program import MESSAGE, MODULE, Program, refused, refused_by_process, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

# Arguments that cannot work: one line, exit code 2.

NO_DNS = ("no-such-host.invalid:0", "Cannot listen: ")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        NO_DNS,
        ("a..b:0", "Cannot listen: Not a host name: a..b; name a host or an address"),
        ("192.0.2.1:0", "Cannot listen on 192.0.2.1:0: cannot assign requested address; "),
        ("fd:99", "Cannot listen: fd:99 is "),
        ("fd:0", "Cannot listen: fd:0 is "),
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
    # This process may have inherited more.
    run = refused_by_process if place.startswith("fd:") else refused
    assert said in run("-n", "-l", "127.0.0.1:0", "-l", place)


class Unready:
    """A handler whose database cannot be reached."""

    async def open(self) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    async def close(self) -> None:
        """Do nothing."""


def test_a_handler_that_cannot_start() -> None:
    error = refused("-n", "-l", "127.0.0.1:0", "-c", f"{__name__}.Unready")
    reason = f"ConnectionRefusedError: [Errno {errno.ECONNREFUSED}] Connection refused"
    assert error == f"aiosmtpd: error: The handler cannot start (its open()): {reason}\n"


@pytest.mark.parametrize("flags", [[], ["-d"], ["-q"]])
def test_a_port_in_use(flags: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        error = refused_by_process("-n", *flags, "-l", f"127.0.0.1:{port}")
    assert error == (
        f"aiosmtpd: error: Cannot listen on 127.0.0.1:{port}: address already in use; "
        "stop the program that listens there or choose another place with -l\n"
    )


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_inherited_socket_that_nothing_can_be_accepted_on(kind: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=kind) as sock:
        sock.connect(server.getsockname())
        fd = sock.fileno()
        error = refused_by_process("-n", "-l", f"fd:{fd}", pass_fds=[fd])
    assert f"Cannot listen: fd:{fd} is " in error


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
        (["-c", "fine.Picky"], "Cannot create the handler: ValueError: two lines"),
        (["-c", "fine.FromCli", "a", "b"], "Cannot create the handler: TypeError: "),
        (["-c", "fine.FromCli", "bad"], "not bad, please"),
        (["-c", "Mailbox"], "The directory for the maildir is required"),
        (["-c", "Mailbox", "a", "b"], "Too many arguments for Mailbox handler"),
        (["-c", "Mailbox", "no/such/folder"], "no/such/folder: No such file or directory; name"),
        (["-c", "Mailbox", "odd.py"], "; name another file or folder"),
        (["-c", "Sink", "x"], "Sink handler does not accept arguments"),
        (["-c", "Proxy"], "Cannot create the handler: TypeError: "),
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
        ("text", "key", "Certificate {text} with key {key}: one is not a PEM file"),
        ("cert", "text", "Certificate {cert} with key {text}: one is not a PEM file"),
        ("broken", "key", "Certificate {broken} with key {key}: one is not a PEM file"),
        ("empty", "empty", "Certificate {empty} with key {empty}: one is not a PEM file"),
        ("key", "cert", "Certificate {key} with key {cert}: one is not a PEM file"),
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


def test_a_pass_phrase_without_a_terminal(certificates: Certificates, tmp_path: Path) -> None:
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
    error = refused_by_process("-n", "-c", "fine.Fine", python=python, cwd=folder)
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
