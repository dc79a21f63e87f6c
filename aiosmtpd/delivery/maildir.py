"""A Maildir whose accepted messages survive a crash of the machine."""

import contextlib
import email.generator
import email.message
import io
import itertools
import mailbox
import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from aiosmtpd.delivery.disk import sync_directory as sync_directory, sync_with_times

_SUBDIRECTORIES = ("tmp", "new", "cur")

_deliveries = itertools.count(1)


class DurableMaildir(mailbox.Maildir):
    """A Maildir whose :meth:`add` returns only once the message is on the disk.

    If the directory or a part of it is missing, it is made, readable only by its owner. Raises
    OSError if that fails.
    """

    def __init__(self, dirname: str | os.PathLike[str]) -> None:
        self.directory = os.path.abspath(os.path.expanduser(dirname))
        parts = [os.path.join(self.directory, name) for name in _SUBDIRECTORIES]
        complete = all(map(os.path.isdir, parts))
        super().__init__(self.directory)
        if complete:
            return
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700)
        for path in (self.directory, os.path.dirname(self.directory)):
            with contextlib.suppress(PermissionError):
                sync_directory(path)

    def add(self, message: Any) -> str:
        """Store *message* and return its key; it may be called from several threads.

        *message* is bytes, which are stored unchanged, or any other kind of message that
        :mod:`mailbox` knows, which is serialised with LF line ends. Raises OSError if it cannot be
        stored, for example because the disk is full; after any exception, no part of it is left.
        """
        content = message if isinstance(message, bytes) else serialised(message)
        date = message.get_date() if isinstance(message, mailbox.MaildirMessage) else None
        key = unique_name()
        self._store(key, self._destination(key, message), (content,), date)
        return key

    def add_pieces(self, pieces: Iterable[bytes]) -> str:
        """Store a message that comes in pieces, as :meth:`add` stores bytes; return its key."""
        key = unique_name()
        self._store(key, self._destination(key, b""), pieces, None)
        return key

    def _store(self, key: str, final: str, pieces: Iterable[bytes], date: float | None) -> None:
        temporary = os.path.join(self.directory, "tmp", key)
        # Opened outside the block: an existing file of this name is not ours to remove.
        file = open(temporary, "xb")  # noqa: SIM115
        try:
            with file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                sync_with_times(file.fileno())
            if date is not None:
                os.utime(temporary, (time.time(), date))
            os.rename(temporary, final)
            sync_directory(os.path.dirname(final))
        except BaseException:
            for path in (temporary, final):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise

    def _destination(self, key: str, message: object) -> str:
        if not isinstance(message, mailbox.MaildirMessage):
            return os.path.join(self.directory, "new", key)
        flags = message.get_info()
        name = f"{key}{self.colon}{flags}" if flags else key
        return os.path.join(self.directory, message.get_subdir(), name)


def serialised(message: Any) -> bytes:
    """Return a message as bytes, with LF line ends and its header fields folded as they were."""
    if not isinstance(message, email.message.Message):
        message = mailbox.MaildirMessage(message)
    buffer = io.BytesIO()
    generator = email.generator.BytesGenerator(buffer, mangle_from_=False, maxheaderlen=0)
    generator.flatten(message, linesep="\n")
    return buffer.getvalue()


def unique_name() -> str:
    """Return a Maildir file name that is unique among all deliveries on all hosts.

    A slash or colon in the host name is escaped as the Maildir format says, or replaced with an
    underscore if the backslash separates directories.
    """
    now = time.time_ns()
    host = socket.gethostname()
    for character, code in (("/", r"\057"), (":", r"\072")):
        host = host.replace(character, code if os.sep == "/" else "_")
    seconds, fraction = divmod(now, 1_000_000_000)
    # The random part is for containers with the same host name and process numbers.
    unique = f"M{fraction // 1000}P{os.getpid()}Q{next(_deliveries)}R{os.urandom(8).hex()}"
    return f"{seconds}.{unique}.{host}"
