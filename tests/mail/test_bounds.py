"""Hostile messages: an answer in linear time and memory, and nothing is lost."""

import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.mail.printing import pretty
from aiosmtpd.mail.terminal import Terminal
from aiosmtpd.mail.tree import DEEPEST, MOST_PARTS
from tests.mail.making import mail_of, multipart, part, tree_of
from tests.mail.test_printing import received
from tests.mail.test_tree import with_all

HEAD = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
BASE64 = b"Content-Transfer-Encoding: base64\r\n\r\n"
QUOTED = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"


UUENCODE = b"Content-Transfer-Encoding: x-uuencode\r\n\r\n"
DISPOSITION = b"Content-Disposition: attachment"
PAGE = b"Content-Type: text/html\r\n\r\n"


def nested(kind: str, number: int) -> bytes:
    levels = [f"Content-Type: {kind}b{n}\r\n\r\n--b{n}\r\n" for n in range(number)]
    return "".join(levels).encode() + b"\r\nthe end"


def text_with(charset: str) -> bytes:
    return f"Content-Type: text/plain; charset={charset}\r\n\r\n".encode()


MB = 10**6

ATTACKS: dict[str, bytes] = {
    "5,000 nested parts": nested("multipart/mixed; boundary=", 5000),
    "5,000 nested messages": nested("message/rfc822; x=", 5000),
    "5,000 nested parts with one boundary": (HEAD + b"--b\r\n") * 5000,
    "100,000 parts": HEAD + b"--b\r\n\r\nx\r\n" * 100_000,
    "100,000 multiparts": HEAD
    + b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n" * 100_000,
    "100,000 header lines": b"X-Header: a value\r\n" * 100_000 + b"\r\nbody",
    "a part of 100,000 header lines": HEAD + b"--b\r\n" + b"X-Header: a value\r\n" * 100_000,
    "100,000 lines without a colon": b"Subject: x\r\n" + b"not a header line\r\n" * 100_000,
    "one header of 10 MB": b"Subject: " + b"a" * 10 * MB + b"\r\n\r\nx",
    "a folded header of 2 MB": b"Subject: " + b"a\r\n " * 500_000 + b"\r\n\r\nx",
    "2 MB of parameters": b"Content-Type: text/plain" + b"; a=b" * 400_000 + b"\r\n\r\nx",
    "10,000 continuations": DISPOSITION + b"".join(map(b"; name*%d=x".__mod__, range(10_000))),
    "10,000 out of order": DISPOSITION
    + b"".join(b";\r\n filename*%d*=%%41" % n for n in range(9_999, -1, -1)),
    "2 MB of escapes": DISPOSITION + b"; filename*=utf-8''" + b"%C3%A9" * 350_000,
    "2 MB of backslashes": DISPOSITION + b'; filename="' + b"\\" * 2 * MB,
    "2 MB of blanks": b"Content-Type: text/plain;" + b" " * 2 * MB + b"\r\n\r\nx",
    "2 MB of comments": b"Content-Type: " + b"(" * 2 * MB + b"\r\n\r\nx",
    "a quarter MB of encoded words": b"Subject: " + b"=?utf-8?q?=C3=A9?= " * 13_000 + b"\r\n\r\n",
    "words of two charsets": b"Subject: " + b"=?gbk?b?YQ==?= =?utf-8?q?x?= " * 8_000,
    "25,000 words between text": b"Subject: " + b"=?utf-8?q?a?= b " * 25_000 + b"\r\n\r\n",
    "words of two-byte letters": b"Subject: " + (b"=?koi8-r?b?" + b"wcHB" * 15 + b"?= ") * 8_000,
    "a word of 2 MB": b"Subject: =?utf-8?b?" + b"YQ==" * 500_000 + b"?=\r\n\r\n",
    "1 MB of half words": b"Subject: " + b"=?utf-8?q?" * 100_000,
    "boundaries that begin alike": HEAD
    + b"".join(
        b"--%b\r\nContent-Type: multipart/mixed; boundary=b%b\r\n\r\n" % (b"b" * n, b"b" * n)
        for n in range(1, 900)
    ),
    "lines like delimiters": HEAD + b"--\r\n" * 500_000,
    "header lines like delimiters": HEAD + b"--b\r\n" + b"--x\r\n" * 400_000,
    "2 MB of NUL": b"\0" * 2 * MB,
    "2 MB of NUL in a header": b"Subject: x\r\n" + b"\0" * 2 * MB,
    "2 MB of padding": BASE64 + b"A=" * MB,
    "2 MB of base64 and junk": BASE64 + b"Y!Q" * 700_000,
    "2 MB like uuencode": UUENCODE + b"\nbegin 644" * 200_000,
    "a quarter MB of short uuencode": UUENCODE + b"begin 644 a\n" + b"~\n" * (MB // 8),
    "2 MB that are not base64": BASE64 + b"!" * 2 * MB,
    "2 MB of trailing blanks": QUOTED + b" " * 2 * MB + b"x",
    "2 MB of equals signs": QUOTED + b"=" * 2 * MB,
    "2 MB of line ends": QUOTED + b" \r\n" * 700_000,
    "2 MB of returns": b"\r\n" + b"\r" * 2 * MB,
    "soft breaks": b"Content-Type: text/plain; format=flowed\r\n\r\n" + b"> a \r\n" * 80_000,
    "9 MB of undecodable GBK": text_with("gbk") + b"\xff" * 9 * MB,
    "5 MB of KOI8-R": text_with("koi8-r") + b"\xc1\r\n" * 1_700_000,
    "Big5 with an error at its end": text_with("big5") + "中".encode("big5") * MB + b"\xff",
    "ASCII with a Chinese letter at its end": text_with("utf-8") + b"a" * 3 * MB + "中".encode(),
    "undecodable JIS": text_with("iso-2022-jp") + b"\x1b$B\x7f\x7f\x1b(B" * 200_000,
    "undecodable EUC": text_with("euc-jp") + b"\xad\xa1\xff" * 300_000,
    "text of many elements": PAGE + b"te <b>xt</b> " * 100_000,
    "half a page of meta": PAGE + b"<meta " * 300_000,
}


@contextmanager
def memory(most: float) -> Iterator[None]:
    """Fail if the block needs more than *most* bytes at once."""
    # While a tracer runs, as for coverage, Python copies a str that could grow in place.
    tracer = sys.gettrace()
    sys.settrace(None)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        sys.settrace(tracer)
    assert peak <= most, f"{peak:,} bytes, not {most:,.0f}"


def look_at(mail: DecodedMail) -> None:
    assert all(mail.notices)
    repr(mail).encode()
    for one in mail.parts:
        f"{one.name}{one.content_id}{one.charset}{one.disposition}".encode()
    mail.text.encode()
    mail.html.encode()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_time_is_linear(name: str) -> None:
    content = ATTACKS[name]
    began = time.process_time()
    look_at(mail_of(content))
    # About 0.1 s for most; quadratic time would take minutes.
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", ATTACKS)
def test_the_memory_is_three_times_the_message(name: str) -> None:
    mail = mail_of(ATTACKS[name])
    with memory(3 * len(ATTACKS[name]) + 2**20):
        assert len(mail.parts) <= MOST_PARTS + 1
        assert len(mail.text) + len(mail.subject) + len(mail.root.name) <= len(ATTACKS[name])


# The text itself needs a third of the memory, and printing it makes a copy or two.
@pytest.mark.parametrize(
    "content",
    [
        *(
            text_with("koi8-r") + b"\xc1" * MB,
            b"Subject: " + b"\xff" * MB,
            HEAD + b"a\r\n" * 30_000,
        ),
        *(b"\r\n" + b"word " * 200_000, PAGE + b"te <b>xt</b> " * 5_000),
    ],
    ids=lambda content: repr(content[-5:]),
)
def test_the_memory_to_print_is_bounded(content: bytes) -> None:
    mail = received(content)
    with memory(9 * len(content) + 2**20):
        assert pretty(mail, Terminal(columns=80))


@pytest.mark.parametrize("kind", ["multipart/mixed; boundary=", "message/rfc822; x="])
def test_deeper_parts_are_left_as_source(kind: str) -> None:
    mail = mail_of(nested(kind, 200))
    *_, last = mail.parts
    assert len(mail.parts) == DEEPEST + 1
    assert last.notice == f"parts nested deeper than {DEEPEST} levels are left as source"
    assert last.body.endswith(b"the end")
    assert mail.notices == [f"part {last.number}: {last.notice}"]


def test_the_last_of_too_many_parts_has_the_rest() -> None:
    parts = [part("X: y", f"text {number}") for number in range(MOST_PARTS + 10)]
    content = multipart("mixed", *parts)
    root = tree_of(content)
    *_, last = root.parts
    assert last.notice.startswith(f"more than {MOST_PARTS} parts")
    assert last.text == content[last.position :].decode()
    assert last.text.startswith(f"--b\r\nX: y\r\n\r\ntext {len(root.parts) - 1}\r\n")


def test_a_message_cut_anywhere_is_read() -> None:
    content = with_all()
    for end in range(len(content)):
        mail = mail_of(content[:end])
        assert mail.root.end == end
        look_at(mail)


@given(st.data())
@settings(max_examples=200)
def test_bytes_put_anywhere_do_no_harm(data: st.DataObject) -> None:
    content = with_all()
    pieces = st.sampled_from([b"\0", b"\r", b"\n", b"--b", b'"', b"(", b"\\", b";", b"=?", b"\xff"])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(pieces) + content[at:]
    mail = mail_of(content)
    look_at(mail)
    for one in mail.parts:
        assert one.position <= one.body_position <= one.end <= len(content)
