"""The files of a store: one process has them."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aiosmtpd.inbox.store import Store, StoreError


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
