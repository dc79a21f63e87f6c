"""``--spool`` and ``--deliver`` of the command line."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from aiosmtpd.cli.banner import banner
from aiosmtpd.delivery import Delivery
from aiosmtpd.handlers import Delivery as OfHandlers
from aiosmtpd.main import parseargs
from tests.client import Client
from tests.net.program import LISTENING, Program, refused, serving

POSIX = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

TAKE = """
import sys
def take(mail):
    print(mail.recipients[0], len(mail.octets) > 400_000, flush=True)
"""


@POSIX
def test_messages_are_delivered_in_order_of_routes(tmp_path: Path) -> None:
    (tmp_path / "sink.py").write_text(TAKE)
    routes = (
        *("--deliver", "*@a.test=maildir:mail"),
        *("--deliver", "*@no.test=reject"),
        *("--deliver", "python:sink:take"),
    )
    with (
        serving("--spool", "spool", *routes, cwd=tmp_path) as program,
        Client(program.port) as client,
    ):
        client.ask(b"EHLO client.test")
        assert client.ask(b"MAIL FROM:<ann@c.test>")[:3] == b"250"
        assert client.ask(b"RCPT TO:<bo@no.test>") == (
            b"550 5.7.1 No mail for this recipient here\r\n"
        )
        for recipient in b"bo@A.test", b"bo@b.test":
            assert client.ask(b"RCPT TO:<%s>" % recipient)[:3] == b"250"
        client.ask(b"DATA")
        client.send(b"Subject: x\r\n\r\n" + b"x\r\n" * 140_000 + b".\r\n")
        assert client.reply().startswith(b"250 2.0.0 OK queued as ")
        assert program.out_line() == "bo@b.test True\n"
        ended = program.end()
    assert (ended.code, ended.err) == (0, "")
    (stored,) = (tmp_path / "mail" / "new").iterdir()
    assert stored.read_bytes().startswith(b"Return-Path: <ann@c.test>\nReceived: ")
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700


def test_the_class_takes_the_same_words(tmp_path: Path) -> None:
    folder = str(tmp_path / "spool")
    for words in (
        ["--spool", folder, "--deliver", "*@a.test=reject", "--deliver", "maildir:/tmp/x"],
        ["-c", "Delivery", folder, "*@a.test=reject", "maildir:/tmp/x"],
        ["-c", "aiosmtpd.delivery.Delivery", folder, "*@a.test=reject", "maildir:/tmp/x"],
    ):
        _, settings = parseargs(["-n", *words])
        assert type(settings.handler) is Delivery
    assert OfHandlers is Delivery


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--spool", "x"], "--spool DIR and --deliver URL need each other"),
        (["--deliver", "smtp://a.test"], "--spool DIR and --deliver URL need each other"),
        (["--spool", "x", "--deliver", "nowhere"], "'nowhere' is not [PATTERN=]URL"),
        (["--spool", "x", "--deliver", "smtpz://a.test"], "did you mean smtp"),
        (["--spool", "x", "--deliver", "reject", "--pretty"], "cannot be combined"),
        (["--spool", "x", "--deliver", "reject", "-c", "Sink"], "takes the place of a class"),
        (["--spool", "x", "--deliver", "reject", "--deliver", "reject"], "two routes are called"),
        (["-c", "Delivery", "x"], "Delivery needs the folder of its spool"),
    ],
)
def test_usage_errors(words: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parseargs(["-n", *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert advice in line


@POSIX
def test_a_spool_that_cannot_be_used(tmp_path: Path) -> None:
    options = ("-n", "-l", "127.0.0.1:0", "--deliver", "maildir:mail", "--spool")
    (tmp_path / "file").write_text("")
    assert "Cannot use" in refused(*options, "file", cwd=tmp_path)
    with serving("--deliver", "maildir:mail", "--spool", "spool", cwd=tmp_path):
        assert "in use by process" in refused(*options, "spool", cwd=tmp_path)
    connection = sqlite3.connect(tmp_path / "spool" / "spool.db")
    connection.execute("pragma user_version = 99")
    connection.close()
    assert "format 99" in refused(*options, "spool", cwd=tmp_path)


@POSIX
def test_an_outlet_that_is_misconfigured(tmp_path: Path) -> None:
    line = refused(
        *("-n", "-l", "127.0.0.1:0", "--spool", "spool", "--deliver", "maildir:/nowhere/mail"),
        cwd=tmp_path,
    )
    assert "maildir:/nowhere/mail: No such file or directory" in line


@POSIX
@pytest.mark.parametrize(
    ("place", "pattern", "warns"),
    [
        ("0.0.0.0:0", "", True),
        ("0.0.0.0:0", "*@a.test=", False),
        ("127.0.0.1:0", "", False),
    ],
)
def test_an_open_relay_is_warned_of(tmp_path: Path, place: str, pattern: str, warns: bool) -> None:
    route = f"{pattern}smtp://127.0.0.1:9"
    words = ("-n", "-l", place, "--spool", "x", "--deliver", route)
    with Program(*words, cwd=tmp_path) as program:
        lines = [program.err_line()]
        while lines[-1] and LISTENING not in lines[-1]:
            lines.append(program.err_line())
        program.end()
    assert ("Every client can send mail to any address" in "".join(lines)) is warns


def test_the_banner_hides_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    route = "*@a.test=smtps://ann:secret@mx.test"
    _, settings = parseargs(["-n", "--spool", "x", "--deliver", route])
    text = banner(settings, "127.0.0.1:25", [("127.0.0.1", 25)])
    assert "  delivers *@a.test=smtps://ann:***@mx.test\n" in text


FAILING = """
import sys
from aiosmtpd.delivery import large
def fail(_):
    raise OSError({number}, "Input/output error")
large.sync_file = fail
from aiosmtpd.main import main
main(sys.argv[1:])
"""


@POSIX
def test_a_failed_disk_ends_the_process(tmp_path: Path) -> None:
    code = FAILING.format(number=errno.EIO)
    words = ("-n", "-l", "127.0.0.1:0", "--spool", "spool", "--deliver", "maildir:mail")
    with Program(*words, python=("-c", code), cwd=tmp_path) as program:
        program.listens()
        with Client(program.port) as client:
            client.ask(b"EHLO client.test")
            client.ask(b"MAIL FROM:<ann@c.test>")
            client.ask(b"RCPT TO:<bo@b.test>")
            client.ask(b"DATA")
            client.send(b"x\r\n" * 140_000 + b".\r\n")
            assert client.reply()[:9] == b"451 4.3.0"
        ended = program.ended()
    assert ended.code == 74
    assert "The disk of the spool has failed: stopping: [Errno 5] Input/output error" in ended.err
