"""Transfer encodings that are not perfect: RFC 2045 sections 6.7 and 6.8."""

import binascii
from base64 import b64encode
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.mail.source import PIECE
from aiosmtpd.mail.transfer import decoded
from tests.mail.making import mail_of, part
from tests.rows import each_row


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def undone(data: bytes, encoding: str, size: int = 1000) -> bytes:
    return b"".join(decoded(lambda: cut(data, size), encoding))


@each_row(
    ("data", "made"),
    [
        (b"SGVsbG8gV29ybGQh", b"Hello World!"),
        (b"SGVsbG8gV29ybGQhA", b"Hello World!"),  # a letter too many
        (b"SGVsbG8gV29ybGQ", b"Hello World"),  # no padding
        (b"SGVsbG8gV29ybGQ=", b"Hello World"),
        (b"SGVsbG8gV29ybGQ====", b"Hello World"),
        (b"SGVs\r\nbG8=\r\n\r\n", b"Hello"),
        (b" S G!V.s\0b\xffG8", b"Hello"),
        (b"YQ==\r\nYg==\r\n", b"ab"),  # padded pieces, as mailing lists make them
        (b"YWI=Y2Q=", b"abcd"),
        (b"YQ==A", b"a"),
        (b"a", b"a"),  # not base64 at all
        (b"...", b"..."),
        (b"", b""),
    ],
)
@each_row("size", [1, 3, 1000])
def test_base64(data: bytes, made: bytes, size: int) -> None:
    assert undone(data, "base64", size) == made


@each_row(
    ("data", "made"),
    [
        (b"a=\r\nb", b"ab"),
        (b"a=  \t\r\nb", b"ab"),  # blanks after a soft break
        (b"a  \r\nb\t \n", b"a\r\nb\n"),  # rule 3
        (b"a  ", b"a"),
        (b"a=20 \r\n", b"a \r\n"),
        (b"=C3=a9", "é".encode()),
        (b"=zz=4=", b"=zz=4"),
        (b"==41", b"=A"),
        (b"a=0D\r\nb", b"a\r\r\nb"),
        (b"a=\rb\r\n", b"ab\r\n"),
        (b"a_b", b"a_b"),
        (b"a\0b", b"a\0b"),
    ],
)
@each_row("size", [1, 3, 1000])
def test_quoted_printable(data: bytes, made: bytes, size: int) -> None:
    assert undone(data, "quoted-printable", size) == made


def test_a_long_line_of_quoted_printable() -> None:
    data = b"=41=42 " * 100_000
    assert undone(data, "quoted-printable", 65_537) == (b"AB " * 100_000)[:-1]


def test_uuencode() -> None:
    lines = [binascii.b2a_uu(line) for line in cut(bytes(range(200)), 45)]
    data = b"text\r\nbegin 644 a.bin\n" + b"".join(lines).replace(b"\n", b"\r\n") + b"`\nend\n"
    assert undone(data, "x-uuencode") == bytes(range(200))
    assert undone(b"begin 644 a\n" + b"#~~~~\n#86)C\n", "uuencode") == b"abc"
    assert undone(b"nothing", "uue") == b"nothing"


# RFC 2045 section 6.4 keeps such a body for later programs.
def test_an_unknown_encoding_is_ignored() -> None:
    assert undone(b"=41", "x-new") == b"=41"


# The text has one "\n" for each line end, however it is written.
@pytest.mark.parametrize(
    ("encoding", "body", "text"),
    [
        ("quoted-printable", b"a=0D\r\nb=0D=0A=\r\nc", "a\nb\nc"),
        ("base64", b64encode(b"a\r\rb\rc\r\r\nd\n\re"), "a\n\nb\nc\nd\n\ne"),
        ("8bit", b"a\r\r\r\nb\r", "a\nb\n"),
    ],
)
def test_text_has_line_feeds(encoding: str, body: bytes, text: str) -> None:
    assert mail_of(part(f"Content-Transfer-Encoding: {encoding}", body)).text == text


def test_a_piece_may_end_in_a_line_end() -> None:
    for place in range(PIECE - 4, PIECE + 1):
        body = b"a" * place + b"\r\r\nb\r\nc\rd\r"
        assert mail_of(b"\r\n" + body).text == "a" * place + "\nb\nc\nd\n"


def test_a_part_has_its_line_ends_as_they_came() -> None:
    html = b"<p>\r\n</p>\r\n"
    mail = mail_of(
        part("Content-Type: text/html\nContent-Transfer-Encoding: base64", b64encode(html))
    )
    assert [one.text.encode() for one in mail.bodies] == [html]
    assert mail.html == "<p>\n</p>\n"


@given(st.binary(), st.integers(1, 20))
def test_whole_base64_is_decoded(data: bytes, size: int) -> None:
    assert undone(b64encode(data), "base64", size) == data


@given(st.binary(), st.integers(1, 20), st.sampled_from(["base64", "quoted-printable", "uue", ""]))
def test_pieces_make_no_difference(data: bytes, size: int, encoding: str) -> None:
    assert undone(data, encoding, size) == undone(data, encoding)


@given(st.lists(st.sampled_from([b"=", b"\r", b"\n", b" ", b"a", b"=4", b"1", b"=\r\n"])))
def test_pieces_of_quoted_printable_make_no_difference(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert undone(data, "quoted-printable", 1) == undone(data, "quoted-printable")
