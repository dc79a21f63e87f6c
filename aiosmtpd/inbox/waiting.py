"""Wait until messages come that match a query and patterns, and say why others do not match."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, field, frozen
from public import public

from aiosmtpd.inbox.letter import Letter
from aiosmtpd.inbox.records import Event, Summary
from aiosmtpd.inbox.search import words_of
from aiosmtpd.inbox.store import Store
from aiosmtpd.mail.criteria import Wanted

MOST_READ = 1000
"""Messages that were there before, and that patterns are compared with: the newest ones."""

MOST_SHOWN = 50
"""Rows of an answer, unless more messages are waited for."""

MOST_EXPLAINED = 10
"""Messages and refused attempts that an answer lists if none matched."""

RECENT = timedelta(seconds=60)
"""The age of the oldest refused attempt that an answer lists, at the beginning of the wait."""

_GLOB = frozenset('*?["')


@public
class UnknownMessage(LookupError):
    """There is no message with the id that a wait begins after."""


@public
@frozen
class Wish:
    """The messages that a client waits for."""

    query: str = ""
    wanted: Wanted = field(factory=Wanted)
    """Patterns for the envelope, the subject and the text; they are globs."""
    since: str = ""
    """``"now"``, or the id of a message: only those that come after it count; ``""`` for all."""
    count: int = 1

    def __str__(self) -> str:
        """Describe the messages: ``message to 'bob@example.org' that matches is:unread``."""
        text = f"message {self.wanted}".rstrip()
        if self.query:
            text += f" that matches {self.query}"
        return text


@define(eq=False)
class Watch:
    """The messages that a wish has found so far. Its methods block: call them in a thread."""

    store: Store
    wish: Wish
    found: dict[str, None] = field(factory=dict)
    """Ids of messages that match; the order is that of the discovery."""
    others: dict[str, None] = field(factory=dict)
    """Ids of the last messages that do not match."""

    def look(self) -> None:
        """Look at the messages that are there; raises UnknownMessage."""
        wish = self.wish
        if wish.since == "now":
            return
        query, newer = wish.query, None
        if wish.since:
            query, newer = self._after(wish.since)
            if not newer:
                return
        has_patterns = any(pattern is not None for pattern in wish.wanted)
        ids = self.store.find(" ".join([*_narrowing(wish.wanted), query]))
        if newer is not None:
            ids = [id for id in ids if id in newer]
        if not has_patterns:
            self.found.update(dict.fromkeys(ids))
        else:
            for id in ids[:MOST_READ]:
                if len(self.found) >= max(wish.count, MOST_SHOWN):
                    break
                self.consider([id])

    def _after(self, id: str) -> tuple[str, set[str]]:
        """Return a query for the messages that came after one and others, and their ids."""
        later = self.store.later(id)
        if later is None:
            raise UnknownMessage(id)
        ids, earliest = later
        # First, because the query may have a quotation mark that is not closed.
        return f"after:{earliest} {self.wish.query}", set(ids)

    def consider(self, ids: Iterable[str]) -> None:
        """Look at some messages again, or for the first time."""
        for id in ids:
            matches = self._matches(id)
            if matches:
                self.found[id] = None
                self.others.pop(id, None)
            elif matches is False:
                self.found.pop(id, None)
                self.others[id] = None
                if len(self.others) > MOST_EXPLAINED:
                    del self.others[next(iter(self.others))]
            else:
                self.found.pop(id, None)
                self.others.pop(id, None)

    def _matches(self, id: str) -> bool | None:
        """Return None if there is no such message."""
        if self.wish.query and not self.store.matches(id, self.wish.query):
            return False
        mail = self.store.message(id)
        if mail is None:
            return None
        return self.wish.wanted.is_met_by(Letter(mail))

    @property
    def is_enough(self) -> bool:
        """True if as many messages match as are waited for."""
        return len(self.found) >= self.wish.count

    def summary(self) -> Summary:
        """Return the page that answers the wait; it has fewer rows if some were deleted."""
        rows = self.store.rows(list(self.found))
        counts = self.store.counts()
        unread = sum(not json.loads(row)["Read"] for row in rows)
        shown = rows[: max(self.wish.count, MOST_SHOWN)]
        return Summary(
            counts.total, counts.unread, len(rows), unread, 0, list(self.store.tags()), shown
        )

    def complaint(self, seconds: float, began: datetime) -> dict[str, Any]:
        """Return the answer after the time is over: the messages and the refusals that came."""
        number = f" ({len(self.found)} of {self.wish.count})" if self.wish.count > 1 else ""
        others = list(self.others)
        if not others and self.wish.since != "now":
            newest = self.store.summary(limit=MOST_EXPLAINED).rows
            ids = [json.loads(row)["ID"] for row in newest]
            others = [id for id in ids if id not in self.found]
        attempts = self.store.attempts(limit=MOST_EXPLAINED).attempts
        recent = [one for one in attempts if one.at and one.at >= began - RECENT]
        return {
            "error": f"no {self.wish} came within {seconds:g} s{number}",
            "came": [
                {**json.loads(row), "why": self.why(json.loads(row)["ID"])}
                for row in self.store.rows(others)
            ],
            "rejected": [json.loads(one.json()) for one in recent],
        }

    def why(self, id: str) -> str:
        """Return why a message does not match, in one line."""
        mail = self.store.message(id)
        if mail is None:
            return "it has been deleted"
        reasons = list(self.wish.wanted.differences(Letter(mail)))
        for word in words_of(self.wish.query):
            if not self.store.matches(id, word):
                reasons.append(f"it does not match {word}")
        return "; ".join(reasons) or "it came before"


def _narrowing(wanted: Wanted) -> list[str]:
    """Return words of a query that all messages match which match the patterns."""
    words = []
    for operator, pattern in ("addressed", wanted.to), ("subject", wanted.subject):
        if isinstance(pattern, str) and not _GLOB & set(pattern):
            words.append(f'{operator}:"{pattern}"')
    return words


@public
async def wait(store: Store, wish: Wish, seconds: float, stopping: asyncio.Event) -> Watch:
    """Return when enough messages match, the time is over or the server stops.

    Raises UnknownMessage.
    """
    watch = Watch(store, wish)
    loop = asyncio.get_running_loop()
    changed: asyncio.Queue[str | None] = asyncio.Queue()

    def hear(event: Event) -> None:
        # In the writer's thread; the loop may be closed by now.
        with suppress(RuntimeError):
            if event.kind in ("new", "update", "delete"):
                loop.call_soon_threadsafe(changed.put_nowait, str(json.loads(event.data)["ID"]))
            elif event.kind in ("prune", "truncate"):
                loop.call_soon_threadsafe(changed.put_nowait, None)

    end = store.subscribe(hear)
    stopped = asyncio.create_task(stopping.wait())
    deadline = loop.time() + seconds
    try:
        with store.hurry():
            await asyncio.to_thread(watch.look)
            is_over = False
            while not (watch.is_enough or is_over or stopping.is_set()):
                ids = await _next(changed, stopped, deadline - loop.time())
                if is_over := ids == []:
                    # The events of the last messages may be late.
                    await asyncio.to_thread(store.rows, [])
                    ids = _known(changed)
                # Not interrupted by the deadline: a thread cannot be.
                await asyncio.to_thread(watch.consider, list(watch.found) if ids is None else ids)
    finally:
        end()
        stopped.cancel()
    return watch


async def _next(
    changed: asyncio.Queue[str | None], stopped: asyncio.Task[Any], seconds: float
) -> list[str] | None:
    """Return the ids of messages that changed, None if all may have; ``[]`` at the end."""
    getting = asyncio.create_task(changed.get())
    try:
        await asyncio.wait(
            {getting, stopped}, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        getting.cancel()
    if not getting.done():
        return []
    return _known(changed, getting.result())


def _known(changed: asyncio.Queue[str | None], *first: str | None) -> list[str] | None:
    """Return the first ids and those that wait, None if all may have changed."""
    ids = [*first]
    while not changed.empty():
        ids.append(changed.get_nowait())
    known = [id for id in ids if id is not None]
    return known if len(known) == len(ids) else None


def now() -> datetime:
    """Return the time of the beginning of a wait."""
    return datetime.now(UTC)
