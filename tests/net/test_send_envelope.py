"""``aiosmtpd send --eml``: the envelope of a message in a file, or an error and nothing sent."""

import io
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aiosmtpd.cli import send as _send
from aiosmtpd.controller import Controller
from tests.net.support import Catcher
from tests.net.test_faults_injected import serving

Eml = Callable[..., tuple[str, list[str]]]
Refused = Callable[..., str]


@pytest.fixture
def eml(tmp_path: Path) -> Eml:
    """Send a file with this header to a server, which must get it unchanged; return the envelope.

    Of the options, those that are not from the header.
    """

    def send(header: str | bytes, *args: str) -> tuple[str, list[str]]:
        content = (header if isinstance(header, bytes) else header.encode()) + b"\n\nbody\n"
        file = tmp_path / "mail.eml"
        file.write_bytes(content)
        catcher = Catcher()
        with serving(handler=catcher, enable_SMTPUTF8=True) as controller:
            place = f"127.0.0.1:{controller.port}"
            assert _send.main([place, "-q", "--eml", str(file), *args], "send") == 0
        envelope = catcher.envelope()
        assert envelope.content == content.replace(b"\n", b"\r\n")
        assert envelope.mail_from is not None
        return envelope.mail_from, envelope.rcpt_tos

    return send


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return the error for a file with this header; the command must not connect."""

    def send(header: str | bytes, *args: str) -> str:
        file = tmp_path / "mail.eml"
        file.write_bytes((header if isinstance(header, bytes) else header.encode()) + b"\n\nbody\n")
        capsys.readouterr()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            place = f"127.0.0.1:{listening.getsockname()[1]}"
            with pytest.raises(SystemExit) as ended:
                _send.main([place, "--eml", str(file), *args], "send")
            with pytest.raises(BlockingIOError):
                listening.accept()
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert err.startswith(f"send: error: --eml {file}: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        return err.partition(f"{file}: ")[2]

    return send


FROM = "From: me@a.test\n"
TO = "\nTo: you@b.test"


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        # RFC 6532: UTF-8 in local parts, domains and names.
        ("jürgen@müller.test", ["jürgen@müller.test"]),
        ("Jürgen Müller <用户@例え.test>", ["用户@例え.test"]),
        # RFC 5322 section 3.4.1: a quoted local part.
        ('"a b"@example.com', ['"a b"@example.com']),
        ('A <"a b"@example.com>, c@d.test', ['"a b"@example.com', "c@d.test"]),
        (r'"a\"b@c"@example.com', [r'"a\"b@c"@example.com']),
        ('"a,b"@example.com', ['"a,b"@example.com']),
        # Names that look like addresses and lists.
        ('"Doe, Jane" <jane@d.test>', ["jane@d.test"]),
        ('"x@evil.test" <jane@d.test>', ["jane@d.test"]),
        ("x@evil.test <jane@d.test>", ["jane@d.test"]),
        ("Jane [x@evil.test] <jane@d.test>", ["jane@d.test"]),
        ("=?utf-8?q?x=40evil=2Etest=2C?= <jane@d.test>", ["jane@d.test"]),
        ("J. R. Doe <jane@d.test>", ["jane@d.test"]),
        # Section 3.2.2: comments.
        ("jane@d.test (Jane, <x@evil.test>)", ["jane@d.test"]),
        (r"(a (nested \) one), x@evil.test) jane@d.test", ["jane@d.test"]),
        ("jane(a)@(b)d.test(c)", ["jane@d.test"]),
        # Section 3.4: groups.
        ("Friends: a@b.test, C <c@d.test>;, e@f.test", ["a@b.test", "c@d.test", "e@f.test"]),
        ("Friends:;, e@f.test", ["e@f.test"]),
        # Section 4.4: blanks around dots, routes, empty entries.
        ("jane . doe @ d . test", ["jane.doe@d.test"]),
        ("< jane@d.test >", ["jane@d.test"]),
        ("Jane <@a.test,@b.test:jane@d.test>", ["jane@d.test"]),
        (", a@b.test,, c@d.test,", ["a@b.test", "c@d.test"]),
        # Folded, twice the same, address literals.
        ("a@b.test,\n c@d.test,\n\ta@b.test", ["a@b.test", "c@d.test"]),
        ("a@[192.0.2.1], b@[IPv6:::1]", ["a@[192.0.2.1]", "b@[IPv6:::1]"]),
    ],
)
def test_recipients_are_those_of_to(eml: Eml, value: str, addresses: list[str]) -> None:
    assert eml(f"{FROM}To: {value}") == ("me@a.test", addresses)


@pytest.mark.parametrize(
    ("header", "sender"),
    [
        ("From: jürgen@müller.test", "jürgen@müller.test"),
        ('From: Me <"a b"@example.com>', '"a b"@example.com'),
        # RFC 5322 section 3.6.2: Sender sends for several authors.
        ("From: a@b.test, c@d.test\nSender: e@f.test", "e@f.test"),
        ("From: a@b.test, c@d.test", "a@b.test"),
        ("From: a@b.test\nFrom: c@d.test", "a@b.test"),
        # RFC 6854: a group of authors.
        ("From: Us: a@b.test;", "a@b.test"),
        ("from : a@b.test", "a@b.test"),
    ],
)
def test_the_sender_is_the_one_in_the_header(eml: Eml, header: str, sender: str) -> None:
    assert eml(header + TO) == (sender, ["you@b.test"])


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_hides_no_address(eml: Eml, mark: bytes) -> None:
    assert eml(mark + b"To: you@b.test\nFrom: me@a.test") == ("me@a.test", ["you@b.test"])


def test_recipients_are_those_of_cc_and_bcc_too(eml: Eml) -> None:
    header = f"{FROM}Bcc: hidden@b.test\nTo: you@b.test\nCC: they@b.test\nTo: more@b.test"
    recipients = ["hidden@b.test", "you@b.test", "they@b.test", "more@b.test"]
    assert eml(header) == ("me@a.test", recipients)


def test_a_resent_message_goes_to_the_newest_resent_fields(eml: Eml) -> None:
    second = "Resent-Date: now\nResent-From: r2@a.test\nResent-To: r2@b.test\nResent-Bcc: h@b.test"
    first = "Resent-Date: then\nResent-From: r1@a.test\nResent-To: r1@b.test\nResent-Cc: c@b.test"
    header = f"Received: x\n{second}\n{first}\n{FROM}Sender: s@a.test{TO}"
    assert eml(header) == ("r2@a.test", ["r2@b.test", "h@b.test"])
    header = f"Resent-Sender: s@a.test\nReceived: x\n{first}\n{FROM}{TO[1:]}"
    assert eml(header, "--to", "x@b.test") == ("s@a.test", ["x@b.test"])


def test_lines_that_are_not_fields_hide_no_field(eml: Eml) -> None:
    header = f"From someone\n{FROM}no field\nX: y\n folded: To: x@evil.test\nSubject: é\r{TO[1:]}"
    lines = header.replace("\r", "\n")
    assert eml(lines) == ("me@a.test", ["you@b.test"])


def test_options_come_before_the_header(eml: Eml) -> None:
    bad = "From: a b@c.test\nTo: a b@c.test"
    args = ("--from", '"a b"@c.test', "--to", "<ü@d.test>", "--to", '"<,>"@d.test')
    assert eml(bad, *args) == ('"a b"@c.test', ["ü@d.test", '"<,>"@d.test'])


@pytest.mark.parametrize(
    "value",
    [
        "a b@c.test",
        "a@b.test c@d.test",
        "a@b.test; c@d.test",
        "a@b@c.test",
        "a@b.test, c@",
        "a@b.test, @d.test",
        "a@b.test, <c>",
        "a@b.test, <>",
        "a@b.test <c@d.test> <e@f.test>",
        "<a@b.test> c@d.test",
        "<a@b.test",
        "a@b.test>",
        "<<a@b.test>>",
        '"Jane <a@b.test>',
        "Jane (x <a@b.test>",
        "x@y.test: a@b.test;",
        "A: B: a@b.test;",
        "a@[::1]",
        "a@b_c!.test,d@e..test",
        "=?utf-8?q?a=40b=2Etest?=@x=y",
        "<@a.test:@b.test>",
        "a\x01@b.test",
        b"j\xfcrgen@b.test",
    ],
)
def test_a_wrong_address_is_an_error(refused: Refused, value: str | bytes) -> None:
    raw = value if isinstance(value, bytes) else value.encode()
    error = refused(b"From: me@a.test\nTo: " + raw)
    assert error.startswith("To has an invalid address: '")
    assert error.endswith("' (write --to ADDRESS)\n")
    error = refused(b"To: me@a.test\nFrom: " + raw)
    assert error.startswith("From has an invalid address: '")
    assert error.endswith("' (write --from ADDRESS)\n")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (f"{FROM}To: Jörg jörg@b.test", "To has an invalid address: 'Jörg jörg@b.test' (write"),
        (f"{FROM}To: undisclosed-recipients:;", "To names no address (write --to ADDRESS)"),
        (f"{FROM}To: root", "To names no address (write --to ADDRESS)"),
        (f"{FROM}Bcc:", "Bcc names no address (write --to ADDRESS)"),
        (f"From: MAILER-DAEMON{TO}", "From names no address (write --from ADDRESS)"),
        (f"{FROM}Sender: x{TO}", "Sender names no address (write --from ADDRESS)"),
        (f"Resent-To: a@b.test\n{FROM}", "Resent-From is missing (write --from ADDRESS)"),
        (f"Resent-From: a@b.test\n{FROM}{TO}", "Resent-To is missing (write --to ADDRESS)"),
        (f"{FROM}{TO[1:]}".encode("utf-16"), "the file is in UTF-16: save it in UTF-8\n"),
    ],
)
def test_a_header_without_an_address_is_an_error(
    refused: Refused, header: str | bytes, says: str
) -> None:
    assert refused(header).startswith(says)


def test_long_errors_are_cut(refused: Refused) -> None:
    error = refused(f"{FROM}To: {'a' * 10_000} b@c.test")
    assert error == f"To has an invalid address: '{'a' * 60}'... (write --to ADDRESS)\n"


def test_utf8_that_no_server_takes_is_not_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mail.eml"
    file.write_text("From: me@a.test\nTo: jürgen@b.test\n\nbody\n", encoding="utf-8")
    catcher = Catcher()
    with serving(handler=catcher) as controller:
        assert _send.main([f"127.0.0.1:{controller.port}", "--eml", str(file)], "send") == 1
    out, err = capsys.readouterr()
    assert "C: MAIL" not in out
    assert err == "send: SMTPUTF8 is not offered: use addresses in ASCII\n"
    assert catcher.caught.empty()


@pytest.mark.parametrize("offered", [True, False])
def test_a_notice_says_that_8bitmime_is_not_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], offered: bool
) -> None:
    file = tmp_path / "mail.eml"
    file.write_bytes(b"From: J\xfcrgen <a@b.test>\nTo: c@d.test\n\n\xfc\n")
    fault = () if offered else ("ehlo: 502 5.5.1 no x1",)
    with serving(*fault) as controller:
        assert _send.main([f"127.0.0.1:{controller.port}", "--eml", str(file)], "send") == 0
    notice = "*  8BITMIME is not offered: the message is sent in 8bit anyway"
    out = capsys.readouterr().out
    assert (notice in out.splitlines()) is not offered
    assert ("BODY=8BITMIME" in out) is offered


@pytest.mark.parametrize("address", ['"', 'x"@', "b:;=\\(]", "(=).\u00fc),=", "a@b@c.test", "root"])
def test_a_server_can_be_tried_with_a_wrong_address(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    with serving(enable_SMTPUTF8=True) as controller:
        code = _send.main([f"127.0.0.1:{controller.port}", "--to", address], "send")
    out, err = capsys.readouterr()
    assert f"C: RCPT TO:<{address}>" in out.splitlines()
    assert err.count("\n") == code


def test_many_recipients_are_in_lines_of_their_own() -> None:
    catcher = Catcher()
    recipients = [f"recipient{number}@example.com" for number in range(9)]
    args = [word for address in recipients for word in ("--to", address)]
    with serving(handler=catcher) as controller:
        assert _send.main([f"127.0.0.1:{controller.port}", "-q", *args], "send") == 0
    content = catcher.envelope().content
    assert isinstance(content, bytes)
    to = content.partition(b"To: ")[2].partition(b"\r\nSubject: ")[0]
    assert to.decode().split(",\r\n ") == recipients


@pytest.mark.parametrize(
    ("subject", "declared"),
    [(b"\xc3\xbc", True), (b"\xfc", False), (b"=?utf-8?q?=C3=BC?=\n\n\xc3\xbc", False)],
)
def test_a_header_in_utf8_is_declared(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    subject: bytes,
    declared: bool,
) -> None:
    message = b"From: a@b.test\nTo: c@d.test\nSubject: " + subject + b"\n\nbody\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(message)))
    with serving(enable_SMTPUTF8=True) as controller:
        assert _send.main([f"127.0.0.1:{controller.port}", "--eml", "-"], "send") == 0
    assert ("BODY=8BITMIME SMTPUTF8" in capsys.readouterr().out) is declared


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("::1", ("smtp", "::1", 25, "")),
        ("::1:8025", ("smtp", "::1", 8025, "")),
        ("[::1]", ("smtp", "::1", 25, "")),
        ("[::1]:8025", ("smtp", "::1", 8025, "")),
        ("smtps://::1/", ("smtps", "::1", 465, "")),
        ("lmtp://2001:db8::2:1", ("lmtp", "2001:db8::2", 1, "")),
        ("2001:db8:0:0:0:0:2:1", ("smtp", "2001:db8:0:0:0:0:2:1", 25, "")),
        ("fe80::1%lo", ("smtp", "fe80::1%lo", 25, "")),
    ],
)
def test_ipv6_needs_no_brackets(text: str, place: tuple[str, str, int, str]) -> None:
    assert _send.make_parser("send").parse_args([text]).server == place


@pytest.mark.parametrize("text", ["[::1", "::1]", "[localhost]:25", "[::g]", "1::2::3"])
def test_a_wrong_ipv6_address_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _send.main([text], "send")
    assert f"invalid server: {text!r}" in capsys.readouterr().err


@pytest.mark.skipif(not socket.has_ipv6 or os.name != "posix", reason="IPv6 may be missing")
def test_a_message_over_ipv6() -> None:
    catcher = Catcher()
    with Controller(catcher, hostname="::1", port=0) as controller:
        for place in f"::1:{controller.port}", f"[::1]:{controller.port}":
            assert _send.main([place, "-q"], "send") == 0
            assert catcher.envelope().rcpt_tos == ["recipient@example.com"]
