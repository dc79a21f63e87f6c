"""The times of tries, and durations as text."""

from typing import Any

import pytest

from aiosmtpd.delivery.schedule import PRESETS, Retry, retry_of, seconds
from tests.rows import each_row

DAY = 86400.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("30s", 30), ("5m", 300), ("2h", 7200), ("5d", 5 * DAY), ("7", 7), ("0.5s", 0.5), (9, 9)],
)
def test_durations(text: str | float, value: float) -> None:
    assert seconds(text) == value


@each_row("text", ["", "s", "-1", "5 minutes", "1e3", "nan", "5w", -1, True, None])
def test_no_durations(text: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


def tries(retry: Retry, random: float = 0.5) -> list[float]:
    """Return the times of all tries of a message that came at 0."""
    times, now = [0.0], 0.0
    while (due := retry.next_due(len(times), now, 0.0, random)) is not None:
        times.append(due)
        now = due
    return times


def test_the_pauses_grow_up_to_a_limit() -> None:
    times = tries(Retry(first="5s", factor=2, max="60s", give_up="5m"))
    assert times == [0, 5, 15, 35, 75, 135, 195, 255, 300]


def test_the_last_try_is_at_the_end() -> None:
    retry = Retry(first=10, max=10, give_up=25)
    assert tries(retry) == [0, 10, 20, 25]
    assert retry.next_due(1, 25, 0) is None
    assert retry.next_due(1, 24, 0) == 25


def test_give_up_at_once() -> None:
    assert tries(Retry(give_up=0)) == [0]


@pytest.mark.parametrize(("random", "due"), [(0, 8), (0.5, 10), (1, 12)])
def test_jitter(random: float, due: float) -> None:
    assert Retry(first=10, jitter=0.2).next_due(1, 0, 0, random) == pytest.approx(due)


def test_many_attempts_do_not_overflow() -> None:
    assert Retry(factor=1000).delay(10**6) == 3600
    assert Retry(factor=1, max=5).delay(10**9) == 5


def test_presets() -> None:
    local, remote = PRESETS["local"], PRESETS["remote"]
    assert (len(tries(local)), tries(local)[-1]) == (130, 5 * DAY)
    # RFC 5321 section 4.5.4.1: four to five days.
    assert (tries(remote)[1], tries(remote)[-1]) == (300, 5 * DAY)
    assert retry_of("local") is local
    assert retry_of({"first": "1m"}) == Retry(first=60)
    assert retry_of(remote) is remote


@pytest.mark.parametrize(
    "wrong",
    [
        "never",
        {"first": "1x"},
        {"firts": 1},
        {"first": 0},
        {"first": 20, "max": 10},
        {"factor": 0.5},
        {"jitter": 2},
    ],
)
def test_wrong_fields_are_one_line(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        retry_of(wrong)
