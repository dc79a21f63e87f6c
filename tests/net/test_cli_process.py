"""The command line's process: certificates that change under it, signals, rights."""

import os
import signal
import socket
import ssl
from pathlib import Path

import pytest

from tests.client import Client
from tests.conftest import Certificates
from tests.net.program import MESSAGE, ROOT_ONLY, Program, reach_tls, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")


class Files:
    """A certificate and its key in files, made at the first use."""

    def __init__(self, certificates: Certificates, folder: Path) -> None:
        self._authority = certificates.authority
        self.cert, self.key = folder / "cert", folder / "key"

    def issue(self) -> bytes:
        issued = self._authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(str(self.key))
        issued.cert_chain_pems[0].write_to_path(str(self.cert))
        return ssl.PEM_cert_to_DER_cert(self.cert.read_text())

    def options(self, name: str) -> tuple[str, ...]:
        return f"--{name}cert", str(self.cert), f"--{name}key", str(self.key)


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> Files:
    return Files(certificates, tmp_path)


def shown_after_starttls(client: Client, certificates: Certificates) -> bytes | None:
    """Switch to TLS; return the certificate that the server shows."""
    assert client.ask(b"STARTTLS")[:3] == b"220"
    client.start_tls(certificates.client_context())
    assert isinstance(client.socket, ssl.SSLSocket)
    return client.socket.getpeercert(binary_form=True)


def test_new_certificates_drop_no_session(certificates: Certificates, files: Files) -> None:
    first = files.issue()
    with serving("-d", *files.options("smtps")) as program:
        with reach_tls(program.addresses[0], certificates) as before:
            before.transaction()
            before.send(b"Subject: x\r\n\r\nbegun before, ")
            second = files.issue()
            program.send(signal.SIGHUP)
            program.until("loaded again")
            before.send(b"ended after\r\n.\r\n")
            assert before.reply() == b"250 2.0.0 OK\r\n"
            assert "begun before, ended after\n" in program.message()
            assert isinstance(before.socket, ssl.SSLSocket)
            assert before.socket.getpeercert(binary_form=True) == first
            with reach_tls(program.addresses[0], certificates) as after:
                assert isinstance(after.socket, ssl.SSLSocket)
                assert after.socket.getpeercert(binary_form=True) == second
            assert before.ask(b"QUIT")[:3] == b"221"
        assert program.end().code == 0


def test_a_session_in_the_clear_gets_the_new_certificate(
    certificates: Certificates, files: Files
) -> None:
    first = files.issue()
    with serving("-d", *files.options("tls")) as program:
        with Client(program.port) as early, Client(program.port) as late:
            for client in early, late:
                client.ask(b"EHLO client.test")
            assert shown_after_starttls(early, certificates) == first
            second = files.issue()
            program.send(signal.SIGHUP)
            program.until("loaded again")
            assert shown_after_starttls(late, certificates) == second
            for client in early, late:
                client.transaction()
                client.send(MESSAGE)
                assert client.reply() == b"250 2.0.0 OK\r\n"
        assert program.end().code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_tells_clients_in_tls(
    number: int, certificates: Certificates, files: Files
) -> None:
    files.issue()
    with serving(*files.options("smtps")) as program:
        with reach_tls(program.addresses[0], certificates) as client:
            client.ask(b"EHLO client.test")
            program.send(number)
            assert client.reply()[:9] == b"421 4.3.2"
            assert client.reply() == b""
        assert program.ended() == (0, "", "")


def _port_25_is_free() -> bool:
    try:
        with socket.create_server(("127.0.0.1", 25)):
            return True
    except OSError:
        return False


@ROOT_ONLY
def test_port_25_is_served_by_nobody() -> None:
    if not _port_25_is_free():
        pytest.skip("port 25 is in use")
    nobody = pytest.importorskip("pwd").getpwnam("nobody")
    with Program("-d", "-l", "127.0.0.1:25", "-c", "Sink") as program:
        program.listens()
        assert program.addresses == ["127.0.0.1:25"]
        status = Path(f"/proc/{program.process.pid}/status")
        if status.exists():
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            # Real, effective, saved and of the file system: root is nowhere left.
            assert fields["Uid"].split() == [str(nobody.pw_uid)] * 4
            assert fields["Gid"].split() == [str(nobody.pw_gid)] * 4
            assert "0" not in fields["Groups"].split()
            assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
        Client(25).close()
        assert program.end().code == 0
