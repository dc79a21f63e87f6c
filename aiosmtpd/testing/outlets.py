"""Check that an outlet does what a courier expects of it."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import attrs
from public import public

from aiosmtpd.delivery.item import Arrival, Item, Later, Misconfigured, Never, Outlet, Results

Took: TypeAlias = Callable[[], Iterable[bytes] | Awaitable[Iterable[bytes]]]
"""Returns the messages that have arrived so far, as bytes."""

Switch: TypeAlias = Callable[[], object]

SENDER = "sender@example.com"
RECIPIENTS = ("one@example.com", "two@example.com")

LARGE = 3 << 20
"""Bytes of the large message, which is in a file."""

AT_ONCE = 10
"""Messages that are delivered at the same time."""

BLOCKED = 0.5
"""Seconds for which an outlet may block the event loop."""

_TICK = 0.01


class _Loop:
    """Measures for how long the event loop was blocked.

    A thread counts, and the loop looks at the count: on a busy machine both are slow.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._count = self._seen = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count_up, daemon=True)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Loop:
        self._task = asyncio.create_task(self._watch())
        self._thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._over.set()
        if self._task is not None:
            self._task.cancel()

    def _count_up(self) -> None:
        while not self._over.wait(_TICK):
            self._count += 1
            self.longest = max(self.longest, (self._count - self._seen) * _TICK)

    async def _watch(self) -> None:
        while True:
            self._seen = self._count
            await asyncio.sleep(_TICK)


