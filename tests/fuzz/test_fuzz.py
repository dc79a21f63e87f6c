"""The targets without a fuzzer: with their corpus, and with bytes that hypothesis makes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.attack.mutations import DIALOGUES, PIECES
from tests.fuzz.__main__ import MAIL_NAMES, NAMES
from tests.fuzz.mail_targets import MAIL_PIECES
from tests.fuzz.targets import TARGETS, close
from tests.rows import each_row

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*/*"))

inputs = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.one_of(st.sampled_from([*PIECES, *DIALOGUES]), st.binary(max_size=4)), max_size=12
    ).map(lambda pieces: b"".join(pieces)[:2000]),
    st.lists(st.sampled_from(MAIL_PIECES), max_size=20).map(b"".join),
)


@pytest.fixture(autouse=True, scope="module")
def loop() -> Iterator[None]:
    yield
    close()


@each_row("file", CORPUS)
def test_the_corpus_breaks_no_target(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(inputs)
def test_generated_bytes(data: bytes) -> None:
    """The targets share their bytes: to generate them takes longer than most targets."""
    for name in sorted(TARGETS):
        try:
            TARGETS[name](data)
        except Exception as error:
            error.add_note(f"target: {name}")
            raise


def test_each_target_has_a_corpus() -> None:
    assert {*NAMES, *MAIL_NAMES} == set(TARGETS) == {file.parent.name for file in CORPUS}
