"""The folders of stores without a name, and the removal of those that a process has left.

A process that is killed leaves its folder. Another one removes it if that is safe: the folder
belongs to the same user and has only files of a store, it was made since this machine has started,
no process has its lock, and nothing in it has changed for a day. A system other than Linux does not
tell one start from another: nothing is removed there.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from time import time
from typing import BinaryIO

from aiosmtpd.delivery.lock import lock

NAME = "inbox.db"

LOCK = f"{NAME}.lock"

AGE = 86_400.0
"""Seconds without a change after which a folder may be removed."""

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Has another text after each start of the machine; all its containers read the same one.

A lock of another machine, on a folder that both share, may not be seen here.
"""

_PREFIX = "aiosmtpd-inbox-"
_FOLDER = re.compile(rf"{_PREFIX}\w{{8}}")
_OURS = re.compile(rf"{re.escape(NAME)}(?:\.lock|\.large|-wal|-shm|-journal|-reserve|-new\w*)?")


def make() -> Path:
    """Make a folder that only its owner may look into; return the path of a store in it."""
    return Path(tempfile.mkdtemp(prefix=_PREFIX)) / NAME


def mark(lock_file: BinaryIO, *, kept: bool) -> None:
    """Note in the locked file of a store when it was made, unless the store is *kept*."""
    lock_file.truncate(0)
    lock_file.write(b"" if kept else _boot())
    lock_file.flush()


def remove_left() -> None:
    """Remove the folders that processes have left; one that cannot be removed stays."""
    if not _boot():
        return
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as found:
        for entry in found:
            if _FOLDER.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_left(entry.path)


def _boot() -> bytes:
    with suppress(OSError):
        return BOOT.read_bytes()
    return b""


def _remove_if_left(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        facts = os.fstat(folder)
        if facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) != 0o700:
            return
        names = os.listdir(folder)
        if not all(map(_OURS.fullmatch, names)):
            return
        inside = [os.stat(name, dir_fd=folder, follow_symlinks=False) for name in names]
        if time() - max(one.st_mtime for one in (facts, *inside)) < AGE:
            return
        holder = os.open(LOCK, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)
        try:
            lock(holder)
            if os.read(holder, 100) == _boot():
                _remove(path, folder, names)
        finally:
            os.close(holder)
    finally:
        os.close(folder)


def _remove(path: str, folder: int, names: list[str]) -> None:
    """Remove the files of a folder, the lock last: a later try needs it."""
    for name in sorted(names, key=lambda name: name == LOCK):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    os.rmdir(path)
