"""LOCAL, by which a proxy speaks for itself: health checks of balancers. PROXY protocol 2.2."""

import logging
from typing import Any

import pytest

from aiosmtpd.proxy_protocol import V2_SIGNATURE
from tests.client import PATIENCE, Client
from tests.net.support import Catcher, serving

TCP4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + (1234).to_bytes(2, "big") + (25).to_bytes(2, "big")


def local(family: int, block: bytes) -> bytes:
    return V2_SIGNATURE + bytes([0x20, family]) + len(block).to_bytes(2, "big") + block


class Checked(Catcher):
    """Accepts every header, and keeps it."""

    header: Any = None

    async def handle_PROXY(self, server: Any, session: Any, envelope: Any, data: Any) -> bool:
        self.header = data
        return True


@pytest.mark.parametrize(
    ("family", "block"),
    [
        (0x00, b""),
        (0x11, TCP4),
        (0x11, TCP4[:3]),
        (0x21, b"x" * 36),
        (0xFF, b""),
        (0x0F, b"anything"),
        (0x31, b"x"),
    ],
)
def test_local_is_served_with_the_real_endpoints(family: int, block: bytes) -> None:
    handler = Checked()
    with (
        serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
        Client(controller.port, greet=False) as client,
    ):
        client.send(local(family, block))
        assert client.reply()[:3] == b"220"
        client.transaction()
        client.send(b".\r\n")
        assert client.reply()[:3] == b"250"
        session, _ = handler.caught.get(timeout=PATIENCE)
        assert session.client_address == client.socket.getsockname()
        assert handler.header.valid


@pytest.mark.parametrize("header", [b"", local(0, b"")])
def test_a_probe_is_a_debug_line(header: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A health check that leaves without a message is worth no INFO line."""
    caplog.set_level(logging.DEBUG)
    with (
        serving(Checked(), proxy_protocol_timeout=PATIENCE) as controller,
        Client(controller.port, greet=False) as client,
    ):
        if header:
            client.send(header)
            assert client.reply()[:3] == b"220"
        client.close()
        # The server has seen the end of the first when it greets the second.
        with Client(controller.port, greet=False) as second:
            second.send(local(0, b""))
            assert second.reply()[:3] == b"220"
    told = [r for r in caplog.records if r.name in ("mail.log", "mail.debug")]
    assert {record.levelname for record in told} == {"DEBUG"}
    assert any("disconnected" in record.getMessage() for record in told)
