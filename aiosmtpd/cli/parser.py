"""A parser whose help fits narrow terminals and whose errors are one line."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, HelpFormatter, RawDescriptionHelpFormatter
from typing import Any, NoReturn

INTERRUPTED = 130
"""The exit code that shells use for a program that Ctrl-C has ended."""

COLUMNS = 80
"""The width of the help if there is no terminal."""

NARROW = 60
"""In a terminal with fewer columns, an option and its help do not share a line."""


class Parser(ArgumentParser):
    """Reports errors in one line; suggests an option for one that is unknown.

    The usage is *program* and *words*; ``{prog}`` in *examples* is the name of the program.
    """

    intermixed = False
    """True if options may stand between arguments of the same name."""

    def __init__(self, program: str, words: str, about: str, examples: str) -> None:
        super().__init__(
            prog=program,
            usage=f"{program} {words}",
            description=about,
            epilog=examples.format(prog=program),
            formatter_class=formatter,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line; exit with code 2 if it is wrong."""
        parse = self.parse_known_intermixed_args if self.intermixed else self.parse_known_args
        settings, unknown = parse(args, namespace)
        if unknown:
            # The text after "=" may be a secret.
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            name = word.partition("=")[0]
            self.error(f"unrecognized arguments: {name}; {self._advice(name)}")
        return settings

    def _advice(self, name: str) -> str:
        from difflib import get_close_matches  # seldom needed

        known = [option for action in self._actions for option in action.option_strings]
        if "-l" in known and name in ("-p", "--port", "--host", "--address", "--bind"):
            return "use -l HOST:PORT to say where to listen"
        if near := get_close_matches(name, known, 1):
            return f"did you mean {near[0]}?"
        return f"see {self.prog} --help"

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        # The text after "=" may be a secret.
        message = re.sub("(?s)^(ambiguous option: [^=]+)=.*(?= could match -)", r"\1", message)
        self.exit(2, f"{self.prog}: error: {message}\n")


def formatter(prog: str) -> HelpFormatter:
    """Return the formatter of ``--help`` for the width of the terminal."""
    columns = _columns()
    indent = 6 if columns < NARROW else 24
    return RawDescriptionHelpFormatter(prog, max_help_position=indent, width=columns - 2)


def _columns() -> int:
    # shutil.get_terminal_size() does the same; its import takes a tenth of the time of --help.
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size().columns
        except (OSError, ValueError):
            columns = 0
    return columns or COLUMNS
