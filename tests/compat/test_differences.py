"""Differences from 1.4 that fix problems of users; each test fails on 1.4.6."""

import asyncio
import contextlib
import logging
import re
import smtplib
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from math import inf
from queue import Queue
from typing import Any

import pytest
import trustme

import aiosmtpd
from aiosmtpd import Controller, Mail, Server
from aiosmtpd.engine import connection, diagnostics as advice
from aiosmtpd.smtp import SMTP, AuthResult
from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.support import Catcher, serving
from tests.rows import each_row

PLAIN = b"AUTH PLAIN " + b64encode(b"\0anna\0secret-word")


def accept(*_: Any) -> AuthResult:
    return AuthResult(success=True)


def refuse(*_: Any) -> AuthResult:
    return AuthResult(success=False)


def open_auth(authenticator: Any, **keywords: Any) -> Any:
    return serving(Catcher(), authenticator=authenticator, auth_require_tls=False, **keywords)


class Hooks:
    """Records each call."""

    def __init__(self, connect: Any = "220 mine") -> None:
        self.connect = connect
        self.calls: Queue[tuple[Any, ...]] = Queue()

    def next(self) -> tuple[Any, ...]:
        return self.calls.get(timeout=PATIENCE)

    async def handle_CONNECT(
        self, server: SMTP, session: Any, envelope: Any, hostname: str, port: int
    ) -> Any:
        self.calls.put(("CONNECT", hostname, port, session.peer))
        if isinstance(self.connect, Exception):
            raise self.connect
        return self.connect

    async def handle_DISCONNECT(
        self, server: SMTP, session: Any, envelope: Any, reason: str
    ) -> None:
        self.calls.put(("DISCONNECT", reason))


# Safety.


async def accept_later(*_: Any) -> AuthResult:
    await asyncio.sleep(0)
    return AuthResult(success=False)


def test_an_async_authenticator_is_awaited() -> None:
    with open_auth(accept_later) as controller, Client(controller.port) as client:
        client.ask(b"EHLO x")
        assert client.ask(PLAIN) == b"535 5.7.8 Authentication credentials invalid\r\n"


def test_a_refused_authentication_gets_a_reply() -> None:
    with open_auth(refuse) as controller, Client(controller.port) as client:
        client.ask(b"EHLO x")
        assert client.ask(PLAIN)[:3] == b"535"


def test_implicit_tls_counts_for_auth(certificates: Certificates) -> None:
    context = certificates.server_context()
    with (
        serving(Catcher(), authenticator=accept, ssl_context=context) as controller,
        smtplib.SMTP_SSL(
            "127.0.0.1", controller.port, context=certificates.client_context()
        ) as client,
    ):
        client.login("anna", "secret")
        assert "starttls" not in client.esmtp_features


