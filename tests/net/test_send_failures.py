"""``aiosmtpd send``: refusals, failures and wrong options."""

import io
import os
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aiosmtpd.cli import send as _send
from aiosmtpd.cli.client import Conversation, Failed, Order, Place
from aiosmtpd.controller import Controller
from tests.net.sending import Sent, answering, at
from tests.net.support import Catcher
from tests.net.test_faults_injected import serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes get POSIX signals")

# Refusals and failures: one line each, with the next step.


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            "connect: 554 5.7.1 go away",
            "the connection was refused: 554 5.7.1 go away (permanent: trying again will not help)",
        ),
        (
            "connect: 421 4.3.2 too busy",
            "the connection was refused: 421 4.3.2 too busy (temporary: try again later)",
        ),
        ("mail: 450 4.7.1 greylisted", "was refused: 450 4.7.1 greylisted (temporary"),
        (
            "rcpt: 550 5.1.1 unknown",
            "RCPT TO:<recipient@example.com> was refused: 550 5.1.1 unknown",
        ),
        ("data: 451 4.3.0 oops", "DATA was refused: 451 4.3.0 oops (temporary"),
        ("data: 250 what", "DATA was refused: 250 what (unexpected: look into"),
        ("end-of-data: 552 5.3.4 too big", "the message was refused: 552 5.3.4 too big (permanent"),
        ("connect: say SSH-2.0-x", "'SSH-2.0-x' is not an SMTP reply: is 127.0.0.1:"),
        (
            "connect: say HTTP/1.1 400 Bad Request",
            "Bad Request' is not an SMTP reply",
        ),
        ("rcpt: say 25", "'25' is not an SMTP reply"),
        ("connect: drop", "the server closed the connection in place of a greeting"),
        ("rcpt: drop", "the server closed the connection after RCPT TO:<recipient@example.com>"),
        ("end-of-data: truncate 0", "the server closed the connection after the message"),
        ("mail: truncate 6", "the server closed the connection after MAIL FROM:<sender@"),
        ("mail: 530 5.7.0 no", "530 5.7.0 no (give --auth USER:PASSWORD, or use TLS)"),
    ],
)
def test_failures_of_a_server_are_named(send: Callable[..., Sent], fault: str, says: str) -> None:
    with serving(fault) as controller:
        sent = send(at(controller))
    assert sent.code == 1
    assert says in sent.error
    assert sent.error.startswith("aiosmtpd send: ")
    assert sent.error.count("\n") == 1


def test_some_recipients_are_refused(send: Callable[..., Sent]) -> None:
    catcher = Catcher()
    with serving("rcpt nobody@*: 550 5.1.1 who", handler=catcher) as controller:
        sent = send(at(controller), "--to", "nobody@d.test", "--to", "a@d.test")
    assert sent.code == 1
    assert "*  accepted for 1 of 2 recipients" in sent.lines
    assert "RCPT TO:<nobody@d.test> was refused: 550 5.1.1 who" in sent.error
    assert catcher.envelope().rcpt_tos == ["a@d.test"]


def test_a_lost_goodbye_changes_nothing(send: Callable[..., Sent]) -> None:
    with serving("quit: drop") as controller:
        assert send(at(controller)).code == 0


def test_a_server_that_is_silent() -> None:
    said: list[str] = []

    def tell(who: str, line: str, seconds: float | None) -> None:
        if line.startswith("MAIL") and conversation.sock is not None:
            # Only now, for a busy machine is slow in the other answers too.
            conversation.sock.settimeout(0.05)
        said.append(line)

    with serving("mail: delay 60") as controller:
        conversation = Conversation(an_order(controller), tell)
        with pytest.raises(Failed) as caught:
            conversation.run()
    assert str(caught.value) == (
        "no answer after MAIL FROM:<a@b.test> SIZE=3 within 30 seconds: wait longer with "
        "--timeout SECONDS"
    )
    assert said[-1] == "MAIL FROM:<a@b.test> SIZE=3"


def an_order(controller: Controller) -> Order:
    """Return an order as `--timeout 30 --tls never` makes it."""
    return Order(
        place=Place("smtp", "127.0.0.1", controller.port),
        sender="a@b.test",
        recipients=["c@d.test"],
        message=b"x\n",
        name="client.test",
        timeout=30.0,
        tls="never",
        context=ssl.create_default_context,
    )


def test_a_server_that_does_not_read_the_message(send: Callable[..., Sent], tmp_path: Path) -> None:
    file = tmp_path / "large.eml"
    file.write_bytes(b"Subject: x\n\n" + b"a" * 76 * 400_000)

    def answer(line: bytes) -> bytes | None:
        replies = {b"EHLO": b"250 mx\r\n", b"MAIL": b"250 ok\r\n", b"RCPT": b"250 ok\r\n"}
        return {**replies, b"DATA": b"354 go\r\n552 too much\r\n"}.get(line[:4])

    with answering(b"220 mx.test\r\n", answer) as server:
        sent = send(server, "--eml", str(file))
    assert sent.code == 1
    assert "the message" in sent.error


