"""Replays a transcript over a transport in memory, however the client's bytes are cut.

The dialogue is the same each time; only the arrival of the client's bytes differs:

- lockstep: each line when everything before it was answered,
- singly: one byte at a time,
- burst: all at once,
- pipelined: MAIL, RCPT and DATA at once, each other line when everything before was answered,
- cut: one of these, but for some cuts that are far apart.

`SYNC` in a transcript is a point that every one of them waits at.
"""

import asyncio
import contextlib
import inspect
import logging
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import FunctionType

from aiosmtpd.smtp import SMTP

from .cast import server_factory
from .notation import Close, Eof, Expect, Send, Step, Sync, Transcript
from .transport import MemoryTransport

Factory = Callable[[], asyncio.Protocol]

PATIENCE = 5.0
"""Seconds until something that must happen is given up."""

TURNS = 8
"""Turns of the loop in which the server handles input to which it sends no reply."""

TRANSACTION = (b"MAIL", b"RCPT", b"DATA")
"""The commands that clients with PIPELINING send together."""

CUTS = 240
"""A transcript with more bytes than this is cut near its line ends and at even steps only."""


APART = 16
"""Bytes between two cuts of one replay, at least."""


@dataclass(frozen=True)
class Feed:
    """Bytes that arrive together."""

    data: bytes


@dataclass(frozen=True)
class Await:
    """Wait until the server has sent this many lines, or closed."""

    lines: int


Action = Feed | Await | Eof


@dataclass
class Outcome:
    """The result of one replay."""

    lines: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    closed_by_server: bool = False
    late: bytes = b""
    complaints: list[str] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)
    records: list[logging.LogRecord] = field(default_factory=list)


class Records(logging.Handler):
    """Keeps every log record."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep `record`."""
        self.seen.append(record)


@contextlib.contextmanager
def all_records(level: int = logging.DEBUG) -> Iterator[list[logging.LogRecord]]:
    """Collect all log records from *level* on. At DEBUG the server logs each command.

    Pytest's own handlers are set aside: they format each record, a fifth of a replay's time.
    """
    handler = Records()
    root, mail = logging.getLogger(), logging.getLogger("mail.log")
    before = root.handlers, root.level, mail.level
    root.handlers = [handler]
    root.setLevel(level)
    mail.setLevel(level)
    try:
        yield handler.seen
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        mail.setLevel(before[2])


@contextlib.contextmanager
def run_by_the_driver() -> Iterator[Counter[str]]:
    """Count how often the driver runs MAIL, RCPT and DATA.

    The fast path runs them without a call of ``smtp_MAIL``, ``smtp_RCPT`` or ``smtp_DATA``. The
    methods get other code for so long: other methods in their place would switch the fast path off,
    and a profile function takes a third of the time.
    """
    ran: Counter[str] = Counter()
    with contextlib.ExitStack() as restored:
        for verb in ("MAIL", "RCPT", "DATA"):
            method = inspect.unwrap(getattr(SMTP, f"smtp_{verb}"))
            run = FunctionType(method.__code__, method.__globals__, method.__name__)
            restored.callback(setattr, method, "__code__", method.__code__)
            restored.callback(setattr, method, "__kwdefaults__", method.__kwdefaults__)
            method.__code__ = _counted.__code__
            method.__kwdefaults__ = {"run": run, "note": partial(ran.update, (verb,))}
        yield ran


async def _counted(
    server: SMTP, arg: str | None, *, run: Callable[..., Awaitable[None]], note: Callable[[], None]
) -> None:
    note()
    await run(server, arg)


# The ways to send.


def lockstep(steps: Sequence[Step]) -> list[Action]:
    """Send each piece when everything before it was answered."""
    actions: list[Action] = []
    lines = 0
    for step in steps:
        if isinstance(step, Expect):
            lines += 1
        elif isinstance(step, Send | Eof):
            actions.append(Await(lines))
            actions.append(Feed(step.data) if isinstance(step, Send) else step)
    return [*actions, Await(lines)]


def burst(steps: Sequence[Step]) -> list[Action]:
    """Send everything at once, but for the points where the client must wait."""
    actions: list[Action] = []
    lines = 0
    for step in steps:
        if isinstance(step, Expect):
            lines += 1
        elif isinstance(step, Sync):
            actions.append(Await(lines))
        elif isinstance(step, Eof):
            actions.append(step)
        elif isinstance(step, Send):
            if actions and isinstance(last := actions[-1], Feed):
                actions[-1] = Feed(last.data + step.data)
            else:
                actions.append(Feed(step.data))
    return [*actions, Await(lines)]


def singly(steps: Sequence[Step]) -> list[Action]:
    """Send one byte at a time."""
    actions: list[Action] = []
    for action in burst(steps):
        if isinstance(action, Feed):
            actions.extend(Feed(bytes([octet])) for octet in action.data)
        else:
            actions.append(action)
    return actions


