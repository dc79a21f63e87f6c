"""Compare ``MailData`` with a slow model: RFC 5321 sections 4.1.1.4 and 4.5.2."""

import gc
import itertools
import re
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings, strategies as st

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.maildata import MailData
from aiosmtpd.protocol.receiver import Receiver
from tests.rows import each_row

BEHIND = b"MAIL FROM:<a@b.test>\r\n.\r\n"
POLICIES = ["accept", "normalize", "reject"]


@dataclass
class Outcome:
    """The result of reading bytes from the wire."""

    done: bool
    content: bytes
    refusal: str | None
    size: int
    flooded: bool
    behind: bytes


def read(wire: bytes, cuts: set[int], *limits: int | str | None) -> Outcome:
    """Feed *wire* in pieces and read each, as the server does."""
    receiver = Receiver()
    data = MailData(receiver, *limits)  # type: ignore[arg-type]
    content = b""
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(wire)), len(wire)]
    for begin, end in itertools.pairwise(edges):
        receiver.feed(wire[begin:end])
        if not data.done:
            refused = data.refusal
            piece = data.read()
            assert not (refused and piece), "nothing is kept once a limit is broken"
            assert refused is None or data.refusal is refused
            content += piece
    behind = receiver.take(len(receiver))
    return Outcome(data.done, content, data.refusal, data.size, data.flooded, behind)


@dataclass
class Expected:
    """The result according to the model."""

    done: bool
    content: bytes
    refusals: set[str | None]
    size: int
    behind: bytes


def model(wire: bytes, line_limit: int, size_limit: int, policy: str) -> Expected:
    """Split at CRLF, find the single dot, remove stuffed dots and measure.

    Lines are measured with stuffed dots, the message without them: RFC 1870 section 5. Which limit
    is broken first counts on the wire.
    """
    lines = wire.split(b"\r\n")
    if b"." not in lines[:-1]:
        return Expected(False, b"", {None}, 0, b"")
    end = lines.index(b".")
    lines, behind = lines[:end], b"\r\n".join(lines[end + 1 :])
    if policy == "normalize":
        # The result is measured, with stuffed dots: a dot at the start of a line after a bare CR
        # or LF counts as stuffed.
        parted = [re.split(rb"[\r\n]", line) for line in lines]
        lines = [
            b"." + part if number and part.startswith(b".") else part
            for parts in parted
            for number, part in enumerate(parts)
        ]
    broken: dict[str, int] = {}
    wire_size = 0
    content = b""
    for line in lines:
        if 0 < line_limit < len(line) + 2:
            broken.setdefault(replies.LINE_TOO_LONG, wire_size + line_limit)
        bare = re.search(rb"[\r\n]", line)
        if bare and policy == "reject":
            broken.setdefault(replies.BARE_NEWLINE, wire_size + bare.start())
        kept = line.removeprefix(b".") + b"\r\n"
        if 0 < size_limit < len(content) + len(kept):
            at = wire_size + len(line) + 2 - len(kept) + size_limit - len(content)
            broken.setdefault(replies.TOO_MUCH_MAIL_DATA, at)
        wire_size += len(line) + 2
        content += kept
    # If one byte breaks two limits, either may be reported.
    first = {name for name, at in broken.items() if at == min(broken.values())}
    return Expected(True, content, set(first) or {None}, len(content), behind)


def check(wire: bytes, cuts: set[int], line_limit: int, size_limit: int, policy: str) -> None:
    limits = line_limit, size_limit, policy
    whole, cut, expected = (
        read(wire, set(), *limits),
        read(wire, cuts, *limits),
        model(wire, *limits),
    )
    assert whole.done == cut.done == expected.done
    if not expected.done:
        return
    assert whole.refusal in expected.refusals
    assert cut.refusal == whole.refusal
    if whole.refusal is None:
        assert whole.content == cut.content == expected.content
    else:
        assert whole.content == b""
    assert whole.size == cut.size == expected.size
    assert whole.flooded == cut.flooded == (0 < 2 * size_limit < expected.size)
    assert whole.behind == cut.behind == expected.behind


WIRE = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.", b"\r\n..", b"\0", b"\r\n.\r\n", b"bcdefg\r\n"]
    ),
    max_size=20,
).map(b"".join)
CUTS = st.sets(st.integers(1, 80))
LIMIT = st.one_of(st.just(0), st.integers(1, 40))


