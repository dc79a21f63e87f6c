"""What clients and a server of a test said to each other, to be read when the test fails."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from time import monotonic
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from aiosmtpd.inbox.terminal import safe_line
from aiosmtpd.smtp import SMTP, Envelope

LINES = 500
"""The most that is kept; what came before is forgotten."""

P = TypeVar("P", bound=SMTP)


class Line(NamedTuple):
    """A line of a session: when (:func:`time.monotonic`), who (C, S, or - for neither), what."""

    session: int
    when: float
    who: str
    text: str


class Transcript:
    """The last lines of all sessions; filled in the server's thread, read in any."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque(maxlen=LINES)
        self._numbers = count(1)
        self._began = monotonic()

    def begin(self) -> None:
        """Forget what was said before."""
        self.lines.clear()
        self._began = monotonic()

    def number(self) -> int:
        """Return a new session's number."""
        return next(self._numbers)

    def add(self, session: int, who: str, text: str) -> None:
        """Note a line."""
        self.lines.append(Line(session, monotonic(), who, text))

    def last_refusal(self) -> str | None:
        """Return the last reply that refused something, if there is one."""
        for line in reversed(list(self.lines)):
            if line.who == "S" and line.text[:1] in {"4", "5"}:
                return line.text
        return None

    def __str__(self) -> str:
        """Return the lines session by session, with the seconds since :meth:`begin`."""
        sessions: dict[int, list[str]] = {}
        for session, when, who, text in list(self.lines):
            shown = f"  {when - self._began:7.3f}  {who}: {text}"
            sessions.setdefault(session, [f"session {session}"]).append(shown)
        return "\n".join(line for lines in sessions.values() for line in lines)


def recording(protocol: type[P], transcript: Transcript) -> type[P]:
    """Return a subclass of *protocol* whose connections write into the transcript."""
    name = f"Recording{protocol.__name__}"
    return cast("type[P]", type(name, (_Recording, protocol), {"transcript": transcript}))


class _Recording(SMTP):
    """What recording() puts in front of a server class."""

    transcript: ClassVar[Transcript]

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._number = 0
        self._unended = b""

    async def _execute(self, line: bytes) -> None:
        self.transcript.add(self._number, "C", self._without_secrets(_shown(line)))
        await super()._execute(line)

    def _without_secrets(self, line: str) -> str:
        if self._masked:
            # A client that was refused while it authenticated may go on with its secrets.
            return "********"
        words = line.split()
        if len(words) < 2 or words[0].upper() != "AUTH":
            return line
        # A word that is no mechanism may be a secret already.
        known = words[1].upper() in self._auth_methods
        return " ".join(words[:2] if known else words[:1]) + (
            " ********" if words[known + 1 :] else ""
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the session its number, or note that TLS has begun."""
        # Not when it is made: the server makes one for no client, to try.
        self._number = self._number or self.transcript.number()
        super().connection_made(transport)
        if self.session.ssl:
            version = self.session.ssl["ssl_object"].version()
            self.transcript.add(self._number, "-", f"{version} from here on")

    def connection_lost(self, error: Exception | None) -> None:
        """Note why the connection has ended."""
        super().connection_lost(error)
        if self._unended:
            self.transcript.add(self._number, "S", _shown(self._unended))
        self.transcript.add(self._number, "-", self._reason)

    def send(self, data: bytes) -> None:
        """Note the lines of a reply, which may come in pieces, and send it."""
        *lines, self._unended = (self._unended + data).split(b"\r\n")
        for line in lines:
            self.transcript.add(self._number, "S", _shown(line))
        super().send(data)

    async def challenge_auth(self, *args: Any, **keywords: Any) -> Any:
        """Ask the client for a secret, which the transcript does not show."""
        answer = await super().challenge_auth(*args, **keywords)
        self.transcript.add(self._number, "C", "********")
        return answer

    async def _answer_data(self, status: Any, envelope: Envelope) -> None:
        octets = len(envelope.original_content or b"")
        self.transcript.add(self._number, "C", f"({octets:,} octets of mail data)")
        await super()._answer_data(status, envelope)


def _shown(line: bytes) -> str:
    return safe_line(line.decode("utf-8", "backslashreplace"))
