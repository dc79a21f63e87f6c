"""Bytes in, command lines out: RFC 5321 sections 2.3.8 and 4.5.3.1.4."""

import gc
import itertools
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.protocol.receiver import LINE_FLOOD, LineFlood, LineTooLong, Receiver
from tests.rows import each_row

TOO_LONG = "too long"

Event = bytes | str


def lines_now(receiver: Receiver, limit: int) -> Iterator[Event]:
    """Take all complete lines."""
    while True:
        try:
            line = receiver.line(limit)
        except LineTooLong:
            yield TOO_LONG
        else:
            if line is None:
                return
            yield line


def expected_lines(data: bytes, limit: int) -> list[Event]:
    """Cut lines in a slow and simple way."""
    events: list[Event] = []
    for line in data.split(b"\n")[:-1]:
        events.append(TOO_LONG if len(line) > limit else line.removesuffix(b"\r"))
    return events


def pieces(data: bytes, cuts: set[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


def held(receiver: Receiver) -> int:
    """Return the number of bytes that the receiver keeps alive, waiting or not."""
    return sum(len(part) for part in gc.get_referents(receiver) if isinstance(part, bytes))


def fed(*data: bytes) -> Receiver:
    receiver = Receiver()
    for piece in data:
        receiver.feed(piece)
    return receiver


@each_row(
    ("data", "lines"),
    [
        (b"NOOP\r\n", [b"NOOP"]),
        (b"NOOP\n", [b"NOOP"]),
        (b"NOOP\r\nQUIT\n", [b"NOOP", b"QUIT"]),
        (b"\r\n\n", [b"", b""]),
        (b"NOOP\r\r\n", [b"NOOP\r"]),
        (b"NO\rOP\r\n", [b"NO\rOP"]),
        (b"\n\rNOOP\n\r", [b"", b"\rNOOP"]),
        (b"\x00\xff \t\r\n", [b"\x00\xff \t"]),
        (b"NOOP\r", []),
        (b"", []),
    ],
)
def test_a_line_ends_at_lf_or_crlf(data: bytes, lines: list[bytes]) -> None:
    assert list(lines_now(fed(data), 512)) == lines


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"bcdef", b"\0"])).map(b"".join),
    st.sets(st.integers(1, 60)),
    st.integers(0, 8),
)
def test_cuts_do_not_matter_and_long_lines_are_dropped(
    data: bytes, cuts: set[int], limit: int
) -> None:
    receiver = Receiver()
    events: list[Event] = []
    for piece in pieces(data, cuts):
        receiver.feed(piece)
        events += lines_now(receiver, limit)
        assert len(receiver) <= limit
        assert not receiver.has_line()
    assert events == expected_lines(data, limit)
    # The rest of the last line still belongs to it.
    receiver.feed(b"\n")
    assert list(lines_now(receiver, limit)) == expected_lines(data + b"\n", limit)[len(events) :]
    assert len(receiver) == held(receiver) == 0


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("singly", [False, True])
def test_the_limit_counts_bytes_before_the_lf(end: bytes, singly: bool) -> None:
    limit = 20
    longest = b"x" * (limit + 1 - len(end)) + end
    for data, event in [(longest, longest.rstrip()), (b"x" + longest, TOO_LONG)]:
        receiver = Receiver()
        events: list[Event] = []
        for piece in pieces(data, set(range(100)) if singly else set()):
            receiver.feed(piece)
            events += lines_now(receiver, limit)
        assert events == [event]


def test_the_line_after_a_long_one_is_read() -> None:
    receiver = fed(b"x" * 600)
    assert receiver.line(512) is None
    assert len(receiver) == held(receiver) == 0
    receiver.feed(b"short")
    assert receiver.line(512) is None
    assert len(receiver) == 0, "no part of an over-long line is kept"
    receiver.feed(b"\r\nNOOP\r\n")
    with pytest.raises(LineTooLong):
        receiver.line(512)
    assert receiver.line(512) == b"NOOP"
    assert receiver.line(512) is None


def test_a_limit_may_differ_from_line_to_line() -> None:
    receiver = fed(b"x" * 20 + b"\n" + b"y" * 20 + b"\n")
    with pytest.raises(LineTooLong):
        receiver.line(10)
    assert receiver.line(20) == b"y" * 20


