"""The files of a store: one process has them, and another removes those of a dead one."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import time
from types import SimpleNamespace

import pytest

from aiosmtpd.inbox import temporary
from aiosmtpd.inbox.store import LARGE, Store, StoreError
from tests.delivery.support import until
from tests.inbox.command import running
from tests.inbox.support import add, mail

IN_FILE = mail(("y" * 70 + "\r\n") * (LARGE // 70))

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs the boot id of Linux")


def test_one_process_has_a_store_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[tuple[int, int]] = set()

    def locking(descriptor: int, mode: int, count: int) -> None:
        file = os.fstat(descriptor)
        if (file.st_dev, file.st_ino) in taken:
            raise PermissionError(13, "Permission denied")
        taken.add((file.st_dev, file.st_ino))

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with Store(tmp_path / "box.db"), Store(tmp_path / "other.db"):
        with pytest.raises(StoreError, match=r"box\.db is in use by another process: end it first"):
            Store(tmp_path / "box.db").open()
        # The lock is there, and the refused one has removed nothing.
        assert (tmp_path / "box.db.large").is_dir()


def age(folder: Path, seconds: float = 2 * temporary.AGE) -> None:
    """Let all files of a folder be of so many seconds ago."""
    then = time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an old folder, as a process leaves it that is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "aiosmtpd-inbox-abcdefgh"
    with Store() as store:
        add(store, IN_FILE)
        assert store.path is not None
        shutil.copytree(store.path.parent, folder)
    assert len(list(folder.rglob("*"))) > 6
    age(folder)
    return folder


@linux_only
def test_a_folder_that_is_left_is_removed(left: Path) -> None:
    with Store() as store:
        assert store.path is not None
        age(store.path.parent)
        temporary.remove_left()
        assert [one.name for one in left.parent.iterdir()] == [store.path.parent.name]
        add(store, IN_FILE)


def new_name(folder: Path) -> None:
    folder.rename(folder.with_name("aiosmtpd-inbox-of-mine"))


def behind_a_link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def linked_lock(folder: Path) -> None:
    lock = folder / "inbox.db.lock"
    lock.rename(folder.with_name("lock"))
    lock.symlink_to(folder.with_name("lock"))
    age(folder)


def without_lock(folder: Path) -> None:
    (folder / "inbox.db.lock").unlink()
    age(folder)


def other_start(folder: Path) -> None:
    (folder / "inbox.db.lock").write_text("another start\n")


def fresh(folder: Path) -> None:
    os.utime(folder / "inbox.db")


def almost_a_day(folder: Path) -> None:
    age(folder, temporary.AGE - 60)


def kept_since(folder: Path) -> None:
    with Store(folder / "inbox.db"):
        pass
    age(folder)


def with_another_file(folder: Path) -> None:
    (folder / "notes.txt").touch()
    age(folder)


@linux_only
@pytest.mark.parametrize(
    "change",
    [
        *(new_name, behind_a_link, linked_lock, other_start, fresh, almost_a_day, kept_since),
        *(with_another_file, without_lock),
        lambda folder: folder.chmod(0o755),
    ],
)
def test_other_folders_stay(left: Path, change: Callable[[Path], None]) -> None:
    change(left)
    before = sorted(left.parent.rglob("*"))
    temporary.remove_left()
    assert sorted(left.parent.rglob("*")) == before


@linux_only
def test_folders_of_other_users_stay(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    temporary.remove_left()
    assert (left / "inbox.db").exists()


def test_without_the_boot_id_all_folders_stay(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "BOOT", left / "no such file")
    (left / "inbox.db.lock").write_bytes(b"")
    age(left)
    temporary.remove_left()
    assert (left / "inbox.db").exists()


@linux_only
def test_the_command_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    with running(TMPDIR=str(tmp_path)) as live:
        live.send()
        (first,) = tmp_path.glob("aiosmtpd-inbox-*")
        with running(TMPDIR=str(tmp_path)) as killed:
            killed.send()
            (second,) = {*tmp_path.glob("aiosmtpd-inbox-*")} - {first}
            killed.program.process.send_signal(signal.SIGKILL)
            killed.program.process.wait()
        age(first)
        age(second)
        with running("--store", str(tmp_path / "kept.db"), TMPDIR=str(tmp_path)):
            assert second.exists()
        with running(TMPDIR=str(tmp_path)):
            until(lambda: not second.exists())
        assert live.subjects() == ["Hi"]
