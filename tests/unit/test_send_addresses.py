"""Address lists of ``aiosmtpd send --eml``, as hypothesis writes them."""

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.cli.envelope import NoEnvelope, header_of, recipients_of, sender_of

ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~éü日本"

atoms = st.text(ATEXT, min_size=1, max_size=8)
labels = st.text("abcXYZ019日本ü", min_size=1, max_size=8)
quoted = st.text(' ,;:@.<>()[]"\\abü', max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
locals_ = st.lists(atoms, min_size=1, max_size=3).map(".".join) | quoted
domains = st.lists(labels, min_size=1, max_size=3).map(".".join) | st.sampled_from(
    ["[192.0.2.1]", "[IPv6:2001:db8::1]"]
)
addresses = st.builds(lambda *parts: "@".join(parts), locals_, domains)
comments = st.text(" ,;:@.<>[]ab", max_size=8).map(lambda text: f"({text})")
blanks = st.sampled_from(["", " ", "\t", "\n ", "\r\n\t"]) | comments
names = st.lists(atoms | quoted, max_size=3).map(" ".join)


@st.composite
def entries(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return an entry of a list, and the addresses in it."""
    address = draw(addresses)
    before, after = draw(blanks), draw(blanks)
    kind = draw(st.sampled_from(["bare", "angles", "group", "route", "empty"]))
    if kind == "bare":
        return f"{before}{address}{after}", [address]
    if kind == "angles":
        return f"{before}{draw(names)} <{address}>{after}", [address]
    if kind == "route":
        return f"{before}<@{draw(labels)}.test:{address}>{after}", [address]
    if kind == "empty":
        return before, []
    other = draw(addresses)
    return f"{draw(atoms)}:{before}{address}, x <{other}>{after};", [address, other]


@given(st.lists(entries(), min_size=1, max_size=6))
def test_each_address_of_a_list_is_found(pieces: list[tuple[str, list[str]]]) -> None:
    field = ",".join(text for text, _ in pieces)
    expected = list(dict.fromkeys(one for _, found in pieces for one in found))
    message = f"Subject: x\nTo:{field}\n\nTo: other@example.com\n".encode()
    if expected:
        assert recipients_of(message) == expected
    else:
        with pytest.raises(NoEnvelope, match="To names no address"):
            recipients_of(message)


@given(st.text('ab@.,;:<>()[]"\\ \t=?\u00fc\udcff', max_size=40))
def test_any_text_has_addresses_or_an_error(text: str) -> None:
    message = b"From: " + text.encode("utf-8", "surrogateescape") + b"\n\nbody\n"
    try:
        sender = sender_of(message)
    except NoEnvelope as error:
        assert str(error).isprintable()
        assert len(str(error)) < 500
    else:
        assert sender is not None
        assert "@" in sender
        # The result has no characters that the text does not have.
        assert set(sender) <= set(text)


@given(st.binary(max_size=80))
def test_any_bytes_have_a_header(message: bytes) -> None:
    header = header_of(message)
    assert header in message
    assert b"\n\n" not in header
    assert b"\r\r" not in header
