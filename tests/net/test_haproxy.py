"""A gateway behind HAProxy, the real one: both versions of its header."""

import shutil
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.proxy_protocol import ProxyData
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.client import PATIENCE
from tests.net.support import Catcher, free_port, serving

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

CONFIGURATION = """
global
    maxconn 20
defaults
    mode tcp
    timeout connect 5s
    timeout client 10s
    timeout server 10s
listen mail
    bind {bind}
    server gateway 127.0.0.1:{port} {option}
"""


class Gateway(Catcher):
    async def handle_PROXY(
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
    ) -> bool:
        return True


@contextmanager
def haproxy(folder: Path, port: int, option: str) -> Iterator[int]:
    """Run HAProxy before a port; give its own."""
    assert HAPROXY is not None
    own = free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(
        CONFIGURATION.format(bind=f"127.0.0.1:{own}", port=port, option=option)
    )
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(configuration)])
    try:
        wait_for(own, process)
        yield own
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the port is open: connecting is the waiting, the kernel refuses at once."""
    for _ in range(100_000):
        assert process.poll() is None, "HAProxy has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError("HAProxy does not listen")


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
@pytest.mark.parametrize(("option", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
def test_the_real_address_of_the_client(option: str, version: int, tmp_path: Path) -> None:
    handler = Gateway()
    keywords: dict[str, Any] = {"proxy_protocol_timeout": 10, "proxy_trusted": "127.0.0.0/8"}
    with (
        serving(handler, **keywords) as controller,
        haproxy(tmp_path, controller.port, option) as port,
        smtplib.SMTP(
            "127.0.0.1", port, timeout=PATIENCE, source_address=("127.0.0.9", 0)
        ) as client,
    ):
        assert client.sock is not None
        own = client.sock.getsockname()
        client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")
        session, envelope = handler.caught.get(timeout=PATIENCE)
    assert envelope.content == b"Subject: hi\r\n\r\nhello\r\n"
    data = session.proxy_data
    assert data.valid
    assert data.version == version
    assert (str(data.src_addr), data.src_port) == own == ("127.0.0.9", own[1])
    assert (str(data.dst_addr), data.dst_port) == ("127.0.0.1", port)
    assert session.client_address == own
    assert session.peer[0] == "127.0.0.1"
