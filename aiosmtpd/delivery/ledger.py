"""The results of tries, on their way into the spool; and reports of failure to senders."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

import attrs

from aiosmtpd.delivery import report
from aiosmtpd.delivery.events import Event
from aiosmtpd.delivery.item import Arrival, Item, Later, Never
from aiosmtpd.delivery.landing import Landing, Parcel
from aiosmtpd.delivery.outcome import Outcome
from aiosmtpd.delivery.report import Failure
from aiosmtpd.delivery.route import Route
from aiosmtpd.delivery.spool import Duplicate, Job, Spool

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two tries to write a result to a spool that takes nothing now."""

HOUR, DAY = 3600.0, 86400.0

LONGEST_TEXT = 500
"""Characters of an error that are kept."""

log = logging.getLogger("mail.log")


class SpoolLost(Exception):
    """The spool has failed: no result can be written, so nothing may be delivered."""


class Ledger:
    """Writes the results of tries to *spool*, in the loop of *landing*.

    *clock* returns the seconds since 1970. *is_stopping* returns True when the courier ends:
    writing is then tried once more. *tell* gets an event for each kind of result; None saves them.
    """

    def __init__(
        self,
        spool: Spool,
        landing: Landing,
        *,
        clock: Callable[[], float],
        is_stopping: Callable[[], bool],
        tell: Callable[[Event], None] | None,
    ) -> None:
        self._spool = spool
        self._landing = landing
        self._clock = clock
        self._is_stopping = is_stopping
        self._tell = tell

    async def conclude(
        self, job: Job, route: Route, failures: Mapping[str, Later | Never], seconds: float = 0.0
    ) -> None:
        """Write the result of a try, which took *seconds*, to the spool."""
        item = job.item
        if not failures:
            if self._tell is not None:
                self._tell(self._event(job, route, failures, seconds))
            log.info("%s delivered by route %s to %r", item.id, route.name, item.recipients)
            await self._end(job)
            return
        event = self._event(job, route, failures, seconds)
        if event.recipients:
            self._told(event)
        await self._settle(job, route, failures, event)

    def _event(
        self, job: Job, route: Route, failures: Mapping[str, Later | Never], seconds: float
    ) -> Event:
        """Return the event for the recipients that have the message."""
        item = job.item
        return Event(
            kind="delivered",
            route=route.name,
            queue_id=item.id,
            recipients=len(item.recipients) - len(failures),
            attempts=item.attempts + 1,
            seconds=seconds,
            lag=max(0.0, self._clock() - item.arrival.time),
        )

    def _told(self, event: Event) -> None:
        if self._tell is not None:
            self._tell(event)

    async def _end(self, job: Job) -> None:
        """Remove a delivery that was made."""
        # Nearly all results come this way: it takes half as long as written() with its Outcome.
        parcel = Parcel(self._landing)
        self._spool.done_for(parcel, job)
        try:
            await parcel.here
        except Exception:
            await self.written(lambda: self._spool.done(job))

    async def postpone(self, job: Job, recipients: tuple[str, ...]) -> None:
        """Let a message wait for *recipients*; because of a bug, no result can be written."""
        due = self._clock() + HOUR
        await self.written(
            lambda: self._spool.later(job, due=due, error="internal error", recipients=recipients)
        )

    async def _settle(
        self, job: Job, route: Route, failures: Mapping[str, Later | Never], event: Event
    ) -> None:
        """Write to the spool which recipients wait, and which are given up."""
        item, now = job.item, self._clock()
        chance = random.random()  # noqa: S311 - jitter
        due = route.retry.next_due(item.attempts + 1, now, item.arrival.time, chance)
        waiting: dict[str, Later] = {}
        dead: dict[str, Failure] = {}
        dead_error = ""
        for recipient, failure in failures.items():
            if isinstance(failure, Later) and due is not None:
                waiting[recipient] = failure
                continue
            dead[recipient], error = _reason(failure)
            dead_error = dead_error or error
            text = "%s dead: route %s, recipient %r: %s"
            log.error(text, item.id, route.name, recipient, error)
        if dead:
            self._told(attrs.evolve(event, kind="dead", recipients=len(dead), error=dead_error))
        error = ""
        if waiting and due is not None:
            due = _not_before(waiting.values(), due, now)
            error = text_of(next(iter(waiting.values())))
            text = "%s waits %.0f s for route %s: %s"
            log.info(text, item.id, due - now, route.name, error)
            number = len(waiting)
            self._told(
                attrs.evolve(event, kind="deferred", recipients=number, error=error, due=due)
            )

        def write(kept: Iterable[str]) -> Outcome[None]:
            return self._spool.settle(
                job,
                due=due or 0.0,
                error=error,
                later=tuple(waiting),
                dead=tuple(kept),
                dead_error=dead_error[:LONGEST_TEXT],
            )

        if dead and route.bounce is not None:
            try:
                await self._report(job, route.bounce, dead)
            except asyncio.CancelledError:
                # The courier ends. Recipients that have the message must not get it again.
                write(dead)
                raise
        await self.written(lambda: write(dead if route.dead == "keep" else ()))

    async def _report(self, job: Job, bounce: Route, dead: Mapping[str, Failure]) -> None:
        """Put a report into the spool, once for each job."""
        item, now = job.item, self._clock()
        wanted = report.to_report(item.sender, item.arrival, dead)
        if not wanted:
            return
        # A crash before the next commit tries the job again: the same id stops a second report.
        queue_id = f"{item.id}-{job.number}-{item.attempts}"
        failures = {recipient: dead[recipient] for recipient in wanted}
        hostname = item.arrival.hostname or "localhost"
        content = report.make_report(item, failures, hostname=hostname, queue_id=queue_id, now=now)
        options = () if content.isascii() else ("BODY=8BITMIME",)
        is_utf8 = not (item.sender + "".join(wanted)).isascii()
        arrival = Arrival(
            mail_options=(*options, "SMTPUTF8") if is_utf8 else options,
            smtp_utf8=is_utf8,
            time=now,
            hostname=hostname,
        )
        parts = [(bounce.name, (item.sender,))]
        try:
            await self.written(
                lambda: self._spool.put(
                    queue_id=queue_id,
                    sender="<>",
                    arrival=arrival,
                    content=content,
                    parts=parts,
                    due=now,
                )
            )
        except Duplicate:
            return
        log.info("%s reports the failure of %s to %r", queue_id, item.id, item.sender)

    async def written(self, write: Callable[[], Outcome[T]]) -> T:
        """Write to the spool, again and again if its disk is full; raises SpoolLost."""
        pause = FIRST_PAUSE
        while True:
            try:
                # If the courier ends meanwhile, the result is written all the same.
                return await self._landing.wait(write())
            except Duplicate:
                raise
            except Exception as error:
                if self._spool.failed is not None or self._is_stopping():
                    raise SpoolLost from error
                log.error("The spool cannot be written, next try in %g s: %s", pause, error)
            try:
                await asyncio.sleep(pause)
            except asyncio.CancelledError:
                # The courier ends: there may be room now.
                write()
                raise
            pause = min(2 * pause, LONGEST_PAUSE)