async def test_an_optional_authenticator_is_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = type("Server", (SMTP,), {})
    for _ in range(2):
        server(Catcher(), authenticator=accept)
    server(Catcher(), authenticator=accept, auth_required=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "but not auth_required" in caplog.text


class WithMechanism(Catcher):
    async def auth_TOKEN(self, server: SMTP, args: list[str]) -> AuthResult:
        return AuthResult(success=False)


class WithHook(Catcher):
    async def handle_AUTH(self, *_: Any) -> str:
        return "535 no"


@each_row(
    ("handler", "keywords", "offer"),
    [
        (Catcher(), {}, None),
        (Catcher(), {"authenticator": accept}, " LOGIN PLAIN"),
        (Catcher(), {"auth_callback": accept}, " LOGIN PLAIN"),
        (WithHook(), {}, " LOGIN PLAIN"),
        (WithMechanism(), {}, " TOKEN"),
        (WithMechanism(), {"authenticator": accept}, " LOGIN PLAIN TOKEN"),
    ],
)
@each_row("extensions", ["classic", "modern"])
def test_modern_offers_auth_only_if_it_is_verifiable(
    handler: Any, keywords: dict[str, Any], offer: str | None, extensions: str
) -> None:
    keywords = {**keywords, "auth_require_tls": False, "extensions": extensions}
    with serving(handler, **keywords) as controller, Client(controller.port) as client:
        lines = client.ask(b"EHLO client.test").decode().splitlines()
    offers = [line.removeprefix("250-AUTH") for line in lines if line.startswith("250-AUTH")]
    if extensions == "classic":
        offer = " LOGIN PLAIN TOKEN" if isinstance(handler, WithMechanism) else " LOGIN PLAIN"
    assert offers == ([] if offer is None else [offer])


class Misspelt:
    async def handle_Data(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK"

    async def handle_RCTP(self, *_: Any) -> str:
        return "250 OK"

    def handle_message(self, message: Any) -> None:
        """Not a hook, and not similar to the name of one."""

    async def handle_PING(self, *_: Any) -> str:
        return "250 OK"


def test_a_misspelt_hook_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Misspelt()) as controller:
        for _ in range(2):
            with Client(controller.port) as client:
                client.ask(b"NOOP")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "Misspelt.handle_Data is never called: did you mean handle_DATA?",
        "Misspelt.handle_RCTP is never called: did you mean handle_RCPT?",
    ]


def test_a_class_as_the_handler_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    handler = type("Once", (Catcher,), {})
    with serving(handler):
        pass
    assert "the handler is the class Once itself: make an instance of it?" in caplog.text


