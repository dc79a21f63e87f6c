"""The result of a task of the spool, as threads wait for it."""

import threading
from concurrent.futures import CancelledError

import pytest

from aiosmtpd.delivery.outcome import Outcome

PATIENCE = 20.0


def test_result_reaches_a_thread_that_waits() -> None:
    outcome: Outcome[int] = Outcome()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(outcome.result(PATIENCE)))
    thread.start()
    assert outcome.set_running_or_notify_cancel()
    assert outcome.running()
    assert not outcome.done()
    outcome.set_result(5)
    thread.join(PATIENCE)
    assert found == [5]
    assert outcome.done()
    assert not outcome.running()


def test_exception_is_raised_and_returned() -> None:
    outcome: Outcome[int] = Outcome()
    outcome.set_exception(LookupError("here"))
    with pytest.raises(LookupError, match="here"):
        outcome.result()
    assert isinstance(outcome.exception(), LookupError)


def test_wait_has_an_end() -> None:
    outcome: Outcome[int] = Outcome()
    with pytest.raises(TimeoutError):
        outcome.result(0.01)
    outcome.set_result(5)
    assert outcome.result(0.01) == 5


def test_callbacks_get_the_outcome_once() -> None:
    outcome: Outcome[int] = Outcome()
    told: list[object] = []
    outcome.add_done_callback(told.append)
    outcome.add_done_callback(told.append)
    assert not told
    outcome.set_result(5)
    outcome.add_done_callback(told.append)
    assert told == [outcome] * 3


def test_cancelled_task_is_not_run() -> None:
    outcome: Outcome[int] = Outcome()
    told: list[object] = []
    outcome.add_done_callback(told.append)
    assert outcome.cancel()
    assert outcome.cancel()
    assert outcome.cancelled()
    assert told == [outcome]
    assert not outcome.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        outcome.result()


def test_running_task_cannot_be_cancelled() -> None:
    outcome: Outcome[int] = Outcome()
    assert outcome.set_running_or_notify_cancel()
    assert not outcome.cancel()
    outcome.set_result(5)
    assert not outcome.cancel()
    assert not outcome.cancelled()
