"""The circuit breaker of a route."""

from aiosmtpd.delivery.breaker import Breaker
from aiosmtpd.delivery.schedule import Retry

RETRY = Retry(first=10, factor=2, max=30, jitter=0)


def broken(now: float = 100.0) -> Breaker:
    breaker = Breaker(RETRY)
    for _ in range(4):
        assert breaker.fail(now) is False
    assert breaker.fail(now) is True
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    breaker = Breaker(RETRY)
    for _ in range(3):
        for _ in range(4):
            breaker.fail(0)
            assert breaker.allows(0)
        breaker.succeed()
    assert not breaker.is_down
    breaker = broken()
    assert breaker.is_down
    assert not breaker.allows(100)


def test_one_probe_for_each_pause() -> None:
    breaker = broken(100)
    now, pauses = 100.0, []
    for _ in range(4):
        pauses.append(breaker.again - now)
        now = breaker.again
        assert not breaker.allows(now - 0.01)
        assert breaker.allows(now)
        breaker.begin()
        assert not breaker.allows(now)
        assert breaker.fail(now) is False
    assert pauses == [10, 20, 30, 30]


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = broken()
    breaker.begin()
    breaker.succeed()
    assert not breaker.is_down
    assert breaker.allows(0)
    assert breaker.fail(0) is False


def test_late_failures_do_not_count() -> None:
    breaker = broken(100)
    breaker.fail(105)
    assert breaker.again == 110


def test_a_probe_without_a_result() -> None:
    breaker = broken(100)
    breaker.begin()
    breaker.abandon()
    assert breaker.allows(110)


def test_an_operator_wakes_it() -> None:
    breaker = broken(100)
    breaker.wake()
    assert breaker.allows(100)


def test_pauses_have_jitter() -> None:
    breaker = Breaker(Retry(first=10, jitter=0.5), limit=1)
    breaker.fail(0, random=1)
    assert breaker.again == 15
