"""Make the handler that the options name."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from difflib import get_close_matches
from importlib import import_module
from inspect import isclass, signature
from typing import Any

from aiosmtpd.cli.options import CLASSES, COMMANDS, DEFAULT_CLASS
from aiosmtpd.process.failure import one_line


def make_handler(parser: ArgumentParser, settings: Namespace) -> Any:
    """Return the handler; exit with a usage error if the options do not name one."""
    if settings.spool is not None or settings.deliver:
        return _make_delivery(parser, settings)
    if settings.pretty or settings.json:
        if settings.on_message is not None:
            parser.error("--on-message cannot be combined with --pretty or --json")
        return _make_printer(parser, settings)
    if settings.on_message is not None:
        return _make_command_handler(parser, settings)
    if settings.classpath == DEFAULT_CLASS and settings.classargs:
        _advise(parser, settings.classargs[0])
    found = _find(parser, settings.classpath)
    if ":" in settings.classpath and not isclass(found):
        return _check_function(parser, settings, found)
    if hasattr(found, "from_cli"):
        return found.from_cli(parser, *settings.classargs)
    if settings.classargs:
        # As in 1.4: the module, as the user wrote it.
        module = settings.classpath.rpartition(":" if ":" in settings.classpath else ".")[0]
        parser.error(f"Handler class {module or settings.classpath} takes no arguments")
    return found()


def _make_printer(parser: ArgumentParser, settings: Namespace) -> Any:
    from aiosmtpd.mail.printing import JSONLines, Pretty

    if settings.classpath != DEFAULT_CLASS or settings.classargs:
        parser.error("--pretty and --json print messages themselves: leave out -c and CLASSARGS")
    if sys.stdout is None:
        parser.error("--pretty and --json need a standard output, and it is closed")
    return Pretty() if settings.pretty else JSONLines()


def _make_delivery(parser: ArgumentParser, settings: Namespace) -> Any:
    if settings.spool is None or not settings.deliver:
        parser.error("--spool DIR and --deliver URL need each other: give both")
    if settings.classpath != DEFAULT_CLASS or settings.classargs:
        parser.error("--deliver takes the place of a class: leave out -c and its arguments")
    if settings.pretty or settings.json or settings.on_message is not None:
        parser.error("--deliver cannot be combined with --pretty, --json or --on-message")
    _look_in_current_folder()
    from aiosmtpd.delivery.handler import Delivery

    return Delivery.from_cli(parser, settings.spool, *settings.deliver)


def _make_command_handler(parser: ArgumentParser, settings: Namespace) -> Any:
    if settings.classpath != DEFAULT_CLASS or settings.classargs:
        parser.error("--on-message takes the place of a class: leave out -c and its arguments")
    if not settings.on_message.strip():
        parser.error("--on-message needs a command: --on-message 'cat >> messages'")
    from aiosmtpd.delivery.command import OnMessage

    return OnMessage(settings.on_message, settings.on_message_timeout)


def _advise(parser: ArgumentParser, word: str) -> None:
    """Exit with a usage error if a word looks like a command or a place."""
    if word == "help":
        parser.error(f"Unknown command 'help'. See {parser.prog} --help.")
    if near := get_close_matches(word, COMMANDS, 1, 0.7):
        first = "" if word != near[0] else ", as the first argument"
        parser.error(f"Unknown command {word!r}: did you mean {parser.prog} {near[0]}{first}?")
    if re.fullmatch(r"[^/]*:?[0-9]+", word):
        parser.error(f"Unexpected argument {word!r}: to listen there, write -l {word}")


def _look_in_current_folder() -> None:
    """Let modules in the current folder be imported."""
    if "" not in sys.path and os.getcwd() not in sys.path and not sys.flags.safe_path:
        # At the end, so that nothing in the folder hides an installed module.
        sys.path.append(os.getcwd())


def _find(parser: ArgumentParser, classpath: str) -> Any:
    """Import the class or the function of ``-c``."""
    module_name, _, name = classpath.rpartition(":" if ":" in classpath else ".")
    if not module_name:
        module_name = "aiosmtpd.handlers"
    else:
        _look_in_current_folder()
    try:
        module = import_module(module_name)
    except Exception as error:
        parser.error(f"Cannot import {module_name} for -c {classpath}: {one_line(error)}")
    if not callable(found := getattr(module, name, None)):
        known = f"{', '.join(CLASSES)}, MODULE.CLASS or MODULE:FUNCTION"
        kind = "function or class" if ":" in classpath else "class"
        parser.error(f"No {kind} {name} in {module_name}: -c takes {known}")
    return found


def _check_function(parser: ArgumentParser, settings: Namespace, function: Any) -> Any:
    """Return a function; exit with a usage error if it cannot be called with a Mail."""
    if settings.classargs:
        parser.error(f"Function {settings.classpath} takes no arguments of the command line")
    try:
        signature(function).bind(None)
    except ValueError:
        # Some functions written in C do not say which arguments they take.
        pass
    except TypeError:
        parser.error(f"Function {settings.classpath} must accept one argument, a Mail")
    return function
