"""Write each message of the inbox to a Maildir, too."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor

from aiosmtpd.delivery.maildir import DurableMaildir
from aiosmtpd.inbox.store import Event, Store, StoreError

log = logging.getLogger("mail.log")


class Mirror:
    """Copies new messages of a store, a moment after they are there. Raises OSError.

    A message that is deleted in the inbox stays in the Maildir.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._maildir = DurableMaildir(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aiosmtpd inbox maildir")
        self._end = store.subscribe(self._hear)

    def close(self) -> None:
        """Write the messages that still wait, and end."""
        self._end()
        self._thread.shutdown()

    def _hear(self, event: Event) -> None:
        if event.kind == "new":
            self._thread.submit(self._copy, str(json.loads(event.data)["ID"]))

    def _copy(self, id: str) -> None:
        try:
            mail = self._store.message(id)
            if mail is not None:
                self._maildir.add_pieces(mail.raw_pieces())
        except (OSError, StoreError) as error:
            log.error("The message %s is not in the Maildir: %s", id, error)
