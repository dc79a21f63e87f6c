"""Printed messages: for people, safe on a terminal, and for programs."""

import io
import json
import re
from base64 import b64decode
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd import Envelope
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.printing import JSONLines, Pretty, as_json, pretty
from aiosmtpd.mail.terminal import Terminal, safe, safe_line, terminal_of
from tests.mail.making import multipart, part
from tests.mail.test_message import mutated, with_everything
from tests.rows import each_row


def received(content: bytes | EmailMessage, **session: Any) -> DecodedMail:
    known = {
        "peer": ("192.0.2.1", 1234),
        "client_address": ("192.0.2.1", 1234),
        "host_name": "client.test",
        "xclient": None,
        "ssl": None,
        "authenticated": None,
    }
    envelope = Envelope()
    envelope.mail_from, envelope.rcpt_tos = "shop@example.com", ["anna@example.org"]
    envelope.mail_options = ["SIZE=10"]
    envelope.original_content = content if isinstance(content, bytes) else content.as_bytes()
    given: Any = SimpleNamespace(**{**known, **session})
    return DecodedMail(given, envelope)


class Screen(io.TextIOWrapper):
    """A stream that says if it is a terminal."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = True) -> None:
        self.written = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.written, encoding)

    def isatty(self) -> bool:
        return self.terminal

    def shown(self) -> str:
        return self.written.getvalue().decode(self.encoding)


TLS: Any = {"ssl_object": SimpleNamespace(version=lambda: "TLSv1.3")}


# For people.


def test_pretty_prints_envelope_headers_and_text() -> None:
    mail = received(with_everything(), ssl=TLS)
    lines = pretty(mail).splitlines()
    clock = f"{mail.received:%H:%M:%S}"
    assert lines == [
        "-" * 72,
        "MAIL FROM  shop@example.com SIZE=10",
        "RCPT TO    anna@example.org",
        "Client     192.0.2.1:1234 (client.test), TLSv1.3",
        f"Received   {clock}, {len(mail.content):,} bytes",
        "From       Jürgen <shop@example.com>",
        "Subject    Grüße aus Köln, " + "ganz lang " * 12 + "€",
        "-" * 72,
        "Héllo",
        "https://example.com/a?b=1.",
        "-" * 72,
        "Attached   größe.csv, text/csv, 8 bytes",
        "Attached   a.png, image/png, 2 bytes",
        "-" * 72,
        "",
    ]


def shown_of(html: str, **abilities: Any) -> list[str]:
    """Return the lines below the header of a message in HTML."""
    mail = received(b"Content-Type: text/html; charset=utf-8\r\n\r\n" + html.encode())
    rule, *lines = pretty(mail, Terminal(**abilities)).splitlines()
    return lines[lines.index(rule) + 1 : -2]


def test_html_without_text_is_shown_with_its_links() -> None:
    assert shown_of("<p>Look <a href=https://a.test/b>here</a>", unicode=True) == [
        "Look here <https://a.test/b>"
    ]


# No address is shown twice for one link.
@each_row(
    ("html", "line"),
    [
        ("<a href=https://a.test/b>https://a.test/b</a>", "https://a.test/b"),
        ("<a href=https://a.test/>https://a.test</a>", "https://a.test"),
        ("<a href=mailto:a@b.test>a@b.test</a>", "a@b.test"),
        ("<a href=tel:+4912>+4912</a>", "+4912"),
        ("<a href=https://a.test/b> <b>https://a.test/b</b> </a>", "https://a.test/b"),
        ("<a href=https://a.test/b>a.test</a>", "a.test <https://a.test/b>"),
        ("<a href=https://b.test>https://a.test</a>", "https://a.test <https://b.test>"),
        ("<a href=mailto:a@b.test?subject=x>a@b.test</a>", "a@b.test <mailto:a@b.test?subject=x>"),
        ("<a href=https://a.test/b><img src=x></a>", "<https://a.test/b>"),
        ("<a href=#top>a</a> <a href=javascript:x()>b</a> <a href=/c>c</a>", "a b c"),
        ("<a href=data:text/html,x>a</a> <a href=cid:x>b</a> <a href=''>c</a>", "a b c"),
        ("<a href='https://a.test/\x1b[2J'>a</a>", "a <https://a.test/[2J>"),
    ],
)
def test_the_target_of_a_link_follows_its_text(html: str, line: str) -> None:
    assert shown_of(html) == [line]


def test_a_target_is_whole_to_be_copied() -> None:
    target = f"https://a.test/{'b' * 60}"
    lines = shown_of(f"<p>You can look at all of it <a href={target}>here</a>, if", columns=40)
    assert lines == ["You can look at all of it here", f"<{target}>,", "if"]


def test_links_that_the_text_does_not_show_are_below_it() -> None:
    html = "<a href=https://a.test/b>b</a><p hidden><a href=https://a.test/c>c</a>"
    assert shown_of(html) == ["b <https://a.test/b>", "-" * 72, "Link       https://a.test/c"]


def test_links_of_html_beside_text_are_not_shown() -> None:
    text, page = part("X: y", "See there."), part("Content-Type: text/html", "<a href=http://a>")
    assert "http" not in pretty(received(multipart("alternative", text, page)))


def test_parts_that_cannot_be_read_have_a_notice() -> None:
    content = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--c\r\n\r\nHello\r\n--c--\r\n"
    lines = pretty(received(content)).splitlines()
    assert lines[-8:-2] == [
        *("--c", "", "Hello", "--c--", "-" * 72),
        "Notice     part 0: a multipart without parts is left as source",
    ]


def test_an_empty_message_is_printed() -> None:
    mail = received(b"", client_address=("", 0), host_name=None)
    lines = pretty(mail).splitlines()
    assert lines[3] == "Client     a local socket"
    assert lines[4].endswith(", 0 bytes")
    assert lines[5:] == ["-" * 72, ""]


def test_a_client_that_a_proxy_does_not_know() -> None:
    mail = received(b"", client_address=("", 0), host_name=None, xclient={"ADDR": None})
    assert pretty(mail).splitlines()[3] == "Client     an unknown address"


def test_lines_are_wrapped_to_the_terminal() -> None:
    message = EmailMessage()
    message["Subject"] = "A subject that is longer than forty columns are wide"
    link = "https://example.com/" + "x" * 60
    message.set_content(f"{'word ' * 30}\n{link}\n")
    lines = pretty(received(message), Terminal(columns=40)).splitlines()
    assert max(len(line) for line in lines if line != link) <= 40
    assert link in lines
    start = lines.index("Subject    A subject that is longer than")
    assert lines[start + 1 : start + 3] == [" " * 11 + "forty columns are wide", "-" * 40]


def test_labels_are_dim_and_the_subject_is_bold() -> None:
    shown = pretty(received(b"Subject: hi\r\n\r\n"), Terminal(colours=True))
    assert "\x1b[2mSubject    \x1b[0m\x1b[1mhi\x1b[0m\n" in shown
    assert re.sub(r"\x1b\[[012]m", "", shown).count("\x1b") == 0


@given(st.text())
def test_no_control_character_gets_through(text: str) -> None:
    for made in safe(text), safe_line(text):
        assert all(one.isprintable() or one in "\n\u200c\u200d" for one in made)
    assert "\n" not in safe_line(text)


@given(st.one_of(mutated(), st.binary()))
@settings(deadline=None)
def test_any_message_is_printed_safely(content: bytes) -> None:
    mail = received(content, host_name="\x1b[2J")
    shown = pretty(mail, Terminal(columns=40))
    assert all(one.isprintable() or one in "\n\u200c\u200d" for one in shown)
    assert json.loads(as_json(mail))["size"] == len(content)


def test_unsafe_characters_are_escaped() -> None:
    assert safe("a\x1b[31m\r\n\x9b\x7f\u202eb\u2028\ttab") == (
        "a\\x1b[31m\n\\x9b\\x7f\\u202eb\\u2028   tab"
    )
    assert safe("é €\u00a0日本 👩\u200d🚒") == "é € 日本 👩\u200d🚒"
    assert safe("\ud800") == "\\ud800"


@pytest.mark.parametrize(
    ("screen", "environment", "terminal"),
    [
        (Screen(), {}, Terminal(40, colours=True, unicode=True)),
        (Screen("latin-1"), {}, Terminal(40, colours=True)),
        (Screen(), {"NO_COLOR": "1"}, Terminal(40, unicode=True)),
        (Screen(), {"TERM": "dumb"}, Terminal(40, unicode=True)),
        (Screen(terminal=False), {}, Terminal(unicode=True)),
        (io.StringIO(), {}, Terminal()),
    ],
)
def test_the_abilities_of_a_stream(
    screen: Any,
    environment: dict[str, str],
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"COLUMNS": "40", "TERM": "xterm", "NO_COLOR": "", **environment}.items():
        monkeypatch.setenv(name, value)
    assert terminal_of(screen) == terminal


# For programs.


def test_json_has_all_keys() -> None:
    mail = received(with_everything(), ssl=TLS, authenticated=True)
    line = as_json(mail)
    assert line.isascii()
    assert line.count("\n") == 1
    said = json.loads(line)
    assert list(said) == [
        *("received", "client_address", "client_port", "client_name", "tls", "authenticated"),
        *("sender", "recipients", "mail_options", "rcpt_options", "headers", "subject", "text"),
        *("html", "links", "attachments", "size", "raw", "raw_base64", "parts", "notices"),
    ]
    assert said["received"] == mail.received.isoformat(timespec="milliseconds")
    assert (said["tls"], said["authenticated"]) == ("TLSv1.3", True)
    assert (said["sender"], said["recipients"]) == ("shop@example.com", ["anna@example.org"])
    assert said["headers"][1] == ["From", "Jürgen <shop@example.com>"]
    assert (said["text"], said["html"], said["links"]) == (mail.text, mail.html, mail.links)
    csv, png = said["attachments"]
    assert csv["name"] == "größe.csv"
    assert png == {"name": "a.png", "type": "image/png", "size": 2, "base64": "AP8="}
    assert (said["raw"].encode(), said["raw_base64"]) == (mail.content, None)
    assert [one["number"] for one in said["parts"]] == ["0", "1", "1.1", "1.2", "2", "3"]
    assert said["parts"][5] == {
        "number": "3",
        "type": "image/png",
        "charset": "",
        "encoding": "base64",
        "disposition": "attachment",
        "content_id": "",
        "name": "a.png",
        "position": mail.parts[5].position,
        "body_position": mail.parts[5].body_position,
        "end": mail.parts[5].end,
        "size": 2,
    }
    assert said["notices"] == []


def test_json_of_bytes_that_are_not_utf_8() -> None:
    content = b"Subject: \xff\x7f\r\n\r\n\xff\0"
    line = as_json(received(content))
    assert "\x7f" not in line
    said = json.loads(line)
    assert (said["tls"], said["authenticated"]) == (None, False)
    assert said["subject"] == "\ufffd\x7f"
    assert (said["raw"], b64decode(said["raw_base64"])) == (None, content)


# The handlers.


def hand(handler: Pretty, content: bytes) -> str:
    mail = received(content)
    server: Any = None
    return handler.handle_DATA(server, mail.session, mail.envelope)


def test_each_message_is_flushed() -> None:
    screen = Screen(terminal=False)
    for handler, sign in (Pretty(screen), "RCPT TO "), (JSONLines(screen), '"rcpt_options"'):
        assert hand(handler, b"Subject: x\r\n\r\n") == "250 OK"
        assert sign in screen.shown()


def test_characters_that_the_stream_lacks_are_escaped() -> None:
    screen = Screen("ascii", terminal=False)
    assert hand(Pretty(screen), "Subject: é\r\n\r\n".encode()) == "250 OK"
    assert "Subject    \\xe9\n" in screen.shown()


def test_a_failed_write_is_a_451(caplog: pytest.LogCaptureFixture) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    assert hand(Pretty(Full()), b"\r\n") == "451 4.3.0 Message cannot be written"
    assert caplog.messages == ["Cannot print a message: [Errno 28] No space left on device"]


def test_the_default_is_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert hand(JSONLines(), b"Subject: x\r\n\r\n") == "250 OK"
    assert json.loads(capsys.readouterr().out)["subject"] == "x"
