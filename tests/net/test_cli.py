"""The command line as real processes: its output, and the effect of its options."""

import os
import re
import smtplib
from pathlib import Path

import pytest

import aiosmtpd
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.program import (
    LISTENING,
    MESSAGE,
    Program,
    cert,
    environment,
    inherited,
    reach,
    refused,
    serving,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

# The output.


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


def test_letters_of_old_charsets_after_leaving_root() -> None:
    # A server that has left root cannot load a charset any more if Python is in root's folder.
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


def test_the_number_of_port_0_is_printed() -> None:
    with Program("-n", "-l", "127.0.0.1:0") as program:
        assert re.fullmatch(r"Server is listening on 127\.0\.0\.1:[1-9]\d+\n", program.err_line())
        assert program.end() == (0, "", "")


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


def test_without_debug_the_log_has_no_records_of_clients() -> None:
    with serving() as program:
        with Client(program.port) as client:
            client.ask(b"JUNK")
        assert program.end() == (0, "", "")


# Options of the service.


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


def test_a_wrong_fault_is_refused() -> None:
    said = refused("--fault", "mail: shout")
    assert "argument --fault: unknown effect 'shout': write a reply (450 4.2.1 busy)" in said
