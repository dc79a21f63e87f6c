"""The handler that a worker makes from a configuration."""

import asyncio
import inspect
import smtplib
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from aiosmtpd.delivery.outlets import nats, smtp, webhook
from aiosmtpd.process.failure import Failure
from aiosmtpd.process.users import Users
from aiosmtpd.protocol.settings import Settings
from aiosmtpd.runner import kinds, outlets
from aiosmtpd.runner.config import Config, RouteTable, SpoolTable
from aiosmtpd.runner.handler import GuardedDelivery, make_handler
from aiosmtpd.server import Server

ROUTES = (
    RouteTable(to="smtp://127.0.0.1:9", match=("*@own.test",), name="own"),
    RouteTable(to="smtp://127.0.0.1:9", match=("*",), name="others"),
)


def config(folder: Path, **values: Any) -> Config:
    return Config(spool=SpoolTable(path=str(folder)), route=ROUTES, **values)


async def replies(settings: Settings, handler: Any, *, login: bool = False) -> list[int]:
    """Return the codes for a recipient of the own domain and for one of another."""
    async with Server(handler, settings=settings) as server:
        port = int(server.addresses[0][1])

        def ask() -> list[int]:
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.ehlo()
                if login:
                    client.login("anne", "secret")
                client.mail("a@a.test")
                return [client.rcpt(one)[0] for one in ("x@own.test", "x@other.test")]

        return await asyncio.to_thread(ask)


async def test_a_stranger_cannot_relay(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert await replies(made.settings(), make_handler(made)) == [250, 550]


async def test_a_host_of_the_file_can_relay(tmp_path: Path) -> None:
    made = config(tmp_path, relay_networks=("192.0.2.0/24", "127.0.0.0/8"))
    assert await replies(made.settings(), make_handler(made)) == [250, 250]
    other = config(tmp_path, relay_networks=("192.0.2.0/24",))
    assert await replies(other.settings(), make_handler(other)) == [250, 550]


async def test_a_user_can_relay(tmp_path: Path) -> None:
    made = config(tmp_path)
    settings = attrs.evolve(
        made.settings(), authenticator=Users([("anne", "secret")]), auth_require_tls=False
    )
    assert await replies(settings, make_handler(made), login=True) == [250, 250]
    assert await replies(settings, make_handler(made)) == [250, 550]


def test_each_worker_has_a_folder(tmp_path: Path) -> None:
    assert isinstance(make_handler(config(tmp_path), "3"), GuardedDelivery)


def test_a_class_with_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shop_of_a_worker.py").write_text(
        "class Mail:\n    def __init__(self, depth): self.depth = depth\n"
        "    async def handle_DATA(self, *_): return '250 OK'\ndef take(mail): pass\n"
    )
    source = str(tmp_path / "a.toml")
    name = "shop_of_a_worker:Mail"
    handler = make_handler(Config(handler=name, handler_settings={"depth": 3}, source=source))
    assert handler.depth == 3
    assert callable(make_handler(Config(handler="shop_of_a_worker:take", source=source)))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (Config(handler="json:gone"), "handler: cannot import json:gone: AttributeError"),
        (
            Config(handler="json:__name__"),
            "handler: json:__name__ is not a function, and has no hook",
        ),
        (Config(handler="json:JSONDecoder"), "handler: json:JSONDecoder is not a function"),
        (Config(), "no spool: write"),
        (
            Config(spool=SpoolTable(path="s"), route=(RouteTable(to="nats://a"),)),
            "route.1: ",
        ),
    ],
)
def test_a_handler_that_cannot_be_made(wrong: Config, text: str) -> None:
    with pytest.raises(Failure) as caught:
        make_handler(wrong)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise ConnectionError", 1), ("raise ImportError", 2), ("self.gone", 2), ("exit(1)", 2)],
)
def test_only_wrong_code_is_a_wrong_configuration(
    code: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"handler_that_fails_{abs(hash(code))}"
    text = f"class Mail:\n    def __init__(self):\n        {code}\n"
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(Failure) as caught:
        make_handler(Config(handler=f"{name}:Mail", source=str(tmp_path / "a.toml")))
    assert caught.value.code == expected


class Odd(BaseException):
    """An exception that no library catches."""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open('/nowhere/x')", 1),
        ("1 / 0", 1),
        ("raise ValueError('a\\nb')", 1),
        ("import gone_module", 2),
        ("def (", 2),
        ("raise SystemExit('bye')", 2),
        ("raise KeyboardInterrupt", 2),
        ("import asyncio; raise asyncio.CancelledError", 2),
        ("from tests.runner.test_handler import Odd; raise Odd('x')", 2),
    ],
)
@pytest.mark.parametrize("kind", ["handler", "route"])
def test_an_import_that_fails_is_one_line(
    kind: str, code: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"{kind}_not_imported_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    source = str(tmp_path / "a.toml")
    if kind == "handler":
        wrong = Config(handler=f"{name}:Mail", source=source)
    else:
        wrong = attrs.evolve(
            config(tmp_path), route=(RouteTable(to=f"python:{name}:take"),), source=source
        )
    with pytest.raises(Failure, match=r"cannot import \w+_not_imported") as caught:
        make_handler(wrong)
    assert caught.value.code == expected
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("gone_one", "; put gone_one.py beside the configuration, or install it"),
        ("gone_one.part", "; put gone_one.py beside the configuration, or install it"),
        ("json.gone_one", "No module named 'json.gone_one'"),
    ],
)
def test_a_missing_module_has_a_next_step(module: str, text: str) -> None:
    with pytest.raises(Failure) as caught:
        make_handler(Config(handler=f"{module}:Mail"))
    assert str(caught.value).endswith(text)


IN_CODE_ALONE = {"url", "context", "tls", "mode", "timeout"}
"""Parameters of the outlets that a file cannot have, or that are keys of the route."""


@pytest.mark.parametrize(
    ("cls", "make"),
    [
        (outlets.MailOptions, smtp.from_url),
        (outlets.WebhookOptions, webhook.from_url),
        (outlets.NatsOptions, nats.from_url),
    ],
)
def test_outlets_have_the_options_of_the_table(cls: type[Any], make: Any) -> None:
    parameters = inspect.signature(make).parameters
    assert set(kinds.keys_of(cls)) == set(parameters) - IN_CODE_ALONE
    for name, field in kinds.keys_of(cls).items():
        assert field.default == parameters[name].default
