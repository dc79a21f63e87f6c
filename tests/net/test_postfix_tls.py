"""Debian's Postfix as a client in TLS, with and without verification of the server."""

import logging
import shutil
from collections.abc import Iterator

import attrs
import pytest

from aiosmtpd.smtp import Envelope, Session
from tests.conftest import Certificates
from tests.net.support import Catcher, free_port, serving
from tests.net.test_mail_servers import (
    BODY,
    DEADLINE,
    MAIN_CF,
    MASTER_CF,
    Running,
    public_folder,
    running_postfix,
)

pytestmark = pytest.mark.engines

LEVELS = {
    "may": "Untrusted",
    "encrypt": "Untrusted",
    "verify": "Verified",
    "secure": "Verified",
    "wrapped": "Verified",
    "reuse": "Verified",
}
"""Transports of Postfix, and its words for the server in its log."""

SETTINGS = """
relayhost =
transport_maps = inline:{{ {transports} }}
smtp_host_lookup = native
smtp_tls_loglevel = 1
smtp_tls_session_cache_database = btree:{folder}/data/sessions
"""

SERVICES = """
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy -o tlsproxy_client_security_level=may
may unix - - n - - smtp -o smtp_tls_security_level=may
encrypt unix - - n - - smtp -o smtp_tls_security_level=encrypt
verify unix - - n - - smtp -o smtp_tls_security_level=verify -o smtp_tls_CAfile={authority}
secure unix - - n - - smtp -o smtp_tls_security_level=secure -o smtp_tls_CAfile={authority}
strange unix - - n - - smtp -o smtp_tls_security_level=secure
wrapped unix - - n - - smtp -o smtp_tls_security_level=secure -o smtp_tls_CAfile={authority}
    -o smtp_tls_wrappermode=yes
reuse unix - - n - - smtp -o smtp_tls_security_level=secure -o smtp_tls_CAfile={authority}
    -o smtp_tls_connection_reuse=yes -o smtp_connection_cache_destinations=localhost
"""


@attrs.frozen
class Relay:
    """Postfix, and the server for its mail."""

    postfix: Running
    handler: Catcher

    def receive(self, level: str) -> tuple[Session, Envelope]:
        """Submit a message; return it as it comes."""
        self.postfix.submit(f"c@{level}.test", data=BODY)
        return self.handler.caught.get(timeout=DEADLINE)


@pytest.fixture(scope="module")
def relay(certificates: Certificates) -> Iterator[Relay]:
    handler = Catcher()
    context = certificates.server_context()
    with (
        serving(handler, tls_context=context, require_starttls=True) as starttls,
        serving(handler, ssl_context=context) as wrapped,
        public_folder() as folder,
    ):
        authority = shutil.copy(certificates.ca_file, folder)
        ports = dict.fromkeys([*LEVELS, "strange"], starttls.port) | {"wrapped": wrapped.port}
        transports = ", ".join(
            f"{{ {level}.test = {level}:[localhost]:{port} }}" for level, port in ports.items()
        )
        main = MAIN_CF.format(folder=folder, relay=starttls.port, lmtp=starttls.port)
        main += SETTINGS.format(folder=folder, transports=transports)
        master = MASTER_CF.format(port=free_port()) + SERVICES.format(authority=authority)
        with running_postfix(folder, main, master) as postfix:
            yield Relay(postfix, handler)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test if the server has complained."""
    caplog.set_level(logging.DEBUG)
    yield
    assert [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("level", LEVELS)
def test_postfix_in_tls(relay: Relay, level: str) -> None:
    session, envelope = relay.receive(level)
    assert envelope.rcpt_tos == [f"c@{level}.test"]
    body = bytes(envelope.original_content or b"").partition(b"\r\n\r\n")[2]
    assert body == BODY.replace(b"\n", b"\r\n")
    assert (session.ssl or {})["cipher"][1] == "TLSv1.3"
    relay.postfix.journal.wait_for(f"to=<c@{level}.test>", "status=sent (250 OK)")
    relay.postfix.journal.wait_for(f"{LEVELS[level]} TLS connection established to localhost")


@pytest.mark.parametrize("level", ["encrypt", "secure", "wrapped"])
def test_postfix_resumes_its_session(relay: Relay, level: str) -> None:
    for _ in range(2):
        session, _ = relay.receive(level)
    assert (session.ssl or {})["ssl_object"].session_reused


def test_postfix_keeps_its_connection(relay: Relay) -> None:
    """By its tlsproxy: one connection for several messages."""
    peers = {relay.receive("reuse")[0].peer for _ in range(3)}
    assert len(peers) == 1


def test_postfix_refuses_a_strange_authority(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    relay.postfix.submit("c@strange.test", data=BODY)
    line = relay.postfix.journal.wait_for("to=<c@strange.test>", "status=deferred")
    assert "Server certificate not verified" in line
    assert relay.handler.caught.empty()
