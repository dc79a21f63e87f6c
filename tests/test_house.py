"""The house rules that a machine can check: arrows between the rooms, sizes, what is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiosmtpd

PACKAGE = Path(aiosmtpd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ROOMS = {
    "protocol": {"protocol"},
    "engine": {"engine", "protocol", "_legacy", "proxy_protocol", "aiosmtpd"},
    "_legacy": {"engine", "protocol", "smtp", "aiosmtpd"},
    "smtp": {"engine", "protocol", "_legacy", "proxy_protocol", "aiosmtpd"},
    "lmtp": {"smtp", "engine", "protocol"},
    "proxy_protocol": {"protocol"},
    "_handler": set(),
    "_headers": set(),
    "_maildir": set(),
    "_nexthop": set(),
    "handlers": {
        "_handler",
        "engine",
        "protocol",
        "smtp",
        "_headers",
        "_maildir",
        "_nexthop",
        "aiosmtpd",
    },
    "server": {"engine", "protocol", "smtp", "lmtp", "aiosmtpd"},
    "controller": {"server", "engine", "protocol", "smtp", "lmtp", "aiosmtpd"},
    "inbox": {"inbox", "aiosmtpd"},
    "testing": {
        "_dialogue",
        "testing",
        "inbox",
        "controller",
        "handlers",
        "smtp",
        "lmtp",
        "engine",
        "protocol",
        "aiosmtpd",
    },
    "_options": {"testing", "protocol", "aiosmtpd"},
    "_users": {"_options", "protocol"},
    "_devtls": {"_process"},
    "_on_message": {"protocol"},
    "_dialogue": {"inbox", "smtp"},
    "_proxied": {"smtp"},
    "_countdown": {"smtp", "engine", "protocol"},
    "_settings": {"_options", "inbox", "_process", "_users", "_on_message", "engine"},
    "_process": {"_options", "server", "engine", "aiosmtpd"},
    "_program": {
        "_devtls",
        "_countdown",
        "_proxied",
        "_dialogue",
        "_options",
        "_process",
        "controller",
        "server",
        "smtp",
        "lmtp",
        "testing",
        "engine",
        "aiosmtpd",
    },
    "_completion": {"_options"},
    "main": {"_options", "_completion", "_settings", "_process", "_program"},
    "_client": set(),
    "_load": {"_client", "inbox"},
    "_send": {"_client", "_load", "_options", "inbox"},
    "_wait": {"_options", "_settings", "_waiting", "aiosmtpd"},
    "_waiting": {"_process", "_program", "inbox", "smtp"},
    "__main__": {"main"},
    "__init__": {"engine", "controller", "server", "handlers", "smtp", "lmtp"},
}
"""Which rooms each room may import; a room is a module or a folder of the package."""


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path, *, types_too: bool = False) -> Iterator[str]:
    """Name the modules that a file imports, without those behind TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for_types |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in for_types and not types_too:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "aiosmtpd":
                yield from (f"aiosmtpd.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    allowed = ROOMS[room_of(path)]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "aiosmtpd":
            room = parts[1] if len(parts) > 1 else "aiosmtpd"
            known = room in ROOMS and room != "__init__"
            assert (room if known else "aiosmtpd") in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "protocol").glob("*.py")), ids=lambda p: p.name)
def test_the_vocabulary_knows_no_asyncio(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"asyncio", "socket", "ssl", "threading", "uvloop"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sizes(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 500, f"{path.name} is longer than a sitting"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            begin = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
            lines = (node.end_lineno or 0) - (begin or 0)
            assert lines <= 50, f"{path.name}: {node.name} has {lines} lines"


def test_no_test_file_is_long() -> None:
    lengths = {
        path.name: path.read_text(encoding="utf-8").count("\n")
        for path in Path(__file__).parent.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 700} == {}


def test_the_heart_is_small() -> None:
    heart = ("protocol/receiver.py", "engine/connection.py", "smtp.py")
    lines = sum((PACKAGE / name).read_text(encoding="utf-8").count("\n") for name in heart)
    assert lines < 1000


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_private_of_asyncio_or_ssl(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in {"asyncio", "ssl"}:
            assert not any(alias.name.startswith("_") for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert not (node.value.id in {"asyncio", "ssl"} and node.attr.startswith("_"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_of_posix_alone_at_module_level(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            assert not names & {"fcntl", "grp", "pwd", "resource", "termios"}
