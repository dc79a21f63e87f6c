"""The house rules that a machine can check: arrows between the rooms, sizes, imports."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiosmtpd

PACKAGE = Path(aiosmtpd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ARROWS: dict[str, set[str]] = {
    "__main__": {"main"},
    "main": {"cli", "process"},
    "cli": {
        "inbox",
        "runner",
        "server",
        "smtp",
        "observers",
        "mail",
        "listen",
        "engine",
        "delivery",
        "process",
        "protocol",
        "_version",
    },
    "runner": {
        "server",
        "observers",
        "delivery",
        "listen",
        "engine",
        "process",
        "protocol",
        "_version",
    },
    "__init__": {
        "testing",
        "controller",
        "server",
        "lmtp",
        "handlers",
        "smtp",
        "engine",
        "_version",
    },
    "testing": {
        "inbox",
        "listen",
        "controller",
        "lmtp",
        "smtp",
        "observers",
        "delivery",
        "mail",
        "process",
        "protocol",
    },
    "inbox": {"observers", "delivery", "listen", "mail", "protocol", "_version"},
    "controller": {"server", "smtp", "listen", "engine", "protocol"},
    "server": {"lmtp", "smtp", "listen", "engine", "protocol"},
    "lmtp": {"smtp", "engine", "protocol"},
    "handlers": {"_handler", "smtp", "engine", "delivery", "protocol"},
    "_handler": {"smtp", "proxy_protocol", "protocol"},
    "extensions": {"protocol"},
    "smtp": {"legacy", "proxy_protocol", "engine", "sasl", "protocol", "_version"},
    "legacy": {"engine", "protocol"},
    "proxy_protocol": set(),
    "observers": {"mail", "protocol"},
    "delivery": {"mail", "protocol", "_version"},
    "mail": {"engine", "protocol"},
    "listen": set(),
    "engine": {"sasl", "protocol"},
    "sasl": {"protocol"},
    "process": {"protocol"},
    "protocol": {"_version"},
    "_version": set(),
}
"""The rooms from top to bottom, each with the rooms below that it may import, for types too. A room
is a module or a folder of the package. Every arrow that is not here is forbidden."""


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file, which several tests read."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Return all nodes of the syntax tree of a file."""
    return list(ast.walk(tree_of(path)))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path, *, types_too: bool = True) -> Iterator[str]:
    """Name the modules that a file imports, with or without those under TYPE_CHECKING."""
    for_types: set[ast.AST] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for_types |= set(ast.walk(node))
    for node in nodes_of(path):
        if node in for_types and not types_too:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "aiosmtpd":
                yield from (f"aiosmtpd.{alias.name}" for alias in node.names)
            else:
                yield node.module


@functools.cache
def arrows_of(path: Path) -> set[str]:
    """Name the other rooms that a file imports; the top of the package is ``__init__``."""
    found = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "aiosmtpd":
            room = parts[1] if len(parts) > 1 else "__init__"
            found.add(room if room in ARROWS else "__init__")
    return found - {room_of(path)}


each_room = pytest.mark.parametrize("room", ARROWS)


@functools.cache
def files_of(room: str) -> list[Path]:
    return [path for path in FILES if room_of(path) == room]


@each_room
def test_imports_follow_the_arrows(room: str) -> None:
    for path in files_of(room):
        forbidden = arrows_of(path) - ARROWS[room]
        assert not forbidden, f"{path.name} imports from {forbidden}"


def test_each_file_is_in_a_room() -> None:
    assert {room_of(path) for path in FILES} == set(ARROWS)


def test_every_arrow_points_down() -> None:
    rooms = list(ARROWS)
    for number, room in enumerate(rooms):
        assert ARROWS[room] <= set(rooms[number + 1 :]), f"{room} has an arrow up, or a circle"


def test_every_arrow_is_used() -> None:
    used: dict[str, set[str]] = {room: set() for room in ARROWS}
    for path in FILES:
        used[room_of(path)] |= arrows_of(path)
    assert used == ARROWS


def test_no_private_module_at_the_root() -> None:
    private = {path.stem for path in PACKAGE.glob("_*.py")}
    assert private == {"__init__", "__main__", "_version", "_handler"}


def test_the_vocabulary_knows_no_asyncio() -> None:
    for path in files_of("protocol"):
        roots = {name.split(".")[0] for name in imported(path, types_too=False)}
        found = roots & {"asyncio", "socket", "ssl", "threading", "uvloop"}
        assert not found, f"{path.name} imports {found}"


@each_room
def test_a_function_fits_a_screen(room: str) -> None:
    for path in files_of(room):
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = lines_of(node)
                assert lines <= 50, f"{path.name}: {node.name} has {lines} lines"


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines the body of a function has without its docstring."""
    first = function.body[0]
    begin = first.end_lineno if ast.get_docstring(function) else first.lineno - 1
    return (function.end_lineno or 0) - (begin or 0)


def test_no_test_file_is_long() -> None:
    lengths = {
        path.name: path.read_text(encoding="utf-8").count("\n")
        for path in Path(__file__).parent.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 700} == {}


@each_room
def test_nothing_private_of_asyncio_or_ssl(room: str) -> None:
    for path in files_of(room):
        for node in nodes_of(path):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module in {"asyncio", "ssl"}:
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [node.attr] if node.value.id in {"asyncio", "ssl"} else []
            private = [name for name in names if name.startswith("_")]
            assert not private, f"{path.name} uses {private}"


@each_room
def test_nothing_of_posix_alone_at_module_level(room: str) -> None:
    for path in files_of(room):
        for node in tree_of(path).body:
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                found = names & {"fcntl", "grp", "pwd", "resource", "termios"}
                assert not found, f"{path.name} imports {found}"
