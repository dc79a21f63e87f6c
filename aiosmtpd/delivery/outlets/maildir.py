"""Deliver to a Maildir: ``maildir:/var/mail/app``."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from public import public

from aiosmtpd.delivery.item import Full, Item, Later, Misconfigured, Results
from aiosmtpd.delivery.outlets.wire import with_line_end
from aiosmtpd.delivery.outlets.workers import Workers

if TYPE_CHECKING:
    from aiosmtpd.delivery.maildir import DurableMaildir

_ERRNO_NAMES = ("ENOSPC", "EDQUOT", "EFBIG")
_NO_ROOM = {getattr(errno, name) for name in _ERRNO_NAMES if hasattr(errno, name)}


def from_url(url: str) -> MaildirOutlet:
    """Return the outlet of a ``maildir:`` URL; raises ValueError without a folder."""
    path = url.partition(":")[2]
    if path.startswith("//"):
        if not path.startswith("///"):
            raise ValueError("write maildir:/path/of/the/folder")
        path = path[2:]
    if not path or "\0" in path:
        raise ValueError("write maildir:/path/of/the/folder")
    return MaildirOutlet(path)


@public
class MaildirOutlet:
    """Stores each message in the Maildir *folder*, with the line ends LF; it is made if missing.

    A message that has several recipients is stored once. Return-Path and Received are in front of
    it, as the spool has them. It is on the disk when ``put()`` returns.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = folder
        self._maildir: DurableMaildir | None = None
        self._workers = Workers("maildir")

    async def open(self) -> None:
        """Make the Maildir; raises Misconfigured if its parent is missing or not writable."""
        try:
            self._maildir = await self._workers.run(self._make)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Misconfigured(f"maildir:{self.folder}: {error.strerror or error}") from None

    async def put(self, item: Item) -> Results:
        """Store the message; raises Full if the disk has no room."""
        if self._maildir is None:
            await self.open()
        try:
            await self._workers.run(self._store, item)
        except OSError as error:
            text = f"maildir:{self.folder}: {error.strerror or error}"
            raise (Full if error.errno in _NO_ROOM else Later)(text) from error
        return None

    async def close(self) -> None:
        """End the threads."""
        self._workers.close()
        self._maildir = None

    def _make(self) -> DurableMaildir:
        from aiosmtpd.delivery.maildir import DurableMaildir

        return DurableMaildir(self.folder)

    def _store(self, item: Item) -> None:
        if self._maildir is not None:
            with item.open() as file:
                self._maildir.add_pieces(with_line_end(file, b"\n"))
