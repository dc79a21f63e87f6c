"""Write files and folders through to the disk."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

# Errors of file systems (network, FUSE) that cannot sync a directory, or not as macOS can.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
"""Errors that mean a full disk, a full quota or a limit of the process."""


def sync_file(descriptor: int) -> None:
    """Write the content of a file to the disk; raises OSError if the disk fails."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        sync_with_times(descriptor)


def sync_with_times(descriptor: int) -> None:
    """Write a file to the disk, its times too; raises OSError if the disk fails."""
    try:
        import fcntl

        full_sync = fcntl.F_FULLFSYNC  # type: ignore[attr-defined, unused-ignore]
    except (ImportError, AttributeError):
        os.fsync(descriptor)
    else:
        # On macOS, fsync() leaves the content in the cache of the drive.
        try:
            fcntl.fcntl(descriptor, full_sync)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
            # A volume of a network or of FUSE: this is all that it can do.
            os.fsync(descriptor)


def sync_directory(path: str) -> None:
    """Write the entries of a directory to the disk, if the system can do that.

    Raises OSError if the disk fails.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def make_folder(path: str, mode: int = 0o700) -> None:
    """Make a folder for its owner alone, with those above it, and write their names to the disk.

    A folder whose own name is lost in a crash takes all that is in it along.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    if above != path:
        make_folder(above, 0o777)
    with suppress(FileExistsError):
        os.mkdir(path, mode)
    with suppress(PermissionError):
        sync_directory(above)
