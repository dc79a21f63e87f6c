"""The attacker's side: a client of any mode, and figures of the victim from /proc."""

import os
import re
import select
import ssl
import time
from pathlib import Path

import attrs

from tests.client import Client

PATIENCE = 15.0
"""Seconds until a server that does not answer has not withstood."""

PROXY_HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 50025 25\r\n"
REPLY_LINE = re.compile(rb"[2-5][0-9]{2}(?:[ -][^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
MIB = 2**20
TLS = ("starttls", "smtps")
"""Modes in which a session is encrypted."""


class Skipped(Exception):
    """An attack cannot be made here; the reason is its text."""


@attrs.frozen
class Place:
    """The address of a server, and how to speak to it; *pid* is its process, if known."""

    host: str
    port: int
    mode: str = "smtp"
    pid: int | None = None

    @property
    def hello(self) -> bytes:
        return b"LHLO attacker.test" if self.mode == "lmtp" else b"EHLO attacker.test"


def untrusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Attacker(Client):
    """A client as the server's mode wants it, greeted unless *greet* is false."""

    resets_are_ends = True

    def __init__(
        self, place: Place, *, greet: bool = True, receive_buffer: int = 0, source: str = ""
    ) -> None:
        self.place = place
        super().__init__(
            (place.host, place.port),
            greet=False,
            receive_buffer=receive_buffer,
            source=source,
            patience=PATIENCE,
        )
        try:
            if greet:
                self._greet()
        except BaseException:
            self.socket.close()
            raise

    def _greet(self) -> None:
        if self.place.mode == "proxy":
            self.send(PROXY_HEADER)
        if self.place.mode == "smtps":
            self.start_tls(untrusting())
        self.expect(b"220")
        if self.place.mode == "starttls":
            self.ask(b"EHLO attacker.test", b"250")
            self.ask(b"STARTTLS", b"220")
            self.start_tls(untrusting())

    def expect(self, code: bytes) -> bytes:
        """Read one reply; one that does not begin with *code* is a failure of the server's."""
        try:
            return super().expect(code)
        except AssertionError as error:
            raise ConnectionError(str(error)) from error

    def hello(self) -> bytes:
        return self.ask(self.place.hello, b"250")

    def deliver(self, content: bytes) -> bytes:
        """Send a message whose dots are stuffed; return the reply."""
        self.ask(b"DATA", b"354")
        self.send(content + b"\r\n.\r\n")
        return self.reply()

    def push(self, data: bytes, seconds: float) -> int:
        """Send without reading until all is sent, the server closes, or nothing moves for so long.

        Return how many bytes were sent.
        """
        self.socket.settimeout(seconds)
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(data):
                sent += self.socket.send(view[sent : sent + 65536])
        except OSError:
            pass
        self.socket.settimeout(PATIENCE)
        return sent

    def closed_within(self, seconds: float, dribble: bytes = b"", pace: float = 0.05) -> float:
        """Send a byte of *dribble* at each *pace*; return the seconds until the server closed.

        Infinity if it did not.
        """
        began = time.monotonic()
        sent = 0
        while (now := time.monotonic() - began) < seconds:
            readable, _, _ = select.select([self.socket], [], [], pace)
            try:
                if readable and not self.socket.recv(65536):
                    return now
                if dribble and not readable:
                    self.socket.send(dribble[sent % len(dribble) :][:1])
                    sent += 1
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return now
        return float("inf")


def well_formed(reply: bytes) -> bool:
    """Tell whether bytes are whole reply lines, and of one code."""
    lines = reply.splitlines(keepends=True)
    return (
        bool(lines)
        and all(REPLY_LINE.fullmatch(line) for line in lines)
        and len({line[:3] for line in lines}) == 1
    )


# Figures from /proc.


def _proc(place: Place, name: str) -> Path:
    path = Path(f"/proc/{place.pid}/{name}")
    if place.pid is None or not path.exists():
        raise Skipped("needs the process of the server in /proc")
    return path


def memory(place: Place, field: str = "VmRSS") -> float:
    """Return a memory figure of the server in MiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", _proc(place, "status").read_text())
    if found is None:
        raise Skipped(f"no {field} in /proc")
    return int(found[1]) / 1024


class Growth:
    """The memory that a server took at its peak since this was made."""

    def __init__(self, place: Place) -> None:
        self._place = place
        # A first session, which imports modules: they do not count as growth.
        with Attacker(place) as client:
            client.hello()
            for line in b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA", b".":
                client.send(line + b"\r\n")
                client.reply()
        try:
            # Sets the peak to the memory that is resident now.
            _proc(place, "clear_refs").write_text("5")
        except PermissionError as error:
            raise Skipped("the peak of memory cannot be reset") from error
        self._before = memory(place)

    def mib(self) -> float:
        return max(0.0, memory(self._place, "VmHWM") - self._before)


def descriptors(place: Place) -> int:
    return len(os.listdir(_proc(place, "fd")))


def wait_for_descriptors(place: Place, number: int, seconds: float = 5.0) -> int:
    """Return how many descriptors are open, when they are so few or the time is over."""
    end = time.monotonic() + seconds
    while (now := descriptors(place)) > number and time.monotonic() < end:
        # The server answers each question after its earlier work.
        with Attacker(place) as client:
            client.ask(b"NOOP")
    return now


def processor_time(place: Place) -> float | None:
    """Return the seconds of processor time of all threads of the server; None if unknown."""
    seconds = 0.0
    try:
        for task in _proc(place, "task").iterdir():
            seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, Skipped):
        return None
    return seconds
