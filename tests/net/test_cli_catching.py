"""The command line as a catcher: it takes what programs and devices under test send."""

import os
import smtplib
from base64 import b64decode, b64encode

import pytest

from aiosmtpd import main
from tests.client import PATIENCE, Client
from tests.net.program import Program, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")


def sent(program: Program, line: bytes) -> int:
    """Send a message with this line; return the code of the reply."""
    with Client(program.port) as client:
        client.transaction()
        client.send(b"Subject: x\r\n\r\n" + line + b"\r\n.\r\n")
        return int(client.reply()[:3])


def test_long_lines_are_printed() -> None:
    with serving() as program:
        assert sent(program, b"x" * 5000) == 250
        assert f"\n{'x' * 5000}\n" in program.end().out


def test_lines_of_any_length_are_taken() -> None:
    with serving("-c", "Sink") as program:
        assert sent(program, b"x" * 1_000_000) == 250


@pytest.mark.parametrize(("size", "limit"), [("1000", 1000), ("4K", 4096)])
def test_line_length_refuses_longer_lines(size: str, limit: int) -> None:
    # In bytes with CRLF, as RFC 5321 section 4.5.3.1.6 counts.
    with serving("--line-length", size) as program:
        assert sent(program, b"x" * (limit - 2)) == 250
        assert sent(program, b"x" * (limit - 1)) == 500


def test_long_commands_are_refused_all_the_same() -> None:
    with serving() as program, Client(program.port) as client:
        client.ask(b"EHLO x")
        assert client.ask(b"NOOP " + b"x" * 600).startswith(b"500 5.5.6")
        client.send(b"x" * 70_000)
        assert client.reply().startswith(b"421 4.7.0")


def test_a_wrong_line_length_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.parseargs(["--line-length", "long"])
    assert "argument --line-length: invalid size: 'long'" in capsys.readouterr().err


def test_prompts_of_auth_login_that_devices_know() -> None:
    with serving("--auth", "joe:secret") as program, Client(program.port) as client:
        client.ask(b"EHLO x")
        for command, prompt in (
            (b"AUTH LOGIN", b"Username:"),
            (b64encode(b"joe"), b"Password:"),
        ):
            code, _, text = client.ask(command).partition(b" ")
            assert (code, b64decode(text)) == (b"334", prompt)
        assert client.ask(b64encode(b"secret")).startswith(b"235")


def test_a_program_that_waits_takes_long_lines() -> None:
    with Program("wait", "-l", "127.0.0.1:0", "--link") as program:
        program.listens()
        with smtplib.SMTP("127.0.0.1", program.port, timeout=PATIENCE) as client:
            text = f"Subject: x\n\n{'x' * 5000} https://x.test/reset?token=abc\n"
            client.sendmail("a@b.test", ["c@d.test"], text)
        assert program.ended().out == "https://x.test/reset?token=abc\n"