def pipelined(steps: Sequence[Step]) -> list[Action]:
    """Send MAIL, RCPT and DATA together, as clients do; all else waits for every reply so far."""
    actions: list[Action] = []
    lines = 0
    together = False
    for step in steps:
        if isinstance(step, Expect):
            lines += 1
        elif isinstance(step, Sync):
            together = False
        elif isinstance(step, Send) and together and step.data[:4].upper() in TRANSACTION:
            last = actions.pop()
            assert isinstance(last, Feed)
            actions.append(Feed(last.data + step.data))
        elif isinstance(step, Send | Eof):
            actions.append(Await(lines))
            actions.append(Feed(step.data) if isinstance(step, Send) else step)
            together = isinstance(step, Send) and step.data[:4].upper() in TRANSACTION
    return [*actions, Await(lines)]


def cut(actions: Sequence[Action], positions: Sequence[int]) -> list[Action]:
    """Do the same, but for cuts after so many bytes: ascending `positions`."""
    result: list[Action] = []
    before = 0
    for action in actions:
        if not isinstance(action, Feed):
            result.append(action)
            continue
        after = before + len(action.data)
        ends = [before, *(at for at in positions if before < at < after), after]
        result += [Feed(action.data[a - before : b - before]) for a, b in pairwise(ends)]
        before = after
    return result


def far_apart(positions: Iterable[int]) -> list[list[int]]:
    """Divide positions into groups, each of which one replay cuts."""
    groups: dict[int, list[int]] = {}
    for at in positions:
        groups.setdefault(at % APART, []).append(at)
    return list(groups.values())


