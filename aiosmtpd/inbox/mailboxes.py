"""Count the messages of each recipient and of each login, for the rail of the page."""

from __future__ import annotations

import json
from collections import Counter
from threading import Lock
from typing import Any

from aiosmtpd.inbox.store import Store

NEWEST = 10_000
"""Messages that are counted, the newest ones: more would take seconds."""

LISTED = 50
"""Recipients and logins that are listed, those with the most messages."""

_PAGE = 500
_RECIPIENTS = ("To", "Cc", "Bcc")


class Mailboxes:
    """Counts again if the store has changed since the last time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gate = Lock()
        self._made_at: tuple[int, int] | None = None
        self._made: dict[str, Any] = {}

    def counts(self) -> dict[str, Any]:
        """Return ``recipients``, ``logins`` and the number of messages that were ``counted``."""
        with self._gate:
            now = self._store.counts()
            state = now.accepted, now.deleted
            if state != self._made_at:
                self._made = self._counted()
                self._made_at = state
            return self._made

    def _counted(self) -> dict[str, Any]:
        recipients: Counter[str] = Counter()
        logins: Counter[str] = Counter()
        counted = 0
        while counted < NEWEST:
            page = self._store.summary(start=counted, limit=_PAGE).rows
            for row in map(json.loads, page):
                recipients.update(
                    {one["Address"].lower() for name in _RECIPIENTS for one in row[name]} - {""}
                )
                if row["Username"]:
                    logins[row["Username"]] += 1
            counted += len(page)
            if len(page) < _PAGE:
                break
        return {
            "counted": counted,
            "recipients": _listed(recipients, "address"),
            "logins": _listed(logins, "name"),
        }


def _listed(counts: Counter[str], key: str) -> list[dict[str, Any]]:
    return [{key: name, "count": count} for name, count in counts.most_common(LISTED)]
