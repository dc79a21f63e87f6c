"""The values of a configuration, and their way to a worker."""

import pytest

from aiosmtpd.protocol.settings import Settings
from aiosmtpd.runner.config import (
    TLS,
    Auth,
    Config,
    LimitsTable,
    Pair,
    Place,
    Proxy,
    RetryTable,
    RouteTable,
    SpoolTable,
    parse_place,
)
from aiosmtpd.runner.processors import processors

FULL = Config(
    listen=(parse_place("smtp://[::1]:25"), parse_place("lmtp://systemd:lmtp")),
    workers=3,
    tls=TLS(cert="a.pem", key="a.key", sni=(Pair(cert="b.pem", key="b.key"),)),
    proxy=Proxy(trusted=("10.0.0.0/8",)),
    auth=Auth(users="/etc/users", required=True, pairs=(("anne", "secret"),)),
    spool=SpoolTable(path="/var/spool/mail"),
    route=(
        RouteTable(to="smtp://127.0.0.1:26", retry=RetryTable(first=1.5), options={"verify": True}),
        RouteTable(to="reject", match=("*@example.org", "*@example.net")),
    ),
    handler_settings={"depth": [1, {"two": 2}]},
)


@pytest.mark.parametrize("config", [Config(), FULL], ids=["defaults", "full"])
def test_json_keeps_a_configuration(config: Config) -> None:
    assert Config.from_json(config.to_json()) == config


def test_a_password_is_not_in_the_representation() -> None:
    assert "secret" not in repr(FULL)
    assert "secret" in FULL.to_json()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("smtp://0.0.0.0:25", Place("smtp", "0.0.0.0", 25)),
        (":2525", Place(port=2525)),
        ("lmtp://unix:/run/lmtp", Place("lmtp", path="/run/lmtp")),
        ("fd:3", Place(fd=3)),
        ("systemd", Place(systemd="")),
        ("smtps://systemd:tls", Place("smtps", systemd="tls")),
        ("systemd:25", Place(host="systemd", port=25)),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["127.0.0.1", "ftp://127.0.0.1:21", "[::1", "smtp://"])
def test_a_wrong_place(text: str) -> None:
    with pytest.raises(ValueError):
        parse_place(text)


def test_settings_of_a_worker() -> None:
    settings = FULL.settings()
    assert isinstance(settings, Settings)
    assert settings.auth_required
    assert settings.proxy_trusted
    assert settings.limits.max_connections_per_host == LimitsTable().connections_per_host
    assert not Config().settings().auth_required


def test_certificates_in_order() -> None:
    assert FULL.tls is not None
    assert FULL.tls.pairs == (Pair(cert="a.pem", key="a.key"), Pair(cert="b.pem", key="b.key"))


def test_a_route_of_a_worker() -> None:
    route = FULL.routes[0].route()
    assert route.retry.first == 1.5
    assert route.fallback == "spool"
    assert FULL.routes[1].route().rejects


def test_workers_by_number() -> None:
    assert FULL.worker_count == 3
    assert Config().worker_count == processors() >= 1
