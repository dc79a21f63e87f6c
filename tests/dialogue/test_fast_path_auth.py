"""The line of AUTH in the reply to EHLO: remembered, and exact after each change of a program."""

import gc
import ssl
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from aiosmtpd.engine import auth
from aiosmtpd.smtp import SMTP, auth_mechanism
from tests.dialogue.fed import EHLO, SERVERS, Server, quiet as quiet, turns

from .test_fast_path_beginning import fresh

USUAL = "LOGIN PLAIN"


async def later(*_: Any) -> None:
    """Be a mechanism."""


@auth_mechanism("OTHER")
async def named(*_: Any) -> None:
    """Be a mechanism with a name of its own."""


class Base:
    """The base of a handler."""


class Handler(Base):
    """A handler whose class changes."""

    spare = None


class Own(Server):
    """A server whose class changes."""

    spare = None


async def ready(handler: Any = None, **keywords: Any) -> Server:
    server = await fresh(handler or Handler(), Own, auth_require_tls=False, **keywords)
    assert await offered(server) == USUAL
    assert server.driven == []
    return server


async def offered(server: Server) -> str:
    """Return the mechanisms in the reply to EHLO: those of ``offer_of_auth``."""
    lines = (await server.ask(EHLO)).decode().splitlines()
    found = [line.removeprefix("250-AUTH ") for line in lines if line.startswith("250-AUTH")]
    line = server.offer_of_auth()
    assert ["AUTH " + one for one in found] == ([] if line is None else [line])
    return " ".join(found)


