"""Signals, and an event loop that runs until its main task has ended."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def run_until_done(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], end: Callable[[], None]
) -> None:
    """Run the loop until *task* is done; call *end* whenever the loop is stopped before.

    Raises what the task raises, unless it is cancelled.
    """

    def stop(_: object) -> None:
        loop.stop()

    task.add_done_callback(stop)
    with suppress(KeyboardInterrupt):
        loop.run_forever()
    task.remove_done_callback(stop)
    while not task.done() and not loop.is_closed():
        end()
        with suppress(KeyboardInterrupt, asyncio.CancelledError, Exception):
            loop.run_until_complete(task)
    if task.done() and not task.cancelled():
        task.result()


@contextmanager
def signals_handled(
    loop: asyncio.AbstractEventLoop, reactions: dict[int, Callable[[], None]]
) -> Iterator[None]:
    """Call the reactions in the loop when their signals arrive; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        reactions = {}
    before = {number: signal.getsignal(number) for number in reactions}
    for number, reaction in reactions.items():
        try:
            loop.add_signal_handler(number, reaction)
        except NotImplementedError:
            # A default binds `reaction` now; the name alone would mean the last one.
            signal.signal(number, lambda *_, call=reaction: loop.call_soon_threadsafe(call))
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            if handler is not None:
                signal.signal(number, handler)
