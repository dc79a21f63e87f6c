"""Remove the guards of the fast path one by one and show which of them no test would miss.

``python -m tests.mutations_fast_path [-j JOBS] [PART]`` from the top of the project: it changes a
copy of the package, runs eight test files against it, and prints the mutations that no test
notices, and those whose run was stopped because it took too long. *PART* limits it to the
mutations whose description contains it. It needs a system that forks.
"""

import argparse
import ast
import compileall
import os
import py_compile
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

# Before the forks, so that they need not import it.
import hypothesis  # noqa: F401
import pytest

ROOT = Path(__file__).parent.parent
TESTS = (
    "tests/dialogue/test_fast_path_auth.py",
    "tests/dialogue/test_fast_path_beginning.py",
    "tests/dialogue/test_fast_path_greeting.py",
    "tests/dialogue/test_fast_path_guards.py",
    "tests/dialogue/test_fast_path_hooks.py",
    "tests/dialogue/test_fast_path_lines.py",
    "tests/dialogue/test_tls_at_once.py",
    "tests/dialogue/test_usual.py",
)
LONGEST_RUN = 300
"""Seconds after which a run counts as failed: some mutations let the server wait for ever.

A run takes less than 10 s, but several times as long on a busy machine.
"""

FUNCTIONS: dict[str, dict[str, int | None]] = {
    "aiosmtpd/engine/connection.py": {"data_received": 3},
    "aiosmtpd/engine/commands.py": {"connection_lost": None},
    "aiosmtpd/engine/wire.py": {"_send_now": None, "_hold": None},
    "aiosmtpd/protocol/settings.py": {"_takes_plain": None},
    "aiosmtpd/engine/fast_path.py": {
        "greet": None,
        "take": None,
        "_are_wide": None,
        "take_alone": None,
        "_greet": None,
        "_greeting": None,
        "run": None,
        "_take": None,
        "_accepts": None,
        "_take_row": None,
    },
    "aiosmtpd/engine/transaction.py": {"receive_data": None},
    "aiosmtpd/engine/auth.py": {"known_offer": None, "_are_usual": None, "mechanisms_of": None},
}
"""Functions by file, and how many of their statements concern the fast path if not all."""

FAST_PATH = "aiosmtpd/engine/fast_path.py"
TEXTS = [
    (FAST_PATH, "BURST = 1000", "BURST = 1_000_000"),
    (FAST_PATH, "LONGEST = 340", "LONGEST = 300"),
    (FAST_PATH, "{1,64}", "+"),
    (FAST_PATH, "{1,64}", "{1,65}"),
    (FAST_PATH, "{1,64}", "{0,64}"),
    (FAST_PATH, "(?=[^>]{1,255}>)", ""),
    (FAST_PATH, "{1,255}", "{1,256}"),
    (FAST_PATH, r"(?:\.%s)*+", r"(?:\.+%s)*+"),
    (FAST_PATH, "[0-9A-Za-z_-]++", "[0-9A-Za-z_-]*+"),
    (FAST_PATH, "[0-9A-Za-z_-]++", "[0-9A-Za-z._-]++"),
    (FAST_PATH, "[0-9A-Za-z_-]++", r"[0-9A-Za-z_\[\]-]++"),
    (FAST_PATH, "[0-9A-Za-z_-]++", r"[0-9A-Za-z_\x80-\xff-]++"),
    (FAST_PATH, "[!#-'", "[!-'"),
    (FAST_PATH, "[!#-'", "[ !#-'"),
    (FAST_PATH, "#-'*", "#-*"),
    (FAST_PATH, r"*+\-", "*+,-"),
    (FAST_PATH, "9=?", "9:=?"),
    (FAST_PATH, "9=?", "9;=?"),
    (FAST_PATH, "9=?", "9<=?"),
    (FAST_PATH, "=?A", "=?@A"),
    (FAST_PATH, "Z^-~]", r"Z\\[^-~]"),
    (FAST_PATH, "^-~]", r"^-\x7f]"),
    (FAST_PATH, "^-~]", r"^-~\x80-\xff]"),
    (FAST_PATH, r"(?i:ATA))\r\n", r"(?i:ATA))[^\n]*\n"),
    (FAST_PATH, r"(?P<MAIL>%s)>\r\n", r"(?P<MAIL>%s)>\r?\n"),
    (FAST_PATH, r"(?P<RCPT>%s)>\r\n", r"(?P<RCPT>%s)>\r?\n"),
    (FAST_PATH, r"(?P<RCPT>%s)>\r\n", r"(?P<RCPT>%s)>[^\n]*\n"),
    (FAST_PATH, r'\r\n)++" % _MAILBOX)', r'\r\n)++" % _MAILBOX, re.IGNORECASE)'),
]
"""Mutations that a parser of Python does not find: a file, a text in it, and another."""

