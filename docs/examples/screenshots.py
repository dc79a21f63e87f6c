"""Makes the screenshots of ``docs/images``: ``python docs/examples/screenshots.py``.

Runs each command in a terminal of its own, does what a person would, and draws what it shows. Each
picture comes in two widths, for ``docs/_ext/look.py``. It needs rich, POSIX and the extra devtls.
"""

import fcntl
import os
import pty
import re
import smtplib
import struct
import subprocess
import sys
import termios
from email.message import EmailMessage
from pathlib import Path

from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parent.parent / "images"
WIDTHS = {"": 78, "-narrow": 44}
"""Columns of a terminal, by the end of the picture's name."""
ROWS = 40
PORT = "8025"


class Terminal:
    """A program in a terminal, and all that it has shown."""

    def __init__(self, columns: int, *arguments: str) -> None:
        self.shown = f"$ aiosmtpd {' '.join(arguments)}\r\n"
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
        self.process = subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, "-m", "aiosmtpd", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._ours = ours

    def wait_for(self, text: str) -> None:
        """Read until this has been shown."""
        while text not in self.shown and self._read():
            pass

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def end(self) -> str:
        """Read to the end; return all that was shown."""
        while self._read():
            pass
        self.process.wait()
        return self.shown

    def _read(self) -> bool:
        try:
            octets = os.read(self._ours, 65536)
        except OSError:
            # What Linux says when the last program of a terminal has ended.
            return False
        self.shown += octets.decode("utf-8", "replace")
        return bool(octets)


def draw(name: str, columns: int, shown: str, title: str) -> None:
    """Write what a terminal has shown as a picture."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(shown.replace("\r\n", "\n").rstrip()), overflow="fold")
    IMAGES.mkdir(exist_ok=True)
    picture = console.export_svg(title=title, unique_id=name)
    # The pages take no fonts from another site.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    lines = [line.rstrip() for line in picture.splitlines()]
    (IMAGES / f"{name}.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def letter() -> EmailMessage:
    """Return the message of the pictures."""
    message = EmailMessage()
    message["From"] = "The Shop <shop@example.com>"
    message["To"] = "Zoë <zoe@example.com>"
    message["Subject"] = "Dein neues Paßwort"
    message.set_content(
        "Hallo Zoë,\n\nyour code is 493817, or follow this link within an hour:\n\n"
        "    https://shop.example.com/reset?token=f3a9\n"
    )
    message.add_attachment(b"%PDF-1.7 ...", "application", "pdf", filename="terms.pdf")
    return message


def catch(columns: int) -> str:
    """Run a server, send it the message; return what the server shows before Ctrl-C."""
    server = Terminal(columns, "-l", f":{PORT}", "--pretty")
    server.wait_for("Ctrl-C")
    with smtplib.SMTP("localhost", int(PORT)) as client:
        client.send_message(letter())
    server.wait_for("terms.pdf")
    server.type("\x03")
    return server.end().partition("^C")[0]


def send(columns: int) -> str:
    """Send a message to a server with STARTTLS; return what the sender shows."""
    server = Terminal(columns, "-l", PORT, "-c", "Sink", "--tls", "self-signed", "--no-requiretls")
    server.wait_for("Ctrl-C")
    shown = Terminal(columns, "send", f":{PORT}", "--insecure").end()
    # The picture does not show the name of the machine that made it.
    shown = re.sub(r"EHLO \S+", "EHLO laptop", shown)
    server.type("\x03")
    server.end()
    return shown


if __name__ == "__main__":
    for end, columns in WIDTHS.items():
        draw(f"pretty{end}", columns, catch(columns), "catch a message")
        draw(f"send{end}", columns, send(columns), "see the dialogue")
