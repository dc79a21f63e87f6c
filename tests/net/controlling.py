"""Controllers, for tests."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aiosmtpd.controller import BaseThreadedController, Controller
from aiosmtpd.smtp import SMTP
from tests.client import Client

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
LOCAL: dict[str, Any] = {"hostname": "127.0.0.1", "port": 0}


def is_served(port: int) -> bool:
    try:
        with Client(port) as client:
            return client.ask(b"NOOP") == b"250 OK\r\n"
    except OSError:
        return False


@contextmanager
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield int(sock.getsockname()[1])


@contextmanager
def stopping(controller: BaseThreadedController) -> Iterator[None]:
    """End a controller, also after a failed test."""
    try:
        yield
    finally:
        controller.stop(no_assert=True)


class Failing(Controller):
    """Its factory raises from the n-th call on."""

    error: Exception = ValueError("in factory()")
    good = 0

    def factory(self) -> SMTP:
        if self.good == 0:
            raise self.error
        self.good -= 1
        return super().factory()
