"""The fast path of EHLO, STARTTLS and QUIT equals the driver, and each guard is kept."""

import asyncio
import ssl
from types import MethodType
from typing import Any

import pytest

from aiosmtpd.engine import fast_path
from aiosmtpd.engine.upgrade import TLSSetupException
from aiosmtpd.smtp import SMTP, Session
from tests.conftest import Certificates
from tests.dialogue.fed import (
    DATA,
    EHLO,
    MAIL,
    OK,
    RCPT,
    ByTheDriver,
    Server,
    quiet as quiet,
    turns,
)
from tests.dialogue.test_fast_path_guards import Timed, noting

from .tls import PATIENCE, Client, Peer, no_queue as no_queue

STARTTLS = b"STARTTLS\r\n"
GO_AHEAD = b"220 Ready to start TLS\r\n"
NEED_RCPT = b"503 Error: need RCPT command\r\n"


@pytest.fixture
def tls_context(certificates: Certificates) -> ssl.SSLContext:
    return certificates.server_context()


async def fresh(handler: Any = None, kind: type[Server] = Server, **keywords: Any) -> Server:
    """Return a server that waits for the first command."""
    server = kind(handler, **keywords)
    await turns()
    return server


async def both(*said: bytes, handler: Any = None, **keywords: Any) -> tuple[bytes, list[bytes]]:
    """Return the replies, which must be those of the driver, and the lines left for the driver."""
    heard, states = [], []
    for kind in (Server, ByTheDriver):
        server = await fresh(handler, kind, **keywords)
        heard.append(await server.ask(*said))
        state = {name: value for name, value in vars(server.session).items() if name != "loop"}
        states.append((state, server._with_codes))
        if kind is Server:
            driven = server.driven
    assert heard[0] == heard[1]
    assert states[0] == states[1]
    return heard[0], driven


# EHLO.


async def test_ehlo_needs_no_driver() -> None:
    server = await fresh()
    reply = b"250-mx.test\r\n250-SIZE 33554432\r\n250-8BITMIME\r\n250 HELP\r\n"
    assert server.at_once(EHLO) == reply
    assert server.at_once(EHLO) == reply
    assert server.at_once(MAIL + RCPT) == OK * 2
    assert server.driven == []