@pytest.mark.parametrize("owner", [Handler, Base, Own, Server, SMTP])
async def test_a_class_gets_and_loses_a_mechanism(
    owner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await ready()
    monkeypatch.setattr(owner, "auth_LATER", later, raising=False)
    assert await offered(server) == "LATER LOGIN PLAIN"
    monkeypatch.delattr(owner, "auth_LATER")
    assert await offered(server) == USUAL


@pytest.mark.parametrize("owner", [Handler, Own])
async def test_a_class_has_as_many_names_as_before(
    owner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await ready()
    monkeypatch.delattr(owner, "spare")
    monkeypatch.setattr(owner, "auth_LATER", later, raising=False)
    assert await offered(server) == "LATER LOGIN PLAIN"


@pytest.mark.parametrize("owner", ["handler", "server"])
async def test_an_instance_gets_a_mechanism(owner: str) -> None:
    server = await ready()
    one = server if owner == "server" else server.event_handler
    vars(one)["auth_LATER"] = later
    assert await offered(server) == "LATER LOGIN PLAIN"
    del vars(one)["auth_LATER"]
    assert await offered(server) == USUAL


async def test_a_method_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await ready()
    monkeypatch.setattr(SMTP, "auth_PLAIN", named)
    assert await offered(server) == "LOGIN OTHER"


async def test_a_method_of_the_handlers_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "auth_LATER", later, raising=False)
    server = await fresh(Handler(), Own, auth_require_tls=False)
    assert await offered(server) == "LATER LOGIN PLAIN"
    monkeypatch.setattr(Handler, "auth_LATER", named)
    assert await offered(server) == "LOGIN OTHER PLAIN"


async def test_a_class_loses_a_usual_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await ready()
    monkeypatch.delattr(SMTP, "auth_LOGIN")
    assert server.offer_of_auth() == "AUTH PLAIN"
    assert b"250-AUTH PLAIN\r\n" in await server.ask(EHLO)


async def test_the_offer_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await ready()
    monkeypatch.setattr(SMTP, "offer_of_auth", lambda _: "AUTH NONE")
    assert await offered(server) == "NONE"


async def test_an_instance_overrides_the_offer() -> None:
    server = await ready()
    vars(server)["offer_of_auth"] = lambda: None
    assert await offered(server) == ""
    del vars(server)["offer_of_auth"]
    assert await offered(server) == USUAL


class ForOneClient(Own):
    """A server that offers AUTH to one client."""

    def offer_of_auth(self, *, vain: bool = True) -> str | None:
        return "AUTH ONE" if self.session.peer == "one" else None


@pytest.mark.parametrize("auth_require_tls", [False, True])
async def test_an_offer_depends_on_the_session(auth_require_tls: bool) -> None:
    server = await fresh(Handler(), ForOneClient, auth_require_tls=auth_require_tls)
    assert await offered(server) == ""
    server.session.peer = "one"
    assert await offered(server) == "ONE"


class ByProperty(Own):
    """A server with a mechanism that is there at times."""

    is_there = True
    auth_PLAIN: Any = property(lambda self: later if self.is_there else None)


class ByName(Own):
    """A server that decides itself what its attributes are."""

    is_there = True

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return None if name == "auth_PLAIN" and not self.is_there else found


@pytest.mark.parametrize("kind", [ByProperty, ByName])
async def test_a_mechanism_that_is_there_at_times(kind: Any) -> None:
    server = await fresh(Handler(), kind, auth_require_tls=False)
    assert await offered(server) == USUAL
    vars(server)["is_there"] = False
    assert await offered(server) == "LOGIN"


def a_base(server: type, name: str) -> Any:
    """Return a class below which there is one that can change its bases."""
    return type("Base", (server,), {name: later})


@pytest.mark.parametrize("owner", ["handler", "server"])
async def test_a_class_changes_its_bases(owner: str) -> None:
    top = Server if owner == "server" else Base
    changed: Any = type("Changed", (a_base(top, "spare"),), {})
    if owner == "server":
        server = await fresh(Handler(), changed, auth_require_tls=False)
    else:
        server = await fresh(changed(), Own, auth_require_tls=False)
    assert await offered(server) == USUAL
    changed.__bases__ = (a_base(top, "auth_LATER"),)
    assert await offered(server) == "LATER LOGIN PLAIN"


@pytest.mark.parametrize("owner", [Handler, Own])
async def test_a_class_gets_two_names_and_two_others(
    owner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await ready()
    for name, found in ("more", USUAL), ("auth_LATER", "LATER LOGIN PLAIN"):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, later, raising=False)
            patch.setattr(owner, "last", None, raising=False)
            assert await offered(server) == found


async def test_the_handler_is_another() -> None:
    class Another:
        auth_LATER = later

    server = await ready()
    server.event_handler = Another()
    assert await offered(server) == "LATER LOGIN PLAIN"
    server.event_handler = Handler()
    assert await offered(server) == USUAL


async def test_an_object_says_what_it_has() -> None:
    class Listed:
        names: list[str] = []
        auth_LATER = later

        def __dir__(self) -> list[str]:
            return self.names

    server = await ready(Listed())
    Listed.names.append("auth_LATER")
    assert await offered(server) == "LATER LOGIN PLAIN"


async def test_a_base_of_a_class_that_is_the_handler() -> None:
    base: Any = type("Base", (), {})
    server = await ready(type("Short", (base,), {}))
    base.auth_LATER = later
    assert await offered(server) == "LATER LOGIN PLAIN"


def a_class() -> Any:
    return type("Short", (), {})


def a_class_with_slots() -> Any:
    return type("Slots", (), {"__slots__": ()})()


@pytest.mark.parametrize("make", [a_class, a_class_with_slots])
async def test_handlers_of_other_kinds(make: Callable[[], Any]) -> None:
    server = await ready(make())
    assert await offered(server) == USUAL


async def test_a_mixin_of_a_server_gets_a_mechanism() -> None:
    mixin: Any = type("Mixin", (), {})
    server = await fresh(Handler(), type("Mixed", (Own, mixin), {}), auth_require_tls=False)
    assert await offered(server) == USUAL
    mixin.auth_LATER = later
    assert await offered(server) == "LATER LOGIN PLAIN"


async def test_a_class_gets_a_mechanism_in_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await fresh(Handler(), Own, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert await offered(server) == USUAL
    monkeypatch.setattr(Handler, "auth_LATER", later, raising=False)
    assert await offered(server) == "LATER LOGIN PLAIN"


async def test_few_offers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MOST_OFFERS", 2)
    server = await ready()
    for number in range(5):
        server.event_handler = type("Short", (), {f"name{number}": None})()
        assert await offered(server) == USUAL
        assert 1 <= len(server.settings.offers_of_auth) <= 2


async def test_no_class_is_kept_for_its_offer() -> None:
    server = await ready(type("Short", (), {})())
    gone = weakref.ref(type(server.event_handler))
    server.event_handler = Handler()
    # A class refers to itself.
    gc.collect()
    assert gone() is None
    assert await offered(server) == USUAL


async def test_no_class_of_a_server_is_kept_for_its_offer() -> None:
    class Short(Own):
        async def auth_PLAIN(self, *args: Any) -> Any:
            # With super(), a method refers to its class.
            return await super().auth_PLAIN(*args)

    server = await fresh(Handler(), Short, auth_require_tls=False)
    assert await offered(server) == USUAL
    gone, settings = weakref.ref(Short), server.settings
    SERVERS.remove(server)
    server.network.reset()
    await turns()
    del server, Short
    gc.collect()
    assert gone() is None
    assert settings.auth_require_tls is False
