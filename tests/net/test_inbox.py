"""Inboxes for tests: how they catch and wait, and their errors if no message comes."""

import asyncio
import gc
import json
import re
import smtplib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

import aiosmtpd.testing
from aiosmtpd.testing import Inbox, NoMessage, authority as _authority
from tests.client import PATIENCE, Client


def send(inbox: Inbox, to: str | None = None, subject: str = "hi", body: str = "hello") -> None:
    with smtplib.SMTP(inbox.host, inbox.port, timeout=PATIENCE) as client:
        message = f"Subject: {subject}\n\n{body}\n"
        client.sendmail("shop@example.com", [to or inbox.address], message)


class Later:
    """Runs something in a thread once the inbox is being waited at."""

    def __init__(self, inbox: Inbox, action: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=action)
        wait_for = inbox._condition.wait_for

        def start_and_wait(*args: Any) -> Any:
            # The condition is held here, and only waiting lets the server go on.
            self._thread.start()
            return wait_for(*args)

        inbox._condition.wait_for = start_and_wait  # type: ignore[method-assign, assignment]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)


# Messages that come.


def test_a_message_is_there_when_the_client_gets_its_250() -> None:
    with Inbox() as inbox:
        send(inbox, subject="One", body="Use 123456 at https://example.com/reset?x=1")
        send(inbox, "bob@example.org", "Two")
        first, second = inbox.messages
    assert (first.subject, first.recipients) == ("One", [inbox.address])
    assert (first.code(), first.link("/reset")) == ("123456", "https://example.com/reset?x=1")
    assert second.recipients == ["bob@example.org"]
    assert inbox.messages == [first, second]


def test_it_can_be_started_again() -> None:
    inbox = Inbox()
    assert inbox.port == 0
    for number in (1, 2):
        with inbox:
            send(inbox)
        assert len(inbox.messages) == number


def test_clear() -> None:
    with Inbox() as inbox:
        before = inbox.address
        assert re.fullmatch(r"inbox-[0-9a-f]{8}@example\.com", before)
        send(inbox)
        inbox.clear()
        assert (inbox.messages, inbox.transcript) == ([], "")
        assert inbox.address != before


def test_waiting_for_a_message_that_is_there() -> None:
    with Inbox() as inbox:
        send(inbox, "anna@example.org", "Your order")
        send(inbox, "bob@example.org", "Your order is on its way", body="Parcel 7")
        wanted: list[dict[str, Any]] = [
            {"to": "BOB@example.org"},
            {"to": "bob@*"},
            {"to": re.compile("^bob")},
            {"subject": "on its WAY"},
            {"subject": re.compile("way$")},
            {"text": "parcel"},
            {"sender": "shop@*", "to": "bob@*"},
        ]
        for patterns in wanted:
            assert inbox.wait(**patterns, timeout=0).recipients == ["bob@example.org"]
        assert inbox.wait().recipients == ["anna@example.org"]


def test_waiting_for_a_message_that_comes_later() -> None:
    with Inbox() as inbox:
        send(inbox, subject="another")
        with Later(inbox, lambda: send(inbox, subject="This")):
            assert inbox.wait(subject="this", timeout=PATIENCE).subject == "This"


class Counted(str):
    """A pattern that counts the addresses that it is compared with."""

    __slots__ = ("number",)
    number: int

    def casefold(self) -> str:
        self.number += 1
        return super().casefold()


def send_until(inbox: Inbox, to: str) -> None:
    for number in range(20):
        send(inbox, f"other-{number}@example.org")
    send(inbox, to)


def test_a_waiter_compares_each_message_once() -> None:
    wanted = Counted("last@example.org")
    wanted.number = 0
    with Inbox() as inbox:
        send(inbox, "first@example.org")
        with Later(inbox, lambda: send_until(inbox, wanted)):
            assert inbox.wait(to=wanted, timeout=PATIENCE).recipients == ["last@example.org"]
    assert wanted.number == 22


async def test_a_waiter_in_an_event_loop_compares_each_message_once() -> None:
    wanted = Counted("last@example.org")
    wanted.number = 0
    async with Inbox() as inbox:
        send(inbox, "first@example.org")
        waiting = asyncio.create_task(inbox.wait_async(to=wanted, timeout=PATIENCE))
        await asyncio.to_thread(send_until, inbox, wanted)
        assert (await waiting).recipients == ["last@example.org"]
    assert wanted.number == 22


def test_waiting_after_a_clear() -> None:
    with Inbox() as inbox:
        send(inbox, "first@example.org")

        def clear_and_send() -> None:
            inbox.clear()
            send(inbox, "last@example.org")

        with Later(inbox, clear_and_send):
            assert inbox.wait(to="last@*", timeout=PATIENCE).recipients == ["last@example.org"]


