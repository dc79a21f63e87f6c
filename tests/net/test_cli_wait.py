"""``aiosmtpd wait``: in this process, on a socket of the test's, and as a real process."""

import asyncio
import json
import os
import re
import signal
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd import Envelope, Session, main
from aiosmtpd.cli import options, wait as _wait
from aiosmtpd.cli.one_message import Waiter
from tests.client import PATIENCE, Client
from tests.net.program import Program, environment, refused

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

RESET = (
    "Subject: =?utf-8?q?Your_password_=E2=9C=93?=\n\n"
    "Use 482913 or https://shop.example/reset?t=1. See https://shop.example/help too.\n"
)


def send(port: int, text: str = RESET, to: str = "anna@example.org") -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.sendmail("shop@example.com", [to], text)


def run(*args: str, client: Callable[[int], object] = send) -> int:
    """Run the command here while *client* talks to it from a thread; return the exit code."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        # Clients may come before the server does.
        thread = threading.Thread(target=client, args=[port])
        thread.start()
        command = ["wait", "-n", "-q", "-l", f"fd:{sock.fileno()}", *args]
        with pytest.raises(SystemExit) as caught:
            main.main(command)
        thread.join(PATIENCE)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@contextmanager
def waiting(*args: str) -> Iterator[Program]:
    with Program("wait", "-n", "-l", "127.0.0.1:0", *args) as program:
        program.listens()
        yield program


# The message.


def test_the_first_message(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run() == 0
    assert capfdbinary.readouterr().out == (RESET.replace("\n", "\r\n").encode())


@pytest.mark.parametrize(
    "options",
    [
        ["--to", "ANNA@*"],
        ["--from", "shop@example.com", "--subject", "password"],
        ["--subject", "/✓$/", "--text", "482*"],
    ],
)
def test_the_first_message_that_fits(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    def client(port: int) -> None:
        send(port, "Subject: another\n\n", "bob@example.org")
        send(port)

    assert run("--pretty", *options, client=client) == 0
    assert "Subject    Your password ✓\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (["--link"], "https://shop.example/reset?t=1\n"),
        (["--link", "*/help"], "https://shop.example/help\n"),
        (["--link", "/reset\\?/"], "https://shop.example/reset?t=1\n"),
        (["--code"], "482913\n"),
        (["--code", "4"], "1234\n"),
    ],
)
def test_part_of_the_message_is_printed(
    options: list[str], printed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def client(port: int) -> None:
        send(port, "Subject: neither\n\n")
        send(port)
        send(port, "Subject: a short code\n\n1234\n")

    with_four = options == ["--code", "4"]
    assert run(*options, client=client if with_four else lambda port: send(port)) == 0
    assert capfd.readouterr().out == printed


@pytest.mark.parametrize(
    "page",
    [
        "<head><title>111111</title><body>code 482913",
        "<table><tr><td>Your code</td><td>482913</td></tr></table>",
    ],
)
def test_a_code_in_html_is_printed(page: str, capfd: pytest.CaptureFixture[str]) -> None:
    head = "Subject: x\nContent-Type: text/html\n\n"
    assert run("--code", client=lambda port: send(port, head + page)) == 0
    assert capfd.readouterr().out == "482913\n"


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    assert json.loads(capfd.readouterr().out)["subject"] == "Your password ✓"


def test_its_client_may_quit_and_others_get_replies() -> None:
    with waiting() as program, Client(program.port) as other, Client(program.port) as client:
        for one in other, client:
            one.transaction()
        client.send(b"Subject: x\r\n\r\n.\r\n")
        assert client.reply() == b"250 2.0.0 OK\r\n"
        assert program.out_line() == "Subject: x\r\n"
        other.send(b"Subject: y\r\n\r\n.\r\n")
        assert other.reply() == b"250 2.0.0 OK\r\n"
        assert client.ask(b"QUIT")[:3] == b"221"
        assert program.ended() == (0, "\r\n", "")


def test_its_client_may_stay_silent() -> None:
    with waiting() as program, Client(program.port) as client:
        client.transaction()
        client.send(b"Subject: x\r\n\r\n.\r\n")
        assert client.reply() == b"250 2.0.0 OK\r\n"
        assert client.reply()[:3] == b"421"
        assert program.ended().code == 0


def test_it_runs_as_root_and_as_others() -> None:
    with Program("wait", "-l", "127.0.0.1:0") as program:
        program.listens()
        send(program.port, "Subject: x\n\n")
        assert program.ended() == (0, "Subject: x\r\n\r\n", "")


def test_a_file_for_scripts(tmp_path: Path) -> None:
    file = tmp_path / "ready"
    with waiting("--ready-file", str(file)) as program:
        assert file.read_text() == f"127.0.0.1:{program.port}\n"
        send(program.port)
        assert program.ended().code == 0
    assert not file.exists()


# Messages that do not come.


def test_nothing_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    code = run("--to", "x@y.test", "--code", "--timeout", "0.01", client=lambda port: None)
    assert code == 1
    assert capfd.readouterr() == (
        "",
        f"{main.PROGRAM} wait: no message to 'x@y.test' with a matching code within 0.01 s; "
        "no other message came\n",
    )


def test_no_message_at_all_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--timeout", "0.01", client=lambda port: None) == 1
    assert capfd.readouterr().err == f"{main.PROGRAM} wait: no message within 0.01 s\n"


async def test_other_messages_are_named_after_the_timeout() -> None:
    words = ["--to", "anna@*", "--link", "--timeout", "4"]
    waiter = Waiter(options.parse(_wait.make_parser("aiosmtpd wait"), words))
    server: Any = None
    for number, to in enumerate(["anna@example.org"] * 4 + ["bob@example.org"]):
        envelope = Envelope()
        envelope.mail_from, envelope.rcpt_tos = "a@b.test", [to]
        envelope.original_content = b"Subject: %d\x1b\r\n\r\n" % number
        session = Session(asyncio.get_running_loop())
        assert await waiter.handle_DATA(server, session, envelope) == "250 OK"
    assert waiter.complaint() == (
        "no message to 'anna@*' with a matching link within 4 s; 5 came: "
        "'2\\x1b': no matching link; '3\\x1b': no matching link; "
        "'4\\x1b': to bob@example.org, not 'anna@*'"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number: signal.Signals, code: int) -> None:
    with waiting() as program:
        assert program.end(number) == (code, "", "")


@pytest.mark.parametrize("option", ["--pretty", "--link"])
def test_output_without_a_reader_is_a_failure(option: str) -> None:
    with waiting(option) as program, Client(program.port) as client:
        assert program.process.stdout is not None
        program.process.stdout.close()
        program.process.stdout = None
        client.transaction()
        client.send(RESET.replace("\n", "\r\n").encode() + b".\r\n")
        assert client.reply() == b"451 4.3.0 Message cannot be written\r\n"
        client.close()
        code, _, err = program.ended()
        assert code == 1
        assert re.fullmatch(r".* The message cannot be printed: .*\n", err)


# Usage.


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--to", ""], "argument --to: an empty pattern matches nothing: leave the option out"),
        (["--subject", "/(/"], "argument --subject: '/(/' is not a regular expression: "),
        (["--code", "0"], "argument --code: invalid number of digits: '0' (write 1 to 99)"),
        (["--code", "--link"], "argument --link: not allowed with argument --code"),
        (["--timeout", "0"], "argument --timeout: invalid number of seconds: '0'"),
        (["extra"], "unrecognized arguments: extra"),
        (["-l", "x:y"], "Invalid port number: y"),
        (["--require-auth"], "--require-auth needs users"),
    ],
)
def test_wrong_options(options: list[str], complaint: str) -> None:
    line = refused("wait", "-n", *options)
    assert line.startswith("aiosmtpd wait: error: ")
    assert complaint in line


def test_a_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        line = refused("wait", "-n", "-l", f"127.0.0.1:{port}")
        assert line.startswith(f"aiosmtpd wait: error: Cannot listen on 127.0.0.1:{port}")


def test_no_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert run(client=lambda port: None) == 2
    assert capfd.readouterr().err.endswith(" there is no standard output to print to\n")


def test_help_fits_a_narrow_terminal() -> None:
    with Program("wait", "--help", env=environment(COLUMNS="40")) as program:
        code, out, err = program.ended()
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 40
    assert {"--to", "--from", "--subject", "--text", "--timeout", "--link", "--code"} <= set(
        re.findall(r"--[a-z-]+", out)
    )
    assert "  code=$(aiosmtpd wait --code 6)\n" in out
