"""The tests that two pages of the docs name exist, and the examples follow the threat model."""

import re
from pathlib import Path

import pytest

from tests.attack.attacks import ATTACKS

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "explain" / "threat-model.rst"
AUTHENTICATORS = ("docs/reference/auth.rst", "docs/howto/mechanism.rst")

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")


@pytest.mark.parametrize("page", [PAGE, PAGE.with_name("durability.rst")], ids=lambda it: it.stem)
def test_each_test_that_it_names_exists(page: Path) -> None:
    named = re.findall(r"``(tests/[\w/.-]+)(?:::(\w+))?``", page.read_text(encoding="utf-8"))
    assert len(named) > 9
    for file, name in named:
        text = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
        found = not name or re.search(rf"(?:def|class) {name}\b", text)
        assert found, f"{file}::{name}"
        assert (ROOT / file).exists(), file


def test_it_names_each_attack() -> None:
    # A name on the page is a word, with or without hyphens.
    named = set(re.findall(r"``([a-zA-Z0-9-]+)``", PAGE.read_text(encoding="utf-8")))
    assert {attack.name for attack in ATTACKS} <= named


@pytest.mark.parametrize("page", AUTHENTICATORS)
def test_examples_compare_secrets_in_constant_time(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "hmac.compare_digest(" in text


def test_no_example_compares_secrets_with_equality() -> None:
    for page in (ROOT / "docs").rglob("*.rst"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?:\.password|token|secret)\w* *[!=]= ", text), page
