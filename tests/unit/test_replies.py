"""Replies: RFC 5321 sections 4.2 and 4.5.3.1.5, RFC 3463."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import LINE_OCTETS, Refused, Reply, escape, from_hook
from tests.rows import each_row

LINE = re.compile("([2-5][0-9]{2})(?:([ -])([^\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]*))?")


def lines_of(reply: str) -> list[str]:
    """Check that *reply* is one reply on the wire; return the texts of its lines."""
    wire = reply.encode() + b"\r\n"
    lines = wire.split(b"\r\n")
    assert lines.pop() == b""
    texts = []
    for number, line in enumerate(lines, 1):
        assert len(line) + 2 <= LINE_OCTETS
        found = LINE.fullmatch(line.decode())
        assert found, f"no reply line: {line!r}"
        assert found[1] == reply[:3], "another code"
        assert (found[2] == "-") is (number < len(lines)), "the client cannot tell where it ends"
        texts.append(found[3] or "")
    return texts


# Reply.


@each_row(
    ("text", "code", "enhanced"),
    [
        ("250 OK", 250, None),
        ("250", 250, None),
        ("250 2.1.5 OK", 250, "2.1.5"),
        ("550 5.7.1 Not here", 550, "5.7.1"),
        ("451 4.3.0", 451, "4.3.0"),
        ("550 5.123.456 x", 550, "5.123.456"),
        ("550-5.7.1 Not here\r\n550 5.7.1 nor there", 550, "5.7.1"),
        ("550 3.7.1 x", 550, None),
        ("550 5.7 x", 550, None),
        ("550 5.7.1234 x", 550, None),
        ("550 5.7.1x", 550, None),
        ("550 no 5.7.1", 550, None),
        ("220 2.0.0.1 mx", 220, None),
        ("599 x", 599, None),
    ],
)
def test_a_reply_has_its_parts_as_attributes(text: str, code: int, enhanced: str | None) -> None:
    reply = Reply(text)
    assert (reply, reply.code, reply.enhanced) == (text, code, enhanced)
    assert isinstance(reply, str)


def test_an_enhanced_code_in_the_text_wins() -> None:
    assert Reply("250 OK", "2.0.0").enhanced == "2.0.0"
    assert Reply("250 OK", "2.0.0") == "250 OK"
    assert Reply("250 2.1.5 OK", "2.0.0").enhanced == "2.1.5"


@each_row(
    "text",
    [
        # RFC 5321 4.2: Reply-code [ SP textstring ].
        "2500 OK",
        "250OK",
        "250_OK",
        "250.OK",
        "250\tOK",
        "250\x00",
        "250\u00a0OK",
        # RFC 5321 4.2: Reply-code = %x32-35 %x30-35 %x30-39.
        "2\u0665\u0660 OK",
        "25\u0660 OK",
        "2\uff15\uff10",
        "25\u0660 \u00e9",
    ],
)
def test_odd_texts_are_refused_or_made_one_reply(text: str) -> None:
    try:
        reply = from_hook(text)
    except ValueError:
        return
    lines_of(reply)


# from_hook: the result is always one reply.


@each_row(
    ("status", "expected"),
    [
        ("250 OK", "250 OK"),
        (b"250 OK", "250 OK"),
        ("250", "250"),
        ("250 ", "250 "),
        ("354 ", "354 "),
        ("250 OK\r\n", "250 OK"),
        ("250 OK\n", "250 OK"),
        ("250 OK\r\n\r\n", "250 OK"),
        ("550 a\tb", "550 a\tb"),
        ("550 grüße", "550 grüße"),
        ("550 grüße".encode(), "550 grüße"),
        (b"550 \xff\x00", "550 \\xff\\x00"),
        # Several lines, RFC 5321 4.2.1.
        ("250-a\r\n250 b", "250-a\r\n250 b"),
        ("250-a\n250-b\r250 c\n", "250-a\r\n250-b\r\n250 c"),
        ("250-\r\n250", "250-\r\n250"),
        ("250-a\x00\r\n250 b\x9b", "250-a\\x00\r\n250 b\\x9b"),
        # Several lines that are not one reply.
        ("250 a\r\n250 b", "250 a\\r\\n250 b"),
        ("250 a\r\n550 b", "250 a\\r\\n550 b"),
        ("250 a\n\n250 b", "250 a\\n\\n250 b"),
        ("250 OK\r\nMAIL FROM:<a@b.test>", "250 OK\\r\\nMAIL FROM:<a@b.test>"),
        ("250 a\rb", "250 a\\rb"),
        # Controls.
        ("250 \x00\x07\x08\x0b\x0c\x1b[2J\x7f", "250 \\x00\\x07\\x08\\x0b\\x0c\\x1b[2J\\x7f"),
        ("250 \x80\x85\x9f\xa0", "250 \\x80\\x85\\x9f\xa0"),
        ("250 \u2028\u2029", "250 \\u2028\\u2029"),
        ("250 \ud800\udfff", "250 \\ud800\\udfff"),
        ("250 back\\slash", "250 back\\slash"),
    ],
)
def test_the_result_of_a_hook_becomes_one_reply(status: str | bytes, expected: str) -> None:
    reply = from_hook(status)
    assert reply == expected
    assert type(reply) is Reply
    assert reply.code == int(expected[:3])
    lines_of(reply)


@pytest.mark.parametrize(
    "status",
    ["250-OK", "250-", b"550-no", "250-a\r\n250-b", "250-a\r\n550 b", "250-a\r\nb", "250-a\n"],
)
def test_the_last_line_of_a_reply_ends_it(status: str | bytes) -> None:
    """RFC 5321 section 4.2.1: after a hyphen the client waits for one more line."""
    reply = from_hook(status)
    assert len(lines_of(reply)) == 1
    assert reply.startswith(
        str(status[:3], "ascii") + " " if isinstance(status, bytes) else status[:3] + " "
    )


@pytest.mark.parametrize(
    "text", ["250 a\r\n550 b", "250 a\nb", "250 a\x00", "550-no", "550 " + "x" * 600]
)
def test_a_reply_object_is_checked_like_its_text(text: str) -> None:
    """Programs write ``Reply(f"550 No {what}")`` with text of the client in it."""
    assert from_hook(Reply(text)) == from_hook(text)
    lines_of(from_hook(Reply(text)))


def test_a_reply_object_keeps_its_enhanced_code() -> None:
    assert from_hook(replies.OK) is replies.OK
    assert from_hook(Reply("250 Queued", "2.6.0")).enhanced == "2.6.0"
    assert from_hook("250 Queued").enhanced is None
    assert from_hook("250 2.6.0 Queued").enhanced == "2.6.0"
    assert from_hook(b"550-5.7.1 a\n550 5.7.1 b").enhanced == "5.7.1"


@each_row(
    "status",
    [None, 250, 250.0, True, [], ["250 OK"], ("250 OK",), {}, object, bytearray(b"250 OK")],
)
def test_values_other_than_text_are_refused(status: Any) -> None:
    with pytest.raises(ValueError, match=r"^not an SMTP reply: "):
        from_hook(status)


@pytest.mark.parametrize("status", ["", "\r\n", b"", "OK", "\n250 OK", "x" * 600, "x\r\n250 OK"])
def test_texts_without_a_code_are_refused(status: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^not an SMTP reply: "):
        from_hook(status)


@pytest.mark.parametrize(
    "text",
    ["x" * 506, "x" * 507, "x" * 5000, "é" * 253, "é" * 254, "😀" * 999, "é" * 507, "\x00" * 400],
)
def test_long_lines_are_folded_without_loss(text: str) -> None:
    reply = from_hook(f"550 {text}")
    texts = lines_of(reply)
    assert "".join(texts) == escape(text)
    assert (len(texts) > 1) is (len(escape(text).encode()) > 506)
    assert reply.code == 550


def test_each_long_line_of_a_reply_is_folded() -> None:
    reply = from_hook("250-" + "a" * 600 + "\r\n250-b\n250 " + "c" * 600)
    texts = lines_of(reply)
    assert "".join(texts) == "a" * 600 + "b" + "c" * 600
    assert texts == ["a" * 506, "a" * 94, "b", "c" * 506, "c" * 94]


def test_many_lines_and_an_empty_text() -> None:
    assert lines_of(from_hook("250-\n" * 999 + "250")) == [""] * 1000


SEPARATOR = st.sampled_from(["\r\n", "\n", "\r"])
NASTY = st.text(
    alphabet=st.one_of(
        st.sampled_from("ab -250\r\n\t\x00\x1b\x7f\x85\x9b\u2028\u2029\ud800\udfffé😀\u0665"),
        st.characters(max_codepoint=0x2100),
    )
)
LONG = st.builds(lambda text, times: text * times, NASTY, st.integers(1, 200))
CODE = st.sampled_from(["250", "354", "421", "550", "599"])


@settings(deadline=None)
@given(CODE, st.one_of(NASTY, LONG), st.booleans())
@example("250", "x" * 507, True)
def test_a_code_and_a_space_make_any_text_one_reply(code: str, text: str, as_bytes: bool) -> None:
    status = f"{code} {text}"
    reply = from_hook(status.encode("utf-8", "replace") if as_bytes else status)
    lines_of(reply)
    assert reply.code == int(code)


@settings(deadline=None)
@given(CODE, st.lists(LONG, min_size=1, max_size=5), SEPARATOR)
def test_lines_with_one_code_make_one_reply(code: str, texts: list[str], newline: str) -> None:
    texts = [re.sub(r"[\r\n]", "", text) for text in texts]
    lines = [f"{code}-{text}" for text in texts[:-1]] + [f"{code} {texts[-1]}"]
    reply = from_hook(newline.join(lines))
    assert "".join(lines_of(reply)) == "".join(escape(text) for text in texts)
    assert reply.code == int(code)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        NASTY,
        LONG,
        st.lists(
            st.tuples(CODE, st.sampled_from(["-", " ", "", "0", "\t"]), NASTY, SEPARATOR).map(
                "".join
            ),
            min_size=1,
            max_size=3,
        ).map("".join),
    )
)
@example("250-")
@example("25\u0660")
@example("2500")
def test_any_text_is_one_reply_or_a_value_error(status: str) -> None:
    try:
        reply = from_hook(status)
    except ValueError as error:
        assert type(error) is ValueError
    else:
        lines_of(reply)


# escape


@settings(deadline=None)
@given(NASTY)
def test_escaped_text_is_one_safe_line(text: str) -> None:
    escaped = escape(text)
    escaped.encode()
    assert len(escaped.splitlines()) <= 1
    assert not any(ord(character) < 32 and character != "\t" for character in escaped)
    assert not any("\x7f" <= character <= "\x9f" for character in escaped)
    assert escape(escaped) == escaped
    kept = [c for c in text if c == "\t" or (c.isprintable() and c not in "\u2028\u2029")]
    for character in kept:
        assert character in escaped


def test_escapes_are_spelt_as_in_python() -> None:
    assert escape("a\r\n\x00\x1b\x85\u2028\udcffé\t") == "a\\r\\n\\x00\\x1b\\x85\\u2028\\udcffé\t"


# Refused


def test_refused_carries_a_reply() -> None:
    refused = Refused("550 5.7.1 Not here")
    assert refused.reply == "550 5.7.1 Not here"
    assert (refused.reply.code, refused.reply.enhanced) == (550, "5.7.1")
    assert str(refused) == "550 5.7.1 Not here"
    assert Refused(replies.NEED_AUTH).reply is replies.NEED_AUTH
    assert Refused(Reply("550 No", "5.7.1")).reply.enhanced == "5.7.1"
    with pytest.raises(ValueError):
        Refused("no")


@pytest.mark.parametrize(
    "text",
    [
        "550 no\r\n250 yes",
        "550 no\x00\u2028\udcff",
        "550-a\r\n550 b",
        "550-no",
        "550 " + "x" * 600,
        "550 " + "é" * 300,
    ],
)
def test_a_refusal_is_always_one_reply(text: str) -> None:
    reply = Refused(text).reply
    lines_of(reply)
    assert reply.code == 550


# The server's replies.

CONSTANTS = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}


@each_row("name", CONSTANTS)
def test_each_reply_is_one_line_with_a_matching_code(name: str) -> None:
    reply = CONSTANTS[name]
    assert len(lines_of(reply)) == 1
    assert reply.isascii()
    if reply.code // 100 == 3:  # RFC 2034 section 4: none for 3yz
        assert reply.enhanced is None
    else:
        assert reply.enhanced is not None
        assert reply.enhanced[0] == reply[0]


def test_the_module_has_replies() -> None:
    assert len(CONSTANTS) > 40


def test_replies_made_from_text() -> None:
    assert replies.syntax_of("HELO hostname") == "501 Syntax: HELO hostname"
    assert replies.syntax_of("HELO hostname").enhanced == "5.5.4"
    assert replies.not_recognized("FOO") == '500 Error: command "FOO" not recognized'
    assert replies.not_recognized("FOO").enhanced == "5.5.1"
    assert replies.sent_too_many_times("NOOP") == "421 4.7.0 NOOP sent too many times"
    assert replies.internal_error("1f") == "451 4.3.0 Internal error (ref 1f)"
    assert replies.internal_error("1f").enhanced == "4.3.0"


@each_row("make", [replies.not_recognized, replies.sent_too_many_times])
@each_row("verb", ["X" * 999, "\r\n" * 99, "\x00\x9b\u2028\udcff", "É" * 99, ""])
def test_at_most_32_characters_of_a_verb_are_repeated(
    make: Callable[[str], Reply], verb: str
) -> None:
    """docs/reference/limits, "short echo"."""
    reply = make(verb)
    assert len(lines_of(reply)) == 1
    assert escape(verb)[:32] in reply
    assert len(reply) == len(make("")) + len(escape(verb)[:32])
