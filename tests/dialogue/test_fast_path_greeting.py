"""The greeting leaves before the driver begins, unless the driver must wait or ask for it."""

import asyncio
import logging
import socket
import ssl
from typing import Any
from unittest.mock import MagicMock

import pytest

from aiosmtpd.engine import commands
from aiosmtpd.smtp import SMTP, Observer, Refused, Registry, Session
from tests.conftest import Certificates
from tests.dialogue.fed import (
    BODY,
    DATA,
    EHLO,
    GO_AHEAD,
    MAIL,
    OK,
    RCPT,
    ByTheDriver,
    Server,
    quiet as quiet,
    turns,
)

GREETING = b"220 mx.test test\r\n"
TOO_MANY = b"421 4.7.0 Too many connections from your host, try again later\r\n"
STOPPED = b"421 4.3.2 Service shutting down, closing connection\r\n"


async def connected(handler: Any = None, kind: type[Server] = Server, **keywords: Any) -> Server:
    """Return a server with a client, whose driver has not begun."""
    server = kind(handler, **keywords)
    await asyncio.sleep(0)
    return server


async def test_it_leaves_before_the_driver_begins() -> None:
    server = await connected()
    assert server.network.sent == GREETING
    assert server._last_status == GREETING[:-2].decode()
    await turns()
    assert server.network.sent == GREETING
    assert server.at_once(EHLO).endswith(b"250 HELP\r\n")
    assert server.driven == []


class Pushing(Server):
    async def push(self, status: str | bytes) -> None:
        await super().push(f"220 pushed, not {status!s}")


