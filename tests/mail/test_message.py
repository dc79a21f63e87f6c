"""Decoded messages, well-formed and malformed."""

import re
import time
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from aiosmtpd import Envelope, Mail
from aiosmtpd.mail import html_text as hypertext
from aiosmtpd.mail.header import decode_header
from aiosmtpd.mail.message import DecodedMail
from tests.rows import each_row


def decoded(content: bytes | EmailMessage | str) -> DecodedMail:
    if isinstance(content, EmailMessage):
        content = content.as_bytes()
    session: Any = SimpleNamespace(peer=("192.0.2.1", 1234))
    envelope = Envelope()
    envelope.mail_from = "shop@example.com"
    envelope.rcpt_tos = ["anna@example.org", "bob@example.org"]
    envelope.original_content = content.encode() if isinstance(content, str) else content
    return DecodedMail(session, envelope)


def with_everything() -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "Grüße aus Köln, " + "ganz lang " * 12 + "€"
    message["From"] = "Jürgen <shop@example.com>"
    message["Received"] = "from a"
    message["received"] = "from b"
    message.set_content("Héllo\nhttps://example.com/a?b=1.\n")
    message.add_alternative(
        '<p>H&eacute;llo <a href="https://example.com/r?t=1&amp;u=2">x</a></p>', subtype="html"
    )
    message.add_attachment("zählen\n", filename="größe.csv", subtype="csv")
    message.add_attachment(b"\0\xff", maintype="image", subtype="png", filename="a.png")
    for number, part in enumerate(message.walk()):
        if part.is_multipart():
            part.set_boundary(f"b{number}")
    return message


# Well-formed messages.


def test_all_parts_of_a_message_are_read() -> None:
    mail = decoded(with_everything())
    assert isinstance(mail, Mail)
    assert mail.subject == "Grüße aus Köln, " + "ganz lang " * 12 + "€"
    assert mail.headers["from"] == "Jürgen <shop@example.com>"
    assert mail.text == "Héllo\nhttps://example.com/a?b=1.\n"
    assert mail.html == ('<p>H&eacute;llo <a href="https://example.com/r?t=1&amp;u=2">x</a></p>\n')
    csv, png = mail.attachments
    assert (csv.name, csv.type, csv.content) == ("größe.csv", "text/csv", "zählen\n".encode())
    assert png == ("a.png", "image/png", b"\0\xff")
    assert repr(png) == "<Attachment 'a.png', image/png, 2 bytes>"
    assert (mail.sender, mail.recipients) == (
        "shop@example.com",
        ["anna@example.org", "bob@example.org"],
    )
    assert mail.peer == ("192.0.2.1", 1234)
    assert repr(mail).endswith(
        "from shop@example.com to anna@example.org, bob@example.org, 2 attached>"
    )


def test_repeated_header_fields() -> None:
    headers = decoded("A: 1\r\nReceived: x\r\nb: 2\r\nreceived: y\r\n\r\n").headers
    assert list(headers) == ["A", "Received", "b"]
    assert len(headers) == 3
    assert headers["RECEIVED"] == "x"
    assert headers.get_all("Received") == ["x", "y"]
    assert headers.fields == [("A", "1"), ("Received", "x"), ("b", "2"), ("received", "y")]
    assert repr(headers) == f"Headers({headers.fields!r})"
    assert "c" not in headers


