"""``--show-dialogue``: what is said in each session, in both directions, with times."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime
from itertools import count
from time import monotonic
from typing import Any, TextIO

from aiosmtpd.mail.terminal import Terminal, safe_line, terminal_of
from aiosmtpd.smtp import SMTP

MASK = "********"
KNOWN = {"PLAIN", "LOGIN"}
"""Mechanisms that are shown by name."""


class Dialogue:
    """Writes to *stream*, by default the standard error, what sessions say."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = Terminal() if self._stream is None else terminal_of(self._stream)
        self._numbers = count(1)

    def session(self) -> Transcript:
        """Return the transcript of a new session."""
        return Transcript(self, next(self._numbers))

    def write(self, start: str, text: str, *, aside: bool) -> None:
        """Write one line; *aside* tells that nobody has said it."""
        text = safe_line(text)
        line = f"{self._terminal.dim(start)} {self._terminal.dim(text) if aside else text}\n"
        # A reader that has gone, or never was, must not harm the mail.
        with suppress(AttributeError, OSError, ValueError):
            self._stream.write(line)
            self._stream.flush()


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
        """Tell what happens beside the dialogue."""
        self._write("--", text)

    def client(self, line: bytes, *, masked: bool) -> None:
        """Tell a command line; what may be a secret is *masked*, and so is the reply's text."""
        self._veiled = masked
        text = line.decode("utf-8", "backslashreplace")
        verb, _, argument = text.partition(" ")
        if masked:
            text = MASK
        elif verb.upper() == "AUTH" and argument.strip():
            # Clients that err write their secret where the mechanism belongs.
            mechanism, *initial = argument.split()
            words = [verb, mechanism if mechanism.upper() in KNOWN else MASK]
            text = " ".join([*words, *([MASK] if initial else [])])
        self._write("C:", text)

    def server(self, octets: bytes) -> None:
        """Tell what is sent, by lines."""
        *lines, self._sent = (self._sent + octets).split(b"\r\n")
        for line in lines:
            if self._awaits_secret and not line.startswith(b"421"):
                self._write("C:", MASK)
            text = line.decode("utf-8", "backslashreplace")
            self._awaits_secret = text.startswith("334")
            # The reply to an unknown command repeats it.
            self._write("S:", f"{text[:4]}{MASK}" if self._veiled else text)

    def end(self, reason: str) -> None:
        """Tell the line that was sent in part, if one was, and why the session has ended."""
        if self._sent:
            self.server(b"\r\n")
        self.note(f"disconnected: {reason}")

    def _write(self, who: str, text: str) -> None:
        start = f"#{self._number} {monotonic() - self._began:8.3f} {who}"
        self._dialogue.write(start, text, aside=who == "--")


def shown(protocol: type[SMTP], dialogue: Dialogue) -> type[SMTP]:
    """Return a subclass whose sessions are shown."""

    class Shown(protocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: Any) -> None:
            first = self.session is None
            if first:
                self._transcript = dialogue.session()
                self._data_told = False
            super().connection_made(transport)
            if first:
                self._transcript.note(f"{_now()} connection from {_spelt(self.session.peer)}")
            if self.session.ssl:
                name, version, _ = self.session.ssl["cipher"]
                self._transcript.note(f"{version} {name}")

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            self._transcript.end(self._reason)

        def send(self, data: bytes) -> None:
            self._transcript.server(data)
            super().send(data)

        async def _execute(self, line: bytes) -> None:
            self._transcript.client(line, masked=bool(self._masked))
            await super()._execute(line)

        async def _call_handler_hook(self, command: str, *args: Any) -> Any:
            if command == "DATA":
                self._tell_data(len(self.envelope.original_content or b""))
            return await super()._call_handler_hook(command, *args)

        async def _take_message(self, source: Any, envelope: Any) -> Any:
            self._data_told = False
            try:
                return await super()._take_message(source, envelope)
            finally:
                self._tell_data(source.size)

        def _tell_data(self, octets: int) -> None:
            if not self._data_told:
                self._data_told = True
                self._transcript.note(f"{octets:,} octets of mail data")

    return Shown


def _now() -> str:
    return f"{datetime.now():%H:%M:%S}"


def _spelt(peer: Any) -> str:
    if isinstance(peer, tuple):
        host, port = peer[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "a Unix socket"
