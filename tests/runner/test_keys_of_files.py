"""Each key of a configuration file: its sentence, its example and its default."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.runner import kinds, outlets
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.judge import NO_LIMIT
from aiosmtpd.runner.kinds import Kind
from aiosmtpd.runner.load import load
from aiosmtpd.runner.presets import PRESETS
from tests.rows import each_row


def keys(cls: type[Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all keys of a table and of the tables in it."""
    for name, field in kinds.keys_of(cls).items():
        yield f"{above}{name}", field
        table = field.metadata["kind"].table
        if table is not None:
            yield from keys(table, f"{above}{name}.")


KEYS = dict(keys(Config))
for options in dict.fromkeys(outlets.OPTIONS.values()):
    KEYS |= dict(keys(options, f"{options.__name__}."))


@each_row("name", KEYS)
def test_a_key_has_a_sentence_and_an_example(name: str) -> None:
    field = KEYS[name]
    kind: Kind = field.metadata["kind"]
    sentence = field.metadata["help"]
    assert re.fullmatch(r"[A-Z].{8,}\.", sentence), sentence
    assert kind.wanted
    if kind.table is None:
        kind.read(field.metadata["example"])
    else:
        assert kind.table.__doc__
        assert field.metadata["example"] is None or kind.words


@each_row("name", KEYS)
def test_a_default_is_read_as_itself(name: str) -> None:
    field = KEYS[name]
    kind: Kind = field.metadata["kind"]
    if kind.table is None and isinstance(field.default, int | float) and field.default:
        assert kind.read(field.default) == field.default


def test_limits_that_a_check_warns_of_are_keys() -> None:
    assert {f"limits.{name}" for name in NO_LIMIT} <= set(KEYS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_keys_that_exist(name: str, tmp_path: Path) -> None:
    tables = PRESETS[name]
    assert {f"{table}.{key}" for table, values in tables.items() for key in values} <= set(KEYS)
    (tmp_path / "a.toml").write_text(
        f'preset = "{name}"\nlisten = ":25"\nhandler = "a:B"\n[tls]\ncert = "a"\nkey = "b"\n'
    )
    config = load(tmp_path / "a.toml", {}).config
    for key, value in tables["limits"].items():
        kind: Kind = KEYS[f"limits.{key}"].metadata["kind"]
        assert getattr(config.limits, key) == kind.read(value)


@pytest.mark.parametrize("name", ["mx", "submission"])
def test_servers_on_the_internet_refuse_bare_newlines(name: str) -> None:
    assert PRESETS[name]["smtp"]["bare_newline"] == "reject"


@pytest.mark.parametrize("size", [0, 1, 1000, 1024, 25 << 20, 1 << 40, 3 << 30])
def test_a_size_that_is_shown_can_be_read(size: int) -> None:
    assert kinds.SIZE.read(kinds.spell_size(size)) == size


@pytest.mark.parametrize("time", [0.0, 0.5, 1.0, 90.0, 3600.0, 86400.0 * 5])
def test_a_time_that_is_shown_can_be_read(time: float) -> None:
    assert kinds.SECONDS.read(json.loads(json.dumps(kinds.spell_seconds(time)))) == time