@settings(deadline=None, max_examples=400)
@given(WIRE, CUTS, LIMIT, LIMIT, st.sampled_from(["accept", "normalize"]))
@example(b"\r\n" * 3, {1, 2, 3, 4}, 2, 0, "accept")
@example(b"a" * 9 + b"\r\n", {9}, 10, 10, "accept")
@example(b"a\n.", {2}, 0, 0, "normalize")
def test_any_cut_gives_the_result_of_the_model(
    wire: bytes, cuts: set[int], line_limit: int, size_limit: int, policy: str
) -> None:
    check(wire + b"\r\n.\r\n" + BEHIND, cuts, line_limit, size_limit, policy)


@settings(deadline=None)
@given(WIRE, CUTS)
def test_bare_newlines_are_refused_at_any_cut(wire: bytes, cuts: set[int]) -> None:
    check(wire + b"\r\n.\r\n" + BEHIND, cuts, 0, 0, "reject")


@settings(deadline=None)
@given(WIRE, CUTS, st.sampled_from(POLICIES))
def test_unfinished_data_is_not_done(wire: bytes, cuts: set[int], policy: str) -> None:
    check(wire, cuts, 0, 0, policy)


@settings(deadline=None)
@given(st.binary(max_size=300), CUTS, st.sampled_from(POLICIES))
def test_any_bytes_match_the_model(wire: bytes, cuts: set[int], policy: str) -> None:
    check(wire + b"\r\n.\r\n" + BEHIND, cuts, 0, 0, policy)


@settings(deadline=None)
@given(
    st.integers(0, 6),
    st.integers(0, 60),
    st.tuples(st.integers(0, 300), st.sampled_from([b"", b"\n", b"\r", b"\r\n", b"aaaaaa"])),
    st.sets(st.integers(1, 300), max_size=3),
    st.integers(2, 9),
)
@example(3, 60, (0, b""), set(), 5)
@example(3, 60, (0, b""), set(), 4)
@example(3, 60, (100, b"a"), set(), 5)
@example(3, 60, (100, b"aaaaaa"), {101}, 5)
@example(0, 60, (0, b""), {1, 7}, 2)
@example(3, 60, (0, b"\n"), set(), 5)
def test_equal_lines_and_a_longer_one(
    length: int, lines: int, change: tuple[int, bytes], cuts: set[int], line_limit: int
) -> None:
    """Lines of equal length, such as those of base64, are not measured one by one."""
    wire = (b"a" * length + b"\r\n") * lines
    at, inserted = change
    check(wire[:at] + inserted + wire[at:] + b"\r\n.\r\n" + BEHIND, cuts, line_limit, 0, "accept")


@pytest.mark.parametrize("policy", POLICIES)
def test_all_short_data_at_all_cuts(policy: str) -> None:
    for length in range(6):
        for values in itertools.product(b"\r\n.a", repeat=length):
            wire = bytes(values) + b"\r\n.\r\nQUIT"
            check(wire, set(range(1, len(wire))), 0, 0, policy)
            for cut in range(1, length + 5):
                check(wire, {cut}, 0, 0, policy)


@pytest.mark.parametrize("cuts", [set(), {5}, set(range(99))], ids=["whole", "cut", "singly"])
@pytest.mark.parametrize(("line_limit", "size_limit"), [(0, 5), (5, 0), (5, 9)])
def test_a_bare_newline_before_the_limit_is_reported(
    cuts: set[int], line_limit: int, size_limit: int
) -> None:
    """The first violation does not depend on how the network cuts the data."""
    check(b"a\nbbbbbbbbbb\r\n.\r\n", cuts, line_limit, size_limit, "reject")


@each_row("cuts", [set(), {5}, {11}, set(range(99))])
@each_row(("line_limit", "size_limit"), [(0, 5), (5, 0), (5, 9)])
def test_a_limit_broken_before_a_bare_newline_is_reported(
    cuts: set[int], line_limit: int, size_limit: int
) -> None:
    check(b"bbbbbbbbbb\na\r\n.\r\n", cuts, line_limit, size_limit, "reject")


# Smuggling: CVE-2023-51764, CVE-2023-51765, CVE-2023-51766, CVE-2024-27305.

NO_END = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r.\n",
    b"\n.\r",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\n\r.\r\n",
    b"\r\n\n.\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n.\r\0\n",
    b"\r\0\n.\r\n",
    b"\r\n .\r\n",
    b"\r\n. \r\n",
    b"\r\n..\r\n",
    b"\n\r.\r\n",
    b"\r\r.\r\r",
    b"\x85.\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\x8d\x8a.\x8d\x8a",
]


