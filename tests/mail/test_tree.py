"""The tree of a message: its parts, their numbers and their places."""

from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from quopri import encodestring
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from hypothesis import given, strategies as st

from aiosmtpd import Envelope
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.source import PIECE, InFile
from aiosmtpd.mail.tree import LONGEST_BOUNDARY, Part, read
from tests.mail.making import mail_of, multipart, part, tree_of

SIGNED = part("X-Odd:no blank\nSubject: =?utf-8?q?a?=\n =?utf-8?q?b?= and\n\tmore", "in it\r\n")


def with_all() -> bytes:
    choice = multipart("alternative", part("X: y", "a"), part("Content-Type: text/html", "b"))
    inner = multipart("mixed", part("X: y", "in"), part("X: y", "and in"), boundary="in")
    return multipart(
        "mixed",
        choice.replace(b"--b", b"--c").replace(b'"b"', b'"c"'),
        part(
            "Content-Type: IMAGE/PNG; name=a.png\nContent-ID: <a@b.test>\n"
            "Content-Transfer-Encoding: Base64\nContent-Disposition: INLINE",
            b64encode(bytes(10)),
        ),
        b"Content-Type: message/rfc822\r\n\r\n" + inner,
        b"Content-Type: message/rfc822\r\nContent-Disposition: attachment\r\n\r\n" + SIGNED,
    )


def numbers(root: Part) -> list[tuple[str, str]]:
    return [(one.number, one.type) for one in root.walk()]


def test_all_parts_have_a_number() -> None:
    assert numbers(tree_of(with_all())) == [
        ("0", "multipart/mixed"),
        ("1", "multipart/alternative"),
        ("1.1", "text/plain"),
        ("1.2", "text/html"),
        ("2", "image/png"),
        ("3", "message/rfc822"),
        ("3.0", "multipart/mixed"),
        ("3.1", "text/plain"),
        ("3.2", "text/plain"),
        ("4", "message/rfc822"),
        ("4.0", "text/plain"),
    ]
    assert numbers(tree_of("Subject: x\r\n\r\ny")) == [("0", "text/plain")]


def test_a_message_that_is_a_message() -> None:
    content = b"Content-Type: message/rfc822\r\n\r\nContent-Type: message/rfc822\r\n\r\n" + SIGNED
    assert [number for number, _ in numbers(tree_of(content))] == ["0", "0.0", "0.0.0"]


def test_a_part_says_what_it_is() -> None:
    image = tree_of(with_all()).parts[1]
    assert (image.encoding, image.disposition, image.name) == ("base64", "inline", "a.png")
    assert (image.content_id, image.charset, image.size) == ("a@b.test", "", 10)
    assert image.headers["content-id"] == "<a@b.test>"
    assert repr(image) == "<Part 2, image/png>"
    assert (image.content, image.body) == (bytes(10), b64encode(bytes(10)))


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_each_part_is_where_it_says(end: bytes) -> None:
    content = with_all().replace(b"\r\n", end)
    root = tree_of(content)
    for one in root.walk():
        assert content[one.position : one.body_position] == one.header
        assert content[one.body_position : one.end] == one.body
        assert one.header.endswith(end + end)
        assert not one.body.endswith(end) or one.number in {"0", "1", "3", "3.0", "4", "4.0"}
    assert (root.position, root.end) == (0, len(content))
    assert root.parts[3].content == SIGNED.replace(b"\r\n", end)


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    **dict.fromkeys(("7bit", "8bit", "binary"), bytes),
    "base64": b64encode,
    "quoted-printable": encodestring,
}


# RFC 2046 section 5.2.1: nothing is folded or spelt anew, so that a signature stays valid.
@pytest.mark.parametrize("encoding", ENCODE)
def test_an_attached_message_has_its_bytes(encoding: str) -> None:
    body = ENCODE[encoding](SIGNED)
    head = f"Content-Type: message/rfc822\nContent-Transfer-Encoding: {encoding}"
    mail = mail_of(multipart("mixed", part("X: y", "see below"), part(head, body)))
    (inner,) = mail.attachments
    assert (inner.type, inner.content) == ("message/rfc822", SIGNED)
    assert mail.text == "see below"


# RFC 2046 section 5.1.5.
def test_parts_of_a_digest_are_messages() -> None:
    root = tree_of(multipart("digest", b"\r\n" + SIGNED, part("Content-Type: text/plain", "x")))
    assert [one.type for one in root.parts] == ["message/rfc822", "text/plain"]
    assert root.parts[0].parts[0].headers["Subject"] == "ab and\tmore"


# RFC 2046 section 5.1.1.
@pytest.mark.parametrize(
    "content",
    [
        b"--b\r\n\r\na\r\n--b\r\n\r\nc\r\n--b--\r\n",
        b"preamble\r\n--b\r\n\r\na\r\n--b  \t\r\n\r\nc\r\n--b--  \r\nepilogue\r\n--b\r\n\r\nd",
        b"--b\r\n\r\na\r\n--b\r\n\r\nc",
        b"--b\n\na\n--b\n\nc\n--b--",
        b"--b\r\n\r\na\r\n--b\r\nX: y\r\n\r\nc\r\n--b",
        b"--b\r\na\r\n--b\r\nc\r\n--b--\r\n",
        b"--b\r\nX: y\r\na\r\n--b\r\nc\r\n--b--\r\n",
        b"--b\r\n--b\r\n\r\na\r\n--b\r\n--b\r\n--b\r\n\r\nc\r\n--b\r\n--b--\r\n",
    ],
)
def test_delimiters(content: bytes) -> None:
    head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    assert mail_of(head + content).text == "a\nc"


