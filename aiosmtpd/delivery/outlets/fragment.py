"""Options in a URL, for the command line: ``smtps://relay.example.com#cafile=ca.pem&verify=no``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_YES_AND_NO = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}

_WITHOUT = {"maildir", "python", "command"}
"""Schemes whose places may have a ``#`` of their own; they have no options."""


def split(url: str) -> tuple[str, str]:
    """Return the URL without its fragment, and the fragment."""
    scheme = url.partition(":")[0].lower()
    if scheme in _WITHOUT:
        return url, ""
    login, at, rest = url.rpartition("@") if not scheme.startswith("http") else ("", "", url)
    place, _, fragment = rest.partition("#")
    return f"{login}{at}{place}", fragment


def options(fragment: str, known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the options in a fragment, each of the type that it has in *known*.

    ``file:`` in front of a value means the content of that file, without the space around it.
    Raises ValueError with one line.
    """
    found: dict[str, Any] = {}
    for part in filter(None, fragment.split("&")):
        name, mark, text = part.partition("=")
        if not mark:
            raise ValueError(f"write #{name}=VALUE")
        if name in found:
            raise ValueError(f"option {name!r} is there twice")
        found[name] = _value(name, unquote(text), known[name]) if name in known else text
    return found


def _value(name: str, text: str, parameter: Parameter) -> Any:
    kind = str(parameter.annotation)
    if text.startswith("file:"):
        try:
            text = Path(text.removeprefix("file:")).read_text("utf-8").strip()
        except OSError as error:
            raise ValueError(f"{name}: {error.filename}: {error.strerror}") from None
    if "Mapping" in kind or "Context" in kind:
        raise ValueError(f"option {name!r} cannot be in a URL")
    if "bool" in kind:
        if text.lower() not in _YES_AND_NO:
            raise ValueError(f"{name} is yes or no, not {text!r}")
        return _YES_AND_NO[text.lower()]
    if number := re.search(r"\b(?:float|int)\b", kind):
        try:
            return float(text) if number[0] == "float" else int(text)
        except ValueError:
            raise ValueError(f"{name} is a number, not {text!r}") from None
    return text