def test_an_unknown_keyword_names_the_closest() -> None:
    with pytest.raises(TypeError, match=r"'data_size'. Did you mean 'data_size_limit'\?"):
        SMTP(Catcher(), data_size=1)  # type: ignore[call-arg]
    controller = Controller(Catcher(), port=0, data_size=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Did you mean 'data_size_limit'"):
        controller.start()
    with pytest.raises(TypeError, match=r"argument 'xyzzy'$"):
        SMTP(Catcher(), xyzzy=1)  # type: ignore[call-arg]


def test_too_many_auth_failures_end_the_session() -> None:
    with (
        open_auth(refuse, max_auth_failures=3) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"EHLO x")
        answers = [client.ask(PLAIN)[:9] for _ in range(4)]
        assert answers == [b"535 5.7.8"] * 3 + [b"421 4.7.0"]
        assert client.reply() == b""


@pytest.mark.parametrize("limit", [None, 10])
def test_ten_auth_failures_are_allowed_by_default(limit: int | None) -> None:
    keywords = {"max_auth_failures": None} if limit is None else {}
    with open_auth(refuse, **keywords) as controller, Client(controller.port) as client:
        client.ask(b"EHLO x")
        answers = [client.ask(PLAIN)[:3] for _ in range(12 if limit is None else 11)]
        assert answers == ([b"535"] * 12 if limit is None else [b"535"] * 10 + [b"421"])


@pytest.mark.parametrize(
    "lines",
    [
        [b"AUTH LOGIN", b"c2VjcmV0LWxvZ2lu", b"c2VjcmV0LXBhc3N3b3Jk"],
        [b"EHLO x", b"AUTH CRAM-MD5", b"c2VjcmV0LWxvZ2lu", b"c2VjcmV0LXBhc3N3b3Jk"],
        [b"EHLO x", b"AUTH LOGIN", b"*", b"c2VjcmV0LWxvZ2lu", b"c2VjcmV0LXBhc3N3b3Jk"],
        [b"EHLO x", b"AUTH LOGIN", b"c2VjcmV0LWxvZ2lu", b"c2VjcmV0LXBhc3N3b3Jk"],
        [b"EHLO x", b"AUTH PLAIN c2VjcmV0LWxvZ2lu"],
        [b"EHLO x", b"AUTH PLAIN", b"c2VjcmV0LWxvZ2lu!", b"c2VjcmV0LXBhc3N3b3Jk"],
    ],
)
def test_secrets_stay_out_of_the_log(lines: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        open_auth(refuse, command_call_limit=1) as controller,
        Client(controller.port) as client,
    ):
        for line in lines:
            client.ask(line)
    assert "c2Vj" not in caplog.text
    assert "secret" not in caplog.text


# Daily work.


async def test_servers_start_inside_a_running_loop() -> None:
    handler = Catcher()
    async with Server(handler, listen="127.0.0.1:0") as server:
        address = server.addresses[0]
        await asyncio.to_thread(deliver, str(address[0]), int(address[1]))
    assert handler.envelope().mail_from == "a@b.test"
    controller = Controller(handler, hostname="127.0.0.1", port=0)
    await controller.start_async()
    await asyncio.to_thread(deliver, "127.0.0.1", controller.port)
    await controller.stop_async()
    assert handler.envelope().rcpt_tos == ["c@d.test"]


def deliver(host: str, port: int, body: str = "Subject: hi\r\n\r\nhello\r\n") -> Any:
    with smtplib.SMTP(host, port, timeout=PATIENCE) as client:
        return client.sendmail("a@b.test", ["c@d.test"], body)


def test_connect_and_disconnect_are_called() -> None:
    handler = Hooks()
    with serving(handler) as controller:
        with Client(controller.port, greet=False) as client:
            assert client.reply() == b"220 mine\r\n"
            name, host, port, peer = handler.next()
            assert (name, host, port) == ("CONNECT", "127.0.0.1", peer[1])
            client.ask(b"QUIT")
        assert handler.next() == ("DISCONNECT", "QUIT")
        with Client(controller.port) as client:
            handler.next()
        assert handler.next() == ("DISCONNECT", "closed by the client")
    assert handler.calls.empty()


@pytest.mark.parametrize(
    ("connect", "answer"),
    [
        ("554 5.7.1 not you", rb"554 5.7.1 not you"),
        ("421 later", rb"421 later"),
        (ValueError("secret"), rb"451 4.3.0 Internal error \(ref [0-9a-f]{8}\)"),
        (None, rb"451 4.3.0 Internal error \(ref [0-9a-f]{8}\)"),
        (aiosmtpd.smtp.Refused("550 5.7.1 no"), rb"550 5.7.1 no"),
        (aiosmtpd.MISSING, rb"220 mx.test Python SMTP .*"),
    ],
)
def test_connect_may_refuse(connect: Any, answer: bytes) -> None:
    handler = Hooks(connect)
    with serving(handler) as controller, Client(controller.port, greet=False) as client:
        reply = client.reply()
        assert re.fullmatch(answer + b"\r\n", reply)
        if not reply.startswith(b"220"):
            assert client.reply() == b""
            handler.next()
            assert handler.next() == ("DISCONNECT", reply.decode().strip())


def test_an_exception_in_disconnect_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        async def handle_DISCONNECT(self, *_: Any) -> None:
            raise ValueError("in the hook")

    with serving(Failing()) as controller, Client(controller.port) as client:
        client.ask(b"QUIT")
    assert "handle_DISCONNECT failed" in caplog.text
    assert "ValueError: in the hook" in caplog.text


class LetIn(Catcher):
    async def handle_PROXY(self, *_: Any) -> bool:
        return True


@pytest.mark.parametrize(
    ("trusted", "let_in"),
    [(["192.0.2.0/24"], False), ("127.0.0.0/8", True), (["::1", "127.0.0.1"], True), ([], False)],
)
def test_only_trusted_proxies_are_accepted(trusted: Any, let_in: bool) -> None:
    handler = LetIn()
    with (
        serving(handler, proxy_protocol_timeout=5, proxy_trusted=trusted) as controller,
        Client(controller.port, greet=False) as client,
    ):
        client.send(b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n")
        if not let_in:
            with contextlib.suppress(ConnectionResetError):
                assert client.reply() == b""
        else:
            assert client.reply()[:4] == b"220 "
            client.transaction()
            client.ask(b".")
            session, _ = handler.caught.get(timeout=PATIENCE)
            assert session.client_address == ("198.51.100.7", 4711)
            assert session.peer[0] == "127.0.0.1"


async def test_a_bad_trusted_network_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 network"):
        SMTP(Catcher(), proxy_trusted=["nonsense"])


def test_each_connection_and_message_has_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mail.log"), serving(Catcher()) as controller:
        deliver("127.0.0.1", controller.port)
        deliver("127.0.0.1", controller.port)
    records = [record for record in caplog.records if record.name == "mail.log"]
    assert [re.sub(r"^\(.*?\) ", "", record.getMessage()) for record in records] == [
        "sent a message of 22 bytes from 'a@b.test' to 1 recipients: '250 OK'",
        "disconnected: QUIT",
    ] * 2
    ids = [record.__dict__["session_id"] for record in records]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[0] != ids[2]
    assert re.fullmatch("[0-9a-f]{8}", ids[0])


def test_commands_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG, "mail.log"),
        serving(Catcher()) as controller,
        Client(controller.port) as client,
    ):
        client.ask(b"NOOP \x1b[2J")
    messages = [record.getMessage() for record in caplog.records if record.name == "mail.log"]
    assert r"sent NOOP '\x1b[2J'" in messages[1]
    assert len({record.__dict__["session_id"] for record in caplog.records}) == 1