def direct_event(
    route: Route, item: Item, failures: Mapping[str, Later | Never], seconds: float
) -> Event:
    """Return the event of a direct delivery: dead if no recipient may be tried again."""
    event = Event(
        kind="delivered",
        route=route.name,
        queue_id=item.id,
        recipients=len(item.recipients) - len(failures),
        seconds=seconds,
        lag=seconds,
    )
    if not failures:
        return event
    later = [failure for failure in failures.values() if isinstance(failure, Later)]
    error = text_of(later[0] if later else next(iter(failures.values())))
    kind: Literal["deferred", "dead"] = "deferred" if later else "dead"
    return attrs.evolve(event, kind=kind, recipients=len(failures), error=error)


def failed(item: Item, failure: Later | Never) -> dict[str, Later | Never]:
    """Return this failure for each recipient."""
    return dict.fromkeys(item.recipients, failure)


def _reason(failure: Later | Never) -> tuple[Failure, str]:
    """Return the reason that the sender gets for a message that is given up, and the log's."""
    if isinstance(failure, Never):
        reason = report.refused(failure.reply)
        return reason, text_of(failure) if failure.is_private else reason.text
    error = report.expired(text_of(failure))
    return report.expired(failure.reply) if failure.is_private else error, error.text


def text_of(failure: Later | Never) -> str:
    """Return a failure as one line."""
    return report.one_line(str(failure))[:LONGEST_TEXT] or type(failure).__name__


def line_of(error: BaseException) -> str:
    """Return an exception as one line."""
    try:
        text = str(error)
    except Exception:
        # A mistake in the class of a program must not keep a message from its next try.
        text = "(its text cannot be read)"
    return report.one_line(f"{type(error).__name__}: {text}")[:LONGEST_TEXT]


def _not_before(failures: Iterable[Later], due: float, now: float) -> float:
    """Return the time of the next try, as late as an outlet asks for, a day at most."""
    pauses = [failure.after for failure in failures if failure.after is not None]
    return max([due, *(now + min(pause, DAY) for pause in pauses)])
