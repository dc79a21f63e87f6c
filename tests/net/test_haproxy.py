"""A gateway behind HAProxy, the real one: headers, health checks, TLS end to end, a drain."""

import csv
import io
import logging
import shutil
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from aiosmtpd.proxy_protocol import ProxyData
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.client import PATIENCE
from tests.conftest import Certificates
from tests.net import program
from tests.net.support import Catcher, free_port, serving

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

CONFIGURATION = """
global
    maxconn 50
    stats socket {admin} level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 10s
    timeout server 10s
    timeout check 10s
    retries 3
    option redispatch
listen mail
    bind 127.0.0.1:{port}
    balance roundrobin
"""

VERSIONS = pytest.mark.parametrize(("option", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])

TRUSTING: dict[str, Any] = {"proxy_protocol_timeout": PATIENCE, "proxy_trusted": "127.0.0.0/8"}


class Gateway(Catcher):
    """Accepts every header, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: Queue[ProxyData] = Queue()

    async def handle_PROXY(
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
    ) -> bool:
        self.headers.put(proxy_data)
        return True


class HAProxy:
    """A running HAProxy: its port, and its admin socket."""

    def __init__(self, port: int, admin: Path) -> None:
        self.port = port
        self._admin = admin

    def ask(self, command: str) -> str:
        """Give a command to the admin socket; return the answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self._admin))
            sock.sendall(f"{command}\n".encode())
            with sock.makefile() as answer:
                return answer.read()

    def status(self, server: str) -> dict[str, str]:
        """Return the statistics of a server."""
        table = self.ask("show stat").removeprefix("# ")
        return next(row for row in csv.DictReader(io.StringIO(table)) if row["svname"] == server)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Ask until this is so: each question is a round trip."""
        assert any(ready() for _ in range(100_000))


@contextmanager
def haproxy(folder: Path, *lines: str) -> Iterator[HAProxy]:
    """Run HAProxy with these lines in its only section."""
    port, admin = free_port(), folder / "admin"
    text = CONFIGURATION.format(admin=admin, port=port)
    with running(folder, text + "".join(f"    {line}\n" for line in lines), port, admin) as proxy:
        yield proxy


@contextmanager
def running(folder: Path, text: str, port: int, admin: Path) -> Iterator[HAProxy]:
    """Run HAProxy with this configuration, which has the port and the admin socket."""
    assert HAPROXY is not None
    proxy = HAProxy(port, admin)
    configuration = folder / "haproxy.cfg"
    configuration.write_text(text)
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(configuration)])

    def is_listening() -> bool:
        assert process.poll() is None, "HAProxy has ended"
        try:
            return proxy.ask("show info").startswith("Name: HAProxy")
        except OSError:
            return False

    try:
        proxy.wait_until(is_listening)
        yield proxy
    finally:
        process.terminate()
        process.wait(PATIENCE)


def connect(port: int, tls: ssl.SSLContext | None = None) -> smtplib.SMTP:
    """Connect from an address that the proxy does not have."""
    keywords: dict[str, Any] = {"timeout": PATIENCE, "source_address": ("127.0.0.9", 0)}
    if tls is None:
        return smtplib.SMTP("127.0.0.1", port, "client.test", **keywords)
    return smtplib.SMTP_SSL("127.0.0.1", port, "client.test", context=tls, **keywords)


def send(client: smtplib.SMTP) -> None:
    client.sendmail("a@b.test", ["c@d.test"], "Subject: hi\r\n\r\nhello\r\n")


def address_of(client: smtplib.SMTP) -> tuple[str, int]:
    assert client.sock is not None
    host, port = client.sock.getsockname()
    return host, port


# The address of the client.


@VERSIONS
def test_the_real_address_of_the_client(option: str, version: int, tmp_path: Path) -> None:
    handler = Gateway()
    with (
        serving(handler, **TRUSTING) as controller,
        haproxy(tmp_path, f"server a 127.0.0.1:{controller.port} {option}") as proxy,
        connect(proxy.port) as client,
    ):
        own = address_of(client)
        send(client)
        session, envelope = handler.caught.get(timeout=PATIENCE)
    assert envelope.content == b"Subject: hi\r\n\r\nhello\r\n"
    data = session.proxy_data
    assert data.valid
    assert data.version == version
    assert (str(data.src_addr), data.src_port) == own == ("127.0.0.9", own[1])
    assert (str(data.dst_addr), data.dst_port) == ("127.0.0.1", proxy.port)
    assert session.client_address == own
    assert session.peer[0] == "127.0.0.1"


@VERSIONS
def test_the_header_comes_before_tls(
    option: str, version: int, tmp_path: Path, certificates: Certificates
) -> None:
    handler = Gateway()
    context = certificates.server_context()
    with (
        serving(handler, ssl_context=context, **TRUSTING) as controller,
        haproxy(tmp_path, f"server a 127.0.0.1:{controller.port} {option}") as proxy,
        connect(proxy.port, certificates.client_context()) as client,
    ):
        own = address_of(client)
        send(client)
        session, _ = handler.caught.get(timeout=PATIENCE)
    assert session.proxy_data.version == version
    assert session.client_address == own
    assert (session.ssl or {})["sslcontext"] is context
    # Each client is one connection, with one header.
    assert handler.headers.qsize() == 1


@VERSIONS
def test_starttls_through_a_proxy(
    option: str, version: int, tmp_path: Path, certificates: Certificates
) -> None:
    handler = Gateway()
    keywords = {"tls_context": certificates.server_context(), "require_starttls": True}
    with (
        serving(handler, **keywords, **TRUSTING) as controller,
        haproxy(tmp_path, f"server a 127.0.0.1:{controller.port} {option}") as proxy,
        connect(proxy.port) as client,
    ):
        own = address_of(client)
        client.starttls(context=certificates.client_context())
        send(client)
        session, _ = handler.caught.get(timeout=PATIENCE)
    assert session.client_address == own
    assert session.ssl is not None
    assert [data.version for data in handler.headers.queue] == [version]


def test_a_command_line_behind_a_proxy(tmp_path: Path, certificates: Certificates) -> None:
    """TLS from the start, with the option for the header and the log of the client."""
    options = *program.cert(certificates, "smtps"), "--proxy-protocol", "127.0.0.0/8", "-d"
    with program.serving("-l", "smtps://127.0.0.1:0", *options) as server:
        with (
            haproxy(tmp_path, f"server a 127.0.0.1:{server.port} send-proxy-v2") as proxy,
            connect(proxy.port, certificates.client_context()) as client,
        ):
            host, port = address_of(client)
            send(client)
        assert "hello" in "".join(server.message())
        log = server.end().err
    assert f"('{host}', {port}) sent a message" in log
    assert "127.0.0.1" not in log


# Health checks.


CHECKS = {
    "a connection": [],
    "a dialogue": ["option smtpchk EHLO haproxy.test"],
    "a dialogue in TLS": ["option smtpchk EHLO haproxy.test"],
}


@pytest.mark.parametrize("kind", CHECKS)
def test_health_checks_are_debug_lines(
    kind: str, tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    handler = Gateway()
    keywords, option = dict(TRUSTING), "check inter 100ms fall 100 send-proxy-v2"
    if "TLS" in kind:
        keywords["ssl_context"] = certificates.server_context()
        option += f" check-ssl verify required verifyhost localhost ca-file {certificates.ca_file}"
    with (
        serving(handler, **keywords) as controller,
        haproxy(tmp_path, *CHECKS[kind], f"server a 127.0.0.1:{controller.port} {option}") as proxy,
    ):
        headers = [handler.headers.get(timeout=PATIENCE) for _ in range(4)]
        good = "L7OK" if CHECKS[kind] else "L4OK"
        # There is an asterisk while a check is under way.
        proxy.wait_until(lambda: proxy.status("a")["check_status"].strip("* ") == good)
        assert proxy.status("a")["status"].startswith("UP")
    assert {(data.version, data.command, data.valid) for data in headers} == {(2, 0, True)}
    told = [record for record in caplog.records if record.name in ("mail.log", "mail.debug")]
    assert {record.levelname for record in told} == {"DEBUG"}
    assert any("disconnected" in record.getMessage() for record in told)


# Two backends; one of them goes.


class Crowd:
    """Clients that send one message after the other, each in a connection of its own."""

    def __init__(self, port: int, size: int) -> None:
        self.disturbed: list[Exception] = []
        self._port = port
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(size)]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._enough.is_set():
            try:
                with connect(self._port) as client:
                    send(client)
            except Exception as error:
                self.disturbed.append(error)


def test_a_drained_backend_disturbs_no_client(tmp_path: Path) -> None:
    first, second = Gateway(), Gateway()
    with ExitStack() as stack:
        one = stack.enter_context(serving(first, **TRUSTING))
        two = stack.enter_context(serving(second, **TRUSTING))
        backends = [
            f"server a 127.0.0.1:{one.port} send-proxy-v2",
            f"server b 127.0.0.1:{two.port} send-proxy-v2",
        ]
        proxy = stack.enter_context(haproxy(tmp_path, *backends))
        crowd = stack.enter_context(Crowd(proxy.port, size=8))
        for _ in range(30):
            first.envelope()
            second.envelope()
        assert proxy.ask("set server mail/a state drain").strip() == ""
        proxy.wait_until(lambda: proxy.status("a")["scur"] == "0")
        one.stop()
        taken = first.caught.qsize()
        for _ in range(60):
            second.envelope()
        assert first.caught.qsize() == taken
    assert crowd.disturbed == []