@pytest.mark.parametrize("is_ours", [False, True], ids=["a program's", "ours"])
def test_a_hook_that_blocks_the_loop_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    class Blocking(Catcher):
        __module__ = "aiosmtpd.handlers" if is_ours else "program"

        async def handle_NOOP(self, *_: Any) -> str:
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                pass
            return "250 OK"

    monkeypatch.setattr(connection, "SLOW_HOOK", 0.01)
    with serving(Blocking()) as controller, Client(controller.port) as client:
        client.ask(b"NOOP")
        client.ask(b"NOOP")
    assert caplog.text.count("Blocking.handle_NOOP blocked the event loop for ") == 1
    # A handler of the package blocks only on a busy machine: nothing is to be changed in it.
    assert caplog.text.count(": await, or make it a plain def") == (not is_ours)


def test_a_hook_that_ran_before_is_not_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quick(Catcher):
        async def handle_NOOP(self, *_: Any) -> str:
            return "250 OK"

    with serving(Quick()) as controller, Client(controller.port) as client:
        monkeypatch.setattr(connection, "SLOW_HOOK", inf)
        client.ask(b"NOOP")
        # The reply to HELP shows that NOOP has ended.
        client.ask(b"HELP")
        # From here on each command takes too long, but HELP has no hook to name.
        monkeypatch.setattr(connection, "SLOW_HOOK", 0.0)
        client.ask(b"HELP")
    assert "blocked the event loop" not in caplog.text


def test_plain_hooks_run_in_worker_threads() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    class Waiting:
        def handle_NOOP(self, *_: Any) -> str:
            both.wait()
            return "250 met"

    with (
        serving(Waiting()) as controller,
        Client(controller.port) as one,
        Client(controller.port) as another,
    ):
        one.send(b"NOOP\r\n")
        assert another.ask(b"NOOP") == one.reply() == b"250 met\r\n"


# A function is a handler.


def functions(box: list[Mail]) -> Iterator[Any]:
    async def later(mail: Mail) -> None:
        box.append(mail)

    def plain(mail: Mail) -> str:
        box.append(mail)
        return "250 taken"

    yield later
    yield plain
    yield partial(lambda box, mail: box.append(mail), box)


@pytest.mark.parametrize("number", range(3))
def test_a_function_is_a_handler(number: int) -> None:
    box: list[Mail] = []
    with (
        serving(list(functions(box))[number]) as controller,
        Client(controller.port) as client,
    ):
        client.transaction()
        answer = client.ask("Subject: grüße\r\n\r\nhello\r\n.".encode())
        assert answer == (b"250 taken\r\n" if number == 1 else b"250 OK\r\n")
    (mail,) = box
    assert (mail.sender, mail.recipients) == ("a@b.test", ["c@d.test"])
    assert mail.content == "Subject: grüße\r\n\r\nhello\r\n".encode()
    assert mail.message["subject"] == "grüße"
    assert mail.session.peer[0] == "127.0.0.1"
    assert repr(mail) == "<Mail from 'a@b.test' to ['c@d.test'], 27 bytes>"


