"""The public surface: the names at the top, the public modules, and the names in the docs."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import aiosmtpd
import aiosmtpd.testing
from tests.rows import each_row

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.rst")), ROOT / "README.rst", ROOT / "NEWS.rst"]

PROMISED = """
    SMTP LMTP Controller UnixSocketController UnthreadedController UnixSocketUnthreadedController
    Server Handler Mail Message AsyncMessage Mailbox Debugging Proxy Sink Envelope Session Recipient
    AuthResult LoginPassword MISSING Refused Reply Extension CLASSIC MODERN ALL BodyStream
    IncompleteBody Observer Settings SMTPKeywords Limits Inbox NoMessage DecodedMail Fault Faults
    syntax auth_mechanism xclient xforward
"""

_DIRECTIVE = re.compile(
    r"^ *\.\. (?:auto(?!property)\w+|class|function|data|exception|module)"
    r":: +(aiosmtpd(?:\.\w+)*)",
    re.MULTILINE,
)
_HIDDEN = re.compile(r"^( *)\.\. test\w+::.*\n\1 +:hide:\n(?:\1 +.*\n|\n)*", re.MULTILINE)
_ROLE = re.compile(r":\w+:`(?:[^`<]*<)?[~!]?(aiosmtpd(?:\.\w+)*)(?:\(\))?>?`")
_IMPORT = re.compile(r"\bfrom (aiosmtpd[\w.]*) import ([\w, ]+)|\bimport (aiosmtpd[\w.]*)")


def public_modules() -> set[str]:
    """Return the modules that the reference calls public."""
    text = (DOCS / "reference" / "index.rst").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"These modules are public: ([^;]+);", text)
    return set(re.findall(r"``([\w.]+)``", sentence))


def names_in(text: str) -> Iterator[str]:
    """Return the full names that a page documents, refers to or imports, where readers see it."""
    text = _HIDDEN.sub("", text)
    yield from _DIRECTIVE.findall(text)
    yield from _ROLE.findall(text)
    for module, listed, alone in _IMPORT.findall(text):
        names = [f"{module}.{name.split()[0]}" for name in listed.split(",") if name.strip()]
        yield from names or [alone]


def found(name: str) -> bool:
    """Return True if a public module has the name, or is it."""
    public = public_modules()
    module = name
    while module not in public:
        module = module.rpartition(".")[0]
        if not module:
            return False
    value: Any = import_module(module)
    for part in name.removeprefix(module).split(".")[1:]:
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return name in public or not isinstance(value, type(ast))


@each_row("name", PROMISED.split())
def test_a_promised_name_imports_from_the_top(name: str) -> None:
    assert name in vars(aiosmtpd)["__all__"]
    assert getattr(aiosmtpd, name) is not None


def test_a_public_name_is_in_one_place_of_the_table() -> None:
    for module in aiosmtpd, aiosmtpd.testing:
        names = [name for part in vars(module)["_MODULES"].values() for name in part.split()]
        assert [name for name, times in Counter(names).items() if times > 1] == []
        assert {*names} == {*vars(module)["__all__"]} - {"__version__"}


def test_type_checkers_see_the_names_of_testing() -> None:
    source = Path(aiosmtpd.testing.__file__).read_text(encoding="utf-8")
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    declared = {
        (alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert declared == set(vars(aiosmtpd.testing)["_HOMES"].items())


def test_a_name_that_a_test_replaces_counts_at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.controller.Controller", "mine")
    assert aiosmtpd.Controller == "mine"  # type: ignore[comparison-overlap]


def test_the_public_modules_exist() -> None:
    assert {"aiosmtpd", "aiosmtpd.smtp", "aiosmtpd.server"} <= public_modules()
    for name in public_modules():
        assert import_module(name)


@each_row("page", PAGES)
def test_the_names_of_a_page_are_public(page: Path) -> None:
    names = {*names_in(page.read_text(encoding="utf-8"))}
    assert [name for name in sorted(names) if not found(name)] == []


def test_the_names_of_a_page_are_found() -> None:
    text = (
        ".. autoclass:: aiosmtpd.smtp.SMTP\n   :class:`~aiosmtpd.Nothing` :meth:`run()"
        " <aiosmtpd.controller.Controller.run>`\n   from aiosmtpd.engine import body as b, auth\n"
        "\n.. testcode::\n   :hide:\n\n   import aiosmtpd.hidden\n\nimport aiosmtpd.smtp\n"
    )
    names = [*names_in(text)]
    assert [(name, found(name)) for name in names] == [
        ("aiosmtpd.smtp.SMTP", True),
        ("aiosmtpd.Nothing", False),
        ("aiosmtpd.controller.Controller.run", True),
        ("aiosmtpd.engine.body", False),
        ("aiosmtpd.engine.auth", False),
        ("aiosmtpd.smtp", True),
    ]
