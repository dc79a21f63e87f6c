# PYTHON_ARGCOMPLETE_OK: this word tells argcomplete that the program completes its arguments.
"""The command line: ``aiosmtpd`` and ``python -m aiosmtpd``.

This module imports only what ``--help`` and a usage error need; the rest is imported when there is
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
from aiosmtpd.cli.parser import INTERRUPTED as INTERRUPTED

try:
    import pwd as pwd
except ImportError:  # pragma: no cover
    pwd = None  # type: ignore[assignment]

PROGRAM = os.path.basename(sys.argv[0])
if PROGRAM == "__main__.py":
    PROGRAM = "aiosmtpd"


def _parser() -> ArgumentParser:
    return make_parser(PROGRAM)


def parseargs(args: Sequence[str] | None = None) -> tuple[ArgumentParser, Namespace]:
    """Parse a command line, by default that of the process; make the handler.

    :return: the parser and the settings: the options by their long names, and ``setuid``,
        ``classpath``, ``requiretls``, ``classargs``, ``handler``, ``host`` and ``port`` (of the
        first place to listen at), ``places`` and ``users``.
    :raises SystemExit: with code 2, after one line on the standard error, if an option is wrong.
    :raises Exception: any that the constructor of the handler raises.
    """
    parser = _parser()
    settings = parser.parse_args(args)
    # Imported after parsing, so that --help is fast.
    from aiosmtpd.cli.checks import check_auth, complete
    from aiosmtpd.cli.handler import make_handler

    complete(parser, settings)
    settings.handler = make_handler(parser, settings)
    check_auth(parser, settings, settings.handler)
    return parser, settings


@public
def main(args: Sequence[str] | None = None) -> None:
    """Run the server until Ctrl-C, SIGTERM or the end of its event loop.

    It runs in the event loop set by :func:`asyncio.set_event_loop`, and closes it. The first
    signal ends it gracefully, the second one at once; SIGHUP loads the certificates again.
    If the first argument is the name of a command, that runs instead of the server.

    :param args: the command line without the program's name, by default that of the process.
    :raises SystemExit: after one line on the standard error: with code 2 if the options are wrong
        or the server cannot start, with code 1 if the process cannot switch users or the reader of
        its output has gone; or with the exit code of a command.
    """
    try:
        _run(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        # Before the server has started, or after it has ended.
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
        from aiosmtpd.process.failure import one_line

        if isinstance(error, OSError) and error.filename:
            _parser().error(f"{error.filename}: {error.strerror}; name another file or folder")
        _parser().error(f"Cannot create the handler: {one_line(error)}")
    from aiosmtpd.cli.program import serve

    # `partial` and `pwd` are looked up here: tests of programs replace them in this module.
    serve(parser, settings, partial, pwd)