EQUIVALENT = {
    "data_received: always True: 'data'": "no bytes change nothing in the receiver",
    "_hold: always False: 'not self._out'": "the bytes are the same, copied once more",
    "_hold: always True: 'not isinstance(self._out, bytearray)'": "the same",
    "_hold: always False: 'not isinstance(self._out, bytearray)'": "the same",
    "_hold: without 'self._out = bytearray(self._out)'": "the same",
    "_send_now: always True: 'self._out or self._raw is None'": "it sends by a longer way",
    "_send_now: without 'self._raw is None'": "no data comes then; a type checker asks for it",
    "_greet: always True: 'server.settings.limits.max_junk_commands is not None'": "only counted",
    "_greeting: always True: '(known := greetings.get(key)) is None'": "the same, made anew",
    "_greeting: always True: 'len(greetings) >= MOST_GREETINGS'": "the same, made anew",
    "known_offer: always False: 'settings.auth_require_tls and (not server._tls_protocol)'": (
        "the reply is remembered by TLS too"
    ),
    "known_offer: without \"_PREFIX in ' '.join(own)\"": "the same, made anew",
    "known_offer: always False: 'names == every'": "the same, made anew",
    "known_offer: always True: 'len(offers) >= MOST_OFFERS'": "the same, made anew",
    "run: always True: 'answers'": "the driver counts the command that it runs too",
    "run: without \"''\"": "a match has a group; a type checker asks for it",
    "run: without 'position == end'": "the next match finds nothing",
}
"""Mutations that change nothing but time, and why."""


class Mutation(NamedTuple):
    """A file, what is changed in it, and the changed text."""

    path: str
    name: str
    text: str


Path_ = list[tuple[str, int | None]]


def places(node: ast.AST, path: Path_) -> Iterator[tuple[Path_, ast.AST]]:
    """Yield every node below, with the way to it."""
    yield path, node
    for field, value in ast.iter_fields(node):
        for position, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield from places(child, [*path, (field, position)])


def variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield each replacement of a node, with its description."""
    boundaries: dict[type, Any] = {
        ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt
    }  # fmt: skip
    match node:
        case ast.BoolOp():
            for index, value in enumerate(node.values):
                rest = [one for other, one in enumerate(node.values) if other != index]
                new = rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
                yield f"without {ast.unparse(value)!r}", new
        case ast.If():
            for always in (True, False):
                new_if = ast.If(ast.Constant(always), node.body, node.orelse)
                yield f"always {always}: {ast.unparse(node.test)!r}", new_if
        case ast.IfExp():
            for one in (node.body, node.orelse):
                yield f"always {ast.unparse(one)!r} of {ast.unparse(node)!r}", one
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                if type(operator) in boundaries:
                    new_compare = deepcopy(node)
                    new_compare.ops[index] = boundaries[type(operator)]()
                    yield f"{ast.unparse(new_compare)!r}", new_compare
            if len(node.ops) > 1:
                new_compare = ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])
                yield f"only {ast.unparse(new_compare)!r}", new_compare
        case ast.Try():
            yield "without its try", ast.If(ast.Constant(True), node.body, [])
        case ast.Expr(ast.Call()) | ast.Assign(targets=[ast.Attribute()]):
            yield f"without {ast.unparse(node)!r}", ast.Pass()


def replaced(tree: ast.AST, path: Path_, new: ast.AST) -> ast.AST:
    """Return a copy of a tree with another node in one place."""
    copy = deepcopy(tree)
    node: Any = copy
    for field, position in path[:-1]:
        node = getattr(node, field)
        node = node if position is None else node[position]
    field, position = path[-1]
    if position is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[position] = new
    return ast.fix_missing_locations(copy)


def mutations() -> Iterator[Mutation]:
    """Yield all mutations."""
    for path, functions in FUNCTIONS.items():
        tree = ast.parse((ROOT / path).read_text())
        for way, function in list(places(tree, [])):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and (
                function.name in functions
            ):
                mine = function.body[: functions[function.name]]
                inside = {id(node) for one in mine for node in ast.walk(one)}
                for at, node in places(function, way):
                    for what, new in variants(node) if id(node) in inside else ():
                        name = f"{function.name}: {what}"
                        yield Mutation(path, name, ast.unparse(replaced(tree, at, new)))
    text = (ROOT / FAST_PATH).read_text()
    for names in ("_METHODS", "_OF_LONE_COMMANDS", "_OF_GREETING"):
        listed = text[text.index(f"{names} = (") :].partition("\n)")[0]
        for name in [word.strip('", \n') for word in listed.split('"')[1::2]]:
            new_list = listed.replace(f'"{name}",', "", 1)
            yield Mutation(FAST_PATH, f"{names} without {name}", text.replace(listed, new_list))
    yield from mutations_of_texts()


def mutations_of_texts() -> Iterator[Mutation]:
    """Yield the mutations of TEXTS; raise ValueError if one of them does not fit."""
    for path, old, other in TEXTS:
        text = (ROOT / path).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{path} has {old!r} {text.count(old)} times")
        yield Mutation(path, f"{other!r} in place of {old!r}", text.replace(old, other))


def copy_of_the_project(folder: Path) -> Path:
    for name in ("aiosmtpd", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "transcripts")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    # By hash: two mutations may have the same size and come within one second.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder / "aiosmtpd", quiet=1, invalidation_mode=mode)
    return folder


def begin(folder: Path, mutation: Mutation | None) -> int:
    """Run the tests with a mutation, or with none, in a fork; return its process id."""
    if pid := os.fork():
        return pid
    if mutation is not None:
        (folder / mutation.path).write_text(mutation.text)
    os.chdir(folder)
    sys.path[0] = str(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    signal.alarm(LONGEST_RUN)
    # The options of the project need pytest-xdist.
    os._exit(pytest.main(["-o", "addopts=", "-x", "-q", "-p", "pytest_asyncio.plugin", *TESTS]))


def survivors(found: Iterator[Mutation], folders: list[Path]) -> Iterator[Mutation]:
    """Run the tests with each mutation, in all folders at the same time; yield those that pass."""
    running: dict[int, tuple[Mutation, Path]] = {}
    while True:
        while folders and (mutation := next(found, None)) is not None:
            folder = folders.pop()
            running[begin(folder, mutation)] = mutation, folder
        if not running:
            return
        pid, status = os.wait()
        mutation, folder = running.pop(pid)
        shutil.copy(ROOT / mutation.path, folder / mutation.path)
        folders.append(folder)
        if os.WIFSIGNALED(status):
            print(f"stopped: {mutation.path}, {mutation.name}", flush=True)
        if status == 0:
            yield mutation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", default="", metavar="PART")
    parser.add_argument("-j", type=int, default=1, metavar="JOBS", dest="jobs")
    args = parser.parse_args()
    found = [one for one in mutations() if args.part in one.name]
    with tempfile.TemporaryDirectory() as place:
        folders = [copy_of_the_project(Path(place, str(index))) for index in range(args.jobs)]
        if os.waitpid(begin(folders[0], None), 0)[1]:
            sys.exit("the tests fail without a mutation")
        new = alive = 0
        for one in survivors(iter(found), folders):
            alive += 1
            if one.name not in EQUIVALENT:
                new += 1
                print(f"no test fails: {one.path}, {one.name}", flush=True)
    print(f"{len(found)} mutations; {alive} change nothing, {new} of them not known")
    sys.exit(bool(new))


if __name__ == "__main__":
    main()