@pytest.mark.parametrize(
    "keywords",
    [
        {"data_size_limit": None},
        {"data_size_limit": 1000},
        {"decode_data": True},
        {"enable_SMTPUTF8": True},
        {"auth_require_tls": False},
        {"auth_require_tls": False, "auth_exclude_mechanism": ["LOGIN"]},
        {"auth_require_tls": False, "auth_exclude_mechanism": ["LOGIN", "PLAIN"]},
        {"auth_required": True, "auth_require_tls": False, "authenticator": lambda *_: True},
        {"tls_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
    ],
)
@pytest.mark.filterwarnings("ignore:Requiring AUTH")
async def test_ehlo_offers_what_the_driver_offers(keywords: dict[str, Any]) -> None:
    _, driven = await both(EHLO, EHLO, **keywords)
    assert driven == []


async def test_ehlo_follows_a_setting_that_changes() -> None:
    server = await fresh()
    server.at_once(EHLO)
    for value in (5, 7):
        server.data_size_limit = value
        assert b"250-SIZE %d\r\n" % value in server.at_once(EHLO)
    server.hostname = "other.test"
    assert server.at_once(EHLO).startswith(b"250-other.test\r\n")


@pytest.mark.parametrize(
    "name", [b"a", b"[192.0.2.1]", b"[IPv6:::1]", b"under_score-1.test", b"n" * 255]
)
async def test_ehlo_takes_usual_names(name: bytes) -> None:
    _, driven = await both(b"EHLO " + name + b"\r\n")
    assert driven == []


@pytest.mark.parametrize(
    "line",
    [
        b"EHLO\r\n",
        b"EHLO \r\n",
        b"EHLO a b\r\n",
        b"EHLO  a\r\n",
        b"EHLO a@b\r\n",
        b"EHLO \xe4\r\n",
        b"EHLO abc\n",
        b"EHLO a\r\r\n",
        b"ehlo a\r\n",
        b"EHLO " + b"n" * 256 + b"\r\n",
        b"EHLO a\r\nNOOP\r\n",
        b"EHLOxa\r\n",
        b"starttls\r\n",
        b"STARTTLS \r\n",
    ],
)
async def test_other_lines_are_the_drivers(line: bytes) -> None:
    _, driven = await both(line)
    assert driven == line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r\n")


async def test_ehlo_ends_a_transaction() -> None:
    server = await fresh()
    assert await server.ask(EHLO, MAIL, RCPT) != b""
    server.at_once(EHLO)
    assert server.at_once(MAIL) == OK
    assert await server.ask(DATA) == NEED_RCPT


async def test_ehlo_counts_as_junk() -> None:
    heard, driven = await both(EHLO, EHLO, EHLO, max_junk_commands=2)
    assert heard.count(b"250 HELP\r\n") == 2
    assert heard.endswith(b"421 4.7.0 Too many commands that send no mail, closing connection\r\n")
    assert driven == []


async def test_ehlo_restarts_the_timer() -> None:
    server = await fresh(kind=Timed)
    assert isinstance(server, Timed)
    server.patience.clear()
    server.network.feed(EHLO)
    assert server.patience == [None]


async def test_few_replies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "MOST_GREETINGS", 2)
    server = await fresh()
    for number in range(5):
        server.hostname = f"mx{number}.test"
        assert server.at_once(EHLO).startswith(b"250-mx%d.test\r\n" % number)
        assert len(server.settings.ehlo_replies) <= 2


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("hostname", "own.test", b"250-own.test\r\n"),
        ("data_size_limit", 77, b"250-SIZE 77\r\n"),
        ("decode_data", True, b"250-mx.test\r\n250-SIZE 33554432\r\n250 HELP\r\n"),
        ("enable_SMTPUTF8", True, b"250-SMTPUTF8\r\n"),
        ("starttls_offered", True, b"250-STARTTLS\r\n"),
    ],
)
async def test_a_class_may_say_what_is_offered(name: str, value: Any, line: bytes) -> None:
    # The reply of another class with the same settings is not taken for its own.
    usual = await fresh()
    assert line not in usual.at_once(EHLO)
    own = await fresh(kind=type("Own", (Server,), {name: property(lambda _: value)}))
    assert own.settings == usual.settings
    assert line in await own.ask(EHLO)


class Hooked:
    """A handler with a hook for EHLO."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, name: str, lines: list[str]
    ) -> list[str]:
        self.told.append(name)
        session.host_name = name
        return ["250 " + name]


async def test_the_hook_of_ehlo_is_called() -> None:
    handler = Hooked()
    assert await both(EHLO, handler=handler) == (b"250 client.test\r\n", [EHLO[:-2]])
    assert handler.told == ["client.test"] * 2


async def test_the_old_hook_of_ehlo_is_called() -> None:
    class Old(Server):
        async def ehlo_hook(self) -> None:
            await self.push("250-OLD")

    server = await fresh(kind=Old)
    with pytest.warns(DeprecationWarning, match="handle_EHLO"):
        assert b"250-OLD\r\n" in await server.ask(EHLO)


async def test_modern_extensions_are_the_drivers() -> None:
    _, driven = await both(EHLO, extensions="modern")
    assert driven == [EHLO[:-2]]


async def test_call_limits_are_kept() -> None:
    heard, driven = await both(EHLO, EHLO, command_call_limit={"EHLO": 1})
    assert heard.endswith(b"421 4.7.0 EHLO sent too many times\r\n")
    assert driven == [EHLO[:-2]] * 2


async def test_observers_see_ehlo() -> None:
    class Seen:
        lines: list[bytes] = []

        def line(self, server: Any, line: bytes, secret: bool) -> None:
            self.lines.append(line)

    await both(EHLO, observers=[Seen()])
    assert Seen.lines == [EHLO[:-2]] * 2


class Mock:
    """A handler that may have every hook."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


async def test_a_handler_like_a_mock_is_the_drivers() -> None:
    _, driven = await both(EHLO, handler=Mock())
    assert driven == [EHLO[:-2]]