class Connecting(Server):
    """Writes to its transport, as a program may: before the greeting, as in 1.4."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.session_transport is not None and not self.network.sent:
            self.network.write(b"220-first\r\n")


class Welcoming(Server):
    async def welcome(self) -> None:
        await self.push("220-welcome")
        await super().welcome()


class Named(Server):
    @property
    def hostname(self) -> str:
        return "name.test"

    @hostname.setter
    def hostname(self, value: str) -> None:
        """Keep no name."""


class Wrapping(Server):
    async def _handle_client(self) -> None:
        await self.push("220-wrapped")
        await super()._handle_client()


@pytest.mark.parametrize(
    ("kind", "greeting"),
    [
        (Pushing, b"220 pushed, not " + GREETING),
        (Connecting, b"220-first\r\n" + GREETING),
        (Welcoming, b"220-welcome\r\n" + GREETING),
        (Named, b"220 name.test test\r\n"),
        (Wrapping, b"220-wrapped\r\n" + GREETING),
    ],
)
async def test_an_override_counts(kind: type[Server], greeting: bytes) -> None:
    server = await connected(kind=kind)
    await turns()
    assert server.network.sent == greeting


async def test_an_override_of_an_instance_counts() -> None:
    told = []

    async def push(status: str | bytes) -> None:
        told.append(status)
        await SMTP.push(server, status)

    server = Server()
    server.push = push  # type: ignore[method-assign]
    await turns()
    assert told == [GREETING[:-2].decode()]


class Asked:
    async def handle_CONNECT(
        self, server: Any, session: Any, envelope: Any, host: str, port: int
    ) -> str:
        return f"220 hello {host}"


async def test_handle_connect_is_asked() -> None:
    server = await connected(Asked())
    await turns()
    assert server.network.sent == b"220 hello 192.0.2.7\r\n"


async def test_a_hook_that_raises_an_error_is_the_drivers() -> None:
    class Broken:
        @property
        def handle_CONNECT(self) -> Any:
            raise ZeroDivisionError

    server = await connected(Broken())
    await turns()
    assert server.network.sent.startswith(b"451 4.3.0 Internal error (ref ")


async def test_a_mock_has_no_hook() -> None:
    server = await connected(MagicMock(spec=["handle_DATA"]))
    assert server.network.sent == GREETING


async def test_observers_are_asked() -> None:
    class Refusing(Observer):
        async def before(self, session: Any, stage: str, argument: Any) -> None:
            if stage == "connect":
                raise Refused("554 5.7.1 not here")

    server = await connected(observers=[Refusing()])
    await turns()
    assert server.network.sent == b"554 5.7.1 not here\r\n"


async def test_a_proxy_header_comes_first() -> None:
    server = await connected(proxy_protocol_timeout=10.0, proxy_trusted="192.0.2.0/24")
    await turns()
    assert server.network.sent == b""
    assert await server.ask(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n") == GREETING


async def test_tls_comes_first() -> None:
    server = Server()
    server.tls_from_start = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await turns()
    assert server.network.sent == b""


async def test_a_name_is_looked_up_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_full_names", {})
    monkeypatch.setattr("socket.getfqdn", lambda: "full.test")
    server = Server()
    server._hostname = None
    await asyncio.wait_for(server.network.changed.wait(), 10)
    assert server.network.sent == b"220 full.test test\r\n"


async def test_a_name_that_was_looked_up_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_full_names", {socket.getfqdn: "known.test"})
    server = Server()
    server._hostname = None
    await asyncio.sleep(0)
    assert server.network.sent == b"220 known.test test\r\n"


async def test_an_error_after_the_admission_counts_no_client_twice() -> None:
    class Broken(Server):
        def _send_now(self, data: Any) -> None:
            raise ZeroDivisionError

    registry = Registry()
    keywords: dict[str, Any] = {"registry": registry, "max_connections_per_host": 1}
    broken = await connected(kind=Broken, **keywords)
    await turns()
    assert broken.network.sent == GREETING
    broken.network.feed_eof()
    await asyncio.wait_for(broken.network.lost.wait(), 10)
    await turns()
    last = await connected(**keywords)
    assert last.network.sent == GREETING


async def test_the_log_has_the_connection_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mail.log")
    server = await connected()
    assert server.network.sent == b""
    await turns()
    assert server.network.sent == GREETING
    assert "connected" in caplog.text


# The limits on connections.


@pytest.mark.parametrize("kind", [Server, ByTheDriver])
async def test_a_connection_too_many_is_refused(kind: type[Server]) -> None:
    told: list[str] = []

    class Handler:
        async def handle_DISCONNECT(self, *_: Any) -> None:
            told.append("left")

    registry = Registry()
    keywords = {"registry": registry, "max_connections_per_host": 1}
    first = await connected(kind=kind, **keywords)
    second = await connected(Handler(), kind, **keywords)
    await turns()
    assert first.network.sent == GREETING
    assert second.network.sent == TOO_MANY
    assert second.network.is_closing()
    await asyncio.wait_for(second.network.lost.wait(), 10)
    await turns()
    assert registry.connections == {first}
    assert told == []
    first.network.feed_eof()
    await asyncio.wait_for(first.network.lost.wait(), 10)
    third = await connected(kind=kind, **keywords)
    await turns()
    assert third.network.sent == GREETING


async def test_an_error_of_a_session_is_the_drivers() -> None:
    class Nameless(Session):
        @property
        def client_address(self) -> Any:
            raise ZeroDivisionError

    class Own(Server):
        def _create_session(self) -> Session:
            return Nameless(self.loop)

    server = await connected(kind=Own, registry=Registry(), max_connections_per_host=1)
    await turns()
    assert server.network.sent == b""
    assert server.network.is_closing()


# Before the driver begins.


async def test_commands_are_run_before_the_driver_begins() -> None:
    server = await connected()
    assert server.at_once(EHLO).endswith(b"250 HELP\r\n")
    assert server.at_once(MAIL + RCPT + DATA) == OK * 2 + GO_AHEAD
    assert await server.ask(BODY) == OK
    assert server.driven == []


async def test_the_driver_begins_with_a_command_taken_before() -> None:
    class Handler:
        async def handle_MAIL(
            self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
        ) -> str:
            await asyncio.sleep(0)
            envelope.mail_from = address
            return "250 asked"

    server = await connected(Handler())
    server.at_once(EHLO)
    assert server.at_once(MAIL) == b""
    # It comes while the hook waits.
    await asyncio.sleep(0)
    assert server.at_once(RCPT) == b""
    await turns()
    assert server.network.sent.endswith(b"250 HELP\r\n250 asked\r\n" + OK)
    assert server.driven == [RCPT[:-2]]


async def test_mail_data_is_not_run() -> None:
    """The driver waits for it as it waits for commands, but not at rest."""
    server = await connected(extensions="modern")
    assert server.at_once(EHLO + MAIL + RCPT + b"BDAT 6 LAST\r\n") == b""
    await turns()
    await server.ask(b"QUIT\r\n")
    assert server.network.sent.endswith(b"250 2.0.0 OK\r\n")
    assert not server.network.is_closing()


async def test_the_driver_waits_for_an_early_handshake(certificates: Certificates) -> None:
    """It would not hear of a failure that comes before it begins."""
    server = await connected(tls_context=certificates.server_context())
    assert server.at_once(b"STARTTLS\r\n") == b""
    server.network.feed_eof()
    await turns()
    assert server.driven == [b"STARTTLS"]
    assert server.network.sent == GREETING + b"220 Ready to start TLS\r\n"


async def test_a_stop_ends_it() -> None:
    server = await connected()
    server.shut_down()
    assert server.at_once(EHLO) == b""
    await turns()
    assert server.network.sent == GREETING + STOPPED
    assert server.network.is_closing()


async def test_a_stop_waits_for_the_hook_of_the_first_command() -> None:
    over = asyncio.Event()

    class Handler:
        async def handle_NOOP(self, server: Any, session: Any, envelope: Any, arg: str) -> str:
            await over.wait()
            return "250 done"

    server = await connected(Handler())
    server.at_once(b"NOOP\r\n")
    await turns()
    server.shut_down()
    over.set()
    await turns()
    assert server.network.sent == GREETING + b"250 done\r\n" + STOPPED


@pytest.mark.parametrize("said", [b"", b"QUIT\r\n"])
async def test_a_client_may_leave(said: bytes) -> None:
    server = await connected()
    server.network.feed(said)
    server.network.feed_eof()
    await asyncio.wait_for(server.network.lost.wait(), 10)
    assert server.network.sent == GREETING + (b"221 Bye\r\n" if said else b"")