@each_row(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?B?w6k=?=", "é"),
        ("=?UTF-8?b?w6k?=", "é"),
        ("=?iso-8859-1?q?=E9_x?= y", "é x y"),
        ("=?utf-8*en?q?=C3=A9?=", "é"),
        ("=?utf-8?q?=C3?=\r\n =?utf-8?q?=A9?=", "é"),
        ("=?utf-8?q?a?= =?iso-8859-1?q?=E9?=", "aé"),
        ("=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
        ("=?utf-8?q?with a space?=", "with a space"),
        ("=?utf-8?b?a?=", "a"),
        ("=?no-such?q?=C3=A9?=", "é"),
        ("=?rot13?q?abc?=", "abc"),
        ("=?unicode_escape?q?\\d?=", "\\d"),
        ("=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        ("=?utf-8?q?two=0D=0Alines?=", "two  lines"),
        ("=?utf-7?q?+2AA-?=", "?"),
        ("a\r\n b", "a b"),
        ("\ud800\udcc3\udca9", "\ufffdé"),
    ],
)
def test_header_values_are_decoded(value: str, text: str) -> None:
    assert decode_header(value) == text


def test_raw_utf_8_headers_are_decoded() -> None:
    assert decoded("Subject: Grüße\r\n\r\n").subject == "Grüße"
    assert decoded(b"Subject: Gr\xfc\xdfe\r\n\r\n").subject == "Gr\ufffd\ufffde"


def test_an_empty_message() -> None:
    mail = decoded(b"")
    assert (mail.subject, mail.text, mail.html, mail.attachments) == ("", "", "", [])
    assert (mail.readable, mail.links) == ("", [])


@each_row(
    ("head", "body", "text"),
    [
        ("Content-Type: text/plain; charset=iso-8859-1", b"\xe9", "é"),
        ("Content-Type: text/plain; charset=us-ascii", b"\xc3\xa9", "é"),
        ("Content-Type: text/plain; charset=no-such", b"\xc3\xa9", "é"),
        ("Content-Type: text/plain; charset=idna", b"a\xff", "a\ufffd"),
        ('Content-Type: text/plain; charset="a\0b"', b"x", "x"),
        ("Content-Type: text/plain; charset*0*x=1; charset*=a'b'c", b"x", "x"),
        ("Content-Type: text/plain; name*" + "9" * 5000 + "*=x", b"x", "x"),
        ("Content-Type: nonsense", b"x", "x"),
        ("Content-Type: \xff/\xfe; charset=\xfd", b"x", "x"),
        ("Content-Type: multipart/mixed", b"x", "x"),
        ("Content-Transfer-Encoding: base64", b"a GVs!!bG8=", "hello"),
        ("Content-Transfer-Encoding: base64", b"a", "a"),
        ("Content-Transfer-Encoding: quoted-printable", b"=C3=A9=zz", "é=zz"),
        ("Content-Transfer-Encoding: x-uuencode", b"nothing", "nothing"),
        ("Content-Transfer-Encoding: binary", b"a\0b\r\nc\n", "a\0b\nc\n"),
        ("Content-Disposition: inline", b"x", "x"),
    ],
)
def test_malformed_texts_are_read(head: str, body: bytes, text: str) -> None:
    mail = decoded(head.encode("latin-1") + b"\r\n\r\n" + body)
    assert mail.text == text or [text.encode()] == [one.content for one in mail.attachments]


def test_adjacent_text_parts_are_joined() -> None:
    message = EmailMessage()
    message.make_mixed()
    for text in "a", "b":
        part = EmailMessage()
        part.set_content(text)
        message.attach(part)
    assert decoded(message).text == "a\n\nb\n"


def test_a_text_file_is_attached() -> None:
    message = EmailMessage()
    message.set_content("read me")
    message["Content-Disposition"] = "attachment"
    mail = decoded(message)
    assert mail.text == ""
    assert mail.attachments == [("", "text/plain", b"read me\n")]


def test_a_forwarded_message_is_attached_whole() -> None:
    message = EmailMessage()
    message.set_content("see below")
    message.add_attachment(with_everything())
    mail = decoded(message)
    assert mail.text == "see below\n"
    (inner,) = mail.attachments
    assert inner.type == "message/rfc822"
    assert decoded(inner.content).subject.startswith("Grüße aus Köln")


# Malformed messages.


@pytest.mark.parametrize("kind", ["multipart/mixed; boundary=", "message/rfc822; x="])
def test_endlessly_nested_parts_are_read(kind: str) -> None:
    levels = [f"Content-Type: {kind}b{n}\r\n\r\n--b{n}\r\n" for n in range(3000)]
    mail = decoded("Subject: deep\r\n" + "".join(levels))
    assert mail.subject == "deep"
    assert "--b2999" in mail.text + "".join(str(one.content) for one in mail.attachments)


def test_a_part_that_cannot_be_serialized_is_kept() -> None:
    inner = b"Content-Type: text/plain; charset*=\xff'\xff'\xff\r\nA\xff: \xff\r\n\r\n\xff"
    mail = decoded(b"Content-Type: message/rfc822\r\n\r\n" + inner)
    (one,) = mail.attachments
    assert one.type == "message/rfc822"


PIECES = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"\r", b"\0", b"\xff", b"--b\r\n", b"--b--", b"=?utf-8?b?", b"?=", b";"),
        *(b"Content-Type: ", b"multipart/mixed; boundary=b\r\n", b"message/rfc822", b"text/html"),
        *(b"Content-Transfer-Encoding: base64\r\n\r\n", b"charset=", b"unicode_escape", b"utf-7"),
        *(
            b"name*0*=x",
            b"filename*=utf-16'de'%00%d8",
            b"Subject: ",
            b"+2AA-",
            b"<a href='",
            b"<!--",
        ),
        *(b"Content-Disposition: attachment; ", b"message/delivery-status\r\n\r\n", b"<style>"),
        *(b"<a href='", b"=FF=E9", b"boundary*=x"),
    ]
)


