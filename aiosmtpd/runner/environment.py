"""Values from outside the file: ``AIOSMTPD_...`` variables, ``${NAME}`` and ``file:`` in values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any

import attrs

from aiosmtpd.runner import kinds
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.faults import Fault, advice, shown
from aiosmtpd.runner.lines import Path

_LIKE_A_SECRET = re.compile(r"(?i)pass|pwd|secret|token|key|auth|credential|dsn|url")
"""Settings of a handler whose values are never shown."""

PREFIX = "AIOSMTPD_"
_NAME = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
UNKNOWN = object()
"""A value that could not be replaced, which is reported already."""

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The variable by which systemd names the folder of LoadCredential=."""

NO_CREDENTIALS = "/run/credentials/aiosmtpd.service"
"""The value of that variable for a check outside of systemd."""

PLACEHOLDER = "whsec_Y3JlZGVudGlhbCBvZiBzeXN0ZW1k"
"""The value of a secret in such a check."""

DEEPEST = 50
"""Lists and tables in each other, at most."""

TOO_DEEP = "lists and tables are nested too deeply"

BITS = 64
"""Bits of a number, at most: those that TOML asks for."""

TOO_LONG = "the number is too long"

SECRET_KEYS = {"password", "secret", "headers", "token"}
"""Keys whose values are never shown."""


@attrs.define
class Sources:
    """The values that do not stand in the file, by the path of their key."""

    variables: dict[Path, str] = attrs.field(factory=dict)
    """Values from a variable of the environment, with its name."""
    secrets: set[Path] = attrs.field(factory=set)
    """Values that have a part from ``${NAME}`` or ``file:``."""
    unseen: dict[Path, str] = attrs.field(factory=dict)
    """Values from files that only systemd has, with the path of the file."""
    preset: set[tuple[str, ...]] = attrs.field(factory=set)
    """Values of the preset."""

    def variable_of(self, path: Path) -> str | None:
        """Return the variable that has set a key, or None."""
        return self.variables.get(path) or self.variables.get(path[:-1])

    def is_secret(self, path: Path) -> bool:
        """Return True if the value of a key must not be shown."""
        if any(part in SECRET_KEYS for part in path):
            return True
        if path[0] == "handler" and _LIKE_A_SECRET.search(str(path[-1])):
            return True
        return any(path[:length] in self.secrets for length in range(1, len(path) + 1))


def from_environment(
    raw: Mapping[str, Any], environ: Mapping[str, str], sources: Sources, faults: list[Fault]
) -> dict[str, Any]:
    """Return the values of the file with those of ``AIOSMTPD_KEY`` and ``AIOSMTPD_TABLE__KEY``.

    A variable counts more than the file. Only keys outside of lists can be set so. Adds a fault for
    a variable with two underscores that is not a key.
    """
    values = dict(raw)
    known = _variables()
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            if "__" in name:
                faults.append(Fault(name, None, "", f"unknown variable: {advice_for(name, known)}"))
            continue
        path, kind = known[name]
        value = kind.from_text(environ[name]) if kind.from_text is not None else None
        if len(path) == 1:
            values[path[0]] = value
        else:
            table = values.get(path[0], {})
            values[path[0]] = {**table, path[1]: value} if isinstance(table, dict) else table
        sources.variables[path] = name
    return values


def advice_for(name: str, known: Mapping[str, Any]) -> str:
    """Return the variable that is closest to a name, or how they are called."""
    lower = {one.lower(): one for one in known}
    text = advice(name, lower)
    if text.startswith("did you mean"):
        return text.upper().replace("DID YOU MEAN", "did you mean")
    return "a key of a table is AIOSMTPD_TABLE__KEY"


def _variables() -> dict[str, tuple[tuple[str, ...], kinds.Kind]]:
    """Return the variables that are known, each with its path and kind."""
    found: dict[str, tuple[tuple[str, ...], kinds.Kind]] = {}
    for name, field in kinds.keys_of(Config).items():
        kind = field.metadata["kind"]
        if kind.from_text is not None:
            found[f"{PREFIX}{name.upper()}"] = (name,), kind
        elif kind.table is not None and not kind.many:
            for key, inner in kinds.keys_of(kind.table).items():
                if inner.metadata["kind"].from_text is not None:
                    variable = f"{PREFIX}{name.upper()}__{key.upper()}"
                    found[variable] = (name, key), inner.metadata["kind"]
    return found


def expand(
    values: Mapping[str, Any],
    environ: Mapping[str, str],
    folder: str,
    sources: Sources,
    say: Callable[[Path, str], None],
    *,
    outside: bool = False,
) -> dict[str, Any]:
    """Return the values with ``${NAME}`` and ``file:PATH`` replaced; report those that fail.

    ``$$`` is a dollar sign. A path is relative to *folder*. A value that fails is :data:`UNKNOWN`.
    With *outside*, a file in the folder of systemd's credentials may be missing.
    """

    def walk(value: Any, path: Path) -> Any:
        if len(path) > DEEPEST:
            say(path[:2], TOO_DEEP)
            return UNKNOWN
        if isinstance(value, dict):
            return {name: walk(one, (*path, name)) for name, one in value.items()}
        if isinstance(value, list):
            return [walk(one, (*path, number)) for number, one in enumerate(value)]
        if not isinstance(value, str):
            if isinstance(value, int) and value.bit_length() > BITS:
                say(path, TOO_LONG)
                return UNKNOWN
            return value
        try:
            text = _with_variables(value, path)
            return _content(text, path) if text.startswith("file:") else text
        except LookupError:
            return UNKNOWN

    def _with_variables(text: str, path: Path) -> str:
        def replace(found: re.Match[str]) -> str:
            if found[1] is None:
                return "$"
            if found[1] == CREDENTIALS and found[1] not in environ and outside:
                sources.unseen[path] = text.replace(found[0], NO_CREDENTIALS)
                return NO_CREDENTIALS
            if found[1] not in environ:
                more = ""
                if found[1] == CREDENTIALS:
                    more = ": systemd sets it for a service with LoadCredential="
                say(path, f"the variable {found[1]} is not set{more}")
                raise LookupError
            sources.secrets.add(path)
            return environ[found[1]]

        return _NAME.sub(replace, text)

    def _content(text: str, path: Path) -> str:
        sources.secrets.add(path)
        file = FilePath(folder, text.removeprefix("file:"))
        if path in sources.unseen:
            return PLACEHOLDER
        try:
            return _secret_in(file)
        except ValueError as error:
            say(path, str(error))
        raise LookupError

    return {name: walk(one, (name,)) for name, one in values.items()}


def _secret_in(file: FilePath) -> str:
    """Return the text of a file without its last line end; raises ValueError with one line."""
    try:
        content = file.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{shown(str(file))} is not the path of a file: {error}") from None
    if not content:
        raise ValueError(f"{file} is empty")
    return content
