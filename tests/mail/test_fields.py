"""MIME fields as programs write them: media types, transfer encodings, dispositions, parameters."""

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.mail.parameters import parse
from tests.mail.making import mail_of, multipart, part, tree_of
from tests.rows import each_row


# RFC 2045 section 5.1; comments and blanks: RFC 5322 section 3.2.2.
@each_row(
    "spelt",
    [
        "text/html (comment); charset=iso-8859-2",
        "text/html; charset=iso-8859-2 (comment)",
        "(a (nested\\) one)) text/html;charset=iso-8859-2;",
        "TEXT/HTML ; Charset = ISO-8859-2",
        'text/html;\r\n\tcharset="iso-8859-2"',
        'text/html; x="a;b\\"c"; charset=iso-8859-2; charset=utf-8',
        "text / html; charset=iso-8859-2",
        "text/html charset=iso-8859-2",
        "text/html; charset*=us-ascii'en'iso-8859-2",
        "text/html; charset=iso-8859-2 x=y",
        "text/html;;; charset=iso-8859-2",
        "text/html, charset=iso-8859-2",
        '"text/html"; charset=iso-8859-2',
        "'TEXT/html';charset=iso-8859-2",
    ],
)
def test_media_types(spelt: str) -> None:
    root = tree_of(part(f"Content-Type: {spelt}", b"\xb1"))
    assert (root.type, root.charset, root.text) == ("text/html", "iso-8859-2", "ą")


# RFC 2045 section 5.2: text/plain is the default, also for a value that is not a media type.
@pytest.mark.parametrize(
    "spelt", ["", "text", "/", "text/", "/html", "日本/語", ";charset=utf-8", "()"]
)
def test_other_values_are_plain_text(spelt: str) -> None:
    assert tree_of(part(f"Content-Type: {spelt}")).type == "text/plain"


# RFC 2045 section 6.1.
@pytest.mark.parametrize(
    "spelt",
    [
        "base64 ",
        "base64;",
        "BASE64",
        "base64 (c)",
        "(c)base64",
        "\r\n base64",
        "base64; x=y",
        '"Base64"',
        "base64, 7bit",
    ],
)
def test_transfer_encodings(spelt: str) -> None:
    root = tree_of(part(f"Content-Transfer-Encoding:{spelt}", "SGVsbG8="))
    assert (root.encoding, root.text) == ("base64", "Hello")


# RFC 6532 section 3: UTF-8 may be in any value.
def test_raw_utf_8_in_a_file_name() -> None:
    root = tree_of(part('Content-Disposition: attachment; filename="Übersicht 日本.pdf"'))
    assert (root.disposition, root.name) == ("attachment", "Übersicht 日本.pdf")


def test_raw_utf_8_in_a_boundary() -> None:
    mail = mail_of(multipart("mixed", part("X: y", "a"), part("X: y", "b"), boundary="日本=ü"))
    assert mail.text == "a\nb"


def test_a_name_that_is_not_text() -> None:
    root = tree_of(
        part('Content-Disposition: attachment; filename="\xff.pdf"').replace(b"\xc3\xbf", b"\xff")
    )
    assert root.name == "\ufffd.pdf"


def test_bytes_that_are_not_text_are_replaced() -> None:
    head = (
        "Content-Type: multipart/mixed; boundary=ÿ; x=ÿ; charset=ÿ\nContent-Disposition: ÿ\n"
        "Content-ID: <ÿ>\nContent-Transfer-Encoding: ÿ"
    )
    content = part(head, "--ÿ\r\n\r\na\r\n--ÿ--").replace("ÿ".encode(), b"\xff")
    root = tree_of(content)
    assert root.parts[0].text == "a"
    found = (root.parameters["x"], root.charset, root.disposition, root.content_id, root.encoding)
    assert found == ("\ufffd",) * 5


# RFC 5322 section 2.2.3.
@pytest.mark.parametrize(
    "spelt", ['"simple\r\n boundary"', '\r\n\t"simple boundary"', '"simple boundary" ']
)
def test_a_folded_boundary(spelt: str) -> None:
    content = multipart("mixed", part("X: y", "a"), boundary="simple boundary")
    folded = content.replace(b'"simple boundary"', spelt.encode())
    assert mail_of(folded).text == "a"


