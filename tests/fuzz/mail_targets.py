"""The targets that read mail: each takes any bytes and raises ``AssertionError`` if wrong."""

import binascii
import re
from collections.abc import Callable

from aiosmtpd.mail import bodies
from aiosmtpd.mail.charsets import decode, decode_pieces
from aiosmtpd.mail.header import decode_header, decoded_fields
from aiosmtpd.mail.parameters import parse
from aiosmtpd.mail.source import InMemory
from aiosmtpd.mail.transfer import decoded
from aiosmtpd.mail.tree import DEEPEST, MOST_PARTS, read

MAIL_PIECES = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\xff", b"=", b"==", b"=\r\n", b"=C3=A9"),
    *(b"YQ==", b"--b\r\n", b"--b--\r\n", b"--c\r\n", b"Subject: ", b"=?utf-8?q?", b"=?gbk?b?"),
    *(b"?=", b"(", b")", b"Content-Type: ", b"multipart/mixed; boundary=b\r\n\r\n"),
    *(b"multipart/digest; boundary=c\r\n", b"message/rfc822\r\n\r\n", b"text/html"),
    *(b"text/plain; format=flowed; delsp=yes", b"charset="),
    *(b"Content-Transfer-Encoding: base64\r\n", b"quoted-printable", b"name*0*=utf-8''%C3"),
    *(b"; ", b"name*1*=%A9", b'name="a', b"\\", b'"', b"iso-2022-jp\n", b"euc-jp\n", b"\x1b$B"),
    *(b"\x1b(B", b"utf-16\n", b"big5\n", b"us-ascii\n", b"\xad\xa1", b"<meta charset=gb2312>"),
]
"""Words that a fuzzer would need a long time to find."""


def header_block(data: bytes) -> None:
    """Check that each field has a name, and a value on one line."""
    for name, value in decoded_fields(data):
        assert name
        assert not {"\r", "\n"} & set(name + value)
        (name + value).encode()


def mime_field(data: bytes) -> None:
    """Check that a value is in lower case, and that writing its parameters again reads alike."""
    main, found = parse(data.decode("utf-8", "surrogateescape"))
    assert main == main.lower()
    plain = {name: value for name, value in found.items() if re.fullmatch(r"[\w-]+", name)}
    quoted = (re.sub(r'([\\"])', r"\\\1", value) for value in plain.values())
    spelt = "".join(f'; {name}="{value}"' for name, value in zip(plain, quoted, strict=True))
    assert parse(f"a/b{spelt}") == ("a/b", plain)


def encoded_word(data: bytes) -> None:
    """Check that any value is one line of characters, and plain text is unchanged."""
    text = data.decode("utf-8", "surrogateescape")
    made = decode_header(text)
    made.encode()
    assert not {"\r", "\n"} & set(made)
    if "=?" not in text and text.isprintable():
        assert made == text


def base64(data: bytes) -> None:
    """Check that pieces make no difference, and whole base64 is read as binascii reads it."""
    _transfer(data, "base64")
    whole = binascii.b2a_base64(data)
    assert b"".join(decoded(lambda: iter([whole]), "base64")) == (data or whole)


def quoted_printable(data: bytes) -> None:
    """Check that pieces make no difference, and that encoded bytes are read back."""
    _transfer(data, "quoted-printable")
    whole = binascii.b2a_qp(data, istext=False)
    assert b"".join(decoded(lambda: iter([whole]), "quoted-printable")) == data


def uuencode(data: bytes) -> None:
    """Check that pieces make no difference, and that zeros left out do not add up."""
    _transfer(data, "uuencode")
    made = b"".join(decoded(lambda: iter([b"begin 644 a\n", data]), "uuencode"))
    assert len(made) <= 2 * len(data) + 45
    lines = b"".join(binascii.b2a_uu(data[at : at + 45]) for at in range(0, len(data), 45))
    assert b"".join(decoded(lambda: iter([b"begin 644 a\n", lines]), "uuencode")) == data


def _transfer(data: bytes, encoding: str) -> None:
    if data:
        size, body = data[0] % 16 + 1, data[1:]
        whole = b"".join(decoded(lambda: iter([body]), encoding))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        assert b"".join(decoded(lambda: iter(pieces), encoding)) == whole


def charset(data: bytes) -> None:
    """Check that all bytes are text by any name, the first line, and pieces read alike."""
    name, _, body = data.partition(b"\n")
    label = name.decode("latin-1")
    decode(body, label, html=True).encode()
    pieces = [body[at : at + 5] for at in range(0, len(body), 5)]
    assert "".join(decode_pieces(lambda: iter(pieces), label)) == decode(body, label)


def message(data: bytes) -> None:
    """Check that the parts of any message are in it, one after the other, and can be read."""
    root = read(InMemory(data))
    parts = list(root.walk())
    assert (root.position, root.end) == (0, len(data))
    assert len(parts) <= MOST_PARTS + 1
    for part in parts:
        assert part.number.count(".") <= DEEPEST
        assert part.position <= part.body_position <= part.end
        assert part.size == len(part.content)
        places = [place for one in part.parts for place in (one.position, one.end)]
        assert places == sorted(places)
        assert all(part.body_position <= place <= part.end for place in places)
    shown = bodies.of(root).shown
    for kind in "text/plain", "text/html":
        bodies.text_of(shown, kind).encode()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header_block": header_block,
    "mime_field": mime_field,
    "encoded_word": encoded_word,
    "base64": base64,
    "quoted_printable": quoted_printable,
    "uuencode": uuencode,
    "charset": charset,
    "message": message,
}
