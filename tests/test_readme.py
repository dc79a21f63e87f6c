"""The examples of the README do what it says."""

import re
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

README = Path(__file__).parent.parent / "README.rst"
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)
BLOCKS = [textwrap.dedent(block) for block in BLOCK.findall(README.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1])
def test_an_example(
    block: str,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "def test_" in block:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester.makepyfile(block)
        pytester.runpytest_inprocess("-p", "aiosmtpd.testing.plugin").assert_outcomes(passed=1)
    elif "serve_forever" in block:
        # It would never end.
        compile(block, "README.rst", "exec")
    else:
        exec(block, {"__name__": "readme"})
        assert re.search("me@example.com|Pong", capsys.readouterr().out)


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 4