# RFC 2231, RFC 2183; RFC 6266 section 4.3 prefers the extended value.
@each_row(
    ("spelt", "name"),
    [
        ("filename=a.pdf; filename*=utf-8''%E2%82%AC.pdf", "€.pdf"),
        ("filename*=utf-8''%E2%82%AC.pdf; filename=a.pdf", "€.pdf"),
        ("filename*0=a; filename*1=b; filename=c", "ab"),
        ("filename*=utf-8''; filename=a.pdf", "a.pdf"),
        ("filename*1=b; filename*0=a", "ab"),
        ("filename*0*=utf-8''%E2%82; filename*1*=%AC; filename*2=%41", "€%41"),
        ("filename*0*=iso-2022-jp'ja'%1B%24BF%7CK%5C; filename*1*=%1B%28B", "日本"),
        ("filename*=%E2%82%AC.pdf", "€.pdf"),
        ("filename*=''%E2%82%AC.pdf", "€.pdf"),
        ("filename*=\"utf-8''%E2%82%AC.pdf\"", "€.pdf"),
        ("filename*=gb2312''%D6%EC%E9F%BB%F9", "朱镕基"),
        ("filename*=no-such''%E2%82%AC", "€"),
        ('filename="a.pdf', "a.pdf"),
        ('filename="a;b.pdf', "a;b.pdf"),
        ('filename="a.pdf; size=3', "a.pdf"),
        ('filename="a\\"b.exe"', 'a"b.exe'),
        ("filename=my report (1).pdf; size=3", "my report (1).pdf"),
        ("filename=a.pdf (the report)", "a.pdf"),
        ("filename = a.pdf", "a.pdf"),
        ('filename=(the report)"a.pdf"', "a.pdf"),
        ("filename=(the report) a.pdf", "a.pdf"),
        ("filename=(1).pdf", "(1).pdf"),
        ("filename=(1.pdf", "(1.pdf"),
        ("FileName=a.pdf", "a.pdf"),
        ("filename=../../etc/passwd", "../../etc/passwd"),
        ("filename==?utf-8?q?=C3=A9.pdf?=", "é.pdf"),
        ('filename="=?utf-8?q?=C3=A9?=\r\n =?utf-8?q?.pdf?="', "é.pdf"),
        ('filename*0="=?utf-8?q?=C3"; filename*1="=A9?="', "é"),
        ("filename=a.pdf; filename=b.pdf", "a.pdf"),
        ("filename=", ""),
        ("filename", ""),
    ],
)
def test_file_names(spelt: str, name: str) -> None:
    root = tree_of(part(f"Content-Disposition: attachment; {spelt}"))
    assert (root.disposition, root.name) == ("attachment", name)


def test_the_name_of_the_media_type_is_the_second_choice() -> None:
    head = "Content-Type: text/csv; name=b.csv\nContent-Disposition: inline"
    assert tree_of(part(head)).name == "b.csv"
    assert tree_of(part(f"{head}; filename=a.csv")).name == "a.csv"


def test_a_media_type_may_have_any_character() -> None:
    mail = mail_of(multipart("rela=ed", part("X: y", "a"), part("Content-Type: x/a=b")))
    assert (mail.text, mail.parts[-1].type) == ("a", "x/a=b")


@pytest.mark.parametrize(
    "spelt", ['"attachment"', "attachment,", "Attachment (c)", "(c)attachment"]
)
def test_the_kind_of_a_disposition(spelt: str) -> None:
    root = tree_of(part(f"Content-Disposition: {spelt}; filename=a,b.pdf"))
    assert (root.disposition, root.name) == ("attachment", "a,b.pdf")


def test_a_disposition_without_its_kind() -> None:
    root = tree_of(part("Content-Disposition: filename=a.pdf"))
    assert (root.disposition, root.name) == ("", "a.pdf")


@pytest.mark.parametrize("spelt", ["<a@b.test>", " (c) <a@b.test> x", "a@b.test"])
def test_content_ids(spelt: str) -> None:
    assert tree_of(part(f"Content-ID: {spelt}")).content_id == "a@b.test"


def test_of_two_fields_the_first_counts() -> None:
    root = tree_of(part("Content-Type: text/html\ncontent-type: image/png"))
    assert root.type == "text/html"


@given(st.text())
def test_any_value_is_parsed(text: str) -> None:
    main, parameters = parse(text)
    assert main == main.lower()
    assert all(name == name.lower() for name in parameters)
