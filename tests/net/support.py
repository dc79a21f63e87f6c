"""A server in a thread, and other helpers of tests over sockets."""

import asyncio
import functools
import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Any, TypeVar

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.client import PATIENCE

T = TypeVar("T")


class Catcher:
    """A handler that keeps each envelope, with its session, in a queue."""

    def __init__(self) -> None:
        self.caught: Queue[tuple[Session, Envelope]] = Queue()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.caught.put((session, envelope))
        return "250 OK"

    def envelope(self) -> Envelope:
        return self.caught.get(timeout=PATIENCE)[1]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free just now, and that no program gets which asks for any port."""
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.create_server((host, port)):
            return port
    raise AssertionError(f"no port of {host} is free")


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


async def aside(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """Call a function that blocks, in a thread that is not one of the loop's own."""
    with ThreadPoolExecutor(1) as pool:
        call = functools.partial(function, *arguments, **keywords)
        return await asyncio.get_running_loop().run_in_executor(pool, call)


async def until(happened: Callable[[], bool]) -> None:
    """Let the loop go on until this is so."""
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