@pytest.mark.parametrize("step", [1, 1000, 4096, LINE_FLOOD])
def test_a_line_without_end_is_a_flood_after_64_kib(step: int) -> None:
    receiver = Receiver()
    for _ in range(LINE_FLOOD // step):
        receiver.feed(b"x" * step)
        assert receiver.line(0) is None
        assert held(receiver) == 0
    receiver.feed(b"x" * (LINE_FLOOD % step + 1))
    with pytest.raises(LineFlood):
        receiver.line(0)
    assert held(receiver) == 0


def test_64_kib_are_not_a_flood_and_the_count_restarts() -> None:
    receiver = Receiver()
    for _ in range(3):
        receiver.feed(b"x" * LINE_FLOOD)
        assert receiver.line(512) is None
        receiver.feed(b"\n")
        with pytest.raises(LineTooLong):
            receiver.line(512)
    assert receiver.line(512) is None


def test_a_flood_takes_no_memory() -> None:
    receiver = Receiver()
    piece = b"x" * 1000
    tracemalloc.start()
    try:
        for _ in range(LINE_FLOOD // len(piece)):
            receiver.feed(piece)
            assert receiver.line(512) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000


def test_an_idle_receiver_does_not_hold_the_last_read() -> None:
    receiver = fed(b"NOOP\r\n" * 100)
    for _ in range(100):
        assert receiver.line(512) == b"NOOP"
    assert held(receiver) == 0
    receiver.feed(b"x" * 100)
    assert receiver.take(100) == b"x" * 100
    assert held(receiver) == 0


def test_len_and_has_line_describe_the_input() -> None:
    receiver = fed(b"NO")
    assert (len(receiver), receiver.has_line()) == (2, False)
    receiver.feed(b"OP\r\nQUIT")
    assert (len(receiver), receiver.has_line()) == (10, True)
    assert receiver.line(512) == b"NOOP"
    assert (len(receiver), receiver.has_line()) == (4, False)


def test_take_returns_at_most_the_input() -> None:
    receiver = fed(b"abc\ndef")
    assert receiver.take(0) == b""
    assert receiver.take(2) == b"ab"
    assert receiver.take(3) == b"c\nd"
    assert receiver.take(100) == b"ef"
    assert receiver.take(1) == b""
    receiver.feed(b"gh")
    assert receiver.take(2) == b"gh"


def test_bytes_put_back_are_taken_next() -> None:
    receiver = fed(b"DATA\r\nbody\r\nQUIT\r\n")
    assert receiver.line(512) == b"DATA"
    taken = receiver.take(8)
    receiver.put_back(taken[6:])
    assert receiver.line(512) == b"QUIT"
    receiver.put_back(b"NOOP\n")
    receiver.feed(b"RSET\n")
    assert list(lines_now(receiver, 512)) == [b"NOOP", b"RSET"]


def test_a_line_end_that_was_put_back_is_found() -> None:
    receiver = fed(b"NOOP")
    assert receiver.line(512) is None
    assert receiver.take(4) == b"NOOP"
    receiver.put_back(b"A\nB")
    assert receiver.line(512) == b"A"
    receiver.feed(b"\n")
    assert receiver.line(512) == b"B"


@pytest.mark.parametrize("rest", [b"MAIL FROM:<evil@b.test>\r\n", b"unfinished", b"x" * 600])
def test_clear_drops_all_input(rest: bytes) -> None:
    """Commands sent before TLS are not run inside it: RFC 3207 section 6."""
    receiver = fed(b"STARTTLS\r\n" + rest)
    assert receiver.line(512) == b"STARTTLS"
    if b"\n" not in rest:
        assert receiver.line(512) is None
    receiver.clear()
    assert len(receiver) == held(receiver) == 0
    receiver.feed(b"EHLO client.test\r\n")
    assert receiver.line(512) == b"EHLO client.test"


Step = tuple[str, bytes] | tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.lists(st.sampled_from([b"a", b"\r", b"\n"])).map(b"".join)),
        st.tuples(st.just("take"), st.integers(0, 6)),
        st.tuples(st.just("put back"), st.integers(0, 3)),
        st.tuples(st.just("line"), st.just(99)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_no_byte_is_lost_or_doubled_in_any_order_of_calls(steps: list[Step]) -> None:
    receiver, model, taken = Receiver(), b"", b""
    for call, argument in steps:
        if isinstance(argument, bytes):
            receiver.feed(argument)
            model += argument
        elif call == "take":
            taken, model = model[:argument], model[argument:]
            assert receiver.take(argument) == taken
        elif call == "put back":
            receiver.put_back(taken[argument:])
            model, taken = taken[argument:] + model, b""
        elif call == "line":
            line: bytes | None = None
            if b"\n" in model:
                line, _, model = model.partition(b"\n")
                line = line.removesuffix(b"\r")
            assert receiver.line(argument) == line
        else:
            receiver.clear()
            model = b""
        assert len(receiver) == len(model)
        assert receiver.has_line() == (b"\n" in model)