def cut_positions(data: bytes) -> list[int]:
    """Return where to cut: everywhere, or for long data near every line end and at even steps."""
    if len(data) <= CUTS:
        return list(range(1, len(data)))
    near: set[int] = set(range(1, len(data), max(1, len(data) // (CUTS // 2))))
    end = data.find(b"\n")
    while end >= 0 and len(near) < CUTS:
        near.update(range(max(1, end - 3), min(len(data), end + 5)))
        end = data.find(b"\n", end + 1)
    return sorted(near)


# One replay.


async def replay(transcript: Transcript, actions: Sequence[Action], level: int) -> Outcome:
    """Hold the dialogue once with a new server, logging from *level* on; return its outcome."""
    factory = server_factory(transcript)
    with watched(level) as outcome:
        transport = connect(factory)
        for action, following in pairwise([*actions, None]):
            assert action is not None
            # An answer that is waited for takes the turns that it needs.
            if not await _perform(action, transport, rests=not isinstance(following, Await)):
                break
        await settle()
        outcome.closed_by_server = transport.is_closing()
        transport.feed_eof()
        await finish(transport)
    *outcome.lines, outcome.rest = bytes(transport.sent).split(b"\r\n")
    outcome.late = bytes(transport.written_after_close)
    return outcome


async def vanish(
    transcript: Transcript, actions: Sequence[Action], position: int, level: int, *, reset: bool
) -> Outcome:
    """Let the client go after `position` bytes, with a FIN or a RST."""
    factory = server_factory(transcript)
    with watched(level) as outcome:
        transport = connect(factory)
        before = 0
        for action in actions:
            if not isinstance(action, Feed):
                await _perform(action, transport)
                continue
            data = action.data[: position - before]
            before += len(data)
            await _perform(Feed(data), transport)
            if before >= position:
                break
        if reset:
            transport.reset()
        else:
            transport.feed_eof()
        await finish(transport)
    *outcome.lines, outcome.rest = bytes(transport.sent).split(b"\r\n")
    return outcome


@contextlib.contextmanager
def watched(level: int) -> Iterator[Outcome]:
    """Note log records from *level* on, warnings, and complaints of the event loop."""
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    before = loop.get_exception_handler()
    loop.set_exception_handler(
        lambda _, context: outcome.complaints.append(f"{context.get('message')}: {context}")
    )
    try:
        with all_records(level) as records, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield outcome
    finally:
        loop.set_exception_handler(before)
    outcome.records = records
    outcome.warned = {f"{one.category.__name__}: {one.message}" for one in caught}


def connect(factory: Factory) -> MemoryTransport:
    """Make a server and connect a client to it."""
    return MemoryTransport(asyncio.get_running_loop(), factory())


async def finish(transport: MemoryTransport) -> None:
    """Wait until the connection is over and no task of it is left."""
    me = asyncio.current_task()
    async with asyncio.timeout(PATIENCE):
        await transport.lost.wait()
        while left := {task for task in asyncio.all_tasks() if task is not me}:
            await asyncio.wait(left)


async def settle() -> None:
    """Let the server do all that it can do now."""
    ready = ready_callbacks()
    await asyncio.sleep(0)
    for _ in range(TURNS - 1):
        if not ready:
            return
        await asyncio.sleep(0)


def ready_callbacks() -> Sized:
    """Return the callbacks that the next turn of the loop will run; on uvloop some, always.

    Turns in which nothing runs are most of a replay's time.
    """
    return getattr(asyncio.get_running_loop(), "_ready", (None,))


async def _perform(action: Action, transport: MemoryTransport, *, rests: bool = True) -> bool:
    """Do it, and let the server handle it if the client *rests* then; tell whether to go on."""
    if isinstance(action, Await):
        return await _answered(transport, action.lines)
    if isinstance(action, Eof):
        transport.feed_eof()
        return True
    transport.feed(action.data)
    if rests and (len(action.data) > 1 or ready_callbacks()):
        await settle()
    return True


async def _answered(transport: MemoryTransport, lines: int) -> bool:
    """Wait for so many lines or the end; tell whether they came."""
    # Most replies come in a few turns; a timeout takes longer to make.
    for _ in range(TURNS):
        if transport.sent.count(b"\r\n") >= lines:
            return True
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(PATIENCE):
            while transport.sent.count(b"\r\n") < lines:
                if transport.is_closing():
                    return False
                transport.changed.clear()
                await transport.changed.wait()
    except TimeoutError:
        return False
    return True


# The verdict.


def judge(transcript: Transcript, outcome: Outcome) -> None:
    """Raise `AssertionError`, with the dialogue up to there, unless everything came as written."""
    expected = transcript.expected
    for number, (want, got) in enumerate(zip(expected, outcome.lines, strict=False)):
        if not want.matches(got):
            raise AssertionError(_report(transcript, number, f"instead came: {got!r}"))
    if len(outcome.lines) < len(expected):
        raise AssertionError(_report(transcript, len(outcome.lines), "it never came"))
    surplus = outcome.lines[len(expected) :]
    assert not surplus, f"{transcript.source}: no step expects {surplus!r}"
    assert outcome.rest == b"", f"{transcript.source}: half a line: {outcome.rest!r}"
    assert outcome.late == b"", f"{transcript.source}: written after close: {outcome.late!r}"
    if any(isinstance(step, Close) for step in transcript.steps):
        assert outcome.closed_by_server, f"{transcript.source}: the server did not close"
    elif not any(isinstance(step, Eof) for step in transcript.steps):
        assert not outcome.closed_by_server, f"{transcript.source}: the server closed"
    assert outcome.warned == set(transcript.warns), f"{transcript.source}: warnings"
    judge_quiet(transcript, outcome)
    errors = [one for one in outcome.records if one.levelno >= logging.ERROR]
    if transcript.logs == "ERROR":
        assert errors, f"{transcript.source}: nothing logged at ERROR"
    elif transcript.logs == "TRACEBACK":
        assert any(one.exc_info for one in errors), f"{transcript.source}: no traceback logged"


def judge_quiet(transcript: Transcript, outcome: Outcome) -> None:
    """Raise `AssertionError` for complaints, unexpected ERROR records and secrets in the log."""
    assert outcome.complaints == [], transcript.source
    formatter = logging.Formatter()
    for record in outcome.records:
        if not transcript.secrets and record.levelno < logging.ERROR:
            # To format it all takes longer; its arguments must fit.
            record.getMessage()
            continue
        text = formatter.format(record)
        if record.levelno >= logging.ERROR and not transcript.logs:
            raise AssertionError(f"{transcript.source}: logged at {record.levelname}: {text}")
        for secret in transcript.secrets:
            assert secret not in text, f"{transcript.source}: a secret in the log: {text}"


def _report(transcript: Transcript, number: int, problem: str) -> str:
    shown: list[str] = [f"{transcript.source} {transcript.title}"]
    lines = -1
    for step in transcript.steps:
        if isinstance(step, Expect):
            lines += 1
            if lines > number:
                break
            shown.append(f"{'>' if lines == number else ' '} {step}")
        elif isinstance(step, Send):
            text = repr(step.data)[2:-1]
            shown.append(f"  C: {text if len(text) < 200 else text[:200] + '…'}")
        else:
            shown.append(f"  {type(step).__name__.upper()}")
    return "\n".join([*shown, problem])


async def check(
    transcript: Transcript, ways: Iterable[tuple[str, Sequence[Action]]], level: int
) -> None:
    """Hold the dialogue in each of these ways; raise `AssertionError` at the first that differs."""
    for name, actions in ways:
        with told(name, level):
            judge(transcript, await replay(transcript, actions, level))


@contextlib.contextmanager
def told(name: str, level: int) -> Iterator[None]:
    """Add to an error how the client sent, and from which level on the server logged."""
    try:
        yield
    except Exception as error:
        error.add_note(f"sent {name}, logged from {logging.getLevelName(level)} on")
        raise
