"""The arguments of `SMTP`: those that it takes, and those that it refuses."""

import asyncio
import socket
import threading
from typing import Any

import pytest

import aiosmtpd
from aiosmtpd.handlers import Sink
from aiosmtpd.protocol import networks
from aiosmtpd.smtp import CLASSIC, SMTP, auth_mechanism, sanitize, sanitized_log


@pytest.fixture
def loop() -> Any:
    """An event loop that does not run."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"command_call_limit": "5"}, TypeError, "must be int or Dict"),
        ({"command_call_limit": {"NOOP": "5"}}, TypeError, "values must be int"),
        ({"proxy_protocol_timeout": 0}, ValueError, "proxy_protocol_timeout must be > 0"),
        ({"proxy_trusted": "nowhere"}, ValueError, "nowhere"),
        ({"unknown_params": "drop"}, ValueError, "one of reject, ignore"),
        ({"bare_newline": "cut"}, ValueError, "one of accept, normalize, reject"),
        ({"extensions": "old"}, ValueError, "extensions must be one of"),
        ({"hostnam": "mx"}, TypeError, "Did you mean 'hostname'"),
        ({"frobnicate": 1}, TypeError, "unexpected keyword argument 'frobnicate'$"),
    ],
)
def test_wrong_keywords(
    loop: asyncio.AbstractEventLoop, keywords: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        SMTP(Sink(), loop=loop, **keywords)


def test_the_largest_command_size_limit(loop: asyncio.AbstractEventLoop) -> None:
    server = SMTP(Sink(), loop=loop)
    assert server.max_command_size_limit == 512
    server.command_size_limits = {"MAIL": 1000, "NOOP": 5}  # type: ignore[misc]
    assert server.max_command_size_limit == 1000
    assert SMTP(Sink(), loop=loop, command_size_limit=99).max_command_size_limit == 99


def test_the_host_name_is_the_machines_unless_it_is_given(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = []

    def getfqdn() -> str:
        lookups.append("asked")
        return "full.test"

    monkeypatch.setattr(socket, "getfqdn", getfqdn)
    first, second = SMTP(Sink(), loop=loop), SMTP(Sink(), loop=loop)
    assert lookups == []
    assert (first.hostname, second.hostname) == ("full.test", "full.test")
    assert lookups == ["asked"]
    first.hostname = "mx.test"
    assert first.hostname == "mx.test"


def test_without_a_running_loop_the_one_that_was_set_is_used(
    loop: asyncio.AbstractEventLoop,
) -> None:
    found = []

    def make() -> None:
        asyncio.set_event_loop(loop)
        found.append(SMTP(Sink()).loop)
        asyncio.set_event_loop(None)
        found.append(SMTP(Sink()).loop)
        found[1].close()
        found.append(SMTP(Sink()).loop)
        found[2].close()

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert found[0] is loop
    assert len(set(map(id, found))) == 3


def test_the_old_name_of_the_loop_getter() -> None:
    assert callable(aiosmtpd._get_or_new_eventloop)


@pytest.mark.parametrize("name", ["", "A B", "É", "A.B"])
def test_a_mechanism_needs_a_name_that_is_one(name: str) -> None:
    """RFC 4422 section 3.1: letters, digits, hyphens and underscores."""
    with pytest.raises(ValueError, match="Invalid AUTH mechanism name"):
        auth_mechanism(name)


def test_sanitize_hides_the_text_after_a_mechanism() -> None:
    assert sanitize(b"AUTH PLAIN c2VjcmV0\r\n") == b"AUTH PLAIN ********\r\n"
    assert sanitize(b"auth login") == b"auth login"
    told: list[Any] = []
    sanitized_log(lambda *args, **more: told.append((args, more)), "%r %d", b"AUTH X y", 1, extra=2)
    assert told == [(("%r %d", b"AUTH X ********", 1), {"extra": 2})]


def test_the_classic_set_is_the_default(loop: asyncio.AbstractEventLoop) -> None:
    by_default, by_name = SMTP(Sink(), loop=loop), SMTP(Sink(), loop=loop, extensions="classic")
    assert by_default.settings.extensions is by_name.settings.extensions
    assert by_default.settings.extensions.extensions == CLASSIC


@pytest.mark.parametrize(
    ("trusted", "peer", "held"),
    [
        ("10.0.0.0/8", ("10.1.2.3", 25), True),
        ("10.0.0.0/8", ("11.1.2.3", 25), False),
        ("10.0.0.0/8", ("::ffff:10.1.2.3", 25, 0, 0), True),
        (["fe80::/10", "::1"], ("fe80::1%eth0", 25, 0, 2), True),
        (["fe80::/10", "::1"], ("::2", 25, 0, 0), False),
        ("10.0.0.0/8", "/run/socket", True),
        ("10.0.0.0/8", "", True),
        ("10.0.0.0/8", None, False),
        ([], ("127.0.0.1", 25), False),
    ],
)
def test_networks(trusted: Any, peer: Any, held: bool) -> None:
    assert networks.holds(networks.parse(trusted), peer) is held


def test_no_networks_are_all() -> None:
    assert networks.holds(None, ("192.0.2.1", 25))


def test_no_limit_on_calls(loop: asyncio.AbstractEventLoop) -> None:
    assert SMTP(Sink(), loop=loop, command_call_limit=None).settings.command_call_limit is None


def test_a_subclass_may_set_an_attribute_before_its_keywords(
    loop: asyncio.AbstractEventLoop,
) -> None:
    class Early(SMTP):
        def __init__(self) -> None:
            self.enable_SMTPUTF8 = True
            super().__init__(Sink(), loop=loop)

    assert Early().enable_SMTPUTF8 is False
