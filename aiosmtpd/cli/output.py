"""Print to the standard streams of a command."""

from __future__ import annotations

import sys
from collections.abc import Callable

from aiosmtpd.cli.parser import INTERRUPTED


def complain(line: str) -> None:
    """Print one line to the standard error, if that is open."""
    from aiosmtpd.mail.terminal import safe_line  # only for errors

    if sys.stderr is not None:
        print(safe_line(line), file=sys.stderr, flush=True)


def escape_unencodable() -> None:
    """Let the standard streams escape what they cannot encode, such as bytes in file names."""
    for stream in sys.stdout, sys.stderr:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def code_of(run: Callable[[], int]) -> int:
    """Run a command that prints, and return its exit code: 1 if the reader of the output has gone.

    The code is 130 after Ctrl-C.
    """
    from aiosmtpd.process.exit import flush_standard_streams  # not needed for --help

    escape_unencodable()
    try:
        code = run()
    except BrokenPipeError:
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    return code if flush_standard_streams() else 1
