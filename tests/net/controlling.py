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
from tests.net.support import free_port

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
    # Tests listen at it later: no other program must get it meanwhile.
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        yield port


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
