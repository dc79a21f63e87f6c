"""The attacks with small counts, each in one of its modes; all modes have their turn."""

import os
from collections.abc import Iterator

import pytest

from tests.attack.attacks import ATTACKS
from tests.attack.servers import Starter
from tests.attack.table import EVERY, Attack, make

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

CASES = [
    pytest.param(attack, mode, id=f"{attack.name}-{mode}")
    for number, attack in enumerate(ATTACKS)
    for mode in [attack.modes[number % len(attack.modes)]]
]


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with Starter(reuse=True) as starter:
        yield starter


@pytest.mark.parametrize(("attack", "mode"), CASES)
def test_attack(attack: Attack, mode: str, starter: Starter) -> None:
    outcome = make(attack, mode, starter, quick=True)
    if outcome.skipped:
        pytest.skip(outcome.why)
    assert outcome.withstood, str(outcome)


def test_every_mode_has_its_turn() -> None:
    assert {case.values[1] for case in CASES} == set(EVERY)


def test_names_are_unique() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
