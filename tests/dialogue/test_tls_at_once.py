"""A handshake of STARTTLS that the fast path begins: its deadline, and what ends it."""

import logging
from time import monotonic
from typing import Any

import pytest

from tests.conftest import Certificates
from tests.dialogue.test_fast_path_beginning import Lines, Served


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Set the log's level, for at DEBUG no command takes the fast path."""
    caplog.set_level(logging.INFO, "mail.log")


@pytest.fixture
async def served(certificates: Certificates) -> Served:
    """Return a server with a client that has said nothing yet."""
    return Served(Lines(object(), certificates.server_context()), certificates)


def patience(server: Any) -> float:
    """Return the seconds that the client still has."""
    return float(server._deadline - monotonic())


async def test_patience_after_a_handshake_is_the_usual(served: Served) -> None:
    server = await served.go()
    assert server.driven == []
    assert patience(server) > 200
    await served.finish()
