# PYTHON_ARGCOMPLETE_OK: by this argcomplete knows who can be asked for completions.
"""The command line: ``aiosmtpd`` and ``python -m aiosmtpd``.

Only what ``--help`` and a wrong option need is imported here at once; the rest comes when there is
something to serve.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from public import public

from aiosmtpd.cli.options import (
    COMMANDS,
    DEFAULT_CLASS as DEFAULT_CLASS,
    DEFAULT_HOST as DEFAULT_HOST,
    DEFAULT_PORT as DEFAULT_PORT,
    make_parser,
)

try:
    import pwd as pwd
except ImportError:  # pragma: no cover
    pwd = None  # type: ignore[assignment]

PROGRAM = os.path.basename(sys.argv[0])
if PROGRAM == "__main__.py":
    PROGRAM = "aiosmtpd"

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C has ended, as shells have it."""


def _parser() -> ArgumentParser:
    return make_parser(PROGRAM)


def parseargs(args: Sequence[str] | None = None) -> tuple[ArgumentParser, Namespace]:
    """Parse a command line, the process's own if None; make the handler.

    :return: the parser and the settings: the options by their long names, and ``setuid``,
        ``classpath``, ``requiretls``, ``classargs``, ``handler``, ``host`` and ``port`` (of the
        first place to listen at) and ``places``.
    :raises SystemExit: with code 2 after one line on the standard error, for a wrong option.
    :raises Exception: whatever making the handler raises.
    """
    parser = _parser()
    settings = parser.parse_args(args)
    # Behind the parsing, which --help does not survive.
    from aiosmtpd.cli.settings import check_auth, complete, make_handler

    complete(parser, settings)
    settings.handler = make_handler(parser, settings)
    check_auth(parser, settings)
    return parser, settings


@public
def main(args: Sequence[str] | None = None) -> None:
    """Run the server until Ctrl-C, SIGTERM or the end of its event loop.

    It runs in the event loop set by :func:`asyncio.set_event_loop`, and closes it. The first
    signal ends it gracefully, the second one at once; SIGHUP loads the certificates again.
    Where the first argument is the name of a command, that is run in place of the server.

    :param args: the command line without the program's name; the process's own if None.
    :raises SystemExit: with code 2, or 1 where privileges cannot be dropped or nobody reads what
        is printed, after one line on the standard error; with the code of a command.
    """
    try:
        _run(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        # Before there is a server, or when it has ended.
        sys.exit(INTERRUPTED)


def _run(words: list[str]) -> None:
    if "_ARGCOMPLETE" in os.environ:
        from aiosmtpd.cli.completion import complete

        complete(_parser(), PROGRAM)
    if words and words[0] in COMMANDS:
        module, _, function = COMMANDS[words[0]].function.partition(":")
        run_command = getattr(import_module(module), function)
        sys.exit(run_command(words[1:], f"{PROGRAM} {words[0]}"))
    try:
        parser, settings = parseargs(words)
    except Exception as error:
        from aiosmtpd.process.whole import one_line

        if isinstance(error, OSError) and error.filename:
            _parser().error(f"{error.filename}: {error.strerror}; name another file or folder")
        _parser().error(f"The handler class cannot be used so: {one_line(error)}")
    from aiosmtpd.cli.program import serve

    # Looked up here: what programs' tests replace in this module is what counts.
    serve(parser, settings, partial, pwd)
