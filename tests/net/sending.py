"""``aiosmtpd send`` in this process, and servers for it."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import NamedTuple

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope
from tests.client import PATIENCE


class Sent(NamedTuple):
    """The result of a command."""

    code: int
    lines: list[str]
    error: str


def without_times(text: str) -> list[str]:
    return [re.sub(r"  \([0-9.]+ ms\)$", "", line) for line in text.splitlines()]


def at(controller: Controller) -> str:
    return f"127.0.0.1:{controller.port}"


def message_of(envelope: Envelope) -> EmailMessage:
    assert isinstance(envelope.content, bytes)
    content = envelope.content.replace(b"\r\n", b"\n")
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


Answers = Callable[[bytes], bytes | None]


@contextmanager
def answering(greeting: bytes, answer: Answers) -> Iterator[str]:
    """Run a server that replies to each line with the result of a function; None closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                connection.settimeout(PATIENCE)
                connection.sendall(greeting)
                for line in lines:
                    said = answer(line.rstrip(b"\r\n"))
                    if said is None:
                        return
                    connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join(PATIENCE)