@each_row("policy", POLICIES)
@each_row("sequence", NO_END)
def test_nothing_but_crlf_dot_crlf_ends_it(sequence: bytes, policy: str) -> None:
    smuggled = b"MAIL FROM:<admin@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
    body = b"x" + sequence + smuggled
    for cut in range(len(body)):
        open_ended = read(body, {cut}, None, None, policy)
        assert not open_ended.done
        assert open_ended.behind == b""
    ended = read(body + b"\r\n.\r\n" + BEHIND, set(), None, None, policy)
    assert ended.done
    assert ended.behind == BEHIND
    if policy != "normalize":
        assert ended.size == len(body.replace(b"\r\n.", b"\r\n")) + 2
    if policy == "accept":
        assert ended.content.startswith(b"x" + sequence.replace(b"\r\n.", b"\r\n"))
    if ended.refusal is None:
        assert smuggled in ended.content
    # The next server must not find an end or a bare newline in it.
    if policy == "normalize":
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)", ended.content)
    bare = re.search(rb"(?<!\r)\n|\r(?!\n)", sequence)
    assert (ended.refusal == replies.BARE_NEWLINE) == (policy == "reject" and bare is not None)


@pytest.mark.parametrize(
    ("wire", "accepted", "normalized"),
    [
        (b"a\nb\rc\r\n", b"a\nb\rc\r\n", b"a\r\nb\r\nc\r\n"),
        (b"a\r\r\nb\n\n", b"a\r\r\nb\n\n\r\n", b"a\r\n\r\nb\r\n\r\n\r\n"),
        # Dots after bare newlines are not stuffed (curl sends files with LF so): keep them.
        (b"a\n..b\r\n", b"a\n..b\r\n", b"a\r\n..b\r\n"),
        (b"a\n.b\r.c\r\n", b"a\n.b\r.c\r\n", b"a\r\n.b\r\n.c\r\n"),
        (b"a\r\n..b\n..c\n.\r\n", b"a\r\n.b\n..c\n.\r\n", b"a\r\n.b\r\n..c\r\n.\r\n"),
        (b"..a\r\n...\r\n", b".a\r\n..\r\n", b".a\r\n..\r\n"),
        (b"\n", b"\n\r\n", b"\r\n\r\n"),
    ],
)
def test_bare_newlines_are_kept_or_normalized(
    wire: bytes, accepted: bytes, normalized: bytes
) -> None:
    wire += b".\r\n" if wire.endswith(b"\r\n") else b"\r\n.\r\n"
    for cuts in (set[int](), set(range(99))):
        assert read(wire, cuts).content == accepted
        assert read(wire, cuts, 0, 0, "accept").content == accepted
        assert read(wire, cuts, 0, 0, "normalize").content == normalized


def test_a_bare_newline_is_refused_with_its_code() -> None:
    outcome = read(b"a\nb\r\n.\r\n", set(), None, None, "reject")
    assert outcome.refusal is not None
    assert outcome.refusal.startswith("550 5.6.11 ")


# Limits.


@each_row("cuts", [set(), {1}, {999, 1000, 1001, 1002}, set(range(1100))])
@each_row("before", [b"", b"a\r\n", b"\r\n" * 3, b"y" * 999 + b"\r\n"])
@each_row(
    ("line", "refusal"),
    [
        (b"x" * 999, None),
        (b"x" * 1000, replies.LINE_TOO_LONG),
        (b"." * 999, None),
        (b"." * 1000, replies.LINE_TOO_LONG),
        # A bare CR or LF does not end a line.
        (b"x" * 500 + b"\n" + b"x" * 498, None),
        (b"x" * 500 + b"\n" + b"x" * 499, replies.LINE_TOO_LONG),
        (b"x" * 500 + b"\r" + b"x" * 499, replies.LINE_TOO_LONG),
    ],
)
def test_a_line_counts_its_crlf_and_its_stuffed_dot(
    line: bytes, refusal: str | None, before: bytes, cuts: set[int]
) -> None:
    wire = before + line + b"\r\n.\r\n"
    outcome = read(wire, cuts, 1001, None, "accept")
    assert (outcome.done, outcome.refusal) == (True, refusal)
    # A bare newline ends a line once it is normalized.
    outcome = read(wire, cuts, 1001, None, "normalize")
    assert outcome.refusal == (None if re.search(rb"[\r\n]", line) else refusal)


