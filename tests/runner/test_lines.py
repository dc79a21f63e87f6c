"""The lines of keys in a TOML file."""

import tomllib
from typing import Any

import pytest

from aiosmtpd.runner.lines import Path, line_of, lines_of

TEXT = '''\
workers = 2  # [not.a.table]
listen = [
  "a",  # one
  "b", "c",
]
"quoted key" = """
[no.table]
x = 1
"""
limits.size = "1M"

[tls]
cert = 'a#b'
inline = { deep = { er = 1 }, list = [1,
  { x = 2 }] }

[[route]]
to = "reject"
[route.retry]
first = "5s"

[[route]]
"m\\u0061tch" = ["*@a.test"]
[[route.sub]]
x = 1
[[route.sub]]
y = 2025-01-01 10:00:00
'''


def test_lines_of_keys() -> None:
    lines = lines_of(TEXT)
    expected: dict[Path, int] = {
        ("workers",): 1,
        ("listen",): 2,
        ("listen", 0): 3,
        ("listen", 2): 4,
        ("quoted key",): 6,
        ("limits",): 10,
        ("limits", "size"): 10,
        ("tls",): 12,
        ("tls", "cert"): 13,
        ("tls", "inline", "deep", "er"): 14,
        ("tls", "inline", "list", 0): 14,
        ("tls", "inline", "list", 1, "x"): 15,
        ("route", 0): 17,
        ("route", 0, "retry", "first"): 20,
        ("route", 1): 22,
        ("route", 1, "match", 0): 23,
        ("route", 1, "sub", 1, "y"): 27,
    }
    assert {path: lines.get(path) for path in expected} == expected


def paths(value: Any, path: Path = ()) -> set[Path]:
    """Name all keys and items of a document."""
    found: set[Path] = {path} if path else set()
    if isinstance(value, dict):
        for name, one in value.items():
            found |= paths(one, (*path, name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            found |= paths(one, (*path, number))
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_key_has_a_line(end: str) -> None:
    text = TEXT.replace("\n", end)
    assert set(lines_of(text)) == paths(tomllib.loads(text))


def test_the_line_of_a_missing_key_is_that_of_its_table() -> None:
    lines = lines_of(TEXT)
    assert line_of(lines, ("route", 1, "name")) == 22
    assert line_of(lines, ("spool",)) is None
