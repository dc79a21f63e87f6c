"""``aiosmtpd send``: its messages and output, with TLS, AUTH, LMTP and Unix sockets."""

import getpass
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aiosmtpd.cli import send as _send
from aiosmtpd.controller import UnixSocketController
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult
from tests.conftest import Certificates
from tests.net.sending import Sent, answering, at, message_of
from tests.net.support import Catcher
from tests.net.test_faults_injected import serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes get POSIX signals")

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
        f"C: (the message, {len(envelope.content)} bytes)",
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


def test_the_message_can_be_chosen(send: Callable[..., Sent], tmp_path: Path) -> None:
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
    # Each line counts with its CRLF, however the file ends it.
    assert f"SIZE={len(envelope.content)}" in envelope.mail_options
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


def test_starttls_is_used_if_it_is_offered(
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
        assert f"if it does not use TLS from the start, write smtp://{at(controller)}" in sent.error
    tls = certificates.server_context()
    with serving("starttls: tls-failure", tls_context=tls) as controller:
        sent = send(at(controller))
        assert sent.code == 1
        assert sent.error.startswith(f"aiosmtpd send: no TLS with {at(controller)} (")
    with serving("starttls: 454 4.7.0 not now", tls_context=tls) as controller:
        sent = send(at(controller))
        assert "STARTTLS was refused: 454 4.7.0 not now (temporary: try again" in sent.error


def test_tls_from_the_first_byte(send: Callable[..., Sent], certificates: Certificates) -> None:
    with serving(ssl_context=certificates.server_context()) as controller:
        where = f"smtps://localhost:{controller.port}"
        sent = send(where, "--cafile", str(certificates.ca_file))
        assert (sent.code, sent.error) == (0, "")
        assert sent.lines[2].startswith("*  TLS: ")
        sent = send(at(controller), "--timeout", "0.3")
        assert sent.code == 1
        assert "no answer in place of a greeting within 0.3 seconds" in sent.error
        assert f"if {at(controller)} uses TLS from the start, write smtps://" in sent.error


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
        assert "*  no TLS: the password is sent in the clear" in sent.lines
        assert f"C: AUTH {mechanism or 'PLAIN'} ********" in sent.lines
        shown = "\n".join(sent.lines)
        for secret in "hunter2", "aHVudGVyMg", "AGJvYgBodW50ZXIy":
            assert secret not in shown
        sent = send(at(controller), "--auth", "bob:wrong", *chosen)
        assert sent.code == 1
        assert "AUTH was refused: 535 5.7.8 Authentication credentials invalid (check" in sent.error


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_password_is_asked_for(
    send: Callable[..., Sent],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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


def test_ctrl_c_at_the_password_says_nothing_of_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _send.main(["--auth", "bob"], "aiosmtpd send")
    # The prompt has not ended its line.
    assert capsys.readouterr().err == "\n"


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
        assert "AUTH is not offered: leave out --auth, or use TLS, which" in sent.error
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
        assert "only XOAUTH2 is offered, and this program knows CRAM-MD5, PLAIN" in sent.error


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
