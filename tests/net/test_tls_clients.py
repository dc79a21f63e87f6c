"""Real clients in TLS, and a server that has nothing to complain of."""

import asyncio
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.client import PATIENCE
from tests.conftest import Certificates
from tests.net.support import Catcher, serving
from tests.net.test_clients import CLIENTS, Errand
from tests.net.test_tls_edges import (
    FIVE_MB,
    FROM_THE_START,
    SECURITIES,
    STARTTLS,
    Ends,
    Handshake,
    at_once,
    before_the_last_message,
    in_the_first_message,
)
from tests.unit.test_tls_layer import Commanded

# Real clients, and a server that has nothing to complain of.

SERVER = """
import asyncio, logging, ssl, sys
from aiosmtpd.smtp import SMTP
from aiosmtpd import Server

class Takes:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"

async def serve(security, certificate, key):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    keyword = {"STARTTLS": "tls_context", "from the start": "ssl_context"}[security]
    async with Server(Takes(), listen="127.0.0.1:0", **{keyword: context}) as server:
        print(server.addresses[0][1], flush=True)
        # Until the test has no more to say.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

logging.basicConfig(level=logging.WARNING)
if "uvloop" in sys.argv:
    import uvloop
    uvloop.run(serve(*sys.argv[1:4]))
else:
    asyncio.run(serve(*sys.argv[1:4]))
"""


@pytest.fixture
def loop_name(request: pytest.FixtureRequest) -> str:
    return "uvloop" if request.config.getoption("--uvloop") else "asyncio"


Quiet = Callable[[str], Any]


@pytest.fixture
def quiet_server(certificates: Certificates, loop_name: str) -> Quiet:
    """Return a context manager for the port of a server that must not write to its stderr."""

    @contextmanager
    def served(security: str) -> Iterator[int]:
        files = str(certificates.cert_file), str(certificates.key_file)
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVER, security, *files, loop_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            yield int(process.stdout.readline())
            _, complaints = process.communicate(timeout=PATIENCE)
        assert complaints == ""
        assert process.returncode == 0

    return served


def s_client(certificates: Certificates, port: int, *options: str) -> str:
    """Let s_client connect, and leave at once by its command Q; return its output."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    done = subprocess.run(
        [
            *(openssl, "s_client", "-connect", f"127.0.0.1:{port}", *options),
            *("-CAfile", str(certificates.ca_file), "-verify_return_error"),
        ],
        input="Q\n",
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


VERSIONS = ("-tls1_2", "-tls1_3")


def starting(security: str) -> list[str]:
    return ["-starttls", "smtp"] if security == STARTTLS else []


@SECURITIES
def test_s_client_leaves_a_quiet_server(
    certificates: Certificates, quiet_server: Quiet, security: str
) -> None:
    with quiet_server(security) as port:
        for version in VERSIONS:
            for _ in range(3):
                text = s_client(certificates, port, version, *starting(security))
                assert "Verification: OK" in text


@SECURITIES
def test_s_client_comes_back_with_its_session(
    certificates: Certificates, quiet_server: Quiet, security: str
) -> None:
    with quiet_server(security) as port:
        for version in VERSIONS:
            text = s_client(certificates, port, version, "-reconnect", *starting(security))
            assert text.count("drop connection and then reconnect") == 5
            if version == "-tls1_2":
                assert text.count("\nReused, ") == 5


@SECURITIES
def test_s_client_may_not_renegotiate(
    certificates: Certificates, quiet_server: Quiet, security: str
) -> None:
    """RFC 5746 section 4.5: the refusal comes at once, not with the next reply."""
    with quiet_server(security) as port:
        client = Commanded(("127.0.0.1", port), "-tls1_2", *starting(security))
        watchdog = threading.Timer(PATIENCE, client.program.kill)
        watchdog.start()
        client.shown(b"250 HELP" if security == STARTTLS else b"220 ")
        client.type(b"R\n")
        with client.program as program:
            text = program.communicate(timeout=2 * PATIENCE)[0]
        watchdog.cancel()
    assert b"no renegotiation" in text


@SECURITIES
def test_s_client_with_a_certificate(
    certificates: Certificates, tmp_path: Path, security: str
) -> None:
    issued = certificates.authority.issue_cert("client@example.com")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    handler = Ends()
    context = certificates.server_context(ssl.CERT_REQUIRED)
    keyword = "tls_context" if security == STARTTLS else "ssl_context"
    with serving(handler, **{keyword: context}) as controller:
        options = "-cert", str(tmp_path / "client.pem"), *starting(security)
        s_client(certificates, controller.port, *options)
        assert "TLS" not in handler.ends.get(timeout=PATIENCE)
    assert handler.faults.empty()


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_programs_leave_a_quiet_server(
    certificates: Certificates, quiet_server: Quiet, tmp_path: Path, security: str
) -> None:
    with quiet_server(STARTTLS if security == "starttls" else FROM_THE_START) as port:
        for send in CLIENTS:
            # test_clients.py shows which of them are not installed.
            with suppress(pytest.skip.Exception):
                send(Errand(port, security, certificates, tmp_path))


@SECURITIES
def test_clients_that_vanish_leave_a_quiet_server(
    certificates: Certificates, quiet_server: Quiet, security: str
) -> None:
    context = certificates.client_context()
    with quiet_server(security) as port:
        for point in (at_once, in_the_first_message, before_the_last_message):
            for go in (Handshake.reset, Handshake.half_close):
                peer = Handshake(port, security, context)
                point(peer)
                go(peer)
                peer.wire.close()
        peer = Handshake(port, security, context)
        peer.send(peer.begin())
        peer.send(peer.go_on() + peer.tls.write(b"EHLO a.test\r\nMAIL FROM:<a@b.test>\r\n"))
        peer.reset()


@pytest.fixture
async def asyncio_client() -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Close the writers that a test puts here."""
    writers: list[asyncio.StreamWriter] = []
    yield writers
    for writer in writers:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@SECURITIES
async def test_the_streams_of_asyncio_as_client(
    certificates: Certificates, security: str, asyncio_client: list[asyncio.StreamWriter]
) -> None:
    handler = Catcher()
    context, own = certificates.server_context(), certificates.client_context()
    keyword = "tls_context" if security == STARTTLS else "ssl_context"
    with serving(handler, **{keyword: context}) as controller:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", controller.port, ssl=None if security == STARTTLS else own
            )
            asyncio_client.append(writer)
            assert (await reader.readline())[:4] == b"220 "
            if security == STARTTLS:
                writer.write(b"STARTTLS\r\n")
                assert (await reader.readline())[:4] == b"220 "
                await writer.start_tls(own, server_hostname="127.0.0.1")
            writer.write(b"EHLO client.test\r\n")
            await reader.readuntil(b"250 HELP\r\n")
            writer.write(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
            await reader.readuntil(b"354 End data with <CR><LF>.<CR><LF>\r\n")
            writer.write(FIVE_MB + b".\r\nQUIT\r\n")
            await writer.drain()
            assert await reader.read() == b"250 OK\r\n221 Bye\r\n"
            writer.close()
            await writer.wait_closed()
        assert handler.envelope().content == FIVE_MB
