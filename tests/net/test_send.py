"""``aiosmtpd send``: what it sends, what it shows, and what it says when something is wrong."""

import getpass
import io
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple

import pytest

from aiosmtpd import _load, _send
from aiosmtpd._client import Conversation, Failed, Order, Place
from aiosmtpd._load import Result
from aiosmtpd.controller import Controller, UnixSocketController
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from tests.client import PATIENCE
from tests.conftest import Certificates
from tests.net.support import Catcher
from tests.net.test_cli import MODULE, Program, environment, serving as program_serving
from tests.net.test_faults_injected import serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes get POSIX signals")


class Sent(NamedTuple):
    """What came of a command."""

    code: int
    lines: list[str]
    error: str


@pytest.fixture
def send(capsys: pytest.CaptureFixture[str]) -> Callable[..., Sent]:
    """Run the command in this process."""

    def run(*args: str) -> Sent:
        capsys.readouterr()
        code = _send.main([*args, "--ehlo", "client.test"], "aiosmtpd send")
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Sent(code, without_times(out), err)

    return run


def without_times(text: str) -> list[str]:
    return [re.sub(r"  \([0-9.]+ ms\)$", "", line) for line in text.splitlines()]


def at(controller: Controller) -> str:
    return f"127.0.0.1:{controller.port}"


def message_of(envelope: Envelope) -> EmailMessage:
    assert isinstance(envelope.content, bytes)
    content = envelope.content.replace(b"\r\n", b"\n")
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


Answers = Callable[[bytes], bytes | None]


