"""What clients and a server of a test said to each other, to be read when the test fails."""

from __future__ import annotations

import re
from collections import deque
from itertools import count

from aiosmtpd._dialogue import Dialogue
from aiosmtpd.inbox.terminal import safe_line

LINES = 500
"""The most that is kept; what came before is forgotten."""

_REFUSAL = re.compile(r"S: ([45].*)")


class Kept(Dialogue):
    """Keeps the last lines of all sessions; filled in the server's thread, read in any."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.lines: deque[str] = deque(maxlen=LINES)

    def write(self, start: str, text: str, *, aside: bool) -> None:
        """Keep one line."""
        self.lines.append(f"{start} {safe_line(text)}")

    def last_refusal(self) -> str | None:
        """Return the last reply that refused something, if there is one."""
        found = [refusal[1] for line in list(self.lines) if (refusal := _REFUSAL.search(line))]
        return found[-1] if found else None

    def __str__(self) -> str:
        """Return the lines in the order in which they were said."""
        return "\n".join(list(self.lines))
