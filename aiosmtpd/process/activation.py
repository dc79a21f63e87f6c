"""The programs that start this one: systemd's sockets, and a file that says it is ready."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from aiosmtpd.process.failure import Failure

FIRST_PASSED = 3
"""The first descriptor that systemd passes."""


def passed_sockets() -> list[tuple[int, str]]:
    """Return the descriptors that systemd passes to this process, with their names.

    Raises ValueError if ``LISTEN_FDS`` is not a number.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or len(count) > 4:
        raise ValueError(f"LISTEN_FDS is not a number: {count!r}")
    # There may be fewer names, or none.
    names = [*os.environ.get("LISTEN_FDNAMES", "").split(":"), *([""] * int(count))]
    return list(zip(range(FIRST_PASSED, FIRST_PASSED + int(count)), names, strict=False))


def write_ready_file(path: str, lines: Iterable[str]) -> None:
    """Write the lines to a file that exists with all of them or not at all; raises Failure."""
    new = f"{path}.{os.getpid()}"
    text = "".join(f"{line}\n" for line in lines)
    try:
        with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(new, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(new)
        raise Failure(f"Cannot write {path}: {error.strerror or error}") from error
