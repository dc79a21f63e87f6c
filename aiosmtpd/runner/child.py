"""A process of the master: its start, its heartbeat and its end. It is a worker, or the desk."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from itertools import count
from typing import Any, Literal, Self

import attrs

from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.runner.control import LONGEST, Channel, descriptor_pair

State = Literal["starting", "ready", "draining", "ended"]

Kind = Literal["worker", "desk"]
"""The module of the program that a process runs."""

log = logging.getLogger("mail.log")


@attrs.frozen(kw_only=True)
class Timing:
    """Times in seconds; tests have shorter ones."""

    start: float = 60.0
    """For a process to become ready."""

    beat: float = 30.0
    """Without a heartbeat, after which a process hangs."""

    abort: float = 5.0
    """From SIGABRT to SIGKILL."""

    settle: float = 5.0
    """After the end of a drain, before a process is killed."""

    certificates: float = 60.0
    """Between two looks at the files of certificates."""

    orphans: float = 5.0
    """Between two looks for orphans to reap, if the master is the first process."""


class Child:
    """One process; *slot* is that of a worker. *on_beat* is called after each heartbeat.

    *on_ask* gets the questions of the process. While it runs, nothing else of it is read.
    """

    def __init__(
        self, slot: int, process: asyncio.subprocess.Process, channel: Channel, timing: Timing
    ) -> None:
        self.slot = slot
        self.name = f"worker {slot}"
        self._advice = ": see the lines before, or try aiosmtpd serve --check"
        self.pid = process.pid
        self.state: State = "starting"
        self.ready_at: float | None = None
        """When it became ready, by the clock of the loop."""
        self.numbers: dict[str, Any] = {}
        """The numbers of its last heartbeat."""
        self.is_hanging = False
        self.on_beat: Callable[[Child], None] = lambda child: None
        self.on_ask: Callable[[dict[str, Any]], Awaitable[None]] | None = None
        self.pause = 0.0
        """Seconds between two of its messages that are read."""
        self.ended = asyncio.Event()
        self.code = 0
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._channel = channel
        self._timing = timing
        self._failure: Failure | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_beat = self._loop.time()
        self._tasks: list[asyncio.Task[None]] = []
        self._killing: asyncio.TimerHandle | None = None

    @classmethod
    async def spawn(
        cls,
        slot: int,
        order: dict[str, Any],
        descriptors: Iterable[int],
        timing: Timing,
        *,
        kind: Kind = "worker",
        longest: int = LONGEST,
    ) -> Self:
        """Start a process, and give it its order and the descriptors. Raises Failure.

        A message of it has at most *longest* bytes.
        """
        channel: Channel | None = None
        try:
            ours, theirs = descriptor_pair()
            with theirs:
                channel = await Channel.of(ours, longest)
                process = await _start(kind, theirs.fileno(), descriptors)
        except BaseException as error:
            if channel is not None:
                channel.close()
            if isinstance(error, OSError):
                raise Failure(f"Cannot start a {kind}: {error.strerror or error}", 1) from error
            raise
        # From here on without waiting: a process that nothing waits for would be left.
        child = cls(slot, process, channel, timing)
        if kind != "worker":
            child.name, child._advice = f"the {kind}", ""
        child._channel.send(order)
        child._tasks = [
            child._loop.create_task(one) for one in (child._wait(), child._listen(), child._watch())
        ]
        return child

    async def ready(self, timeout: float) -> None:
        """Wait until it serves; raises Failure with one line, and aborts it, if it does not.

        If the wait is cancelled, it is killed, unless it serves already.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._ready)
        except TimeoutError:
            self._abort()
            text = f"{self.name} was not ready after {timeout:g} s: the log has its traceback"
            raise Failure(text, 1) from None
        except asyncio.CancelledError:
            if self.state != "ready":
                self.kill()
            raise

    def use_certificates(self, texts: Iterable[tuple[str, str]]) -> None:
        """Give it other certificates."""
        self._channel.send({"tls": list(texts)})

    def drain(self, linger: float, grace: float, timing: Timing, *, is_last: bool = False) -> None:
        """Let it end, now if both times are 0. Kill it if it does not end in time."""
        if self.state == "ended":
            return
        self.state = "draining"
        self._channel.send({"drain": {"linger": linger, "grace": grace, "last": is_last}})
        # First the sessions have *grace*, then the deliveries.
        self._kill_after(linger + 2 * grace + timing.settle)

    def answer(self, number: int, answer: dict[str, Any]) -> None:
        """Answer a question of the process, by its number."""
        self._channel.send({"answer": number, **answer})

    async def flush(self) -> None:
        """Wait until it has read most messages."""
        await self._channel.flush()

    async def ask(self, question: str, about: Any, timeout: float = 5.0) -> dict[str, Any]:
        """Ask the worker; return ``{"value": ...}``, or ``{"error": text}``."""
        number = next(self._numbers)
        self._answers[number] = answer = self._loop.create_future()
        self._channel.send({"ask": number, question: about})
        try:
            async with asyncio.timeout(timeout):
                message: dict[str, Any] = await answer
                return message
        except TimeoutError:
            return {"error": "the worker does not answer"}
        finally:
            del self._answers[number]

    def kill(self, number: int | None = None) -> None:
        """Kill it, by SIGKILL if *number* is None."""
        if self.state != "ended":
            with suppress(ProcessLookupError):
                if number is None:
                    self._process.kill()
                else:
                    self._process.send_signal(number)

    def _abort(self) -> None:
        """Let it log where it hangs, and end; kill it if it does not."""
        self.kill(signal.SIGABRT)
        self._kill_after(self._timing.abort)

    def _kill_after(self, seconds: float) -> None:
        if self._killing is not None:
            self._killing.cancel()
        self._killing = self._loop.call_later(seconds, self._kill_late)

    def _kill_late(self) -> None:
        log.error("%s (process %d) does not end: killed", self.name.capitalize(), self.pid)
        self.kill()

    async def _wait(self) -> None:
        self.code = await self._process.wait()
        # Its last messages are still to be read.
        await asyncio.wait(self._tasks[1:2], timeout=1.0)
        self.state = "ended"
        if self._killing is not None:
            self._killing.cancel()
        self._tasks[2].cancel()
        self._channel.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result({"error": "the worker has ended"})
        if not self._ready.done():
            text = f"{self.name} ended at its start ({reason(self.code)}){self._advice}"
            self._ready.set_exception(self._failure or Failure(text, 1))
            # Retrieved here, in case nothing waits for it.
            self._ready.exception()
        self.ended.set()

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._last_beat = self._loop.time()
            try:
                await self._hear(message)
            except (TypeError, ValueError) as error:
                # Its memory is broken, or another program has taken it over.
                name = self.name.capitalize()
                log.error("%s (process %d) makes no sense: %s", name, self.pid, one_line(error))
                self.kill()
                return
            if self.pause:
                await asyncio.sleep(self.pause)

    async def _hear(self, message: dict[str, Any]) -> None:
        """Take a message; raises TypeError or ValueError for one that has other types."""
        if "beat" in message:
            self.numbers = dict(message["beat"])
            self.on_beat(self)
        elif "ready" in message and not self._ready.done():
            self.state, self.ready_at = "ready", self._loop.time()
            self._ready.set_result(None)
        elif "failed" in message:
            self._failure = Failure(str(message["failed"]), int(message.get("code", 1)) or 1)
        elif "ask" in message:
            if self.on_ask is not None:
                await self.on_ask(message)
        elif (answer := self._answers.get(message.get("answer", 0))) and not answer.done():
            answer.set_result(message)

    async def _watch(self) -> None:
        """Abort a worker that hangs, with a traceback in the log."""
        longest = self._timing.beat
        step = longest / 30
        while True:
            before = self._loop.time()
            await asyncio.sleep(step)
            now = self._loop.time()
            if now - before > 5 * step + 1:
                # The master itself was stopped, or the machine slept.
                self._last_beat = now
            if self.state != "starting" and now - self._last_beat > longest:
                break
        text = "%s (process %d) hangs: no heartbeat for %g s"
        log.error(text, self.name.capitalize(), self.pid, longest)
        self.is_hanging = True
        self._abort()


async def _start(kind: Kind, number: int, descriptors: Iterable[int]) -> asyncio.subprocess.Process:
    # -P: nothing in the current folder takes the place of a module. With faulthandler, a process
    # that hangs, even at an import, says where.
    flags = ["-P", "-X", "faulthandler", *(["-I"] if sys.flags.isolated else [])]
    # A process group of its own: Ctrl-C on a terminal is for the master.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *flags, "-m", f"aiosmtpd.runner.{kind}", str(number)),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=[number, *descriptors],
        env=_environment(),
        process_group=0,
    )


def _environment() -> dict[str, str]:
    """Return our environment without the variables that are for the master alone."""
    theirs = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC")
    return {name: value for name, value in os.environ.items() if name not in theirs}


def reason(code: int) -> str:
    """Return why a process has ended, by its exit code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def reap(ours: Collection[int]) -> None:
    """Reap the ended children of this process that are not in *ours*."""
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, how)) and found.si_pid not in ours:
            os.waitpid(found.si_pid, os.WNOHANG)
