"""A spool that cannot be opened, or whose disk fails: one line, and nothing is deleted."""

import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from aiosmtpd.delivery import database, writer
from aiosmtpd.delivery.spool import Spool, SpoolError, SpoolFull
from tests.delivery.spooling import PATIENCE, beside, due, ids, large, opened, put, write_locked

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a spool with one small and one large message, and a copy of it."""
    folder = tmp_path / "spool"
    with opened(folder) as spool:
        put(spool, "small")
        put(spool, "large", large(spool, "large", b"x" * 300_000)).result(PATIENCE)
    shutil.copytree(folder, tmp_path / "copy")
    return folder


def refusal(folder: Path) -> str:
    """Return the one line with which the spool refuses to open."""
    before = {path.name for path in folder.rglob("*")}
    with pytest.raises(SpoolError) as caught:
        Spool(folder).open()
    text = str(caught.value)
    assert "\n" not in text
    assert before <= {path.name for path in folder.rglob("*")}
    return text


def restore(folder: Path) -> None:
    """Check that the spool is as before once the cause is gone."""
    shutil.copy(folder.parent / "copy" / "spool.db", folder)
    with opened(folder) as spool:
        assert ids(due(spool)) == ["small", "large"]


def test_another_process_has_it(folder: Path) -> None:
    code = (
        "import sys; from aiosmtpd.delivery.spool import Spool\n"
        "Spool(sys.argv[1]).open(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert re.search(rf"in use by process {process.pid}: end that", refusal(folder))
        process.kill()
    restore(folder)


def test_another_object_has_it(folder: Path) -> None:
    with opened(folder):
        assert "is in use by process" in refusal(folder)
    restore(folder)


@pytest.mark.parametrize("version", [0, 1, 99])
def test_another_version(folder: Path, version: int) -> None:
    with beside(folder) as connection:
        connection.execute(f"pragma user_version = {version}")
    assert f"has a spool of format {version}, and" in refusal(folder)
    restore(folder)


def test_database_of_another_program(folder: Path) -> None:
    (folder / "spool.db").unlink()
    with beside(folder) as connection:
        connection.execute("create table other(x)")
    assert "spool.db is not a spool: name another folder" in refusal(folder)
    restore(folder)


@pytest.mark.parametrize("place", [0, 40, 2 * 16384], ids=["header", "schema", "page"])
def test_damaged_database(folder: Path, place: int) -> None:
    with (folder / "spool.db").open("r+b") as file:
        file.seek(place)
        file.write(b"\xa5" * 4000)
    text = refusal(folder)
    assert "damaged" in text or "is not a spool" in text
    if place != 40:
        assert "move the folder away" in text
    restore(folder)


@pytest.mark.parametrize("kept", ["large", "spool.db-wal"])
def test_database_is_gone(folder: Path, kept: str) -> None:
    (folder / "spool.db").unlink()
    if kept == "spool.db-wal":
        (folder / kept).write_bytes(b"x")
        (folder / "large" / "large").rename(folder.parent / "moved")
    assert f"spool.db is missing, but {folder}/{kept} has messages" in refusal(folder)
    if kept == "spool.db-wal":
        (folder / kept).unlink()
        (folder.parent / "moved").rename(folder / "large" / "large")
    restore(folder)


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"Cannot use .* as a spool: .*; choose a local folder"):
        Spool(tmp_path / "file").open()


def test_folder_in_place_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "spool.db").mkdir()
    with pytest.raises(SpoolError, match="spool"):
        Spool(tmp_path).open()


def test_refused_spool_leaves_the_lock(folder: Path) -> None:
    with beside(folder) as connection:
        connection.execute("pragma user_version = 9")
    refusal(folder)
    refusal(folder)
    restore(folder)


def test_crash_while_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "spool.db").touch()
    with opened(tmp_path) as spool:
        put(spool, "id1").result(PATIENCE)
    (tmp_path / "spool.db").unlink()
    with closing(sqlite3.connect(tmp_path / "spool.db")) as connection:
        connection.execute("pragma journal_mode = wal")
    with opened(tmp_path) as spool:
        put(spool, "id1").result(PATIENCE)


def test_damage_beyond_the_first_look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECKED", 0)
    with (folder / "spool.db").open("r+b") as file:
        for page in range(2, 7):
            file.seek(page * database.PAGE)
            file.write(b"\xa5" * 4000)
    assert "is damaged" in refusal(folder)
    restore(folder)


class TestSystems:
    """The branches for other systems, on this one."""

    def test_lock_of_windows(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        taken: set[int] = set()

        def locking(descriptor: int, mode: int, count: int) -> None:
            assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1 << 20
            if taken:
                raise PermissionError(13, "Permission denied")
            taken.add(descriptor)

        module = SimpleNamespace(locking=locking, LK_NBLCK=2)
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", module)
        with opened(folder):
            assert taken
            assert f"is in use by process {os.getpid()}" in refusal(folder)

    def test_file_system_without_locks(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def flock(descriptor: int, mode: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        fcntl = SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4)
        monkeypatch.setitem(sys.modules, "fcntl", fcntl)
        assert "No locks available; choose a local folder" in refusal(folder)

    def test_sync_of_macos(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        fcntl = SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda file, word: synced.append(word))
        with opened(folder) as spool, monkeypatch.context() as patched:
            patched.delattr(os, "fdatasync", raising=False)
            patched.setitem(sys.modules, "fcntl", fcntl)
            large(spool, "id1", b"x").discard()
        assert synced == [51]

    @pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EIO])
    def test_a_volume_without_the_sync_of_macos(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        synced: list[int] = []

        def fails(descriptor: int, word: int) -> None:
            raise OSError(code, os.strerror(code))

        fcntl = SimpleNamespace(F_FULLFSYNC=51, fcntl=fails)
        with opened(folder) as spool, monkeypatch.context() as patched:
            patched.delattr(os, "fdatasync", raising=False)
            patched.delattr(os, "O_DIRECTORY", raising=False)
            patched.setattr(os, "fsync", synced.append)
            patched.setitem(sys.modules, "fcntl", fcntl)
            if code == errno.EIO:
                with pytest.raises(OSError, match="Input/output error"):
                    large(spool, "id1", b"x")
                assert spool.failed is not None
            else:
                large(spool, "id1", b"x").discard()
                assert len(synced) == 1

    def test_sync_of_windows(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        with opened(folder) as spool, monkeypatch.context() as patched:
            patched.delattr(os, "fdatasync", raising=False)
            patched.delattr(os, "O_DIRECTORY", raising=False)
            patched.setitem(sys.modules, "fcntl", None)
            patched.setattr(os, "fsync", synced.append)
            large(spool, "id1", b"x").discard()
        assert len(synced) == 1

    def test_folders_that_cannot_be_synced(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        with opened(folder) as spool, monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            put(spool, "id1", large(spool, "id1", b"x")).result(PATIENCE)


class TestFailure:
    def test_failed_sync_of_a_large_file(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(folder) as spool:
            file = spool.large("id1")
            with monkeypatch.context() as patched:
                patched.setattr(os, "fdatasync", failing, raising=False)
                with pytest.raises(OSError, match="disk"):
                    file.finish()
            file.discard()
            assert isinstance(spool.failed, OSError)
            for late in put(spool, "id2"), spool.due(10.0, 5), spool.counts():
                with pytest.raises(SpoolError, match=r"closed after an error of its disk .*check"):
                    late.result(PATIENCE)
            with pytest.raises(SpoolError, match="is closed"):
                spool.large("id3")
        assert isinstance(spool.failed, OSError)
        restore(folder)

    def test_failed_sync_of_the_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(folder) as spool:
            file = spool.large("id1")
            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", failing)
                with pytest.raises(OSError, match="disk"):
                    file.finish()
            file.discard()
            assert spool.failed is not None
        restore(folder)

    def test_full_disk_closes_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(folder) as spool:
            file = spool.large("id1")
            with monkeypatch.context() as patched:
                patched.setattr(os, "fdatasync", full, raising=False)
                with pytest.raises(SpoolFull, match="is full: make room"):
                    file.finish()
                patched.setattr(os, "open", full)
                with pytest.raises(SpoolFull, match="is full: make room"):
                    spool.large("id3")
                patched.setattr(os, "open", failing)
                with pytest.raises(OSError, match="the disk fails"):
                    spool.large("id3")
            file.discard()
            assert spool.failed is None
            put(spool, "id2").result(PATIENCE)

    def test_database_that_breaks_while_open(self, folder: Path) -> None:
        with opened(folder) as spool:
            with beside(folder) as connection:
                connection.execute("pragma writable_schema = on")
                connection.execute("update sqlite_master set rootpage = 99999 where type = 'table'")
                connection.execute("pragma schema_version = 999")
            with pytest.raises(SpoolError, match="is damaged"):
                put(spool, "id2").result(PATIENCE)
            assert isinstance(spool.failed, sqlite3.DatabaseError)
        with opened(folder.parent / "copy") as spool:
            assert spool.failed is None

    def test_tasks_that_wait_are_refused(self, folder: Path) -> None:
        with opened(folder) as spool:
            with write_locked(folder):
                futures = [put(spool, "id1")]
                while not futures[0].running():
                    time.sleep(0.001)
                futures += [put(spool, f"more{number}") for number in range(3)]
                cancelled = put(spool, "cancelled")
                assert cancelled.cancel()
                file = large(spool, "big", b"x")
                futures.append(put(spool, "big", file))
                with beside(folder) as other:
                    assert other.execute("select count(*) from message").fetchone() == (2,)
                spool._writer.fail(OSError(errno.EIO, "the disk"))  # type: ignore[union-attr]
            for future in futures[1:]:
                with pytest.raises(SpoolError, match=r"closed after an error"):
                    future.result(PATIENCE)
            assert futures[0].exception(PATIENCE) is None
            assert not os.path.exists(file.path)


def test_locked_by_another_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in database, writer:
        monkeypatch.setattr(module, "BUSY", 0.05)
    with opened(folder) as spool:
        with write_locked(folder), pytest.raises(SpoolError, match=r"keeps .* locked: end that"):
            put(spool, "id1").result(PATIENCE)
        put(spool, "id2").result(PATIENCE)
        assert ids(due(spool)) == ["small", "large", "id2"]


def test_a_clock_that_was_set_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as spool:
        with monkeypatch.context() as later:
            later.setattr(writer, "monotonic", lambda: 1e11)
            put(spool, "id1").result(PATIENCE)
        spool.counts().result(PATIENCE)
        put(spool, "id2").result(PATIENCE)
        assert spool.failed is None


def failing(*_: object) -> None:
    raise OSError(errno.EIO, "the disk fails")


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "the disk is full")