@pytest.mark.parametrize(
    ("scheme", "more"), [("", ""), ("lmtp://", ""), ("smtps://", " --tls self-signed")]
)
def test_a_port_at_which_no_server_listens(
    scheme: str, more: str, send: Callable[..., Sent]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sent = send(f"{scheme}127.0.0.1:{port}")
    assert sent.code == 1
    assert sent.error == (
        f"aiosmtpd send: cannot reach 127.0.0.1:{port}: Connection refused: start a server there "
        f"('aiosmtpd -l {scheme}127.0.0.1:{port}{more}'), or name another\n"
    )


def test_a_name_that_cannot_be_found(
    send: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "cannot find mx.test (Name or service not known): check" in send("mx.test").error


def test_a_name_that_cannot_be(send: Callable[..., Sent]) -> None:
    sent = send("mx..test")
    assert sent.code == 1
    assert sent.error == "aiosmtpd send: the server's name is not valid: write HOST:PORT\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "cannot reach mx.test:25 within 30 seconds: check the address"),
        (OSError(101, "Network is unreachable"), "cannot reach mx.test:25: Network is unreachable"),
    ],
)
def test_a_host_that_is_out_of_reach(
    send: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch, error: OSError, says: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    assert says in send("mx.test").error


def test_replies_cannot_steer_the_terminal(send: Callable[..., Sent]) -> None:
    with answering(b"554 \x1b[2Jgone\r\n", lambda _: None) as server:
        sent = send(server)
    assert "S: 554 \\x1b[2Jgone" in sent.lines
    assert "\x1b" not in sent.error


# Wrong options.


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["ftp://mx.test"], "unknown scheme 'ftp' (write smtp, smtps, lmtp)"),
        (["mx.test:x"], "invalid server: 'mx.test:x' (write HOST:PORT or unix:PATH)"),
        (["mx.test:65536"], "invalid port: 65536"),
        (["0"], "invalid port: 0"),
        (["[::1"], "invalid server: '[::1'"),
        (["unix:"], "invalid server: 'unix:'"),
        (["two words"], "invalid server: 'two words'"),
        ([""], "invalid server: ''"),
        (["--to", ""], "argument --to: invalid address: '' (write user@example.com)"),
        (["--to", "a b@c"], "argument --to: invalid address: 'a b@c'"),
        (["--from", "a>\r\nDATA"], "argument --from: invalid address"),
        (["--auth", "hunter2"], "--auth needs USER:PASSWORD: there is no terminal to ask"),
        (
            ["--auth", ":hunter2"],
            "argument --auth: invalid user and password (write USER:PASSWORD)",
        ),
        (["--auth", ""], "argument --auth: invalid user and password (write USER:PASSWORD)"),
        (["--auth", "bob:schön"], "--auth must be ASCII"),
        (["--mechanism", "plain"], "--mechanism needs --auth USER:PASSWORD"),
        (["--mechanism", "magic"], "argument --mechanism: invalid choice: 'MAGIC'"),
        (["--tls", "maybe"], "argument --tls: invalid choice: 'maybe'"),
        (["--tls", "never", "smtps://mx.test"], "smtps:// always uses TLS: write smtp://"),
        (["--cafile", "nowhere.pem"], "cannot read --cafile nowhere.pem: No such file"),
        (["--cafile", __file__], "no certificate in PEM"),
        (["--cafile", "x", "--insecure"], "--cafile has no meaning with --insecure"),
        (["--eml", "nowhere.eml"], "cannot read --eml nowhere.eml: No such file"),
        (["--eml", os.devnull], "is empty: name a file with a message"),
        (["--eml", "x", "--subject", "y"], "--eml is a whole message: leave out --subject"),
        (["--attach", "nowhere"], "cannot read --attach nowhere: No such file"),
        (["--subject", "two\nlines"], "cannot make the message: Header values may not contain"),
        (["--ehlo", "two words"], "invalid name 'two words': write --ehlo client.example.com"),
        (["--timeout", "0"], "argument --timeout: invalid number of seconds: '0'"),
        (["--repeat", "0"], "argument --repeat: invalid number: '0'"),
        (["--concurrency", "many"], "argument --concurrency: invalid number: 'many'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_options(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        _send.main(args, "aiosmtpd send")
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("aiosmtpd send: error: ")
    assert says in said
    assert said.count("\n") == 1
    assert "hunter2" not in said


def test_a_standard_input_that_is_closed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit):
        _send.main(["--eml", "-"], "aiosmtpd send")
    assert "cannot read --eml -: it is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mx.test", ("smtp", "mx.test", 25, "")),
        ("smtps://mx.test/", ("smtps", "mx.test", 465, "")),
        ("LMTP://mx.test:2424", ("lmtp", "mx.test", 2424, "")),
        (":2525", ("smtp", "localhost", 2525, "")),
        ("2525", ("smtp", "localhost", 2525, "")),
        ("[2001:db8::1]:26", ("smtp", "2001:db8::1", 26, "")),
        ("lmtp://unix:/run/x", ("lmtp", "", 0, "/run/x")),
        ("unix:x", ("smtp", "", 0, "x")),
    ],
)
def test_how_a_server_is_written(text: str, place: tuple[str, str, int, str]) -> None:
    settings = _send.make_parser("send").parse_args([text])
    assert settings.server == place


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert str(_send.make_parser("send").parse_args(["[::1]:26"]).server) == "[::1]:26"
