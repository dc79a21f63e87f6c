"""Limits that hold over several processes: the table in shared memory."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.limits import Limits
from aiosmtpd.runner.shared import WAYS, Table
from aiosmtpd.runner.tally import Tally

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="one worker on Windows")

HOST = "192.0.2.1"

WORKER = """
import sys, time
from aiosmtpd.protocol.limits import Limits
from aiosmtpd.runner.tally import Tally
tally, limits = Tally(int(sys.argv[1]), int(sys.argv[2])), Limits(**eval(sys.argv[3]))
def admit():
    return tally.admit("192.0.2.1", 1, limits, time.monotonic()) is None
print("ready", flush=True)
for line in sys.stdin:
    answer = eval(line)
    print(answer, flush=True)
"""


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table(columns=8)
    yield table
    table.close()


def tallies(table: Table, number: int) -> list[Tally]:
    return [Tally(table.fd, table.take() or 0) for _ in range(number)]


class Process:
    def __init__(self, process: "subprocess.Popen[str]", column: int) -> None:
        self.process, self.column = process, column

    def ask(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def process(table: Table, **limits: int) -> Iterator[Process]:
    column = table.take()
    assert column is not None
    words = [sys.executable, "-P", "-c", WORKER, str(table.fd), str(column), repr(limits)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, text=True, pass_fds=[table.fd]
    ) as running:
        one = Process(running, column)
        assert one.answer() == "ready"
        try:
            yield one
        finally:
            running.kill()


def test_connections_of_a_host_count_in_all_columns(table: Table) -> None:
    first, second = tallies(table, 2)
    limits = Limits(max_connections_per_host=2)
    assert first.admit(HOST, 1, limits, 0) is None
    assert second.admit(HOST, 1, limits, 0) is None
    assert first.admit(HOST, 2, limits, 0) == replies.TOO_MANY_OF_HOST
    second.leave(HOST)
    assert first.admit(HOST, 2, limits, 0) is None
    assert table.connections() == 2


def test_the_number_of_connections_counts_in_all_columns(table: Table) -> None:
    first, second = tallies(table, 2)
    limits = Limits(max_connections=2)
    assert first.admit("", 1, limits, 0) is None
    assert second.admit("", 1, limits, 0) is None
    assert second.admit("", 2, limits, 0) == replies.TOO_MANY_CONNECTIONS
    second.leave(None)
    assert second.admit("", 2, limits, 0) == replies.TOO_MANY_CONNECTIONS
    first.leave("")
    assert second.admit("", 2, limits, 0) is None


def test_a_host_that_is_refused_leaves_no_trace(table: Table) -> None:
    (tally,) = tallies(table, 1)
    limits = Limits(max_connections_per_host=1, max_connections=2)
    assert tally.admit(HOST, 1, limits, 0) is None
    assert tally.admit(HOST, 2, limits, 0) == replies.TOO_MANY_OF_HOST
    assert table.connections() == 1


def test_arrivals_of_a_minute_count_in_all_columns(table: Table) -> None:
    first, second = tallies(table, 2)
    limits = Limits(max_connection_rate=2)
    for tally in first, second:
        assert tally.admit(HOST, 1, limits, 59) is None
        tally.leave(HOST)
    assert first.admit(HOST, 1, limits, 59.9) == replies.TOO_MANY_ARRIVALS
    assert first.admit(HOST, 1, limits, 60) is None


def test_the_column_of_a_dead_process_is_released(table: Table) -> None:
    column = table.take() or 0
    dead, alive = Tally(table.fd, column), Tally(table.fd, table.take() or 0)
    limits = Limits(max_connections_per_host=3)
    for _ in range(3):
        assert dead.admit(HOST, 1, limits, 0) is None
    assert alive.admit(HOST, 1, limits, 0) == replies.TOO_MANY_OF_HOST
    table.release(column)
    assert table.connections() == 0
    assert alive.admit(HOST, 1, limits, 0) is None


def test_columns_are_lent_until_none_is_left() -> None:
    table = Table(columns=2)
    assert {table.take(), table.take()} == {0, 1}
    assert table.take() is None
    table.release(1)
    assert table.take() == 1
    table.close()


def test_the_first_free_column_is_lent() -> None:
    table = Table(columns=3)
    for _ in range(3):
        table.take()
    for column in 2, 0, 1:
        table.release(column)
    assert [table.take() for _ in range(3)] == [0, 1, 2]
    table.close()


def test_hosts_of_one_bucket_never_count_for_each_other() -> None:
    table = Table(columns=2, buckets=1)
    first, second = tallies(table, 2)
    limits = Limits(max_connections_per_host=2)
    hosts = [f"192.0.2.{number}" for number in range(3 * WAYS)]
    for host in hosts:
        assert [first.admit(host, 1, limits, 0) for _ in range(2)] == [None, None]
    for host in hosts:
        assert first.admit(host, 1, limits, 0) == replies.TOO_MANY_OF_HOST
        first.leave(host)
        first.leave(host)
    # All entries are free again, also for other hosts.
    other = "198.51.100.1"
    assert [one.admit(other, 1, limits, 0) for one in (first, second)] == [None, None]
    assert first.admit(other, 1, limits, 0) == replies.TOO_MANY_OF_HOST
    table.close()


def test_an_entry_with_arrivals_of_this_minute_is_kept() -> None:
    table = Table(columns=1, buckets=1)
    (tally,) = tallies(table, 1)
    limits = Limits(max_connection_rate=1)
    hosts = [f"192.0.2.{number}" for number in range(WAYS + 1)]
    for host in hosts:
        assert tally.admit(host, 1, limits, 0) is None
        tally.leave(host)
    for host in hosts:
        assert tally.admit(host, 1, limits, 1) == replies.TOO_MANY_ARRIVALS
    for host in reversed(hosts):
        assert tally.admit(host, 1, limits, 61) is None
    table.close()


def test_another_descriptor_is_refused() -> None:
    text = "table of connections"
    with open(os.devnull, "rb") as file, pytest.raises(ValueError, match=text):
        Tally(file.fileno(), 0)


def test_all_processes_have_the_same_key(table: Table) -> None:
    assert [tally.key for tally in tallies(table, 2)] == [table.key, table.key]


@pytest.mark.fleet
def test_exactly_the_limit_of_many_attempts_is_admitted(table: Table) -> None:
    with ExitStack() as stack:
        four = [stack.enter_context(process(table, max_connections_per_host=20)) for _ in range(4)]
        for one in four:
            one.ask("sum(admit() for _ in range(50))")
        assert sum(int(one.answer()) for one in four) == 20
        # Clients come and go: nothing is left over at the end.
        words = "[admit() and tally.leave('192.0.2.1') for _ in range(2000)] and 'gone'"
        table.release(four[0].column)
        for one in four[1:]:
            one.ask(words)
        assert [one.answer() for one in four[1:]] == ["gone"] * 3


@pytest.mark.fleet
def test_clients_that_come_and_go_leave_nothing_over(table: Table) -> None:
    with ExitStack() as stack:
        two = [stack.enter_context(process(table, max_connections_per_host=2)) for _ in range(2)]
        for one in two:
            one.ask("[admit() and tally.leave('192.0.2.1') for _ in range(3000)] and 'gone'")
        assert [one.answer() for one in two] == ["gone", "gone"]
        assert table.connections() == 0
        for _ in range(2):
            two[0].ask("admit()")
            assert two[0].answer() == "True"
        two[1].ask("admit()")
        assert two[1].answer() == "False"


@pytest.mark.fleet
def test_a_killed_process_holds_no_lock(table: Table) -> None:
    with process(table, max_connections=1) as first, process(table, max_connections=1) as second:
        first.ask("tally._locked(0).__enter__() or admit()")
        assert first.answer() == "True"
        second.ask("admit()")
        assert second.answer() == "False"
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        table.release(first.column)
        second.ask("admit()")
        assert second.answer() == "True"