@contextmanager
def answering(greeting: bytes, answer: Answers) -> Iterator[str]:
    """Run a server that says to each line what a function does; None: it hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                connection.settimeout(PATIENCE)
                connection.sendall(greeting)
                for line in lines:
                    said = answer(line.rstrip(b"\r\n"))
                    if said is None:
                        return
                    connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join(PATIENCE)


# The whole dialogue.


def test_the_whole_dialogue_is_shown_and_the_message_arrives(send: Callable[..., Sent]) -> None:
    catcher = Catcher()
    with serving(handler=catcher) as controller:
        sent = send(at(controller))
    envelope = catcher.envelope()
    assert isinstance(envelope.content, bytes)
    assert (sent.code, sent.error) == (0, "")
    assert sent.lines == [
        f"*  connecting to {at(controller)}",
        f"*  connected to {at(controller)}",
        sent.lines[2],
        "C: EHLO client.test",
        "S: 250-mx.test",
        "S: 250-SIZE 33554432",
        "S: 250-8BITMIME",
        "S: 250 HELP",
        f"C: MAIL FROM:<sender@example.com> SIZE={len(envelope.content)}",
        "S: 250 OK",
        "C: RCPT TO:<recipient@example.com>",
        "S: 250 OK",
        "C: DATA",
        "S: 354 End data with <CR><LF>.<CR><LF>",
        f"C: (the message, {len(envelope.content)} octets)",
        "C: .",
        "S: 250 OK",
        "*  accepted for 1 of 1 recipients",
        "C: QUIT",
        "S: 221 Bye",
    ]
    assert sent.lines[2].startswith("S: 220 mx.test Python SMTP ")
    message = message_of(envelope)
    assert (message["from"], message["to"]) == ("sender@example.com", "recipient@example.com")
    assert message["subject"] == "Test"
    assert message["message-id"].endswith("@client.test>")
    assert message["date"].datetime
    assert message.get_content() == "This is a test message, sent by aiosmtpd send.\n"


def test_every_reply_has_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as controller:
        assert _send.main([at(controller)], "send") == 0
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("S: "):
            assert line[6] == "-" or re.search(r"  \([0-9]+\.[0-9] ms\)$", line), line


def test_quiet_shows_nothing(send: Callable[..., Sent]) -> None:
    with serving() as controller:
        assert send(at(controller), "-q") == (0, [], "")


def test_what_is_sent_can_be_chosen(send: Callable[..., Sent], tmp_path: Path) -> None:
    catcher = Catcher()
    (tmp_path / "list.csv").write_bytes(b"a,b\n")
    (tmp_path / "odd.unknown").write_bytes(b"\0\xff")
    (tmp_path / "page.html.gz").write_bytes(b"zip")
    names = ["list.csv", "odd.unknown", "page.html.gz"]
    with serving(handler=catcher) as controller:
        sent = send(
            at(controller),
            *("--from", "me@a.test", "--to", "<you@b.test>", "--to", "they@b.test"),
            *("--subject", "Grüße", "--body", "Schöne Grüße\n.\n"),
            *(word for name in names for word in ("--attach", str(tmp_path / name))),
        )
    envelope = catcher.envelope()
    assert sent.code == 0
    assert envelope.mail_from == "me@a.test"
    assert envelope.rcpt_tos == ["you@b.test", "they@b.test"]
    message = message_of(envelope)
    assert message["subject"] == "Grüße"
    body = message.get_body()
    assert body is not None
    assert body.get_content() == "Schöne Grüße\n.\n"
    attached = list(message.iter_attachments())
    assert [part.get_filename() for part in attached] == names
    kinds = ["text/csv", "application/octet-stream", "application/octet-stream"]
    assert [part.get_content_type() for part in attached] == kinds
    assert attached[1].get_content() == b"\0\xff"


def test_a_null_sender(send: Callable[..., Sent]) -> None:
    catcher = Catcher()
    with serving(handler=catcher) as controller:
        assert "C: MAIL FROM:<> SIZE=" in "\n".join(send(at(controller), "--from", "").lines)
    envelope = catcher.envelope()
    assert envelope.mail_from == "<>"
    assert message_of(envelope)["from"] is None


def test_a_message_from_a_file_is_sent_as_it_is(send: Callable[..., Sent], tmp_path: Path) -> None:
    catcher = Catcher()
    file = tmp_path / "mail.eml"
    file.write_bytes(
        b"From: Me <me@a.test>\nTo: you@b.test, they@b.test\r\nCc: you@b.test, no address\n\n"
        b".\n..two\r\n\xff last"
    )
    with serving(handler=catcher) as controller:
        sent = send(at(controller), "--eml", str(file))
        assert send(at(controller), "--eml", str(file), "--to", "x@y.test", "--from", "").code == 0
    assert "BODY=8BITMIME" in "\n".join(sent.lines)
    envelope = catcher.envelope()
    assert envelope.mail_from == "me@a.test"
    assert envelope.rcpt_tos == ["you@b.test", "they@b.test"]
    assert isinstance(envelope.content, bytes)
    assert envelope.content.endswith(b"\r\n\r\n.\r\n..two\r\n\xff last\r\n")
    envelope = catcher.envelope()
    assert (envelope.mail_from, envelope.rcpt_tos) == ("<>", ["x@y.test"])


def test_a_message_from_the_standard_input(
    send: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    catcher = Catcher()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Subject: x\n\nbody\n")))
    with serving(handler=catcher) as controller:
        assert send(at(controller), "--eml", "-").code == 0
    envelope = catcher.envelope()
    assert envelope.content == b"Subject: x\r\n\r\nbody\r\n"
    assert (envelope.mail_from, envelope.rcpt_tos) == ("sender@example.com", [_send.RECIPIENT])


def test_addresses_in_utf8(send: Callable[..., Sent]) -> None:
    catcher = Catcher()
    with serving(handler=catcher, enable_SMTPUTF8=True) as controller:
        sent = send(at(controller), "--to", "jürgen@b.test")
        assert sent.code == 0
        assert any(line.endswith(" SMTPUTF8") for line in sent.lines)
    assert catcher.envelope().rcpt_tos == ["jürgen@b.test"]
    with serving() as controller:
        sent = send(at(controller), "--to", "jürgen@b.test")
    assert sent.code == 1
    assert sent.error == "aiosmtpd send: SMTPUTF8 is not offered: use addresses in ASCII\n"


def test_a_server_that_knows_no_ehlo(send: Callable[..., Sent]) -> None:
    with serving("ehlo: 502 5.5.1 no x1") as controller:
        sent = send(at(controller))
    assert sent.code == 0
    assert "C: HELO client.test" in sent.lines
    assert "C: MAIL FROM:<sender@example.com>" in sent.lines


# TLS.


def test_starttls_where_it_is_offered(
    send: Callable[..., Sent], certificates: Certificates
) -> None:
    with serving(tls_context=certificates.server_context(), require_starttls=True) as controller:
        sent = send(at(controller), "--cafile", str(certificates.ca_file))
        assert (sent.code, sent.error) == (0, "")
        [tls] = [line for line in sent.lines if "TLS: " in line]
        assert re.fullmatch(r"\*  TLS: TLSv1\.[23], [A-Z0-9_-]+, [0-9]+ bits", tls)
        [about] = [line for line in sent.lines if "certificate: " in line]
        assert about.startswith("*  certificate: localhost, 127.0.0.1, ")
        assert about.endswith("; verified")
        assert sent.lines.count("C: EHLO client.test") == 2
        sent = send(at(controller), "--insecure", "--tls", "required")
        assert sent.code == 0
        assert "*  certificate: not verified" in sent.lines
        sent = send(at(controller))
        assert sent.code == 1
        assert sent.error.startswith("aiosmtpd send: the certificate is not trusted (")
        assert "--cafile FILE" in sent.error
        sent = send(at(controller), "--tls", "never")
        assert sent.code == 1
        assert "C: STARTTLS" not in sent.lines
        assert "530 Must issue a STARTTLS command first" in sent.error


def test_tls_that_is_required_and_not_there(
    send: Callable[..., Sent], certificates: Certificates
) -> None:
    with serving() as controller:
        sent = send(at(controller), "--tls", "required")
        assert "STARTTLS is not offered: leave out --tls required" in sent.error
        sent = send(f"smtps://{at(controller)}")
        assert sent.code == 1
        assert f"if it does not speak TLS at once, write smtp://{at(controller)}" in sent.error
    tls = certificates.server_context()
    with serving("starttls: tls-failure", tls_context=tls) as controller:
        sent = send(at(controller))
        assert sent.code == 1
        assert sent.error.startswith(f"aiosmtpd send: no TLS with {at(controller)} (")
    with serving("starttls: 454 4.7.0 not now", tls_context=tls) as controller:
        sent = send(at(controller))
        assert "STARTTLS was refused: 454 4.7.0 not now (temporary: try again" in sent.error


def test_tls_from_the_first_octet(send: Callable[..., Sent], certificates: Certificates) -> None:
    with serving(ssl_context=certificates.server_context()) as controller:
        where = f"smtps://localhost:{controller.port}"
        sent = send(where, "--cafile", str(certificates.ca_file))
        assert (sent.code, sent.error) == (0, "")
        assert sent.lines[2].startswith("*  TLS: ")
        sent = send(at(controller), "--timeout", "0.3")
        assert sent.code == 1
        assert "no answer in place of a greeting within 0.3 seconds" in sent.error
        assert f"if {at(controller)} speaks TLS at once, write smtps://" in sent.error


# AUTH.


def only_hunter(
    server: SMTP, session: object, envelope: object, mechanism: str, data: object
) -> AuthResult:
    return AuthResult(success=data == (b"bob", b"hunter2"))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", ""])
def test_auth_and_no_secret_is_shown(send: Callable[..., Sent], mechanism: str) -> None:
    chosen = ("--mechanism", mechanism.lower()) if mechanism else ()
    with serving(authenticator=only_hunter, auth_require_tls=False) as controller:
        sent = send(at(controller), "--auth", "bob:hunter2", *chosen)
        assert (sent.code, sent.error) == (0, "")
        assert f"*  mechanisms: LOGIN PLAIN; taking {mechanism or 'PLAIN'}" in sent.lines
        assert "*  no TLS: the password goes in the clear" in sent.lines
        assert f"C: AUTH {mechanism or 'PLAIN'} ********" in sent.lines
        shown = "\n".join(sent.lines)
        for secret in "hunter2", "aHVudGVyMg", "AGJvYgBodW50ZXIy":
            assert secret not in shown
        sent = send(at(controller), "--auth", "bob:wrong", *chosen)
        assert sent.code == 1
        assert "AUTH was refused: 535 5.7.8 Authentication credentials invalid (check" in sent.error


def test_the_password_is_asked_for(
    send: Callable[..., Sent],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def nothing() -> str:
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", lambda: "hunter2")
    with serving(authenticator=only_hunter, auth_require_tls=False) as controller:
        assert send(at(controller), "--auth", "bob").code == 0
    for answer in nothing, str:
        monkeypatch.setattr(getpass, "getpass", answer)
        with pytest.raises(SystemExit):
            _send.main(["--auth", "bob"], "aiosmtpd send")
        assert capsys.readouterr().err == "aiosmtpd send: error: --auth needs a password\n"


def test_auth_by_a_challenge_and_a_server_that_repeats_secrets(
    send: Callable[..., Sent],
) -> None:
    heard = []

    def answer(line: bytes) -> bytes | None:
        heard.append(line)
        return {
            b"EHLO": b"250-mx.test\r\n250 AUTH CRAM-MD5\r\n",
            b"AUTH": b"334 PDEyMzRAbXgudGVzdD4=\r\n",
            b"MAIL": b"550 no, hunter2\r\n",
            b"QUIT": b"221 bye\r\n",
        }.get(line[:4], b"235 welcome " + line.lower() + b"\r\n")

    with answering(b"220 mx.test\r\n", answer) as server:
        sent = send(server, "--auth", "bob:hunter2")
    assert heard[1] == b"AUTH CRAM-MD5"
    # hmac of <1234@mx.test>
    assert heard[2].startswith(b"Ym9iI"[:4])
    assert "C: ********" in sent.lines
    assert "S: 235 welcome ********" in sent.lines
    assert "S: 550 no, ********" in sent.lines
    assert "hunter2" not in sent.error
    assert sent.code == 1


def test_auth_that_is_not_offered(send: Callable[..., Sent], certificates: Certificates) -> None:
    auth = "--auth", "bob:hunter2"
    with serving() as controller:
        sent = send(at(controller), *auth)
        assert "AUTH is not offered: leave out --auth, or use TLS, which it may" in sent.error
    with serving(
        tls_context=certificates.server_context(), auth_exclude_mechanism=["PLAIN", "LOGIN"]
    ) as controller:
        sent = send(at(controller), *auth, "--insecure")
        assert sent.error == "aiosmtpd send: AUTH is not offered: leave out --auth\n"
    with serving(authenticator=only_hunter, auth_require_tls=False) as controller:
        sent = send(at(controller), *auth, "--mechanism", "cram-md5")
        assert "CRAM-MD5 is not offered, only LOGIN PLAIN: choose another" in sent.error
    with answering(b"220 mx\r\n", lambda _: b"250-mx\r\n250 AUTH XOAUTH2\r\n") as server:
        sent = send(server, *auth)
        assert "XOAUTH2 is offered, and CRAM-MD5, PLAIN, LOGIN are known: leave" in sent.error


def test_auth_that_makes_no_sense(send: Callable[..., Sent]) -> None:
    def answer(line: bytes) -> bytes | None:
        said = {
            b"EHLO": b"250-mx.test\r\n250 AUTH CRAM-MD5\r\n",
            b"AUTH": b"334 PDEyMzRAbXgudGVzdD4\r\n",
        }
        return said.get(line[:4])

    with answering(b"220 mx.test\r\n", answer) as server:
        sent = send(server, "--auth", "bob:hunter2")
    assert sent.error == "aiosmtpd send: CRAM-MD5 does not work here: try another --mechanism\n"

    def vanish(line: bytes) -> bytes | None:
        return answer(line) if line.startswith(b"EHLO") else None

    with answering(b"220 mx.test\r\n", vanish) as server:
        sent = send(server, "--auth", "bob:hunter2")
    assert "the server closed the connection after AUTH CRAM-MD5" in sent.error


# LMTP and Unix sockets.


def test_lmtp_has_a_reply_for_each_recipient(send: Callable[..., Sent]) -> None:
    fault = "end-of-data full@*: 452 4.2.2 mailbox full"
    with serving(fault, protocol=LMTP) as controller:
        to = ("--to", "a@d.test", "--to", "full@d.test", "--to", "c@d.test")
        sent = send(f"lmtp://{at(controller)}", *to)
    assert sent.code == 1
    assert "C: LHLO client.test" in sent.lines
    assert sent.lines[-6:] == [
        "S: 250 OK",
        "S: 452 4.2.2 mailbox full",
        "S: 250 OK",
        "*  accepted for 2 of 3 recipients",
        "C: QUIT",
        "S: 221 Bye",
    ]
    assert sent.error == (
        "aiosmtpd send: the message for full@d.test was refused: 452 4.2.2 mailbox full "
        "(temporary: try again later)\n"
    )


def test_lmtp_does_not_fall_back_to_helo(send: Callable[..., Sent]) -> None:
    with serving() as controller:
        sent = send(f"lmtp://{at(controller)}")
    assert sent.code == 1
    assert "LHLO client.test was refused: 500 " in sent.error


def test_a_unix_socket(send: Callable[..., Sent], tmp_path: Path) -> None:
    catcher, path = Catcher(), tmp_path / "socket"
    with UnixSocketController(catcher, path):
        for spelt in f"unix:{path}", f"smtp://unix:{path}", f"unix://{path}":
            sent = send(spelt)
            assert (sent.code, sent.error) == (0, "")
            assert sent.lines[1] == f"*  connected to unix:{path}"
    assert catcher.envelope().rcpt_tos == ["recipient@example.com"]
    sent = send(f"lmtp://unix:{path}")
    assert sent.code == 1
    assert f"cannot reach unix:{path}: No such file or directory: start a server" in sent.error


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
        ("rcpt: 550 5.1.1 nobody", "RCPT TO:<recipient@example.com> was refused: 550 5.1.1 nobody"),
        ("data: 451 4.3.0 oops", "DATA was refused: 451 4.3.0 oops (temporary"),
        ("data: 250 what", "DATA was refused: 250 what (not what was expected: look into"),
        ("end-of-data: 552 5.3.4 too big", "the message was refused: 552 5.3.4 too big (permanent"),
        ("connect: say SSH-2.0-x", "'SSH-2.0-x' is no SMTP reply: is 127.0.0.1:"),
        ("connect: say HTTP/1.1 400 Bad Request", "'HTTP/1.1 400 Bad Request' is no SMTP reply"),
        ("rcpt: say 25", "'25' is no SMTP reply"),
        ("connect: drop", "the server closed the connection in place of a greeting"),
        ("rcpt: drop", "the server closed the connection after RCPT TO:<recipient@example.com>"),
        ("end-of-data: truncate 0", "the server closed the connection after the message"),
        ("mail: truncate 6", "the server closed the connection after MAIL FROM:<sender@"),
        ("mail: 530 5.7.0 no", "530 5.7.0 no (give --auth USER:PASSWORD, or use TLS)"),
    ],
)
def test_what_a_server_may_do(send: Callable[..., Sent], fault: str, says: str) -> None:
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
        "no answer after MAIL FROM:<a@b.test> SIZE=2 within 30 seconds: give it more with "
        "--timeout SECONDS"
    )
    assert said[-1] == "MAIL FROM:<a@b.test> SIZE=2"


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


def test_nobody_listens(send: Callable[..., Sent]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sent = send(f"127.0.0.1:{port}")
    assert sent.code == 1
    assert sent.error == (
        f"aiosmtpd send: cannot reach 127.0.0.1:{port}: Connection refused: start a server there "
        f"('aiosmtpd -l 127.0.0.1:{port}'), or name another\n"
    )


def test_a_name_that_nobody_has(send: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "cannot find mx.test (Name or service not known): check" in send("mx.test").error


def test_a_name_that_cannot_be(send: Callable[..., Sent]) -> None:
    sent = send("mx..test")
    assert sent.code == 1
    assert sent.error == "aiosmtpd send: the server's name cannot be: write HOST:PORT\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "cannot reach mx.test:25 within 30 seconds: check it"),
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


def test_what_a_server_says_cannot_steer_the_terminal(send: Callable[..., Sent]) -> None:
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
        (["--auth", "hunter2"], "--auth needs USER:PASSWORD where there is no terminal to ask"),
        (["--auth", ":hunter2"], "argument --auth: no user and password (write USER:PASSWORD)"),
        (["--auth", ""], "argument --auth: no user and password (write USER:PASSWORD)"),
        (["--auth", "bob:schön"], "--auth takes ASCII only"),
        (["--mechanism", "plain"], "--mechanism needs --auth USER:PASSWORD"),
        (["--mechanism", "magic"], "argument --mechanism: invalid choice: 'MAGIC'"),
        (["--tls", "maybe"], "argument --tls: invalid choice: 'maybe'"),
        (["--tls", "never", "smtps://mx.test"], "smtps:// is TLS: write smtp://"),
        (["--cafile", "nowhere.pem"], "cannot read --cafile nowhere.pem: No such file"),
        (["--cafile", __file__], "no certificate in PEM"),
        (["--cafile", "x", "--insecure"], "--cafile has no meaning with --insecure"),
        (["--eml", "nowhere.eml"], "cannot read --eml nowhere.eml: No such file"),
        (["--eml", os.devnull], "is empty: name a file with a message"),
        (["--eml", "x", "--subject", "y"], "--eml is a whole message: leave out --subject"),
        (["--attach", "nowhere"], "cannot read --attach nowhere: No such file"),
        (["--subject", "two\nlines"], "the message cannot be: Header values may not contain"),
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


# Many messages.


def test_many_messages_and_a_summary(send: Callable[..., Sent]) -> None:
    catcher = Catcher()
    with serving(handler=catcher) as controller:
        sent = send(at(controller), "--repeat", "25", "--concurrency", "3")
    assert (sent.code, sent.error) == (0, "")
    assert catcher.caught.qsize() == 25
    assert re.fullmatch(
        r"25 messages: 25 accepted, 0 failed in [0-9.]+ s: [0-9.,]+/s", sent.lines[0]
    )
    assert re.fullmatch(
        r"latency in ms: p50 [0-9.]+, p90 [0-9.]+, p99 [0-9.]+, max [0-9.]+", sent.lines[1]
    )
    assert len(sent.lines) == 2


def test_many_messages_of_which_some_fail(send: Callable[..., Sent]) -> None:
    with serving("end-of-data: 452 4.3.1 full x2") as controller:
        sent = send(at(controller), "--repeat", "5", "-q")
        assert sent.code == 1
        assert sent.lines == []
        assert "5 messages: 3 accepted, 2 failed in " in sent.error
        assert "2 failed: the message was refused: 452 4.3.1 full (temporary" in sent.error
        assert send(at(controller), "--concurrency", "9", "-q") == (0, [], "")


def test_a_fault_of_our_own_counts_as_a_failure(
    send: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            raise RuntimeError("oops")

    monkeypatch.setattr(_load, "Conversation", Broken)
    sent = send("mx.test", "--repeat", "2")
    assert sent.code == 1
    assert sent.lines[1] == "2 failed: RuntimeError: oops"


def test_the_summary_of_results() -> None:
    results = [Result(number / 1000) for number in range(1, 101)]
    lines = list(_load.summary(results, 2.0))
    assert lines == [
        "100 messages: 100 accepted, 0 failed in 2.00 s: 50.0/s",
        "latency in ms: p50 50.0, p90 90.0, p99 99.0, max 100.0",
    ]
    failed = [Result(9.0, f"reason {number}") for number in (1, 2, 2, 3, 4, 5, 6, 7)]
    lines = list(_load.summary([Result(0.004), *failed], 1.0))
    assert lines[:3] == [
        "9 messages: 1 accepted, 8 failed in 1.00 s: 1.0/s",
        "latency in ms: p50 4.0, p90 4.0, p99 4.0, max 4.0",
        "2 failed: reason 2",
    ]
    assert lines[-1] == "2 other reasons"
    assert list(_load.summary([], 0.0)) == ["0 messages: 0 accepted, 0 failed in 0.00 s: 0.0/s"]


# Real processes.


def test_a_process_sends_to_a_process() -> None:
    with program_serving() as server:
        with Program("send", server.addresses[0], "--subject", "Hi") as client:
            ended = client.ended()
        assert (ended.code, ended.err) == (0, "")
        assert "S: 250 2.0.0 OK" in without_times(ended.out)
        assert "Subject: Hi\n" in [re.sub("\r", "", line) for line in server.message()]


def test_help_and_errors_of_a_process() -> None:
    with Program("send", "--help") as client:
        ended = client.ended()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("usage: aiosmtpd send [OPTIONS] [SERVER]\n")
    with Program("send", "--repeat", "x") as client:
        ended = client.ended()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1


def test_help_fits_forty_columns() -> None:
    with Program("send", "--help", env=environment(COLUMNS="40")) as client:
        assert max(map(len, client.ended().out.splitlines())) <= 40


def test_neither_asyncio_nor_attrs_nor_the_server_is_imported() -> None:
    code = (
        "import sys; from aiosmtpd._send import make_parser; make_parser('x').parse_args([]); "
        "print({'asyncio', 'attrs', 'attr', 'aiosmtpd.smtp'} & set(sys.modules))"
    )
    with Program(python=["-c", code]) as process:
        assert process.ended() == (0, "set()\n", "")


@contextmanager
def interruptible() -> Iterator[None]:
    """Let what is started here hear Ctrl-C, which a shell takes from what runs behind it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Return a listening socket on which nobody greets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        yield listening


