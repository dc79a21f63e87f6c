"""Every transcript, in every way its octets can arrive."""

from pathlib import Path

import pytest

from .harness import (
    burst,
    check,
    cut,
    cut_positions,
    judge_quiet,
    lockstep,
    singly,
    vanish,
)
from .notation import Transcript, read_folder
from .tables import parameter_transcripts, path_transcripts

FOLDER = Path(__file__).parent / "transcripts"
FOLDERS = ("core", "auth", "lmtp", "esmtp")


def _transcripts() -> list[object]:
    found = [*path_transcripts(), *parameter_transcripts()]
    for folder in FOLDERS:
        found += read_folder(FOLDER / folder)
    return [pytest.param(one, id=one.title) for one in found]


every_transcript = pytest.mark.parametrize("transcript", _transcripts())


@every_transcript
async def test_lockstep(transcript: Transcript) -> None:
    await check(transcript, [lockstep(transcript.steps)])


@every_transcript
async def test_singly(transcript: Transcript) -> None:
    await check(transcript, [singly(transcript.steps)])


@every_transcript
async def test_burst(transcript: Transcript) -> None:
    await check(transcript, [burst(transcript.steps)])


@every_transcript
async def test_cut(transcript: Transcript) -> None:
    await check(
        transcript,
        (cut(transcript.steps, at) for at in cut_positions(transcript.client_octets)),
    )


@every_transcript
async def test_vanishing(transcript: Transcript) -> None:
    """Wherever the client goes, nothing is left, and what was answered was right."""
    for at in [0, *cut_positions(transcript.client_octets)[::5], len(transcript.client_octets)]:
        for reset in (False, True):
            outcome = await vanish(transcript, at, reset=reset)
            judge_quiet(transcript, outcome)
            for want, got in zip(transcript.expected, outcome.lines, strict=False):
                assert want.matches(got), f"{transcript.source}, gone after {at}: {got!r}"