def test_an_empty_mail() -> None:
    mail = Mail(aiosmtpd.Session(None), aiosmtpd.Envelope())  # type: ignore[arg-type]
    assert (mail.sender, mail.recipients, mail.content) == ("", [], b"")


def test_warnings_do_not_keep_a_class_alive() -> None:
    import gc
    import weakref

    handler = type("Gone", (), {})
    advice.warn_once(handler, "topic", "text")
    gone = weakref.ref(handler)
    del handler
    gc.collect()
    assert gone() is None


def test_a_context_function_is_called_for_each_handshake(certificates: Certificates) -> None:
    made = []

    def context() -> ssl.SSLContext:
        made.append(certificates.server_context())
        return made[-1]

    with serving(Catcher(), tls_context=context) as controller:
        for _ in range(2):
            with smtplib.SMTP("127.0.0.1", controller.port) as client:
                client.starttls(context=certificates.client_context())
    assert len(made) == 2


def test_reload_tls_changes_only_new_connections() -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def context() -> ssl.SSLContext:
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", common_name=names.pop()).configure_cert(made)
        return made

    def name(client: smtplib.SMTP_SSL) -> Any:
        assert isinstance(client.sock, ssl.SSLSocket)
        subject: Any = (client.sock.getpeercert() or {})["subject"]
        return dict(pair for pairs in subject for pair in pairs)["commonName"]

    names = ["never", "new", "old"]
    with serving(Catcher(), ssl_context=context) as controller:
        address = "localhost", controller.port
        with smtplib.SMTP_SSL(*address, context=trusting) as before:
            controller.reload_tls()
            with smtplib.SMTP_SSL(*address, context=trusting) as after:
                assert (name(before), name(after)) == ("old", "new")
                assert before.noop()[0] == after.noop()[0] == 250
    assert names == ["never"]


async def test_reload_tls_of_a_server_in_the_loop(certificates: Certificates) -> None:
    made: list[ssl.SSLContext] = []

    def context() -> ssl.SSLContext:
        made.append(certificates.server_context())
        return made[-1]

    places = ["smtp://127.0.0.1:0", "smtps://127.0.0.1:0"]
    async with Server(Catcher(), listen=places, ssl_context=context) as server:
        server.reload_tls()
    assert len(made) == 2


def test_reload_tls_needs_a_context_function(certificates: Certificates) -> None:
    for context in certificates.server_context(), None:
        controller = Controller(Catcher(), ssl_context=context)
        with pytest.raises(TypeError, match="load_cert_chain"):
            controller.reload_tls()


class Raising(Catcher):
    """Raises in ``handle_RCPT``, and replies to exceptions."""

    def __init__(self, error: Exception, answer: str) -> None:
        super().__init__()
        self.error = error
        self.answer = answer

    async def handle_RCPT(self, *_: Any) -> str:
        raise self.error

    async def handle_exception(self, error: Exception) -> str:
        return self.answer


@pytest.mark.parametrize(
    "error", [aiosmtpd.smtp.Refused("421 4.3.2 Going away"), ValueError("secret")]
)
def test_any_421_ends_the_connection(error: Exception) -> None:
    """RFC 5321 section 3.8."""
    handler = Raising(error, "421 4.3.2 Going away")
    with serving(handler) as controller, Client(controller.port) as client:
        client.ask(b"EHLO client.test")
        client.ask(b"MAIL FROM:<a@b.test>")
        client.send(b"RCPT TO:<c@d.test>\r\nNOOP\r\n")
        assert client.reply() == b"421 4.3.2 Going away\r\n"
        assert client.rest() == b""
