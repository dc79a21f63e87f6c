"""The PROXY protocol: a server behind a proxy."""

import asyncio
import gc
import ssl
import sys
import threading
import time
from typing import Any

import pytest

from aiosmtpd.handlers import Sink
from aiosmtpd.proxy_protocol import ProxyData
from aiosmtpd.smtp import MODERN, SMTP, Envelope, Refused, Session, xclient
from tests.client import PATIENCE, Client
from tests.compat.proxy_headers import DIFFERS, INET, INET6, UNIX, V1_TCP4, VALID, VECTORS, read, v2
from tests.conftest import Certificates
from tests.net.support import Catcher, serving


class Behind(Catcher):
    """A handler that keeps the arguments of ``handle_PROXY`` and returns *answer*."""

    def __init__(self, answer: Any = True) -> None:
        super().__init__()
        self.answer = answer
        self.proxied: list[tuple[Session, ProxyData]] = []

    async def handle_PROXY(
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
    ) -> Any:
        self.proxied.append((session, proxy_data))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Gated(Behind):
    """Answers once the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.gate = threading.Event()

    async def handle_PROXY(
        self, server: SMTP, session: Session, envelope: Envelope, proxy_data: ProxyData
    ) -> Any:
        self.reached.set()
        await asyncio.to_thread(self.gate.wait, PATIENCE)
        return True


def until_closed(client: Client) -> bytes:
    """Return all bytes until the server closes or resets the connection."""
    client.resets_are_ends = True
    return client.rest()


def delivered(client: Client) -> None:
    client.transaction()
    assert client.ask(b"\r\nbody\r\n.") == b"250 OK\r\n"


class TestServer:
    @pytest.mark.parametrize("header", VALID)
    def test_a_valid_header(self, header: bytes) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(header)
            assert client.reply().startswith(b"220 mx.test ")
            delivered(client)
            client_address = client.socket.getsockname()
        [(session, data)] = handler.proxied
        assert data == read(header)
        session_at_end, _ = handler.caught.get(timeout=PATIENCE)
        assert session_at_end.proxy_data is data
        assert session_at_end.peer == client_address
        assert session.peer == client_address

    def test_no_greeting_before_the_header_is_accepted(self) -> None:
        handler = Gated()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert handler.reached.wait(PATIENCE)
            client.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.socket.recv(1)
            client.socket.settimeout(PATIENCE)
            handler.gate.set()
            assert client.reply().startswith(b"220 ")

    def test_commands_pipelined_with_the_header(self) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(v2(0x21, 0x11, INET, VECTORS) + b"EHLO client.test\r\nNOOP\r\n")
            assert client.reply().startswith(b"220 ")
            assert client.reply().startswith(b"250-mx.test\r\n")
            assert client.reply() == b"250 OK\r\n"
            delivered(client)

    def test_a_header_in_pieces(self) -> None:
        header = v2(0x21, 0x21, INET6)
        with (
            serving(Behind(), proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            for octet in header:
                client.send(bytes([octet]))
            assert client.reply().startswith(b"220 ")

    def test_each_connection_has_its_own_header(self) -> None:
        handler = Behind()
        with serving(handler, proxy_protocol_timeout=PATIENCE) as controller:
            for port in (1, 2):
                with Client(controller.port, greet=False) as client:
                    client.send(b"PROXY TCP4 192.0.2.1 198.51.100.2 %d 25\r\n" % port)
                    assert client.reply().startswith(b"220 ")
        assert [data.src_port for _, data in handler.proxied] == [1, 2]

    @pytest.mark.parametrize(
        ("header", "code"),
        [
            (V1_TCP4, b"500"),
            (b"PROXY TCP4 203.0.113.9 198.51.100.2 56324 25\r\n", b"220"),
            (b"PROXY UNKNOWN\r\n", b"500"),
            (v2(0x21, 0x31, UNIX), b"500"),
            (v2(0x20, 0x00, b""), b"220"),
        ],
    )
    def test_a_client_of_the_proxy_sends_xclient(self, header: bytes, code: bytes) -> None:
        extensions = [*MODERN, xclient(["127.0.0.0/8", "203.0.113.0/24"])]
        with (
            serving(Behind(), extensions=extensions, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(header)
            assert client.reply().startswith(b"220 ")
            assert (b"XCLIENT" in client.ask(b"EHLO client.test")) is (code == b"220")
            assert client.ask(b"XCLIENT LOGIN=anne")[:3] == code

    @pytest.mark.skipif(sys.platform != "linux", reason="others accept no such connection")
    @pytest.mark.parametrize(("header", "calls"), [(V1_TCP4, 0), (v2(0x20, 0x00, b""), 1)])
    def test_an_untrusted_host_resets_before_it_is_accepted(
        self, header: bytes, calls: int
    ) -> None:
        class Ended(Behind):
            over = threading.Event()

            async def handle_DISCONNECT(self, *_: Any) -> None:
                self.over.set()

        handler, gate = Ended(), threading.Event()
        keywords = {"proxy_protocol_timeout": PATIENCE, "proxy_trusted": "192.0.2.0/24"}
        with serving(handler, extensions="modern", **keywords) as controller:
            controller.loop.call_soon_threadsafe(gate.wait, PATIENCE)
            client = Client(controller.port, greet=False)
            client.send(header + b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n.\r\n")
            client.reset()
            gate.set()
            assert handler.over.wait(PATIENCE)
        assert (len(handler.proxied), handler.caught.qsize()) == (calls, 0)

    @pytest.mark.parametrize("answer", [False, None, 0, ""])
    def test_a_false_result_of_the_hook_closes(self, answer: object) -> None:
        handler = Behind(answer)
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b""
        assert len(handler.proxied) == 1

    def test_without_the_hook_the_connection_closes(self) -> None:
        with (
            serving(Sink(), proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b""

    def test_a_refusal_reaches_the_client(self, caplog: pytest.LogCaptureFixture) -> None:
        """The proxy has sent a valid header: its client may get the reason."""
        with (
            serving(
                Behind(Refused("554 5.7.1 Not from there")), proxy_protocol_timeout=PATIENCE
            ) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b"554 5.7.1 Not from there\r\n"
        assert not [record for record in caplog.records if record.exc_info]

    @DIFFERS
    def test_a_hook_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        handler = Behind(ValueError("the hook's own"))
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert until_closed(client) == b""
        # A task whose exception was never retrieved complains when it is collected.
        handler.answer = None
        gc.collect()
        told = [
            record.name
            for record in caplog.records
            if record.exc_info and "the hook's own" in str(record.exc_info[1])
        ]
        assert told == ["mail.log"]

    @pytest.mark.parametrize(
        "header",
        [
            b"EHLO client.test\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.2 1 1\r\n",
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY UNKNOWN " + b"x" * 500,
            v2(0x31, 0x11, INET),
            v2(0x21, 0x11, INET[:-1]),
            pytest.param(
                b"PROXY TCPxx4 192.0.2.1 198.51.100.2 1 1\r\n",
                marks=DIFFERS,
            ),
        ],
    )
    def test_a_malformed_header_closes(self, header: bytes) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(header + b"\r\nEHLO client.test\r\n")
            assert until_closed(client) == b""
        assert handler.proxied == []

    @DIFFERS
    @pytest.mark.parametrize("beginning", [b"", b"PRO", V1_TCP4[:-1], v2(0x21, 0x11, length=12)])
    def test_the_client_goes_before_the_end_of_the_header(self, beginning: bytes) -> None:
        handler = Behind()
        with (
            serving(handler, proxy_protocol_timeout=PATIENCE) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(beginning)
            client.socket.shutdown(1)
            assert until_closed(client) == b""
            with Client(controller.port, greet=False) as another:
                another.send(V1_TCP4)
                assert another.reply().startswith(b"220 ")
        assert len(handler.proxied) == 1

    @pytest.mark.parametrize("beginning", [b"", b"PRO", V1_TCP4[:-1], v2(0x21, 0x11, length=12)])
    def test_a_late_header_closes(self, beginning: bytes) -> None:
        handler = Behind()
        begun = time.monotonic()
        with (
            serving(handler, proxy_protocol_timeout=0.2) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(beginning)
            assert until_closed(client) == b""
            assert 0.19 < time.monotonic() - begun < PATIENCE
        assert handler.proxied == []

    def test_the_time_limit_ends_with_the_header(self) -> None:
        begun = time.monotonic()
        with (
            serving(Behind(), proxy_protocol_timeout=0.2, timeout=0.5) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert client.reply().startswith(b"220 ")
            until_closed(client)
            assert 0.49 < time.monotonic() - begun < PATIENCE

    def test_without_the_option_a_header_is_a_command(self) -> None:
        handler = Behind()
        with serving(handler) as controller, Client(controller.port) as client:
            assert client.ask(b"PROXY UNKNOWN").startswith(b"500 ")
        assert handler.proxied == []

    @DIFFERS
    def test_the_header_is_kept_after_starttls(self, certificates: Certificates) -> None:
        handler = Behind()
        with (
            serving(
                handler,
                proxy_protocol_timeout=PATIENCE,
                tls_context=certificates.server_context(),
            ) as controller,
            Client(controller.port, greet=False) as client,
        ):
            client.send(V1_TCP4)
            assert client.reply().startswith(b"220 ")
            assert client.ask(b"EHLO client.test").startswith(b"250")
            assert client.ask(b"STARTTLS").startswith(b"220 ")
            client.start_tls(certificates.client_context(), "localhost")
            assert isinstance(client.socket, ssl.SSLSocket)
            delivered(client)
        session, _ = handler.caught.get(timeout=PATIENCE)
        assert session.proxy_data is handler.proxied[0][1]

    @pytest.mark.parametrize("timeout", [0, -1, -0.1])
    async def test_a_time_limit_must_be_positive(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match=r"^proxy_protocol_timeout must be > 0$"):
            SMTP(Sink(), proxy_protocol_timeout=timeout, loop=loop)