def test_empty_parts() -> None:
    head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    root = tree_of(head + b"--b\r\n--b\r\n\r\n--b\r\nX: y\r\n--b\r\nX: y\r\n\r\n\r\n--b--")
    assert [one.body for one in root.parts] == [b""] * 3


def test_boundaries_may_begin_alike() -> None:
    inner = multipart("mixed", part("X: y", "--bx\r\n--b\r\n--bb--x"), boundary="bb")
    mail = mail_of(multipart("mixed", inner, part("X: y", "last"), boundary="bbb"))
    assert mail.text == "--bx\n--b\n--bb--x\nlast"


def test_a_boundary_that_looks_like_an_end() -> None:
    inner = multipart("mixed", part("X: y", "in"), boundary="b--")
    mail = mail_of(multipart("mixed", inner, part("X: y", "last")))
    assert mail.text == "in\nlast"


def test_an_inner_multipart_may_lack_its_end() -> None:
    inner = multipart("mixed", part("X: y", "in"), boundary="in").replace(b"--in--\r\n", b"")
    assert mail_of(multipart("mixed", inner, part("X: y", "last"))).text == "in\r\n\nlast".replace(
        "\r\n", "\n"
    )


def test_two_levels_may_share_a_boundary() -> None:
    inner = multipart("alternative", part("X: y", "in"))
    assert mail_of(multipart("mixed", inner, part("X: y", "last"))).text == "in\nlast"


@pytest.mark.parametrize("spelt", ["", "; boundary=", f"; boundary={'b' * LONGEST_BOUNDARY}b"])
def test_a_multipart_without_parts_is_text(spelt: str) -> None:
    content = f"Content-Type: multipart/mixed{spelt}\r\n\r\n--{spelt[11:]}\r\n\r\nx\r\n"
    mail = mail_of(content)
    assert mail.text == content.partition("\r\n\r\n")[2].replace("\r\n", "\n")
    assert mail.notices == ["part 0: a multipart without parts is left as source"]


@pytest.mark.parametrize(
    ("head", "notice"),
    [
        ("Content-Type: text/plain; charset=x-new", "the charset x-new is unknown: read as UTF-8"),
        ("Content-Transfer-Encoding: x-new", "the transfer encoding x-new is unknown: not decoded"),
        ("Content-Type: text/plain; charset=x-sjis\nContent-Transfer-Encoding: BINARY", ""),
        ("Content-Type: image/png; charset=x-new", ""),
    ],
)
def test_an_undecodable_part_has_a_notice(head: str, notice: str) -> None:
    mail = mail_of(part(head, "=41"))
    assert (mail.root.notice, mail.root.content) == (notice, b"=41")
    assert mail.notices == ([f"part 0: {notice}"] if notice else [])


# A message in a file.


class Counted(BytesIO):
    """A file that records how many bytes are read from it."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        Counted.read_bytes += len(data)
        return data


def in_file(content: bytes) -> InFile:
    open_it: Callable[[], BinaryIO] = lambda: Counted(content)  # noqa: E731
    return InFile(open_it)


@pytest.mark.parametrize("line", [b"--" + b"x" * 70 + b"\r\n", b"--\r\n", b"x\r\n"])
def test_a_piece_may_end_in_a_delimiter(line: bytes) -> None:
    start = len(multipart("mixed", part("X: y", b""))) - len(b"\r\n--b--\r\n")
    for place in range(PIECE - 12, PIECE + 3):
        filler = (line * (PIECE // len(line) + 1))[: place - start]
        content = multipart("mixed", part("X: y", filler), part("X: y", b"last"))
        assert content[place : place + 7] == b"\r\n--b\r\n"
        root = read(in_file(content))
        assert [one.body for one in root.parts] == [filler, b"last"]


def test_a_file_is_not_read_into_memory() -> None:
    envelope = Envelope()
    envelope.mail_from = "shop@example.com"
    big = part("Content-Type: image/png\nContent-Transfer-Encoding: base64", b"QUJD" * 10**6)
    content = multipart("mixed", part("X: y", "a"), big)

    class Spilt(Envelope):
        def open(self) -> BinaryIO:
            return Counted(content)

    session: Any = SimpleNamespace(peer=None)
    # A BytesIO would be taken as memory.
    mail = DecodedMail(session, Spilt())
    root = read(InFile(mail.envelope.open))
    assert numbers(root)[-1] == ("2", "image/png")
    Counted.read_bytes = 0
    assert root.parts[0].text == "a"
    assert root.parts[0].headers["X"] == "y"
    assert Counted.read_bytes < 100
    assert max(map(len, root.parts[1].pieces())) <= PIECE
    assert root.parts[1].size == 3 * 10**6


@given(st.data())
def test_any_cut_message_is_read_alike(data: st.DataObject) -> None:
    content = with_all()
    content = content[: data.draw(st.integers(0, len(content)))]
    roots = tree_of(content), read(in_file(content))
    for one, other in zip(*(root.walk() for root in roots), strict=True):
        assert (one.number, one.type, one.content) == (other.number, other.type, other.content)
        assert one.position <= one.body_position <= one.end <= len(content)
