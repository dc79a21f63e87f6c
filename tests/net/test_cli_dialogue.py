"""``--show-dialogue``: the parts of sessions that it shows, and those that it hides."""

import io
import os
import re
from base64 import b64encode

import pytest

from aiosmtpd import __version__
from aiosmtpd.observers.transcript import Dialogue
from tests.client import Client
from tests.conftest import Certificates
from tests.net.program import MESSAGE, Program, cert, inherited, reach, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

SHOW = ("--show-dialogue", "--hostname", "mx.test", "--extensions", "classic")


def lines(program: Program) -> list[str]:
    """Return the lines shown, without numbers and times."""
    shown = [re.sub(r"^#\d+ +\d+\.\d\d\d (?=.. )", "", line) for line in _all(program)]
    return [re.sub(r"\d\d:\d\d:\d\d (connection from) .*", r"\1", line) for line in shown]


def _all(program: Program) -> list[str]:
    shown = []
    while "disconnected:" not in (line := program.err_line()):
        assert re.match(r"#\d+ +\d+\.\d\d\d (C:|S:|--) ", line), line
        shown.append(line.rstrip("\n"))
    return [*shown, line.rstrip("\n")]


def test_a_session_in_both_directions() -> None:
    with serving(*SHOW) as program:
        with Client(program.port) as client:
            client.ask(b"HELO client.test")
            client.ask(b"MAIL FROM:<a@b.test>")
            client.ask(b"RCPT TO:<c@d.test>")
            client.ask(b"DATA")
            client.send(MESSAGE)
            assert client.reply()[:3] == b"250"
            client.ask(b"NOOP \x1b[2J\xff")
            client.ask(b"QUIT")
        assert lines(program) == [
            "-- connection from",
            f"S: 220 mx.test Python SMTP {__version__}",
            "C: HELO client.test",
            "S: 250 mx.test",
            "C: MAIL FROM:<a@b.test>",
            "S: 250 OK",
            "C: RCPT TO:<c@d.test>",
            "S: 250 OK",
            "C: DATA",
            "S: 354 End data with <CR><LF>.<CR><LF>",
            "-- 20 bytes of mail data",
            "S: 250 OK",
            "C: NOOP \\x1b[2J\\xff",
            "S: 500 Error: strict ASCII mode",
            "C: QUIT",
            "S: 221 Bye",
            "-- disconnected: QUIT",
        ]
        code, out, err = program.end()
    # The standard output is not changed.
    assert (code, out.count("MESSAGE FOLLOWS"), err) == (0, 1, "")


def test_sessions_have_numbers() -> None:
    with serving(*SHOW) as program:
        for number in 1, 2:
            with Client(program.port) as client:
                client.ask(b"QUIT")
            assert all(line.startswith(f"#{number} ") for line in _all(program))


def test_no_secret_is_shown() -> None:
    secrets = b"joe", b"top-secret", b"\0joe\0top-secret"
    encoded = [b64encode(secret) for secret in secrets]
    # Without base64 a password may be sent as a command, whose reply repeats it.
    raw = [b"top-secret", b"second-secret"]
    with serving(*SHOW, "--auth", "joe:other", "--max-auth-failures", "9") as program:
        with Client(program.port) as client:
            client.ask(b"EHLO x")
            for line in (
                *(b"AUTH PLAIN " + encoded[2], b"NOOP", b"NOOP"),
                *(b"AUTH LOGIN", encoded[0], encoded[1], *raw),
                *(b"auth login " + encoded[0], b"*", b"NOOP", b"NOOP"),
                *(b"AUTH PLAIN", b"!" + encoded[2], *raw),
                *(b"AUTH " + encoded[1], b"AUTH " + encoded[1] + b" x"),
            ):
                assert client.ask(line)
            client.ask(b"QUIT")
        shown = lines(program)
    text = "\n".join(shown)
    for secret in *encoded, *raw:
        assert secret.decode() not in text
        assert secret.decode().upper() not in text
    assert "C: AUTH PLAIN ********\nS: 535 5.7.8 Authentication cred" in text
    assert "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: ********\nS: 334 UGFzc3dvcmQ6\n" in text
    assert "C: auth login ********\nS: 334 UGFzc3dvcmQ6\nC: ********\nS: 501 5.7.0 Auth abo" in text
    assert "C: AUTH ********\nS: 504 5.5.4 Unrecognized" in text
    assert "C: ********\nS: 500 ********\n" in text


