"""``--show-dialogue``: each session's dialogue, in both directions, with times."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime
from itertools import count
from time import monotonic
from typing import Any, TextIO

from aiosmtpd.mail.terminal import Terminal, safe_line, terminal_of

MASK = "********"
KNOWN = {"PLAIN", "LOGIN"}
"""Mechanisms that are shown by name."""


class Dialogue:
    """An observer that writes the dialogue of sessions to *stream*, by default standard error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = Terminal() if self._stream is None else terminal_of(self._stream)
        self._numbers = count(1)
        self._sessions: dict[Any, Transcript] = {}

    def session(self) -> Transcript:
        """Return the transcript of a new session."""
        return Transcript(self, next(self._numbers))

    def write(self, start: str, text: str, *, aside: bool) -> None:
        """Write one line; *aside* says that neither side sent it."""
        text = safe_line(text)
        line = f"{self._terminal.dim(start)} {self._terminal.dim(text) if aside else text}\n"
        # A reader that has gone, or never was, must not harm the mail.
        with suppress(AttributeError, OSError, ValueError):
            self._stream.write(line)
            self._stream.flush()

    # The seam.

    def began(self, server: Any) -> None:
        """See Observer."""
        transcript = self._sessions[server] = self.session()
        transcript.note(f"{_now()} connection from {_spelt(server.session.peer)}")

    def tls(self, server: Any, result: str, version: str | None) -> None:
        """See Observer."""
        if version is not None:
            self._sessions[server].note(f"{version} {server.session.ssl['cipher'][0]}")

    def line(self, server: Any, line: bytes, secret: bool) -> None:
        """See Observer."""
        self._sessions[server].client(line, secret=secret)

    def sent(self, server: Any, data: bytes) -> None:
        """See Observer."""
        self._sessions[server].server(data)

    def data(self, server: Any, size: int) -> None:
        """See Observer."""
        self._sessions[server].note(f"{size:,} bytes of mail data")

    def ended(self, server: Any, reason: str) -> None:
        """See Observer."""
        self._sessions.pop(server).end(reason)


class Transcript:
    """One session's part of the dialogue: each line has its number and seconds since it began."""

    def __init__(self, dialogue: Dialogue, number: int) -> None:
        self._dialogue = dialogue
        self._number = number
        self._began = monotonic()
        self._sent = b""
        self._veiled = False
        self._awaits_secret = False

    def note(self, text: str) -> None:
        """Write a note beside the dialogue."""
        self._write("--", text)

    def client(self, line: bytes, *, secret: bool) -> None:
        """Write a command line; hide a secret, and the text of the reply to it."""
        text = line.decode("utf-8", "backslashreplace")
        verb, _, argument = text.replace("\t", " ").partition(" ")
        is_answer, self._awaits_secret = self._awaits_secret, False
        self._veiled = False
        if is_answer:
            text = MASK
        elif secret and verb.upper() == "AUTH" and argument.strip():
            # A client in error writes its secret in the place of the mechanism.
            mechanism, *initial = argument.split()
            words = [verb, mechanism if mechanism.upper() in KNOWN else MASK]
            text = " ".join([*words, *([MASK] if initial else [])])
        elif secret:
            text = MASK
            self._veiled = True
        self._write("C:", text)

    def server(self, octets: bytes) -> None:
        """Write the lines of bytes that are sent."""
        *lines, self._sent = (self._sent + octets).split(b"\r\n")
        for line in lines:
            if self._awaits_secret and not line.startswith(b"421"):
                self._write("C:", MASK)
            text = line.decode("utf-8", "backslashreplace")
            self._awaits_secret = text.startswith("334")
            # The reply to an unknown command repeats it.
            self._write("S:", f"{text[:4]}{MASK}" if self._veiled else text)

    def end(self, reason: str) -> None:
        """Write the line that was sent in part, if one was, and why the session has ended."""
        if self._sent:
            self.server(b"\r\n")
        self.note(f"disconnected: {reason}")

    def _write(self, who: str, text: str) -> None:
        start = f"#{self._number} {monotonic() - self._began:8.3f} {who}"
        self._dialogue.write(start, text, aside=who == "--")


def _now() -> str:
    return f"{datetime.now():%H:%M:%S}"


def _spelt(peer: Any) -> str:
    if isinstance(peer, tuple):
        host, port = peer[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "a Unix socket"