async def test_waiting_in_an_event_loop() -> None:
    async with Inbox() as inbox:
        waiting = asyncio.create_task(inbox.wait_async(subject="2", timeout=PATIENCE))
        for number in (1, 2):
            await asyncio.to_thread(send, inbox, subject=str(number))
        assert (await waiting).subject == "2"
        assert (await inbox.wait_async(subject="1")).subject == "1"
        with pytest.raises(NoMessage, match=r"^no message with subject '3' came within 0.01 s; 2 "):
            await inbox.wait_async(subject="3", timeout=0.01)
        await inbox.assert_none_async(subject="3", within=0.01)
        with pytest.raises(NoMessage, match="a message with subject '1' came"):
            await inbox.assert_none_async(subject="1")


def test_a_message_after_the_event_loop_of_a_waiter_has_ended() -> None:
    with Inbox() as inbox:
        loop = asyncio.new_event_loop()
        tell = asyncio.Event().set
        inbox._watchers.add(lambda: loop.call_soon_threadsafe(tell))  # type: ignore[arg-type]
        loop.close()
        send(inbox)
        assert len(inbox.messages) == 1


def test_that_nothing_comes() -> None:
    with Inbox() as inbox:
        send(inbox, "anna@example.org")
        inbox.assert_none(to="bob@*")
        inbox.assert_none(to="bob@*", within=0.01)
        with pytest.raises(NoMessage, match=r"^a message came: <DecodedMail 'hi' .*\nhello"):
            inbox.assert_none()
        with Later(inbox, lambda: send(inbox, "bob@example.org")), pytest.raises(NoMessage):
            inbox.assert_none(to="bob@*", within=PATIENCE)


def test_a_session_that_ends_after_clear_is_not_shown() -> None:
    with Inbox() as inbox:
        with Client(inbox.port) as client:
            client.ask(b"EHLO client.test")
            inbox.clear()
            client.ask(b"NOOP")
        with Client(inbox.port) as client:
            client.ask(b"QUIT")
            assert client.reply() == b""
    lines = inbox.transcript.splitlines()
    assert [line for line in lines if line.startswith("#1 ")][1:] == [
        line for line in lines if "S: 250" in line
    ]
    assert [line for line in lines if " -- " in line] == [
        line for line in lines if line.startswith("#2 ") and " -- " in line
    ]


# Messages that do not come.


def complaint(inbox: Inbox, **patterns: Any) -> str:
    with pytest.raises(NoMessage) as caught:
        inbox.wait(**patterns, timeout=0)
    return str(caught.value)


def test_why_no_message_fits() -> None:
    with Inbox() as inbox:
        assert complaint(inbox, to="anna@*") == (
            "no message to 'anna@*' came within 0 s; no client has connected to "
            f"127.0.0.1:{inbox.port}"
        )
        send(inbox, "bob@example.org", "Welcome", "x" * 300)
        assert complaint(inbox, to="anna@*", sender="x", subject=re.compile("^B"), text="bye") == (
            "no message to 'anna@*' from 'x' with subject /^B/ with text 'bye' came within 0 s; "
            "1 that came:\n"
            "  <DecodedMail 'Welcome' from shop@example.com to bob@example.org>:\n"
            "    to bob@example.org, not 'anna@*'\n"
            "    from shop@example.com, not 'x'\n"
            "    subject 'Welcome', not /^B/\n"
            f"    'bye' is not in the text '{'x' * 200}...'"
        )


def test_a_client_that_was_refused_is_a_reason() -> None:
    with Inbox(size_limit=10) as inbox:
        with Client(inbox.port) as client:
            client.ask(b"EHLO client.test")
        assert complaint(inbox) == "no message came within 0 s; no message at all has come"
        with pytest.raises(smtplib.SMTPSenderRefused):
            send(inbox)
        assert complaint(inbox).startswith(
            "no message came within 0 s; the last client got: 552 5.3.4 "
        )


def test_wrong_arguments_and_names_are_refused() -> None:
    for wrong in {"tls": "ssl"}, {"protocol": "pop3"}:
        with pytest.raises(ValueError, match="not '"):
            Inbox(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no TLS"):
        Inbox().client_context()
    with pytest.raises(AttributeError, match="no attribute 'Outbox'"):
        aiosmtpd.testing.Outbox  # type: ignore[attr-defined]  # noqa: B018
    assert "Inbox" in dir(aiosmtpd.testing)


@pytest.mark.parametrize(
    ("name", "near"), [("sizelimit", "size_limit"), ("hostnam", "hostname"), ("user", "users")]
)
def test_a_misspelt_keyword_names_the_closest(name: str, near: str) -> None:
    wrong: dict[str, Any] = {name: 1}
    said = rf"^Inbox.__init__\(\) got an unexpected .* '{name}'. Did you mean '{near}'\?$"
    with pytest.raises(TypeError, match=said):
        Inbox(**wrong)
    with pytest.raises(TypeError, match=said):
        aiosmtpd.testing.smtp_options(**wrong)


def test_a_value_that_is_not_allowed() -> None:
    wrong: Any = "strip"
    with pytest.raises(ValueError, match="bare_newline"):
        Inbox(bare_newline=wrong)


def test_tls_without_trustme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ModuleNotFoundError, match=r'^TLS in tests needs trustme: pip install "'):
        _authority.Authority()