def test_timeouts_are_not_answers_to_a_challenge() -> None:
    with serving(*SHOW, "--auth-any", "--timeout", "1") as program:
        with Client(program.port) as client:
            client.ask(b"EHLO x")
            client.ask(b"AUTH LOGIN")
            assert client.reply()[:3] == b"421"
        assert [line[:6] for line in lines(program)[-3:]] == ["S: 334", "S: 421", "-- dis"]


def test_the_version_of_tls_is_shown(certificates: Certificates) -> None:
    with serving(*SHOW, *cert(certificates, "tls")) as program:
        with reach(program.addresses[0]) as client:
            assert client.ask(b"STARTTLS")[:3] == b"220"
            client.start_tls(certificates.client_context())
            client.ask(b"QUIT", b"221")
        shown = lines(program)
    assert shown[2:4] == ["C: STARTTLS", "S: 220 Ready to start TLS"]
    assert re.fullmatch(r"-- TLSv1\.\d \S+", shown[4])
    assert shown[5] == "C: QUIT"


def test_mail_data_in_chunks_and_refused() -> None:
    with serving("--show-dialogue", "-s", "10") as program:
        with Client(program.port) as client:
            for line in b"EHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>":
                client.ask(line)
            client.send(b"BDAT 2\r\nhiBDAT 3 LAST\r\nyou")
            assert client.reply()[:3] == client.reply()[:3] == b"250"
            client.transaction()
            client.send(b"longer than that\r\n.\r\n")
            assert client.reply()[:3] == b"552"
            client.ask(b"QUIT")
        shown = lines(program)
    assert "-- 5 bytes of mail data" in shown
    assert "-- 18 bytes of mail data" in shown


def test_unix_sockets_and_faults(tmp_path: object) -> None:
    places = ("-l", "127.0.0.1:0", "-l", f"lmtp://unix:{tmp_path}/s")
    with serving("--show-dialogue", *places, "--fault", "mail: 450 4.2.1 busy") as program:
        with reach(f"{tmp_path}/s") as client:
            client.ask(b"LHLO x")
            assert client.ask(b"MAIL FROM:<a@b.test>") == b"450 4.2.1 busy\r\n"
            client.ask(b"QUIT")
        assert "S: 450 4.2.1 busy" in lines(program)


def test_a_closed_stderr_does_not_end_sessions() -> None:
    with inherited("--show-dialogue") as (program, port):
        assert program.process.stderr is not None
        program.process.stderr.close()
        program.process.stderr = None
        with Client(port) as client:
            client.transaction()
            client.send(MESSAGE)
            assert client.reply()[:3] == b"250"


def test_without_a_standard_error() -> None:
    with inherited("--show-dialogue", preexec_fn=lambda: os.close(2)) as (program, port):
        with Client(port) as client:
            assert client.ask(b"NOOP")[:3] == b"250"
        assert program.end().code == 0


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("colours", [True, False])
def test_colours_on_a_terminal(colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "" if colours else "1")
    screen = Screen()
    transcript = Dialogue(screen).session()
    transcript.server(b"220 x\r\n")
    transcript.server(b"250 drip")
    transcript.server(b"ping\r\n")
    assert ("\x1b[2m" in screen.getvalue()) is colours
    assert screen.getvalue().count("\n") == 2
    assert "250 dripping" in screen.getvalue()
