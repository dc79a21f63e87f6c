"""Find out whether a place is taken by the server that runs the same configuration file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")

_LISTENING = "0A"
"""The state of a listening socket in ``/proc/net/tcp``."""


def servers_of(file: str) -> list[int]:
    """Return the processes that run ``aiosmtpd serve`` with this file; empty if unknown."""
    return [pid for pid in _processes() if pid != os.getpid() and _runs(pid, file)]


def holds_port(pid: int, port: int) -> bool | None:
    """Return whether a process holds a listening TCP port; None if this user may not know."""
    inodes = set(_listening_inodes(port))
    try:
        links = [os.readlink(link) for link in (PROC / str(pid) / "fd").iterdir()]
    except OSError:
        return None
    return any(link == f"socket:[{inode}]" for link in links for inode in inodes)


def _processes() -> Iterator[int]:
    if PROC.is_dir():
        yield from (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())


def _runs(pid: int, file: str) -> bool:
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    texts = [os.fsdecode(word) for word in words if word]
    if "serve" not in texts:
        return False
    place = texts.index("serve")
    if not any("aiosmtpd" in text for text in texts[:place]):
        return False
    after = texts[place + 1 :]
    if "--check" in after:
        return False
    return any(_is_file(pid, text, file) for text in after if not text.startswith("-"))


def _is_file(pid: int, text: str, file: str) -> bool:
    if not os.path.isabs(text):
        try:
            text = os.path.join(os.readlink(PROC / str(pid) / "cwd"), text)
        except OSError:
            # Another user's process: the name is all there is to compare.
            return os.path.basename(text) == os.path.basename(file)
    try:
        return os.path.samefile(text, file)
    except OSError:
        return False


def _listening_inodes(port: int) -> Iterator[str]:
    for name in "tcp", "tcp6":
        try:
            lines = (PROC / "net" / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = re.split(r"\s+", line.strip())
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
