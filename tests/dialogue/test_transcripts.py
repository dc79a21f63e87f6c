"""Replay every transcript in each way that its bytes can arrive.

At DEBUG the server logs each command, and so the driver runs all of them. At INFO the fast path
runs the common ones.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest

from .harness import (
    Action,
    burst,
    check,
    cut,
    cut_positions,
    far_apart,
    judge_quiet,
    lockstep,
    pipelined,
    replay,
    run_by_the_driver,
    singly,
    told,
    vanish,
)
from .notation import Step, Transcript, read_folder
from .tables import parameter_transcripts, path_transcripts

FOLDER = Path(__file__).parent / "transcripts"
FOLDERS = ("core", "auth", "lmtp", "esmtp")


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """Keep the objects of the tests before out of the 330 collections of these."""
    gc.collect()
    gc.freeze()


GREETINGS = tuple(b"%s client.test\r\n" % verb for verb in (b"EHLO", b"HELO", b"LHLO"))
"""The lines with which most dialogues begin. They are cut in those about greetings alone."""

WAYS = {"in lockstep": lockstep, "singly": singly, "in a burst": burst, "pipelined": pipelined}
LEVELS = (logging.DEBUG, logging.INFO)


def _transcripts() -> list[tuple[Transcript, bool]]:
    """Return all transcripts, each with True if the driver must run it cut: the tables are not."""
    found = [(one, False) for one in (*path_transcripts(), *parameter_transcripts())]
    for folder in FOLDERS:
        found += [(one, True) for one in read_folder(FOLDER / folder)]
    return found


def sent_at(level: int) -> Callable[[Sequence[Step]], list[Action]]:
    """Return how the client sends: the fast path begins only while the driver waits."""
    return burst if level == logging.DEBUG else pipelined


def positions_of(transcript: Transcript) -> list[int]:
    """Return where to cut a transcript, and where its client goes."""
    positions = cut_positions(transcript.client_octets)
    about_greetings = transcript.source.startswith("core/greeting")
    if transcript.client_octets.startswith(GREETINGS) and not about_greetings:
        positions = [at for at in positions if at >= len(GREETINGS[0]) - 1]
    return positions


async def not_cut(transcript: Transcript) -> None:
    """Hold the dialogue in each way at both levels."""
    for level in LEVELS:
        # At INFO the driver runs what comes singly or in a burst, as at DEBUG: see below.
        names = list(WAYS) if level == logging.DEBUG else ["in lockstep", "pipelined"]
        await check(transcript, ((name, WAYS[name](transcript.steps)) for name in names), level)


async def cut_everywhere(transcript: Transcript, level: int) -> None:
    """Hold the dialogue with cuts at all positions."""
    actions = sent_at(level)(transcript.steps)
    positions = positions_of(transcript)
    if level == logging.DEBUG:
        # The bytes are cut into lines by the same code at both levels.
        positions = positions[::2]
    ways = ((f"cut at {some}", cut(actions, some)) for some in far_apart(positions))
    await check(transcript, ways, level)


async def vanishing(transcript: Transcript) -> None:
    """Wherever the client goes, nothing is left, and all replies until then were right."""
    level = logging.INFO
    actions = sent_at(level)(transcript.steps)
    positions = positions_of(transcript)
    # A FIN and a RST at other places: together, at every fourth.
    for reset, between in (False, positions[::8]), (True, positions[4::8]):
        for at in [0, *between, len(transcript.client_octets)]:
            with told(f"until {'RST' if reset else 'FIN'} after byte {at}", level):
                outcome = await vanish(transcript, actions, at, level, reset=reset)
                judge_quiet(transcript, outcome)
                for want, got in zip(transcript.expected, outcome.lines, strict=False):
                    assert want.matches(got), f"{transcript.source}: {got!r}"


@pytest.mark.parametrize(
    ("transcript", "is_written"), [pytest.param(*one, id=one[0].title) for one in _transcripts()]
)
async def test_each_arrival(transcript: Transcript, is_written: bool) -> None:
    """One test for all arrivals: a test of its own for each would take longer than the replays."""
    await not_cut(transcript)
    for level in LEVELS if is_written else (logging.INFO,):
        await cut_everywhere(transcript, level)
    await vanishing(transcript)
    # A coroutine that was never awaited warns when it is collected. It is not old: all older
    # objects would take a tenth of the time.
    gc.collect(1)


@pytest.mark.parametrize("send", [singly, burst])
async def test_the_driver_runs_what_comes_otherwise(
    send: Callable[[Sequence[Step]], list[Action]],
) -> None:
    counts = []
    for send_one, level in ((lockstep, logging.DEBUG), (send, logging.INFO)):
        with run_by_the_driver() as ran:
            for transcript in islice(read_folder(FOLDER / "core"), 0, None, 3):
                await replay(transcript, send_one(transcript.steps), level)
        counts.append(ran)
    assert counts[0] == counts[1]
    assert min(counts[0].values()) >= 20


@pytest.mark.parametrize("send", [lockstep, pipelined])
async def test_the_fast_path_runs_at_info_only(
    send: Callable[[Sequence[Step]], list[Action]],
) -> None:
    counts = {}
    for level in (logging.DEBUG, logging.INFO):
        with run_by_the_driver() as ran:
            for transcript in read_folder(FOLDER / "core"):
                await replay(transcript, send(transcript.steps), level)
        counts[level] = ran
    fast = counts[logging.DEBUG] - counts[logging.INFO]
    for verb in ("MAIL", "RCPT", "DATA"):
        assert fast[verb] >= 20, f"{verb} on the fast path: {fast[verb]}"
