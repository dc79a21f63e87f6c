"""Locks on files and folders that end with the process that holds them."""

from __future__ import annotations

import os
from contextlib import suppress

_FAR = 1 << 30
"""The byte that is locked on Windows, where the locked part of a file cannot be read."""

_CLOSED = b" closed"


class FolderLock:
    """Holds the file ``lock`` of a folder; it has the number of the process.

    A second word, ``closed``, says that this process has given the lock back.
    """

    def __init__(self, folder: str) -> None:
        self._descriptor, self._process = -1, 0
        self.was_left = False
        """True if the process before this one ended without :meth:`release`."""
        self.path = os.path.join(folder, "lock")

    def acquire(self) -> bool:
        """Take the lock; return False if another process or object has it.

        Raises OSError if the file cannot be made or its file system has no locks.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            lock(descriptor)
            before = os.read(descriptor, 100)
            self.was_left = bool(before) and _CLOSED not in before
            _write(descriptor, b"%d\n" % os.getpid())
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._process = descriptor, os.getpid()
        return True

    def release(self) -> None:
        """Give the lock back. The file stays: a new one could be locked twice."""
        if self._descriptor >= 0:
            if self._process == os.getpid():
                with suppress(OSError):
                    _write(self._descriptor, b"%d%b\n" % (self._process, _CLOSED))
                # A child that was forked has the file open too, and would keep the lock.
                _unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def holder(self) -> str:
        """Return the number of the process that has written the file last, or nothing."""
        with suppress(OSError, ValueError, IndexError), open(self.path, encoding="ascii") as file:
            return str(int(file.read(20).split()[0]))
        return ""


def is_locked(folder: str) -> bool:
    """Return True if a process has the lock of a folder; nothing is written."""
    try:
        descriptor = os.open(os.path.join(folder, "lock"), os.O_RDWR)
    except OSError:
        return False
    try:
        lock(descriptor)
    except OSError:
        return True
    finally:
        # This also gives the lock back.
        os.close(descriptor)
    return False


def _write(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, content)


def lock(descriptor: int) -> None:
    """Lock an open file until it is closed; raises BlockingIOError if the lock is taken.

    Raises OSError if the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        _lock_on_windows(descriptor)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_on_windows(descriptor: int) -> None:
    import msvcrt

    os.lseek(descriptor, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except OSError as error:
        raise BlockingIOError(*error.args) from error
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def _unlock(descriptor: int) -> None:
    with suppress(ImportError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)
