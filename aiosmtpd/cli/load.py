"""Send many messages and measure how long each takes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, perf_counter
from typing import NamedTuple

from aiosmtpd.cli.client import Conversation, Failed, Order
from aiosmtpd.cli.parser import INTERRUPTED
from aiosmtpd.mail.terminal import safe_line

PAUSE = 0.1
"""Seconds between two progress lines."""

REASONS = 5
"""How many different failures are listed."""


class Result(NamedTuple):
    """The outcome of one message: its seconds, and why it failed (empty if it did not)."""

    seconds: float
    failure: str = ""


class Load:
    """Sends one order many times, each over its own connection, some of them in parallel."""

    def __init__(self, order: Order, messages: int, concurrency: int) -> None:
        self._order = order
        self._messages = messages
        self._concurrency = min(concurrency, messages)
        self._results: list[Result] = []
        self._arriving: SimpleQueue[Result] = SimpleQueue()
        # next() of a counter is atomic: each thread gets other numbers.
        self._numbers = count()
        self._stopping = False

    def run(self, show: Callable[[str], None], quiet: bool) -> int:
        """Send all, show a summary (if *quiet*, only after a failure); return the exit code."""
        began = monotonic()
        code = 0
        try:
            for number in range(self._concurrency):
                # Daemons, so that Ctrl-C does not wait for a server that does not answer.
                Thread(target=self._send_some, name=f"send-{number}", daemon=True).start()
            self._watch(began, not quiet and sys.stderr is not None and sys.stderr.isatty())
        except KeyboardInterrupt:
            self._stopping = True
            code = INTERRUPTED
            show(
                f"interrupted: {len(self._results):,} of {self._messages:,} messages have a result"
            )
        if any(result.failure for result in self._results):
            code = code or 1
        if code or not quiet:
            for line in summary(self._results, monotonic() - began):
                show(safe_line(line))
        return code

    def _send_some(self) -> None:
        while not self._stopping and next(self._numbers) < self._messages:
            began, failure = perf_counter(), ""
            try:
                Conversation(self._order).run()
            except Failed as error:
                failure = str(error)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
            self._arriving.put(Result(perf_counter() - began, failure))

    def _watch(self, began: float, on_terminal: bool) -> None:
        """Collect the results and show the progress."""
        shown = began
        try:
            while len(self._results) < self._messages:
                try:
                    self._results.append(self._arriving.get(timeout=PAUSE))
                except Empty:
                    pass
                if on_terminal and monotonic() - shown >= PAUSE:
                    shown = monotonic()
                    self._show_progress(shown - began)
        finally:
            if on_terminal:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _show_progress(self, seconds: float) -> None:
        done = len(self._results)
        failed = sum(bool(result.failure) for result in self._results)
        text = f"{done:,}/{self._messages:,} sent, {failed:,} failed, {done / seconds:,.0f}/s"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def summary(results: Sequence[Result], seconds: float) -> Iterator[str]:
    """Yield lines: how many were accepted, the rate, the latency, and why others failed."""
    taken = sorted(result.seconds for result in results if not result.failure)
    reasons = Counter(result.failure for result in results if result.failure)
    noun = "message" if len(results) == 1 else "messages"
    rate = len(taken) / seconds if seconds else 0.0
    yield (
        f"{len(results):,} {noun}: {len(taken):,} accepted, {reasons.total():,} failed "
        f"in {seconds:.2f} s: {rate:,.1f}/s"
    )
    if taken:
        shares = ", ".join(f"p{share} {percentile(taken, share):.1f}" for share in (50, 90, 99))
        yield f"latency in ms: {shares}, max {taken[-1] * 1000:.1f}"
    for reason, times in reasons.most_common(REASONS):
        yield f"{times:,} failed: {reason}"
    if len(reasons) > REASONS:
        yield f"{len(reasons) - REASONS} other reasons"


def percentile(ordered: Sequence[float], share: int) -> float:
    """Return the milliseconds that *share* percent do not exceed, by the nearest rank."""
    rank = -(-len(ordered) * share // 100)
    return ordered[max(rank, 1) - 1] * 1000
