"""Session, envelope and results of AUTH, as hooks of programs for 1.4 use them."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from aiosmtpd.protocol.session import MISSING, AuthResult, Envelope, LoginPassword, Session


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_a_new_session(loop: asyncio.AbstractEventLoop) -> None:
    session = Session(loop)
    assert session.loop is loop
    for name in ("peer", "ssl", "host_name", "proxy_data", "auth_data", "authenticated"):
        assert getattr(session, name) is None
    assert session.extended_smtp is False


def test_hooks_may_add_attributes(loop: asyncio.AbstractEventLoop) -> None:
    session, envelope = Session(loop), Envelope()
    session.score = 5  # type: ignore[attr-defined]
    envelope.score = 7  # type: ignore[attr-defined]
    assert (vars(session)["score"], vars(envelope)["score"]) == (5, 7)


def test_login_data_warns_in_the_log(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(loop)
    with caplog.at_level(logging.WARNING, "mail.log"):
        assert session.login_data is None
        assert len(caplog.records) == 1
        session.login_data = b"anne"
        assert len(caplog.records) == 2
        assert session.login_data == b"anne"
    assert {record.getMessage() for record in caplog.records} == {
        "Session.login_data is deprecated and will be removed in version 2.0"
    }
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_the_server_sets_login_data_without_a_warning(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(loop)
    session.set_login_data(b"anne")
    assert not caplog.records
    assert session.login_data == b"anne"


def test_a_new_envelope() -> None:
    envelope = Envelope()
    for name in ("mail_from", "content", "original_content"):
        assert getattr(envelope, name) is None
    assert envelope.smtp_utf8 is False
    assert envelope.mail_options == envelope.rcpt_tos == envelope.rcpt_options == list[str]()


def test_envelopes_share_nothing() -> None:
    one, two = Envelope(), Envelope()
    for name in ("mail_options", "rcpt_tos", "rcpt_options"):
        getattr(one, name).append("x")
        assert getattr(two, name) == []


def test_missing_is_a_singleton() -> None:
    assert MISSING is type(MISSING).MISSING
    assert repr(MISSING).count("MISSING")


def test_an_auth_result_never_shows_its_data() -> None:
    result = AuthResult(success=True, auth_data=LoginPassword(b"anne", b"secret"))
    assert "secret" not in repr(result)
    assert "anne" not in repr(result)
    assert repr(result) == "AuthResult(success=True, handled=True, message=None, auth_data=...)"
    assert result.auth_data == (b"anne", b"secret")


def test_an_auth_result_has_defaults_and_takes_keywords_only() -> None:
    result = AuthResult(success=False)
    assert (result.success, result.handled, result.message, result.auth_data) == (
        False,
        True,
        None,
        None,
    )
    with pytest.raises(TypeError):
        AuthResult(True)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        AuthResult()  # type: ignore[call-arg]


def test_auth_results_compare() -> None:
    assert AuthResult(success=True) == AuthResult(success=True, handled=True)
    assert AuthResult(success=True) != AuthResult(success=True, message="235 Welcome")
    assert AuthResult(success=False) < AuthResult(success=True)


@pytest.mark.parametrize(
    ("login", "shown"),
    [(b"anne", "anne"), (b"", ""), (b"\xff\xfe", r"\xff\xfe"), ("é".encode(), "é")],
)
def test_a_password_is_never_shown(login: bytes, shown: str) -> None:
    pair = LoginPassword(login, b"secret")
    assert str(pair) == repr(pair) == f"LoginPassword(login='{shown}', password=...)"
    assert f"{pair}" == str(pair)
    assert "%s %r" % (pair, pair) == f"{pair} {pair}"  # noqa: UP031 - as logging does
    assert "secret" not in repr([pair])


def test_a_login_and_a_password_are_a_pair() -> None:
    pair = LoginPassword(b"anne", b"secret")
    assert pair == (b"anne", b"secret")
    assert (pair.login, pair.password) == tuple(pair)


def test_programs_may_set_derived_properties(loop: asyncio.AbstractEventLoop) -> None:
    session, envelope = Session(loop), Envelope()
    assert session.client_address == ("", 0)
    assert envelope.recipients == []
    session.client_address = ("192.0.2.1", 5)
    envelope.recipients = ["mine"]  # type: ignore[list-item]
    assert session.client_address == ("192.0.2.1", 5)
    assert envelope.recipients == ["mine"]  # type: ignore[comparison-overlap]
    assert "client's host" in (type(session).client_address.__doc__ or "")
