"""The transcript of an inbox, shown if the test fails."""

from __future__ import annotations

import re
from collections import deque

from aiosmtpd.mail.terminal import safe_line
from aiosmtpd.observers.transcript import Dialogue, Transcript

LINES = 500
"""Number of lines kept; older lines are dropped."""

_REFUSAL = re.compile(r"S: ([45].*)")


class Kept(Dialogue):
    """Keeps the last lines of all sessions; written in the server's thread, read in any."""

    def __init__(self) -> None:
        super().__init__()
        self._latest = self._over = 0
        self.lines: deque[str] = deque(maxlen=LINES)

    def clear(self) -> None:
        """Drop all lines, and ignore the ends of the sessions that have begun."""
        self._over = self._latest
        self.lines.clear()

    def session(self) -> Transcript:
        """Return the transcript of a new session."""
        self._latest += 1
        return Transcript(self, self._latest)

    def write(self, start: str, text: str, *, aside: bool) -> None:
        """Keep one line."""
        # The server sees the end of a connection late: it may be of the test before.
        if not aside or int(start.split()[0].removeprefix("#")) > self._over:
            self.lines.append(f"{start} {safe_line(text)}")

    def last_refusal(self) -> str | None:
        """Return the last reply that was a refusal, or None."""
        found = [refusal[1] for line in list(self.lines) if (refusal := _REFUSAL.search(line))]
        return found[-1] if found else None

    def __str__(self) -> str:
        """Return the lines in the order in which they were sent."""
        return "\n".join(list(self.lines))