@each_row("cuts", [set(), {10}, set(range(99))])
@each_row(
    ("body", "refusal"),
    [
        (b"12345678\r\n", None),
        (b"123456789\r\n", replies.TOO_MUCH_MAIL_DATA),
        (b"..2345678\r\n", None),
        (b"..23456789\r\n", replies.TOO_MUCH_MAIL_DATA),
        (b"..2\r\n..567\r\n", None),
        (b"..2\r\n..5678\r\n", replies.TOO_MUCH_MAIL_DATA),
        (b"\r\n" * 5, None),
        (b"\r\n" * 6, replies.TOO_MUCH_MAIL_DATA),
        (b"", None),
    ],
)
def test_the_size_counts_crlfs_and_no_stuffed_dots(
    body: bytes, refusal: str | None, cuts: set[int]
) -> None:
    """RFC 1870 section 5; a message of exactly the limit is accepted."""
    outcome = read(body + b".\r\n", cuts, None, 10)
    message = (b"\r\n" + body).replace(b"\r\n.", b"\r\n")[2:]
    assert (outcome.done, outcome.refusal, outcome.size) == (True, refusal, len(message))


@each_row("cuts", [set(), set(range(1, 99)), {30}])
@each_row(
    ("body", "refusal"),
    [
        (b"x" * 30 + b"\r\n" + b"y\r\n" * 10, replies.LINE_TOO_LONG),
        (b"y\r\n" * 10 + b"x" * 30 + b"\r\n", replies.TOO_MUCH_MAIL_DATA),
        (b"y\r\n" * 3 + b"x" * 30 + b"\r\n", replies.TOO_MUCH_MAIL_DATA),
        # Two stuffed dots: the line is too long at its 20th byte, 24 bytes into the message.
        (b"..ab\r\n." + b"x" * 30 + b"\r\n", replies.LINE_TOO_LONG),
        (b"..\r\n" * 2 + b"x" * 30 + b"\r\n", replies.TOO_MUCH_MAIL_DATA),
    ],
)
def test_the_limit_broken_first_is_reported(body: bytes, refusal: str, cuts: set[int]) -> None:
    assert read(body + b".\r\n", cuts, 20, 25).refusal == refusal


@pytest.mark.parametrize("none", [None, 0])
def test_without_limits_any_size_is_accepted(none: int | None) -> None:
    outcome = read(b"x" * 100_000 + b"\r\n.\r\n", {5, 70_000}, none, none)
    assert (outcome.refusal, len(outcome.content)) == (None, 100_002)
    assert not outcome.flooded


def test_twice_the_size_limit_is_a_flood() -> None:
    receiver = Receiver()
    data = MailData(receiver, None, 100)
    receiver.feed(b"x" * 200)
    assert data.read() == b""
    assert (data.flooded, data.done) == (False, False)
    assert data.refusal == replies.TOO_MUCH_MAIL_DATA
    receiver.feed(b"x")
    assert data.read() == b""
    assert (data.flooded, data.done) == (True, False)


def test_reading_without_input_returns_nothing() -> None:
    receiver = Receiver()
    data = MailData(receiver)
    assert data.read() == b""
    receiver.feed(b".")
    assert data.read() == b""
    assert data.read() == b""
    receiver.feed(b"\r\nQUIT\r\n")
    assert data.read() == b""
    assert data.done
    assert receiver.line(512) == b"QUIT"


def test_bytes_after_the_end_stay_in_the_receiver() -> None:
    receiver = Receiver()
    receiver.feed(b"one\r\n.\r\nDATA\r\ntwo\r\n.\r\nQUIT\r\n")
    first = MailData(receiver)
    assert (first.read(), first.done) == (b"one\r\n", True)
    assert receiver.line(512) == b"DATA"
    second = MailData(receiver)
    assert (second.read(), second.done) == (b"two\r\n", True)
    assert receiver.line(512) == b"QUIT"


# Memory: only bytes that may begin the end are kept.


@settings(deadline=None)
@given(WIRE, CUTS, st.sampled_from(POLICIES))
def test_at_most_four_bytes_are_held_back(wire: bytes, cuts: set[int], policy: str) -> None:
    receiver = Receiver()
    data = MailData(receiver, None, None, policy)
    for byte in wire:
        receiver.feed(bytes([byte]))
        data.read()
        if data.done:
            break
        kept = gc.get_referents(data)
        assert sum(len(part) for part in kept if isinstance(part, bytes)) <= 4
        assert len(receiver) == 0


@pytest.mark.parametrize("piece", [b"x" * 65536, b"x\r\n" * 21845, b"\r" * 65536, b".\n" * 32768])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_refused_message_takes_no_memory(piece: bytes, policy: str) -> None:
    receiver = Receiver()
    data = MailData(receiver, 1001, 100_000, policy)
    message = b""
    tracemalloc.start()
    try:
        for _ in range(160):
            receiver.feed(piece)
            message += data.read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data.refusal is not None
    assert len(message) <= 200_000
    assert peak < 1_000_000
    receiver.feed(b"\r\n.\r\nQUIT\r\n")
    assert data.read() == b""
    assert data.done
    assert receiver.line(512) == b"QUIT"
