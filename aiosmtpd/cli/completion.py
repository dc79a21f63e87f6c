"""Completion in bash, zsh and fish, by argcomplete (the extra ``completion``)."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from aiosmtpd.cli.options import CLASSES, COMMANDS


def complete(parser: ArgumentParser, program: str) -> None:
    """Print the words that may follow on the line that the shell completes, and exit."""
    try:
        import argcomplete
    except ImportError:
        sys.exit('Completion needs argcomplete: pip install "aiosmtpd[completion]"')
    if (name := _command_of(argcomplete.lexers.split_line)) in COMMANDS:
        module = import_module(COMMANDS[name].function.partition(":")[0])
        parser = module.make_parser(f"{program} {name}")
        # The parser of the command does not know the name of the command: skip that word.
        os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + 1)
    for action in parser._actions:
        if action.dest == "classpath":
            _suggest(action, CLASSES)
        elif action.dest == "classargs":
            _suggest(action, [*COMMANDS, "stdout", "stderr"])
    argcomplete.autocomplete(parser)


def _suggest(action: Any, words: Iterable[str]) -> None:
    action.completer = lambda **_: words


def _command_of(split: Any) -> str:
    """Return the first argument of the shell's line, or nothing while it is being typed."""
    line = os.environ.get("COMP_LINE", "")
    words = split(line, int(os.environ.get("COMP_POINT", len(line))))[3]
    first = int(os.environ["_ARGCOMPLETE"])
    return words[first] if len(words) > first else ""
