"""``aiosmtpd inbox`` as a process, and requests to it."""

import json
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

from tests.client import PATIENCE
from tests.net.program import Program, environment

TEXT = "From: ann@example.org\nTo: bob@example.org\nSubject: Hi\n\nhello\n"
ANYWHERE = ("-l", "127.0.0.1:0", "--web", "127.0.0.1:0")


class Inbox:
    """A running inbox: the address of its page with a slash, and the port of SMTP."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.url = program.until("accessible via ").rpartition(" ")[2].strip()
        self.smtp = program.until("SMTP at ").rpartition(" ")[2].strip()
        self.banner = [self.smtp]
        while "stop it with" not in self.banner[-1]:
            self.banner.append(program.err_line().strip())

    @property
    def port(self) -> int:
        return int(self.smtp.rpartition(":")[2])

    @property
    def place(self) -> tuple[str, int]:
        """Host and port of the page."""
        host, _, port = self.url.partition("://")[2].partition("/")[0].rpartition(":")
        return host, int(port)

    def send(self, text: str = TEXT, to: str = "bob@example.org") -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE) as client:
            client.sendmail("ann@example.org", [to], text)

    def get(self, path: str, **headers: str) -> Any:
        """Return the JSON that a GET answers."""
        with urlopen(Request(self.url + path, headers=headers), timeout=PATIENCE) as answer:
            return json.load(answer)

    def delete(self, query: str, **headers: str) -> None:
        """Delete the messages that a query finds."""
        url = f"{self.url}api/v1/search?query={query}"
        with urlopen(Request(url, headers=headers, method="DELETE"), timeout=PATIENCE):
            pass

    def subjects(self, query: str = "") -> list[str]:
        rows = self.get(f"api/v1/search?query={query}" if query else "api/v1/messages")
        return [one["Subject"] for one in rows["messages"]]


@contextmanager
def running(*args: str, **variables: str) -> Iterator[Inbox]:
    with Program("inbox", *ANYWHERE, *args, env=environment(**variables)) as program:
        yield Inbox(program)