OF_EHLO = "smtp_EHLO", "push", "_set_rset_state", "_create_envelope"
OF_STARTTLS = "smtp_STARTTLS", "push", "connection_made", "_create_session", "_create_envelope"


@pytest.mark.parametrize("owner", ["a subclass", "SMTP", "an instance"])
@pytest.mark.parametrize("name", OF_EHLO)
async def test_a_method_of_the_programs_is_run(
    name: str, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    method = noting(name, seen)
    if owner == "a subclass":
        server = await fresh(kind=type("Own", (Server,), {name: method}))
    else:
        server = await fresh()
        if owner == "SMTP":
            monkeypatch.setattr(SMTP, name, method)
        else:
            setattr(server, name, MethodType(method, server))
    seen.clear()
    await server.ask(EHLO)
    if name == "_create_envelope" and owner != "an instance":
        # Made when the transaction ends: its method says when.
        assert name in seen
    else:
        assert server.driven == [EHLO[:-2]]


# QUIT.

QUIT = b"QUIT\r\n"
BYE = b"221 Bye\r\n"


@pytest.mark.parametrize("extensions", ["classic", "modern"])
async def test_quit_needs_no_driver(extensions: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mail.log")
    server = await fresh(extensions=extensions)
    await server.ask(EHLO)
    server.driven.clear()
    assert server.at_once(QUIT) == (BYE if extensions == "classic" else b"221 2.0.0 Bye\r\n")
    assert server.network.is_closing()
    await turns()
    assert server.driven == []
    server.connection_lost(None)
    assert caplog.messages[-1].endswith("disconnected: QUIT")


@pytest.mark.parametrize("line", [b"quit\r\n", b"QUIT now\r\n", b"QUIT\r\nNOOP\r\n", b"QUIT \r\n"])
async def test_other_forms_of_quit_are_the_drivers(line: bytes) -> None:
    _, driven = await both(line)
    assert driven[0] == line.split(b"\r\n")[0]


async def test_the_hook_of_quit_is_called() -> None:
    class Polite:
        async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
            return "221 See you"

    assert await both(QUIT, handler=Polite()) == (b"221 See you\r\n", [QUIT[:-2]])


@pytest.mark.parametrize("name", ["smtp_QUIT", "push", "_call_handler_hook"])
async def test_a_method_for_quit_of_a_subclass_is_run(name: str) -> None:
    seen: list[str] = []
    server = await fresh(kind=type("Own", (Server,), {name: noting(name, seen)}))
    seen.clear()
    assert await server.ask(QUIT) == BYE
    assert seen == [name]


async def test_a_class_that_loses_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await fresh()
    assert b"250 HELP\r\n" in await server.ask(EHLO)
    monkeypatch.delattr(SMTP, "smtp_RCPT")
    assert await server.ask(MAIL, RCPT) == OK + b'500 Error: command "RCPT" not recognized\r\n'
    monkeypatch.delattr(SMTP, "smtp_EHLO")
    assert await server.ask(EHLO) == b'500 Error: command "EHLO" not recognized\r\n'


# STARTTLS.


class Served:
    """A server and the client that begins TLS with it."""

    def __init__(self, server: Any, certificates: Certificates) -> None:
        self.server = server
        self.peer = Peer(server)
        self.client = Client(certificates.client_context())

    async def go(self) -> Any:
        """Begin TLS; return the server."""
        await self.peer.greeted()
        await self.peer.ask(b"EHLO client.test", b"250 HELP\r\n")
        await self.peer.ask(b"STARTTLS", GO_AHEAD)
        await self.peer.shake_hands(self.client)
        return self.server

    async def finish(self) -> None:
        """End the connection."""
        await self.peer.finish()


class Lines(SMTP):
    """A server that notes the lines that its driver runs."""

    def __init__(self, handler: Any, tls_context: Any, **keywords: Any) -> None:
        self.driven: list[bytes] = []
        super().__init__(
            handler, hostname="mx.test", ident="test", tls_context=tls_context, **keywords
        )

    def _execute(self, line: bytes) -> Any:
        self.driven.append(line)
        return super()._execute(line)


async def test_starttls_needs_no_driver(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    served = Served(Lines(object(), tls_context), certificates)
    server = await served.go()
    before = server.session
    assert Session.ssl is None
    assert server.session.ssl["sslcontext"] is tls_context
    assert server.session.ssl is server.session.ssl
    await served.peer.ask(b"EHLO client.test", b"250 HELP\r\n")
    assert b"250-AUTH LOGIN PLAIN\r\n" in served.peer.text
    assert server.session is before
    assert server.driven == []
    await served.finish()


async def test_the_hook_of_starttls_is_called(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    told: list[Any] = []

    class Handler:
        def handle_STARTTLS(self, server: Any, session: Any, envelope: Any) -> bool:
            told.append(session)
            return True

    served = Served(Lines(Handler(), tls_context), certificates)
    server = await served.go()
    await served.peer.ask(b"NOOP", b"250 OK\r\n")
    assert server.driven == [b"STARTTLS", b"NOOP"]
    assert told == [server.session]
    await served.finish()


@pytest.mark.parametrize("name", OF_STARTTLS)
async def test_a_method_for_tls_of_a_subclass_is_run(
    name: str, tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    seen: list[str] = []
    own: Any = type("Own", (Lines,), {name: noting(name, seen)})
    served = Served(own(object(), tls_context), certificates)
    server = await served.go()
    assert b"STARTTLS" in server.driven
    assert name in seen
    await served.finish()


async def test_starttls_without_a_context_and_in_tls(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    assert await both(STARTTLS) == (b"454 TLS not available\r\n", [STARTTLS[:-2]])
    served = Served(Lines(object(), tls_context), certificates)
    await served.go()
    text = await served.peer.ask(b"STARTTLS", b"active\r\n")
    assert text == b"503 5.5.1 Error: TLS already active\r\n"
    await served.finish()


async def test_a_context_may_be_made_for_each_client(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    served = Served(Lines(object(), lambda: tls_context), certificates)
    server = await served.go()
    assert server.session.ssl["sslcontext"] is tls_context
    assert server.driven == []
    await served.finish()


async def test_a_context_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> ssl.SSLContext:
        raise LookupError("no certificate")

    server = await fresh(tls_context=broken)
    assert (await server.ask(STARTTLS)).startswith(b"451 4.3.0 Internal error (ref ")
    assert server.driven == [STARTTLS[:-2]]
    assert "no certificate" in caplog.text


async def test_a_failure_is_reported_by_the_driver(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    errors: list[Exception] = []

    class Handler:
        async def handle_exception(self, error: Exception) -> str:
            errors.append(error)
            return "451 not sent"

    for end in (b"no TLS at all\r\n", None):
        served = Served(Lines(Handler(), tls_context), certificates)
        await served.peer.greeted()
        await served.peer.ask(b"STARTTLS", GO_AHEAD)
        if end is None:
            served.peer.transport.feed_eof()
        else:
            served.peer.transport.feed(end)
        await asyncio.wait_for(served.peer.transport.lost.wait(), PATIENCE)
        await asyncio.wait_for(served.server.ended(), PATIENCE)
        assert served.server.driven == []
        assert isinstance(errors.pop(), TLSSetupException)
        assert errors == []


async def test_an_early_ehlo_is_answered_with_the_tickets(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    served = Served(Lines(object(), tls_context), certificates)
    peer, client = served.peer, served.client
    await peer.until(b"220 mx.test test\r\n")
    await peer.asks_for_tls()
    peer.transport.feed(client.shake_hands())
    client.feed(peer.ciphertext())
    writes: list[bytes] = []
    end = client.shake_hands() + client.write(EHLO)
    peer.transport.write = lambda data: writes.append(bytes(data))  # type: ignore[method-assign]
    peer.transport.feed(end)
    assert len(writes) == 1
    client.feed(writes[0])
    assert client.read().endswith(b"250 HELP\r\n")
    assert served.server.driven == []
    await served.finish()


async def test_a_client_in_tls_that_does_not_read(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    served = Served(Lines(object(), tls_context), certificates)
    await served.go()
    protocol: Any = served.peer.transport.get_protocol()
    protocol.pause_writing()
    served.peer.send(b"NOOP\r\n", b"NOOP\r\n")
    await turns()
    assert served.server.driven == [b"NOOP"]
    protocol.resume_writing()
    await served.peer.until(b"250 OK\r\n250 OK\r\n")
    await served.finish()


# Attributes of the program's that raise errors.

INTERNAL = b"451 4.3.0 Internal error (ref "


def failing(base: type, name: str) -> type[Any]:
    """Return a class with a property that raises an error."""

    def fail(self: object) -> None:
        raise LookupError(name)

    return type("Failing", (base,), {name: property(fail)})


@pytest.mark.parametrize("name", ["ehlo_hook", "starttls_offered"])
async def test_an_error_in_ehlo_is_the_drivers(name: str) -> None:
    server = await fresh(kind=failing(Server, name))
    assert (await server.ask(EHLO)).startswith(INTERNAL)
    assert server.driven == [EHLO[:-2]]
    assert await server.ask(b"NOOP\r\n") == OK


async def test_an_error_in_a_mechanism_is_the_drivers() -> None:
    handler = failing(object, "auth_BROKEN")()
    server = await fresh(handler, auth_require_tls=False)
    assert (await server.ask(EHLO)).startswith(INTERNAL)
    assert not server.session.host_name


async def test_an_error_in_starttls_is_the_drivers() -> None:
    server = await fresh(kind=failing(Server, "tls_context"))
    assert (await server.ask(STARTTLS)).startswith(INTERNAL)
    server = await fresh(failing(object, "handle_STARTTLS")())
    assert await server.ask(STARTTLS) == b"454 TLS not available\r\n"
    assert server.driven == [STARTTLS[:-2]]


@pytest.mark.parametrize("said", [MAIL, RCPT, MAIL + RCPT])
async def test_an_error_in_a_transaction_is_the_drivers(said: bytes) -> None:
    server = await fresh(failing(object, "handle_RCPT" if RCPT in said else "handle_MAIL")())
    await server.ask(EHLO)
    before = await server.ask(MAIL) if said == RCPT else b""
    replies = before + await server.ask(said)
    assert replies.startswith(OK + INTERNAL if RCPT in said else INTERNAL)
    assert server.driven == [(RCPT if RCPT in said else MAIL)[:-2]]


async def test_an_error_in_an_envelope_is_the_drivers() -> None:
    class Broken(Server):
        ready = False

        def _create_envelope(self) -> Any:
            if self.ready:
                raise LookupError("no envelope")
            return super()._create_envelope()

    server = await fresh(kind=Broken)
    await server.ask(EHLO)
    del server.envelope
    vars(server)["ready"] = True
    assert (await server.ask(MAIL)).startswith(INTERNAL)


async def test_an_error_before_the_banner_is_answered() -> None:
    server = await fresh(failing(object, "handle_CONNECT")())
    assert bytes(server.network.sent).startswith(INTERNAL)
    assert server.is_hung_up


# The end of a client that sends no close_notify.


async def test_a_client_without_close_notify_gets_none(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    served = Served(Lines(object(), tls_context), certificates)
    await served.go()
    served.peer.read()
    await served.finish()
    assert not served.client.ended
    assert bytes(served.peer.transport.sent[served.peer._position :]) == b""


async def test_a_reply_after_a_bare_end_is_sent(
    tls_context: ssl.SSLContext, certificates: Certificates
) -> None:
    class Handler:
        def __init__(self) -> None:
            self.entered, self.go_on = asyncio.Event(), asyncio.Event()

        async def handle_NOOP(self, *_: Any) -> str:
            self.entered.set()
            await self.go_on.wait()
            return "250 late"

    handler = Handler()
    served = Served(Lines(handler, tls_context), certificates)
    await served.go()
    served.peer.send(b"NOOP\r\n")
    await asyncio.wait_for(handler.entered.wait(), PATIENCE)
    served.peer.transport.feed_eof()
    handler.go_on.set()
    await asyncio.wait_for(served.peer.transport.lost.wait(), PATIENCE)
    assert served.peer.read().endswith(b"250 late\r\n")
    assert not served.client.ended
