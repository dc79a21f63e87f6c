"""The folder of the spool: its files, their names and its lock."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aiosmtpd.delivery import writer
from aiosmtpd.delivery.ids import new_queue_id
from aiosmtpd.delivery.spool import Duplicate, SpoolError
from tests.delivery.spooling import PATIENCE, due, large, opened, put, read
from tests.delivery.support import until


def test_a_second_large_message_of_an_id(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        put(spool, "one", large(spool, "one", b"first")).result(PATIENCE)
        with pytest.raises(Duplicate, match="The spool has a message one already"):
            spool.large("one")
        assert read(due(spool)[0]) == b"first"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_file_with_a_name_of_another_encoding(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    strange = os.path.join(os.fsencode(tmp_path), b"large", b"\xff")
    Path(os.fsdecode(strange)).touch()
    os.utime(strange, (1, 1))
    with opened(tmp_path) as spool:
        assert due(spool) == []


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders cannot be synced")
def test_the_names_of_new_folders_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    folder = tmp_path / "of" / "mail"
    with opened(folder):
        pass
    above = {path.stat().st_ino for path in (tmp_path, folder.parent, folder)}
    assert above <= synced
    # A folder that is made again is in the spool too.
    (folder / "large").rmdir()
    synced.clear()
    with opened(folder):
        pass
    assert folder.stat().st_ino in synced
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "large")] == [0o700] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = """
import os, sys
from aiosmtpd.delivery.spool import Spool
spool = Spool(sys.argv[1])
spool.open()
if not os.fork():
    sys.stdin.read()
    os._exit(0)
spool.close()
"""
    words = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as parent:
        assert parent.wait(PATIENCE) == 0
        with opened(tmp_path) as spool:
            assert due(spool) == []


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be deleted")
@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_stored_in_a_deleted_folder(tmp_path: Path, again: bool) -> None:
    folder = tmp_path / "spool"
    with opened(folder) as spool:
        assert spool.has_room()
        shutil.rmtree(folder)
        if again:
            shutil.copytree(spool_of(tmp_path / "other"), folder)
        until(lambda: not spool.has_room() or spool.failed is not None)
        with pytest.raises(SpoolError, match=r"spool\.db was moved or deleted"):
            put(spool, "one").result(PATIENCE)


def spool_of(folder: Path) -> Path:
    """Return a new spool."""
    with opened(folder):
        return folder


def test_the_log_of_small_commits_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT", 1 << 20)
    with opened(tmp_path / "spool") as spool:
        for _ in range(100):
            put(spool, new_queue_id(), due=1.0).result(PATIENCE)
        assert (tmp_path / "spool" / "spool.db-wal").stat().st_size < 1 << 20