@attrs.frozen
class _Check:
    outlet: Outlet
    took: Took
    timeout: float
    folder: Path

    async def run(self, down: Switch | None, up: Switch | None) -> None:
        async with _Loop() as loop:
            async with self._opened():
                await self._delivers("a small message", self._item("small"))
                await self._delivers("the null sender", self._item("null", sender="<>"))
                await self._delivers("8-bit text, dots and blank lines", self._awkward())
                await self._delivers("a large message in a file", self._large())
                await self._delivers_many()
                await self._keeps_a_repeated_one()
                await self._survives_a_cancelled_try()
                if down is not None and up is not None:
                    await self._says_when_it_is_down(down, up)
            async with self._opened():
                await self._delivers("a message after close() and open()", self._item("again"))
        if loop.longest > BLOCKED:
            raise AssertionError(
                f"the outlet blocked the event loop for {loop.longest:.1f} s: "
                "other routes stand still; use a thread"
            )

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        await self.outlet.open()
        try:
            yield
        except BaseException:
            # The fault that was found is of more use than one of close().
            with suppress(Exception):
                await self.outlet.close()
            raise
        await self.outlet.close()

    async def _delivers(self, what: str, item: Item) -> None:
        results = await self._put(what, item)
        if results:
            raise AssertionError(f"{what}: not delivered: {dict(results)}")
        await self._arrived(what, item)

    async def _put(self, what: str, item: Item) -> Results:
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                results = await self.outlet.put(item)
        except TimeoutError:
            if not limit.expired():
                # It is that of the outlet, for which a place has not answered in time.
                raise
            line = f"{what}: put() did not return in {self.timeout:g} seconds"
            raise AssertionError(line) from None
        return _checked(what, results, item)

    async def _arrived(self, what: str, *items: Item) -> None:
        arrived = [_lines(one) for one in await self._taken()]
        for item in items:
            if _lines(await item.body()) not in arrived:
                raise AssertionError(
                    f"{what}: put() said that it is delivered, but it is not there, or changed"
                )

    async def _taken(self) -> list[bytes]:
        found = self.took()
        return list(await found if inspect.isawaitable(found) else found)

    async def _delivers_many(self) -> None:
        what = f"{AT_ONCE} messages at the same time"
        items = [self._item(f"many-{number}") for number in range(AT_ONCE)]
        every = await asyncio.gather(*(self._put(what, item) for item in items))
        if any(every):
            raise AssertionError(f"{what}: not delivered: {[dict(one) for one in every if one]}")
        await self._arrived(what, *items)

    async def _keeps_a_repeated_one(self) -> None:
        # As after a crash between the delivery and its note in the spool.
        item = self._item("twice")
        await self._delivers("a message", item)
        await self._delivers("a message that comes again with the same id", item)

    async def _survives_a_cancelled_try(self) -> None:
        task = asyncio.ensure_future(self.outlet.put(self._item("cancelled")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=self.timeout)
        if not task.done():
            raise AssertionError("put() does not end when it is cancelled")
        await self._delivers("a message after a cancelled put()", self._item("after"))

    async def _says_when_it_is_down(self, down: Switch, up: Switch) -> None:
        item = self._item("down")
        await _switch(down)
        try:
            await self._is_told_that_it_is_down(item)
        finally:
            # Other tests may use the place.
            await _switch(up)
        await self._delivers("the same message when the place is back", item)

    async def _is_told_that_it_is_down(self, item: Item) -> None:
        try:
            results = await self._put("a message while the place is down", item)
        except (Never, Misconfigured) as failure:
            line = f"while the place is down: {failure!r} gives the message up; raise Later"
            raise AssertionError(line) from failure
        except AssertionError:
            raise
        except Exception:
            results = dict.fromkeys(item.recipients, Later())
        if not results or {*results} != {*item.recipients}:
            raise AssertionError("while the place is down: put() said that it is delivered")

    def _item(self, id: str, *, sender: str = SENDER, body: bytes = b"hello\r\n") -> Item:
        content = f"Subject: check-outlet {id}\r\n\r\n".encode() + body
        return Item(
            id=f"check-outlet-{id}",
            sender=sender,
            recipients=RECIPIENTS,
            arrival=Arrival(client="192.0.2.1", helo="client.example.com", time=time.time()),
            size=len(content),
            content=content,
        )

    def _awkward(self) -> Item:
        return self._item("awkward", body="\r\n.\r\n..\r\ncaf\xe9 \xff\r\n\r\n".encode())

    def _large(self) -> Item:
        line = b"0123456789abcdef" * 4 + b"\r\n"
        small = self._item("large", body=line * (LARGE // len(line)))
        path = self.folder / "large"
        path.write_bytes(small.content if isinstance(small.content, bytes) else b"")
        return attrs.evolve(small, content=lambda: path.open("rb"))


def _checked(what: str, results: object, item: Item) -> Results:
    """Return what put() returned, if it may return that."""
    if results is None:
        return None
    if not isinstance(results, Mapping):
        raise AssertionError(f"{what}: put() returned {results!r}: return None or a mapping")
    for recipient, failure in results.items():
        if recipient not in item.recipients:
            raise AssertionError(f"{what}: the results name {recipient!r}: not a recipient of it")
        if not isinstance(failure, Later | Never):
            raise AssertionError(f"{what}: the result {failure!r} is neither Later nor Never")
    return results


def _lines(content: bytes) -> list[bytes]:
    """Return the lines: a place may have line ends of its own."""
    return content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")


async def _switch(switch: Switch) -> None:
    result = switch()
    if inspect.isawaitable(result):
        await result


@public
async def check_outlet(
    outlet: Outlet,
    took: Took,
    *,
    down: Switch | None = None,
    up: Switch | None = None,
    timeout: float = 30.0,
) -> None:
    """Check that an outlet does what the courier expects; raise AssertionError if it does not.

    *outlet* is not open yet. *took* is a function or coroutine function that returns the messages
    which have arrived, as a list of bytes; only line ends may differ from those that were sent.
    *down* and *up*, if given, make the place unreachable and reachable again. *timeout*, in
    seconds, is for each delivery.

    The check delivers small, large, 8-bit, repeated and cancelled messages, ten at a time, opens
    the outlet a second time, and measures whether the event loop was blocked.
    """
    with tempfile.TemporaryDirectory(prefix="check-outlet-") as folder:
        await _Check(outlet, took, timeout, Path(folder)).run(down, up)