# How it is reached.


def test_starttls_and_users() -> None:
    with Inbox(tls="starttls", users={"me": "p@ss"}) as inbox:
        with smtplib.SMTP(inbox.host, inbox.port) as client:
            client.ehlo()
            assert client.mail("a@b.test")[0] == 530
            client.starttls(context=inbox.client_context())
            client.ehlo()
            assert client.mail("a@b.test")[0] == 530
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("me", "wrong")
            client.login("me", "p@ss")
            client.sendmail("a@b.test", [inbox.address], "Subject: x\n\n")
        assert inbox.messages[0].session.authenticated
        assert inbox.url == f"smtp://me:p%40ss@127.0.0.1:{inbox.port}"
        assert inbox.env("MAIL_") == {
            "MAIL_HOST": "127.0.0.1",
            "MAIL_PORT": str(inbox.port),
            "MAIL_URL": inbox.url,
            "MAIL_USERNAME": "me",
            "MAIL_PASSWORD": "p@ss",
            "SSL_CERT_FILE": str(inbox.ca_file),
        }
        assert inbox.ca_file is not None
        assert inbox.ca_file.exists()
    assert not inbox.ca_file.exists()
    for secret in "p@ss", "wrong", "bWU", "AG1l":
        assert secret not in inbox.transcript
    assert "C: AUTH PLAIN ********" in inbox.transcript
    assert re.search(r"^#1 +[0-9.]+ -- TLSv1\.[23] ", inbox.transcript, re.MULTILINE)


def test_tls_after_a_restart() -> None:
    inbox = Inbox(tls="starttls")
    for number in (1, 2):
        with inbox, smtplib.SMTP(inbox.host, inbox.port, timeout=PATIENCE) as client:
            client.starttls(context=inbox.client_context())
            client.sendmail("shop@example.com", ["bob@example.org"], "Subject: hi\n\n")
            assert len(inbox.messages) == number


def test_tls_without_a_start_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    wrong: Any = "pop3"
    with suppress(ValueError):
        Inbox(tls="starttls", protocol=wrong)
    assert Inbox(tls="starttls").ca_file
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_of_a_test_in_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    class Past(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Past":
            return cls(2020, 1, 1, tzinfo=tz)

    monkeypatch.setattr("aiosmtpd.process.authority.datetime", Past)
    with Inbox(tls="implicit") as inbox:
        context = inbox.client_context()
        with smtplib.SMTP_SSL(inbox.host, inbox.port, context=context) as client:
            assert client.noop()[0] == 250


def test_implicit_tls() -> None:
    with Inbox(tls="implicit") as inbox:
        assert inbox.url == f"smtps://127.0.0.1:{inbox.port}"
        context = inbox.client_context()
        with smtplib.SMTP_SSL(inbox.host, inbox.port, context=context) as client:
            client.sendmail("a@b.test", [inbox.address], "Subject: x\n\n")
        assert inbox.messages[0].session.ssl


def test_lmtp() -> None:
    with Inbox(protocol="lmtp", hostname="mx.test") as inbox:
        assert inbox.url == f"lmtp://127.0.0.1:{inbox.port}"
        assert inbox.env() == {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(inbox.port),
            "SMTP_URL": inbox.url,
        }
        with smtplib.LMTP(inbox.host, inbox.port) as client:
            client.sendmail("a@b.test", ["c@d.test"], "Subject: x\n\n")
        assert inbox.messages[0].recipients == ["c@d.test"]
    assert "S: 220 mx.test " in inbox.transcript
    assert inbox.transcript.count("S: 250 2.0.0 OK") == 1


def test_a_host_of_ipv6_in_an_address() -> None:
    assert Inbox(host="::1", port=8025).url == "smtp://[::1]:8025"


# Transcripts.


def test_the_transcript() -> None:
    with Inbox(extensions="classic", hostname="mx.test") as inbox, Client(inbox.port) as client:
        client.transaction()
        client.send(b"body\r\n.\r\n")
        client.reply()
        client.ask(b"\xff\x1b")
        client.ask(b"QUIT")
        assert client.reply() == b""
    shown = re.sub(r"^#1 +\d+\.\d{3} ", "", inbox.transcript, flags=re.MULTILINE).splitlines()
    assert re.fullmatch(r"-- \d\d:\d\d:\d\d connection from 127\.0\.0\.1:\d+", shown[0])
    assert shown[1:] == [
        f"S: 220 mx.test Python SMTP {aiosmtpd.__version__}",
        "C: EHLO client.test",
        "S: 250-mx.test",
        "S: 250-SIZE 33554432",
        "S: 250-8BITMIME",
        "S: 250-SMTPUTF8",
        "S: 250 HELP",
        "C: MAIL FROM:<a@b.test>",
        "S: 250 OK",
        "C: RCPT TO:<c@d.test>",
        "S: 250 OK",
        "C: DATA",
        "S: 354 End data with <CR><LF>.<CR><LF>",
        "-- 6 bytes of mail data",
        "S: 250 OK",
        "C: \\xff\\x1b",
        "S: 500 Error: bad syntax",
        "C: QUIT",
        "S: 221 Bye",
        "-- disconnected: QUIT",
    ]


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([b"AUTH PLAIN c2VjcmV0"], ["AUTH PLAIN ********"]),
        ([b"AUTH LOGIN", b"c2VjcmV0", b"c2VjcmV0"], ["AUTH LOGIN", "********", "********"]),
        ([b"AUTH c2VjcmV0"], ["AUTH ********"]),
        (
            [b"AUTH X c2VjcmV0", b"c2VjcmV0", b"NOOP", b"NOOP"],
            ["AUTH ******** ********", "********", "********", "NOOP"],
        ),
        ([b"AUTH"], ["AUTH"]),
    ],
)
def test_no_secret_is_in_it(lines: list[bytes], shown: list[str]) -> None:
    with Inbox(users={"me": "secret"}) as inbox:
        with Client(inbox.port) as client:
            client.ask(b"EHLO client.test")
            for line in lines:
                client.ask(line)
        said = re.findall(r" C: (.*)", inbox.transcript)
        assert said[1:] == shown