def test_ctrl_c_ends_it(silent: socket.socket) -> None:
    where = f"127.0.0.1:{silent.getsockname()[1]}"
    with interruptible(), Program("send", where) as client, closing(silent.accept()[0]):
        assert client.out_line().startswith("*  connecting")
        assert client.out_line().startswith("*  connected")
        ended = client.end(signal.SIGINT)
    assert ended.code == 130
    assert ended.err == "aiosmtpd send: interrupted: the message may have been accepted, or not\n"


def test_ctrl_c_ends_many_with_a_summary(silent: socket.socket) -> None:
    where = f"127.0.0.1:{silent.getsockname()[1]}"
    with (
        interruptible(),
        Program("send", where, "--repeat", "50", "--concurrency", "2") as client,
        closing(silent.accept()[0]),
        closing(silent.accept()[0]),
    ):
        ended = client.end(signal.SIGINT)
    first, second = ended.out.splitlines()
    assert first == "interrupted: 0 of 50 messages are known of"
    assert second.startswith("0 messages: 0 accepted, 0 failed in ")
    assert (ended.code, ended.err) == (130, "")


def test_a_broken_pipe_loses_no_message() -> None:
    with program_serving() as server:
        with Program("send", server.addresses[0]) as client:
            assert client.process.stdout is not None
            client.out_line()
            client.process.stdout.close()
            client.process.stdout = None
            ended = client.ended()
        assert (ended.code, ended.err) == (0, "")
        assert "END MESSAGE" in server.message()[-1]


def on_a_terminal(*args: str, **variables: str) -> str:
    """Run a command with a terminal for its output, and return all that it shows."""
    import pty  # not on every system

    ours, theirs = pty.openpty()
    shown = b""
    env = environment(**{"TERM": "xterm", **variables})
    with subprocess.Popen(
        [sys.executable, *MODULE, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            # Linux says so where the other side is closed.
            pass
        os.close(ours)
        assert process.wait(PATIENCE) in (0, 1)
    return shown.decode()


def test_colours_are_for_terminals_that_want_them() -> None:
    with serving("mail: 450 busy") as controller:
        assert "S: \x1b[1m450 busy\x1b[0m\x1b[2m  (" in on_a_terminal("send", at(controller))
        for variables in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
            assert "\x1b" not in on_a_terminal("send", at(controller), **variables)


def test_a_progress_line_is_for_terminals() -> None:
    with serving("end-of-data: delay 0.15") as controller:
        shown = on_a_terminal("send", at(controller), "--repeat", "4", "--concurrency", "2")
    assert re.search(r"\r\x1b\[K[0-4]/4 sent, 0 failed, [0-9]+/s", shown)
    assert "\r\x1b[K4 messages: 4 accepted" in shown
