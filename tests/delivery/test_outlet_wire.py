"""Messages in pieces: any cut gives the same bytes on the wire."""

import re
from io import BytesIO
from unittest.mock import patch

from hypothesis import given, strategies as st

from aiosmtpd.delivery.outlets import wire

PARTS = [b"\r", b"\n", b"\r\n", b".", b"..", b"a", b": ", b"\xff", b"Return-Path: <x>\r\n", b" "]
messages = st.lists(st.sampled_from(PARTS), max_size=30).map(b"".join)
sizes = st.integers(1, 9)


def normal(content: bytes) -> bytes:
    return re.sub(rb"\r\n|\r|\n", b"\r\n", content)


@given(messages, sizes)
def test_the_wire_has_the_message_and_one_end(content: bytes, size: int) -> None:
    with patch.object(wire, "PIECE", size):
        sent = b"".join(wire.mail_data(BytesIO(content)))
    assert sent.endswith(b".\r\n")
    body = sent.removesuffix(b".\r\n")
    assert body == b"" or body.endswith(b"\r\n")
    # A hop that accepts any of these as the end of the data finds none.
    assert not re.search(rb"(?:\A|[\r\n])\.[\r\n]", body)
    assert b"\r" not in body.replace(b"\r\n", b"")
    assert b"\n" not in body.replace(b"\r\n", b"")
    lines = [line.removeprefix(b".") for line in body.split(b"\r\n")]
    assert b"\r\n".join(lines).removesuffix(b"\r\n") == normal(content).removesuffix(b"\r\n")


def test_the_end_comes_with_the_last_piece() -> None:
    assert [*wire.mail_data(BytesIO(b"a: b\r\n\r\nx\r\n"))] == [b"a: b\r\n\r\nx\r\n.\r\n"]
    assert [*wire.mail_data(BytesIO(b""))] == [b".\r\n"]


@given(messages, sizes)
def test_the_facts_are_those_of_the_whole(content: bytes, size: int) -> None:
    with patch.object(wire, "PIECE", size):
        facts = wire.facts_of(BytesIO(content))
    whole = normal(content)
    headers = (b"\r\n" + whole).partition(b"\r\n\r\n")[0]
    assert facts == wire.Facts(len(whole), whole.isascii(), headers.isascii())


@given(messages, sizes)
def test_other_line_ends(content: bytes, size: int) -> None:
    with patch.object(wire, "PIECE", size):
        found = b"".join(wire.with_line_end(BytesIO(content), b"\n"))
    assert found == content.replace(b"\r\n", b"\n")