def test_it_does_not_grow_without_end() -> None:
    with Inbox() as inbox, Client(inbox.port) as client:
        client.ask(b"EHLO client.test")
        for _ in range(300):
            client.ask(b"NOOP")
        assert inbox.transcript.count("\n") == 499


# Failures.


def test_faults() -> None:
    with Inbox() as inbox:
        inbox.fail("rcpt", "450 4.2.1 Mailbox busy", recipient="anna@*", times=1)
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="Mailbox busy"):
            send(inbox, "anna@example.org")
        assert complaint(inbox).endswith("the last client got: 450 4.2.1 Mailbox busy")
        send(inbox, "anna@example.org")
        inbox.fail("end-of-data", "drop")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(inbox)
        assert len(inbox.messages) == 1
        assert "-- disconnected: closed by a fault" in inbox.transcript
        inbox.clear()
        send(inbox)
        with pytest.raises(ValueError, match="unknown stage 'RCPT'"):
            inbox.fail("RCPT", "450 no")


# Programs.

DJANGO = """
import json, sys
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
settings.configure(**json.loads(sys.argv[1]))
message = EmailMultiAlternatives("Gr\\u00fc\\u00dfe", "text", "shop@example.com", [sys.argv[2]])
message.attach_alternative("<a href='https://example.com/1'>x</a>", "text/html")
message.attach("a.bin", b"\\0", "application/octet-stream")
print(message.send())
"""


def test_settings_for_django() -> None:
    with Inbox(users={"me": "secret"}) as inbox:
        assert inbox.django_settings() == {
            "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": inbox.port,
            "EMAIL_HOST_USER": "me",
            "EMAIL_HOST_PASSWORD": "secret",
            "EMAIL_USE_TLS": False,
            "EMAIL_USE_SSL": False,
            "EMAIL_TIMEOUT": 10,
        }
        options = inbox.django_settings(mailers=True)["MAILERS"]["default"]["OPTIONS"]
        assert (options["port"], options["username"]) == (inbox.port, "me")


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_django(tls: Any) -> None:
    django = pytest.importorskip("django")
    with Inbox(tls=tls, users={"me": "secret"} if tls else None) as inbox:
        settings = inbox.django_settings(mailers=django.VERSION >= (6, 1))
        command = [sys.executable, "-W", "error", "-c", DJANGO]
        run = subprocess.run(
            [*command, json.dumps(settings), inbox.address],
            env=inbox.env(),
            capture_output=True,
            text=True,
        )
        assert run.stdout == "1\n", run.stderr
        mail = inbox.wait(to=inbox.address, timeout=0)
        mail.assert_has(subject="Grüße", text=re.compile(r"\Atext\n?\Z"), attachments=["a.bin"])
        assert mail.link() == "https://example.com/1"
