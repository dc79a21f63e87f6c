"""A message that ends the process: its tries are counted, and it is given up in the end."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiosmtpd.delivery.item import Arrival
from tests.client import PATIENCE
from tests.delivery.spooling import beside, due, opened, put, stored

PROGRAM = """
import asyncio, os, sys
from aiosmtpd.delivery import Delivery, Route

def die(mail):
    os._exit(7)

async def main():
    route = Route(die, name="main", retry={"first": 1000})
    async with Delivery(sys.argv[1], [route]) as handler:
        while not (await handler.counts()).dead:
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


def run(folder: Path) -> int:
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.run(command, timeout=PATIENCE, capture_output=True).returncode


def row(folder: Path) -> tuple[int, int, str | None]:
    with beside(folder) as connection:
        query = "select attempts, dead, error from delivery"
        found: tuple[int, int, str | None] = connection.execute(query).fetchone()
        return found


def test_a_deadly_message_is_given_up(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        put(spool, "old")
    assert [run(tmp_path), row(tmp_path)] == [7, (0, 0, None)]
    died = "the process ended during this try"
    assert [run(tmp_path), row(tmp_path)] == [7, (1, 0, died)]
    assert [run(tmp_path), row(tmp_path)] == [
        0,
        (2, 1, f"4.4.7 Given up, the last try said: {died}"),
    ]


def test_a_deadly_message_waits(tmp_path: Path) -> None:
    now = time.time()
    with opened(tmp_path) as spool:
        put(spool, "new", arrival=Arrival(time=now))
    assert [run(tmp_path), run(tmp_path)] == [7, 7]
    with opened(tmp_path) as spool:
        assert not due(spool, now + 700)
        assert [job.item.attempts for job in due(spool, now + 2000)] == [1]


@pytest.mark.parametrize("settled", [False, True])
def test_a_begun_try_counts_once(tmp_path: Path, settled: bool) -> None:
    with opened(tmp_path) as spool:
        job = stored(spool, "one")
        assert not spool.is_suspect(job)
        spool.begin(job, due=5.0)
        if settled:
            spool.later(job, due=6.0, error="no", recipients=job.item.recipients)
        else:
            spool.put_back(job)
        (again,) = due(spool)
    assert (again.item.attempts, again.due) == ((1, 6.0) if settled else (0, 0.0))
