"""Header blocks that are not perfect, folded fields and encoded words."""

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.mail.header import MOST_FIELDS, decode_header, decoded_fields
from tests.mail.making import mail_of, tree_of
from tests.rows import each_row


@each_row(
    "odd",
    [
        "X-Odd : x",  # RFC 5322 section 4.5: a receiver MUST accept it
        "a line without a colon",
        ">From shop@example.com Sat Nov 28 10:00:00 2026",
        "From shop@example.com Sat Nov 28 10:00:00 2026",
        "X My Header: 1",
        "To: anna@example.org,\r\nbob@example.org",
        ": no name",
        "X-Bell: \x07\x00",
        "Größe: 1",
        "X-Empty:",
        "X-Return: a\rb",
    ],
)
@each_row("place", range(3))
def test_an_odd_line_harms_no_other(odd: str, place: int) -> None:
    lines = ["Subject: Hello", "Content-Type: text/html"]
    lines.insert(place, odd)
    mail = mail_of("\r\n".join(lines) + "\r\n\r\nbody\r\n")
    assert mail.subject == "Hello"
    assert (mail.html, mail.text) == ("body\n", "")


def test_odd_names_are_kept() -> None:
    headers = mail_of("Subject : x\r\nX My Header: 1\r\nx-y\t: 2\r\n\r\n").headers
    assert headers.fields == [("Subject", "x"), ("X My Header", "1"), ("x-y", "2")]


def test_a_byte_order_mark_is_skipped() -> None:
    mail = mail_of(b"\xef\xbb\xbfSubject: Hello\r\n\r\nbody")
    assert (mail.headers.fields, mail.text) == ([("Subject", "Hello")], "body")
    assert mail_of(b"\xef\xbb\xbfContent-Type: text/html\r\n\r\nbody").html == "body"


@pytest.mark.parametrize("text", ["Hello!\r\n\r\nYours\r\n", "Hello!", "no (colon) : here\r\n\r\n"])
def test_a_message_without_header_is_text(text: str) -> None:
    mail = mail_of(text)
    assert mail.text == text.replace("\r\n", "\n")
    assert mail.headers.fields == []


def test_text_after_a_header_without_its_end_is_kept() -> None:
    mail = mail_of("Subject: Hello\r\nX-A: 1\r\nYour code is 482913.\r\nBye!")
    assert (mail.subject, mail.text) == ("Hello", "Your code is 482913.\nBye!")


@pytest.mark.parametrize("end", ["", "\r\n", "\r\n\r\n", "\n", "\n\n"])
def test_a_message_may_be_just_a_header(end: str) -> None:
    mail = mail_of(f"Subject: Hello{end}")
    assert (mail.headers.fields, mail.text) == ([("Subject", "Hello")], "")


def test_bare_line_feeds_end_lines() -> None:
    mail = mail_of("Subject: a\n b\nContent-Type: text/html\n\nbody\n")
    assert (mail.subject, mail.html) == ("a b", "body\n")


# RFC 5322 section 2.2.3: a fold is the line end alone; blanks at both ends have no meaning.
@each_row(
    ("value", "text"),
    [
        ("\r\n =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (
            "\r\n A subject that begins on the second line",
            "A subject that begins on the second line",
        ),
        (" a\r\n b\r\n\tc", "a b\tc"),
        ("   a  b   ", "a  b"),
        ("\ta", "a"),
        ("a", "a"),
        (" a\r\n \r\n", "a"),
        (" =?utf-8?q?_a_?= ", " a "),
    ],
)
@each_row("name", ["Subject", "X-Other", "From"])
def test_folded_values_are_one_line(name: str, value: str, text: str) -> None:
    assert mail_of(f"{name}:{value}\r\n\r\n").headers[name] == text


# RFC 2047.
@each_row(
    ("value", "text"),
    [
        ("=?utf-8?q?Are_you_there??=", "Are you there?"),
        ("=?utf-8?q?a?=?b?=", "a?b?="),
        ("=?utf-8?b?YWI=?= =?utf-8?b?Y2Q=?=", "abcd"),
        ("=?utf-8?b?4pg=?=\r\n =?utf-8?b?gw==?=", "☃"),
        ("=?utf-8?q?=E2=98?= =?UTF-8?B?gw==?=", "☃"),
        ("x=?utf-8?q?=C3=A9?=y", "xéy"),
        ('"=?utf-8?q?=C3=A9?=" <a@example.com>', '"é" <a@example.com>'),
        ("=?gb2312?B?1uzpRrv5?=", "朱镕基"),
        ("=?utf-8?q?=c3=a9?=", "é"),
        ("=?utf-8?q?=zz=?=", "=zz="),
        ("=?utf-8?q?_?=", " "),
        ("=?utf-8?q??=", ""),
        ("=?utf-8?q?a b?=", "a b"),
        ("=?utf-8?b??=", ""),
        ("=?utf-8?q?a", "=?utf-8?q?a"),
        ("=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "日本"),
    ],
)
def test_encoded_words(value: str, text: str) -> None:
    assert decode_header(value) == text


def test_words_that_are_far_too_long_are_source() -> None:
    long = f"=?utf-8?q?{'=C3=A9' * 20_000}?="
    assert decode_header(f"=?utf-8?q?=C3=A9?= {long} =?utf-8?q?=C3=A9?=") == f"é {long} é"
    assert decode_header("=?utf-8?q?=C3=A9?= " * 50_000).strip() == "é" * 50_000


def test_no_more_fields_are_read_than_allowed() -> None:
    root = tree_of("X: y\r\n" * (MOST_FIELDS + 5) + "\r\nbody")
    assert len(root.headers.fields) == MOST_FIELDS
    assert root.notice == f"only {MOST_FIELDS} fields of the header are read"
    assert root.text == "body"
    assert tree_of("X: y" + "\r\n y" * (MOST_FIELDS + 5) + "\r\n\r\nbody").notice == ""
    assert tree_of("X: y\r\n" * MOST_FIELDS + "\r\nbody").notice == ""


@given(st.binary())
def test_any_block_is_read(block: bytes) -> None:
    for name, value in decoded_fields(block):
        assert name
        assert not {"\r", "\n"} & set(name + value)
        (name + value).encode()


@given(st.text())
def test_any_value_is_one_line(value: str) -> None:
    made = decode_header(value)
    made.encode()
    assert not {"\r", "\n"} & set(made)
