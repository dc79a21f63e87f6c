"""A store whose disk is full: messages can be deleted, and then stored again."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aiosmtpd.inbox import reserve
from aiosmtpd.inbox.keep import Keep
from aiosmtpd.inbox.records import Attempt
from aiosmtpd.inbox.store import Store, StoreError
from tests.inbox.support import add, received

PATIENCE = 30
MOUNT = ("unshare", "--mount", "--map-root-user")
"""Runs a program that may mount file systems, which no other program sees."""

FILL = """
import sys
from pathlib import Path
from subprocess import check_call
from aiosmtpd.inbox.store import Keep, Received, Store, StoreError

folder = Path(sys.argv[1])
check_call(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder])
with Store(folder / "inbox.db", keep=Keep(None, None, None)) as store:
    def add(number):
        words = " ".join(str(number * 7919 + one) for one in range(300))
        return store.add(Received(f"Subject: x\\r\\n\\r\\n{words}".encode(), "a@b.c", ["d@e.f"]))
    ids = []
    refused = 0
    while refused < 5:
        for future in [add(len(ids) + one) for one in range(20)]:
            try:
                ids.append(future.result())
            except StoreError:
                refused += 1
    assert len(ids) > 100
    for count in 1, 10, 100:
        assert store.delete(ids[:count]).result() == count
        del ids[:count]
    assert store.delete(None).result() == len(ids)
    # The tables are dropped a moment later, in pieces.
    while add(1).exception():
        pass
"""


class Disk(NamedTuple):
    """The bytes of a file system."""

    total: int
    used: int
    free: int


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that lets a disk refuse commits while there is a file of the reserve."""
    full: list[Path] = []

    class Connection(sqlite3.Connection):
        is_writer = False

        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            self.is_writer = self.is_writer or sql == "begin immediate"
            if self.is_writer and sql == "commit" and full and full[0].exists():
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
    return lambda path: full.append(Path(f"{path}-reserve"))


@pytest.mark.parametrize("all", [True, False])
def test_messages_can_be_deleted(tmp_path: Path, fill: Callable[[Path], None], all: bool) -> None:
    path = tmp_path / "inbox.db"
    with Store(path) as store:
        id = add(store)
        fill(path)
        with pytest.raises(StoreError, match="is full: make room"):
            add(store)
        assert store.delete(None if all else [id]).result(PATIENCE) == 1
        assert store.counts().total == 0
    assert not Path(f"{path}-reserve").exists()


def test_attempts_can_be_deleted(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    path = tmp_path / "inbox.db"
    with Store(path) as store:
        store.add_attempt(Attempt(1, "RCPT")).result(PATIENCE)
        fill(path)
        assert store.delete_attempts().result(PATIENCE) == 1


def test_retention_goes_on(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    path = tmp_path / "inbox.db"
    with Store(path, keep=Keep(None, None, None)) as store:
        for _ in range(3):
            add(store)
    with Store(path, keep=Keep(2, None, None)) as store:
        fill(path)
        with pytest.raises(StoreError, match="full"):
            add(store)
        while store.counts().total > 2:
            store.rows([])
        assert store.gone()[0].count == 1


def test_the_reserve_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, free))
    path = tmp_path / "inbox.db"
    made = reserve.Reserve(path)
    connection = sqlite3.connect(path)
    made.make()
    assert not made.give_up(connection)
    free = reserve.SIZE
    made.make()
    file = Path(f"{path}-reserve")
    assert file.stat().st_size == reserve.SIZE
    assert file.stat().st_mode & 0o777 == 0o600 or os.name == "nt"
    assert made.is_low()
    assert made.give_up(connection)
    assert not file.exists()
    file.touch()
    reserve.Reserve(path)
    assert not file.exists()
    connection.close()


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, reserve.LOW - 1))
    path = tmp_path / "inbox.db"
    with Store(path) as store:
        ids = [store.take(received(b"x" * 50_000)).result(PATIENCE) for _ in range(50)]
        # One commit of many messages might not fit.
        assert not any(Path(f"{path}-new{end}").stat().st_size for end in "12")
        assert Path(f"{path}-wal").stat().st_size < 2_000_000
        store.delete(ids).result(PATIENCE)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system of its own")
def test_a_small_file_system(tmp_path: Path) -> None:
    if subprocess.run(
        [*MOUNT, "mount", "-t", "tmpfs", "none", str(tmp_path)], check=False
    ).returncode:
        pytest.skip("this user may not mount file systems")
    command = [*MOUNT, sys.executable, "-c", FILL, str(tmp_path)]
    subprocess.run(command, check=True, timeout=PATIENCE)
