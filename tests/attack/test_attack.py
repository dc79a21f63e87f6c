"""The attacks with small counts, each in one of its modes; all modes have their turn."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.attack import floods, life, slow
from tests.attack.attacks import ATTACKS
from tests.attack.servers import Starter
from tests.attack.table import EVERY, Attack, Outcome, make

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

CASES = [(attack, attack.modes[n % len(attack.modes)]) for n, attack in enumerate(ATTACKS)]


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with Starter(reuse=True) as starter:
        yield starter


def is_slow(attack: Attack) -> bool:
    others = life.hooks_left, life.committed_hooks, life.developers_mode
    is_other = attack.run in others or attack.run is floods.exhausted_descriptors
    return attack.run.__module__ == slow.__name__ or is_other


@pytest.fixture(scope="module")
def slow_ones() -> Iterator[dict[str, Future[Outcome]]]:
    """Make the attacks that wait nearly all of their time, side by side.

    They have servers of their own: other attacks measure the memory of theirs.
    """
    cases = [(attack, mode) for attack, mode in CASES if is_slow(attack)]
    with Starter(reuse=True) as own, ThreadPoolExecutor(len(cases)) as pool:
        yield {
            attack.name: pool.submit(make, attack, mode, own, quick=True) for attack, mode in cases
        }


@pytest.mark.parametrize(
    ("attack", "mode"), CASES, ids=[f"{attack.name}-{mode}" for attack, mode in CASES]
)
def test_attack(
    attack: Attack, mode: str, starter: Starter, request: pytest.FixtureRequest
) -> None:
    if is_slow(attack):
        outcome: Outcome = request.getfixturevalue("slow_ones")[attack.name].result()
    else:
        outcome = make(attack, mode, starter, quick=True)
    if outcome.skipped:
        pytest.skip(outcome.why)
    assert outcome.withstood, str(outcome)


def test_every_mode_has_its_turn() -> None:
    assert {mode for _, mode in CASES} == set(EVERY)


def test_names_are_unique() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