WHOLE = with_everything().as_bytes()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Insert text into a well-formed message at some places."""
    content = WHOLE
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        gone = draw(st.integers(0, 40))
        content = (
            content[:at] + draw(st.one_of(PIECES, st.binary(max_size=20))) + content[at + gone :]
        )
    return content


def read_all(mail: DecodedMail) -> None:
    texts = [mail.subject, mail.text, mail.html, mail.readable, repr(mail), *mail.links]
    texts += [text for field in mail.headers.fields for text in field]
    for name, kind, content in mail.attachments:
        assert isinstance(content, bytes)
        texts += [name, kind]
    for text in texts:
        text.encode()
    assert not {"\r", "\n"} & set(mail.subject)
    for look in mail.link, mail.code:
        try:
            look()
        except LookupError as error:
            str(error).encode()


@given(st.one_of(mutated(), st.binary(), st.lists(PIECES, max_size=30).map(b"".join)))
@example(b'Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary="b\r\n\r\n')
@settings(max_examples=300, deadline=None)
def test_nothing_raises_and_all_is_text(content: bytes) -> None:
    read_all(decoded(content))


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: " + b"=?utf-8?q?" * 50_000,
        b"Subject: " + b"=?utf-8?b?YQ==?= " * 20_000,
        b"Subject: a" + b"\r\n " * 100_000 + b"b",
        b"Content-Type: text/html\r\n\r\n" + b"<!--" * 100_000,
        b"Content-Type: text/html\r\n\r\n" + b"<a href=" * 100_000,
        b"Content-Type: text/html\r\n\r\n" + b"<style>" * 50_000 + b"</a" * 50_000,
        b"Content-Type: text/html\r\n\r\n<a" + b" href='" * 100_000,
        b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"-a" * 200_000,
        b"\r\n" + b"http://" * 100_000 + b"(" * 100_000 + b")." * 100_000,
    ],
)
def test_time_is_linear(content: bytes) -> None:
    before = time.process_time()
    read_all(decoded(content))
    # Quadratic time would take minutes.
    assert time.process_time() - before < 20


# Links and codes.


def test_links_of_text_and_html() -> None:
    message = EmailMessage()
    message.set_content(
        "See https://example.com/a, (https://example.com/b_(c)), <https://example.com/d>!\n"
        "HTTP://EXAMPLE.COM/e?f=1&g=2. mailto:x@example.com https://example.com/a\n"
    )
    message.add_alternative(
        "<a class=x href='https://example.com/r?t=1&amp;u=2'>a</a><A\nHREF=https://example.com/h>"
        '<a href="mailto:a@b.test"><a>none</a><img src="https://example.com/pixel">',
        subtype="html",
    )
    mail = decoded(message)
    assert mail.links == [
        "https://example.com/a",
        "https://example.com/b_(c)",
        "https://example.com/d",
        "HTTP://EXAMPLE.COM/e?f=1&g=2",
        "https://example.com/r?t=1&u=2",
        "https://example.com/h",
    ]
    assert mail.link() == "https://example.com/a"
    assert mail.link("/r?") == "https://example.com/r?t=1&u=2"
    assert mail.link("com/*&u") == "https://example.com/r?t=1&u=2"
    assert mail.link(re.compile("/[dh]$")) == "https://example.com/d"
    with pytest.raises(LookupError, match=r"no link that matches '/reset/' in .*\n  https"):
        mail.link("/reset/")
    with pytest.raises(LookupError, match=r"no link that matches /x\.y/"):
        mail.link(re.compile("x.y"))
    with pytest.raises(LookupError, match=r"no link in .*; its links: none"):
        decoded("").link()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Your code is 123456.", "123456"),
        ("Order 1234567, code 654321", "654321"),
        ("#111111 a222222 333333b https://example.com/444444 (555555)", "555555"),
    ],
)
def test_codes_are_found(text: str, code: str) -> None:
    assert decoded(f"Subject: x\r\n\r\n{text}").code() == code


def test_a_code_only_in_html_is_found() -> None:
    html = "<style>p{color:#111111}</style><p id=222222>Code:<b>3333</b></p>"
    mail = decoded(f"Content-Type: text/html\r\n\r\n{html}")
    assert mail.code(4) == "3333"
    assert mail.readable == "Code:3333"
    with pytest.raises(LookupError, match=r"no code of 6 digits in .*\nCode:3333"):
        mail.code()


def test_the_visible_text_of_html() -> None:
    page = (
        "<!doctype html><html><head><title>No</title><style>p > a {}</style></head><body>"
        "<!-- <p>no</p> --><h1>One &amp;\n two</h1><p>x<br>y</p><script>if (a < b) no()</script>"
        "<ul><li>1<li>2</ul>a < b<a HREF = 'https://example.com/&#x31;'>l</a>"
    )
    assert hypertext.read(page) == (
        "One & two\n\nx\ny\n\n1\n2\n\na < bl",
        ["https://example.com/1"],
    )
    assert hypertext.read("a<!-- b").text == "a"
    assert hypertext.read("a<style>b").text == "a"
    assert hypertext.read("a<p").text == "a"


# assert_has().


def test_assert_has_accepts_an_equal_message() -> None:
    mail = decoded(with_everything())
    mail.assert_has()
    mail.assert_has(
        sender="shop@example.com",
        to=["anna@example.org", "bob@example.org"],
        subject=re.compile("^Grüße"),
        text="Héllo\nhttps://example.com/a?b=1.\n",
        html=re.compile("llo"),
        attachments=["größe.csv", "a.png"],
    )


def test_assert_has_lists_all_differences() -> None:
    mail = decoded("Subject: hi\r\n\r\nfirst\r\nsecond \r\nthird\r\n")
    with pytest.raises(AssertionError) as caught:
        mail.assert_has(
            to=["x@y.test"],
            subject="ho",
            text="first\nsecond\nthird",
            html=re.compile("<b"),
            attachments=["a"],
        )
    assert str(caught.value).splitlines() == [
        "<DecodedMail 'hi' from shop@example.com to anna@example.org, bob@example.org>:",
        "  the list of recipients is ['anna@example.org', 'bob@example.org'], not ['x@y.test']",
        "  the subject is 'hi', not 'ho'",
        "  the text differs; - marks expected lines, + marks received lines:",
        r"        first\n",
        r"      - second\n",
        r"      + second \n",
        r"      ?       +",
        r"      - third",
        r"      + third\n",
        r"      ?      ++",
        "  the HTML has no /<b/ in it:",
        "      (nothing)",
        "  the list of attachments is [], not ['a']",
    ]
    with pytest.raises(AssertionError, match=r"the text has no /x/ in it:\n      first\n"):
        mail.assert_has(text=re.compile("x"))
