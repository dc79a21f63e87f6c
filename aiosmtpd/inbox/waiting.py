"""Wait until messages come that match a query and patterns, and say why others do not match."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Lock
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

LEAST = 0.5
"""Seconds for a look at the messages that are there, also if the wait is to be shorter."""

LATE = 0.02
"""Seconds after the end of a wait in which it looks at the last messages that came."""

TEXTS_EXPLAINED = 1 << 16
"""Bytes of messages whose texts are compared again to say why they do not match."""

NOT_ALL_READ = "not all messages that were there could be read in this time"

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
    is_complete: bool = False
    """True if it has looked at all messages that were there."""
    _gate: Lock = field(factory=Lock)
    _is_over: bool = False
    _number: int | None = None
    """Only messages with larger numbers count; None if all do."""

    def __attrs_post_init__(self) -> None:
        if self.wish.since == "now":
            self._number = self.store.number()

    def end(self) -> None:
        """Change nothing from now on, and look at no more messages: a thread may still do so."""
        with self._gate:
            self._is_over = True

    def look(self) -> None:
        """Look at the messages that are there; raises UnknownMessage."""
        if self.wish.since != "now":
            self._look()
        with self._gate:
            self.is_complete = not self._is_over

    def _look(self) -> None:
        wish = self.wish
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
            with self._gate:
                if not self._is_over:
                    self.found.update(dict.fromkeys(ids))
            return
        for id in ids[:MOST_READ]:
            if self._is_over or len(self.found) >= max(wish.count, MOST_SHOWN):
                break
            self._consider(id)

    def _after(self, id: str) -> tuple[str, set[str]]:
        """Return a query for the messages that came after one and others, and their ids."""
        self._number = self.store.number(id)
        later = self.store.later(id)
        if self._number is None or later is None:
            raise UnknownMessage(id)
        ids, earliest = later
        # First, because the query may have a quotation mark that is not closed.
        return f"after:{earliest} {self.wish.query}", set(ids)

    def consider(self, ids: Iterable[str]) -> None:
        """Look at some messages again, or for the first time."""
        wanted = list(ids)
        if self._number is not None:
            # An old one may have changed, or its event is late. One that was found may be gone.
            newer = self.store.after(self._number, wanted) | self.found.keys() | self.others.keys()
            wanted = [id for id in wanted if id in newer]
        for id in wanted:
            if self._is_over:
                break
            self._consider(id)

    def _consider(self, id: str) -> None:
        matches = self._matches(id)
        with self._gate:
            if not self._is_over:
                self._note(id, matches)

    def _note(self, id: str, matches: bool | None) -> None:
        self.found.pop(id, None)
        self.others.pop(id, None)
        if matches:
            self.found[id] = None
        elif matches is False:
            self.others[id] = None
            if len(self.others) > MOST_EXPLAINED:
                del self.others[next(iter(self.others))]

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
        missed = "" if self.is_complete else f"; {NOT_ALL_READ}"
        return {
            "error": f"no {self.wish} came within {seconds:g} s{number}{missed}",
            "came": self._explained(self.store.rows(others)),
            "rejected": [json.loads(one.json()) for one in recent],
        }

    def _explained(self, rows: list[str]) -> list[dict[str, Any]]:
        found, room = [json.loads(row) for row in rows], TEXTS_EXPLAINED
        for one in found:
            room -= one["Size"]
            one["why"] = self._why(one["ID"], with_text=room >= 0)
        return found

    def _why(self, id: str, *, with_text: bool) -> str:
        """Return why a message does not match, in one line."""
        mail = self.store.message(id)
        if mail is None:
            return "it has been deleted"
        wanted, more = self.wish.wanted, ""
        if not with_text and wanted.text is not None:
            wanted, more = wanted._replace(text=None), "its long text was not compared again"
        reasons = [*wanted.differences(Letter(mail)), *filter(None, [more])]
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
    began = loop.time()
    deadline = began + seconds

    async def run(work: Callable[[], object], end: float) -> bool:
        # A look may have ended after the end of a short wait.
        return await _is_done(work, stopped, max(end - loop.time(), LATE))

    try:
        with store.hurry():
            in_time = await run(watch.look, max(deadline, began + LEAST))
            is_over = False
            while in_time and not (is_over or watch.is_enough or stopping.is_set()):
                ids = await _next(changed, stopped, deadline - loop.time())
                if is_over := ids == []:
                    # The events of the last messages may be late.
                    await run(partial(store.rows, []), deadline + LATE)
                    ids = _known(changed)
                if ids != []:
                    some = partial(watch.consider, list(watch.found) if ids is None else ids)
                    in_time = await run(some, deadline + LATE)
                    watch.is_complete = watch.is_complete and in_time
    finally:
        watch.end()
        end()
        stopped.cancel()
    return watch


async def _is_done(work: Callable[[], object], stopped: asyncio.Task[Any], seconds: float) -> bool:
    """Run work in a thread; return False if it goes on after so many seconds, or at the end."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    await asyncio.wait(
        {running, stopped}, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED
    )
    if running.done():
        running.result()
        return True
    # No one reads its error any more.
    running.add_done_callback(lambda one: one.cancelled() or one.exception())
    return False


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
