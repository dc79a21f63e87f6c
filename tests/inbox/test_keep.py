"""Retention: how limits are written, and which messages are over them."""

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.inbox.keep import Keep, Oldest, parse_keep, superfluous

NONE = Keep(None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5000,1G,30d", Keep(5000, 1 << 30, 30 * 86400)),
        ("30d, 1 GB ,5000", Keep(5000, 1 << 30, 30 * 86400)),
        ("1.5M", Keep(None, 3 << 19, None)),
        ("12h", Keep(None, None, 43200)),
        ("10", Keep(10, None, None)),
        ("all", NONE),
    ],
)
def test_limits_are_read(text: str, expected: Keep) -> None:
    assert parse_keep(text) == expected


@pytest.mark.parametrize("text", ["", "5000,,1G", "1,2", "0", "0d", "5 apples", "-1", "1e3"])
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_keep(text)


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Keep(count=0)


@given(
    count=st.none() | st.integers(1, 10**9),
    size=st.none() | st.integers(1, 10**6).map(lambda kilobytes: kilobytes << 10),
    age=st.none() | st.integers(1, 10**6),
)
def test_limits_are_written_as_they_are_read(
    count: int | None, size: int | None, age: int | None
) -> None:
    keep = Keep(count, size, age)
    assert parse_keep(str(keep)) == keep


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (Keep(5000, 1 << 30, 30 * 86400), "at most 5,000 messages, 1G, 30d"),
        (Keep(None, None, 43200), "at most 12h"),
        (Keep(10, None, None), "at most 10 messages"),
        (NONE, "without limit"),
    ],
)
def test_limits_in_words(keep: Keep, said: str) -> None:
    assert keep.describe() == said


def removed(keep: Keep, *messages: Oldest) -> tuple[list[int], str]:
    size = sum(one.size for one in messages)
    return superfluous(keep, messages, total=len(messages), size=size, now=1000.0)


A, B, C = Oldest(1, 100, 10.0), Oldest(2, 50, 500.0), Oldest(3, 10, 990.0)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (NONE, ([], "")),
        (Keep(3, None, None), ([], "")),
        (Keep(2, None, None), ([1], "2")),
        (Keep(None, 1024, None), ([], "")),
        (Keep(None, None, 600), ([1], "10m")),
        (Keep(None, None, 60), ([1, 2], "1m")),
        (Keep(None, None, 1), ([1, 2], "1s")),
    ],
)
def test_the_oldest_go_first(keep: Keep, expected: tuple[list[int], str]) -> None:
    assert removed(keep, A, B, C) == expected


def test_the_size_counts_all_messages() -> None:
    big, small = Oldest(1, 2000, 0.0), Oldest(2, 100, 0.0)
    assert removed(Keep(None, 1024, None), big, small) == ([1], "1K")
    assert removed(Keep(None, 1024, None), small, big) == ([2], "1K")


def test_the_newest_message_stays() -> None:
    assert removed(Keep(None, 1024, None), Oldest(1, 5000, 0.0)) == ([], "")


def test_one_limit_at_a_time_is_named() -> None:
    keep = Keep(2, None, 600)
    assert removed(keep, A, Oldest(2, 50, 20.0), C) == ([1], "2")
