"""A server in a thread, and a client that speaks octets."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""


class Catcher:
    """A handler that keeps each envelope, with its session, in a queue."""

    def __init__(self) -> None:
        self.caught: Queue[tuple[Session, Envelope]] = Queue()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.caught.put((session, envelope))
        return "250 OK"

    def envelope(self) -> Envelope:
        return self.caught.get(timeout=PATIENCE)[1]


def free_port() -> int:
    """Return a port of the loopback that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(handler: Any, **keywords: Any) -> Iterator[Controller]:
    """Serve on a free port of the loopback."""
    keywords.setdefault("server_hostname", "mx.test")
    controller = Controller(handler, hostname="127.0.0.1", port=0, **keywords)
    controller.start()
    try:
        yield controller
    finally:
        controller.stop(no_assert=True)


async def until(happened: Callable[[], bool]) -> None:
    """Let the loop go on until this is so."""
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


class Client:
    """A raw client: sends octets, reads replies."""

    def __init__(self, port: int, greet: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.file = self.socket.makefile("rb")
        if greet:
            assert self.reply().startswith(b"220 ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> bytes:
        """Read one reply, all its lines; empty at the end."""
        lines = b""
        while line := self.file.readline():
            lines += line
            if line[3:4] != b"-":
                break
        return lines

    def ask(self, command: bytes) -> bytes:
        self.send(command + b"\r\n")
        return self.reply()

    def transaction(self) -> None:
        """Go up to the 354."""
        assert self.ask(b"EHLO client.test")[:3] == b"250"
        assert self.ask(b"MAIL FROM:<a@b.test>")[:3] == b"250"
        assert self.ask(b"RCPT TO:<c@d.test>")[:3] == b"250"
        assert self.ask(b"DATA")[:3] == b"354"
