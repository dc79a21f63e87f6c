"""Print to the standard streams of a command."""

from __future__ import annotations

import sys


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
