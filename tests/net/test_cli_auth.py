"""AUTH by the command line, with real processes and clients."""

import os
import smtplib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.client import PATIENCE, Client
from tests.conftest import Certificates
from tests.net.program import Program, cert, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")

MAIL = "me@example.com", "you@example.com", "Subject: x\n\nbody\n"
JOE = ("--auth", "joe:top-secret")


@contextmanager
def client_of(program: Program) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP("127.0.0.1", program.port, timeout=PATIENCE) as client:
        client.ehlo()
        yield client


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_user_sends_in_the_clear(mechanism: str) -> None:
    with serving("-dd", *JOE, "--require-auth") as program:
        with client_of(program) as client:
            assert client.esmtp_features["auth"].split() == ["LOGIN", "PLAIN"]
            with pytest.raises(smtplib.SMTPSenderRefused, match="Authentication required"):
                client.sendmail(*MAIL)
            client.user, client.password = "joe", "top-secret"
            client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
            assert client.sendmail(*MAIL) == {}
        code, out, err = program.end()
    assert code == 0
    assert "\nSubject: x\n" in out
    assert "Passwords are sent in the clear" in err
    for secret in b"top-secret", b"\0joe\0top-secret":
        assert secret.decode() not in err
        assert b64encode(secret).decode() not in err


def test_without_require_auth_every_client_may_send() -> None:
    with serving(*JOE) as program:
        with client_of(program) as client:
            assert client.sendmail(*MAIL) == {}
        assert program.end()[2] == ""


def test_any_password() -> None:
    with serving("--auth-any", "--require-auth") as program, client_of(program) as client:
        client.login("whoever", "whatever")
        assert client.sendmail(*MAIL) == {}


@pytest.mark.parametrize(("args", "allowed"), [([], 3), (["--max-auth-failures", "1"], 1)])
def test_failures_end_the_connection(args: list[str], allowed: int) -> None:
    wrong = b"AUTH PLAIN " + b64encode(b"\0joe\0wrong")
    with serving(*JOE, *args) as program, Client(program.port) as client:
        client.ask(b"EHLO x")
        for _ in range(allowed):
            assert client.ask(wrong)[:3] == b"535"
        assert client.ask(wrong)[:3] == b"421"
        assert client.reply() == b""


@pytest.mark.parametrize("more", [[], ["--no-requiretls"]])
def test_with_a_certificate_no_password_comes_in_the_clear(
    more: list[str], certificates: Certificates
) -> None:
    with serving("-d", *JOE, *cert(certificates, "tls"), *more) as program:
        with client_of(program) as client:
            assert "auth" not in client.esmtp_features
            client.starttls(context=certificates.client_context())
            client.ehlo()
            assert client.login("joe", "top-secret")[0] == 235
            assert client.sendmail(*MAIL) == {}
        assert "in the clear" not in program.end()[2]


def test_over_implicit_tls(certificates: Certificates) -> None:
    with (
        serving("--require-auth", *JOE, *cert(certificates, "smtps")) as program,
        smtplib.SMTP_SSL(
            "127.0.0.1", program.port, context=certificates.client_context(), timeout=PATIENCE
        ) as client,
    ):
        assert client.login("joe", "top-secret")[0] == 235
        assert client.sendmail(*MAIL) == {}


def test_on_other_addresses_it_is_a_warning() -> None:
    with Program("-n", *JOE, "-l", "0.0.0.0:0") as program:
        program.until("WARNING mail.log: Passwords are sent in the clear")
