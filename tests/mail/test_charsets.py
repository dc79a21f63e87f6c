"""Charsets by their names: https://encoding.spec.whatwg.org/, section 4.2."""

import tracemalloc

import pytest
from hypothesis import example, given, strategies as st

from aiosmtpd.mail.charsets import decode, decode_pieces
from aiosmtpd.mail.source import PIECE
from tests.mail.making import mail_of, part
from tests.rows import each_row

JIS_ONE = b"\x1b$B-!-j\x1b(B"  # "①㈱" in ISO-2022-JP, as programs in Japan write it


@each_row(
    ("label", "data", "text"),
    [
        ("gb2312", "朱镕基".encode("gbk"), "朱镕基"),
        ("gbk", "𠀀".encode("gb18030"), "𠀀"),
        ("shift_jis", "①㈱".encode("cp932"), "①㈱"),
        ("x-sjis", "①㈱".encode("cp932"), "①㈱"),
        ("windows-31j", "①㈱".encode("cp932"), "①㈱"),
        ("iso-2022-jp", JIS_ONE, "①㈱"),
        ("iso-2022-jp", b"\x1b$BF|K\\\x1b(B x \x1b(I1\x1b(B", "日本 x ｱ"),
        ("euc-jp", b"\xad\xa1\xad\xea\x8e\xb1", "①㈱ｱ"),
        ("euc-kr", "똠".encode("cp949"), "똠"),
        ("ks_c_5601-1987", "한".encode("cp949"), "한"),
        ("big5", "碁".encode("cp950"), "碁"),
        ("big5-hkscs", "嘅".encode("big5hkscs"), "嘅"),
        ("big5", "嘅".encode("big5hkscs") + b"\xff", "嘅\ufffd"),
        ("iso-8859-1", b"\x93smart\x94 \x80 \x81", "“smart” € \x81"),
        ("latin_1", b"\x93", "“"),
        ("ISO8859-9", b"\x93\xde", "“Ş"),
        ("us-ascii", b"\x93", "“"),
        ("us-ascii", "é".encode(), "é"),
        ("iso-8859-8-i", b"\xf9", "ש"),
        ("visual", b"\xf9", "ש"),
        ("tis-620", b"\xa1\x80", "ก€"),
        ("iso-8859-16", b"\xa4", "€"),
        ("koi8-ru", b"\xa4", "є"),
        ("x-mac-roman", b"\x8a", "ä"),
        ("unicode", "é".encode("utf-16"), "é"),
        ("utf-16", "é".encode("utf-16-le"), "é"),
        ("utf-16", b"\xfe\xff" + "é".encode("utf-16-be"), "é"),
        ("utf-7", b"+AOk-", "é"),
        ("hz-gb-2312", b"~{VP~}", "中"),
        ("iso-2022-kr", "한".encode("iso2022_kr"), "한"),
        ("cp850", b"\x82", "é"),
        (' "UTF-8" ', "é".encode(), "é"),
        ("utf8", b"\xef\xbb\xbfa", "a"),
        ("x-unknown", "é".encode(), "é"),
        ("utf-8", b"a\xff", "a\ufffd"),
        ("gb2312", b"a\xff", "a\ufffd"),
        ("x" * 5000, b"a", "a"),
    ],
)
def test_the_superset_is_used(label: str, data: bytes, text: str) -> None:
    assert decode(data, label) == text


def test_bodies_headers_and_names_use_the_same_names() -> None:
    mail = mail_of(
        part(
            "Subject: =?x-sjis?B?h0A=?=\n"
            "Content-Type: text/plain; charset=x-sjis\n"
            "Content-Disposition: inline; filename*=x-sjis''%87%40",
            "①".encode("cp932"),
        )
    )
    assert (mail.subject, mail.text, mail.root.name) == ("①", "①", "①")


# HTML 13.2.3.2: only without a charset in the field.
@pytest.mark.parametrize(
    ("head", "data", "text"),
    [
        ("", b'<meta charset="iso-8859-2">\xb1', "ą"),
        ("", b"<META http-equiv=x content='text/html; charset=iso-8859-2'>\xb1", "ą"),
        ("; charset=utf-8", b"<meta charset=iso-8859-2>\xc4\x85", "ą"),
        ("", b"\xef\xbb\xbf<meta charset=iso-8859-2>\xc4\x85", "ą"),
        ("", "ą".encode("utf-16"), "ą"),
        ("", b"<meta charset=utf-16>\xc4\x85", "ą"),
        ("", b"<meta charset=no-such>\xc4\x85", "ą"),
        ("", b" " * 1024 + b"<meta charset=iso-8859-2>\xc4\x85", "ą"),
        ("; charset=no-such", b"<meta charset=iso-8859-2>\xb1", "ą"),
    ],
)
def test_html_may_name_its_charset(head: str, data: bytes, text: str) -> None:
    assert mail_of(part(f"Content-Type: text/html{head}", data)).html.endswith(text)


def test_plain_text_names_no_charset() -> None:
    assert mail_of(part("X: y", b"<meta charset=iso-8859-2>\xc4\x85")).text.endswith("ą")


@given(
    st.binary(), st.sampled_from(["", "iso-2022-jp", "euc-jp", "big5", "utf-16", "utf-7", "gbk"])
)
def test_any_bytes_are_text(data: bytes, label: str) -> None:
    decode(data, label).encode()


NAMES = st.sampled_from(
    [
        *("", "utf-8", "us-ascii", "iso-8859-1", "koi8-r", "gb2312", "big5", "shift_jis", "euc-kr"),
        *("euc-jp", "iso-2022-jp", "utf-16", "utf-7", "utf-32", "rot13", "x-unknown", "iso-8859-8"),
    ]
)


# A large body is decoded piece by piece.
@given(
    st.one_of(
        st.binary(),
        st.lists(
            st.sampled_from([JIS_ONE, "嘅é①".encode(), "碁".encode("cp950"), b"\xad\xa1"])
        ).map(b"".join),
    ),
    NAMES,
    st.integers(4, 9),
)
@example(b"\xff\xfea\0", "utf-16", 4)
@example(b"\x1b$B\xf0(\xf0(\xf0(\x1b\xf0\xf0\xf0\xf0", "iso-2022-jp", 4)
@example(b"\xef\xbb\xbfa", "", 4)
def test_pieces_make_no_difference(data: bytes, label: str, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    made = "".join(decode_pieces(lambda: iter(pieces), label))
    assert made == decode(data, label)


def test_a_large_page_may_name_its_charset() -> None:
    data = b"<meta charset=iso-8859-2>\xb1" + b" " * PIECE
    assert mail_of(part("Content-Type: text/html", data)).html.strip().endswith("ą")


def test_unknown_names_are_not_remembered() -> None:
    decode(b"x", "x-new")
    tracemalloc.start()
    for number in range(1000):
        decode(b"x", f"x-{number:01000}")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000
