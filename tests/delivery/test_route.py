"""Routes: patterns of recipients, names, options."""

import sys
from typing import Any

import pytest

from aiosmtpd.delivery import Mail, Misconfigured, Retry, Route
from aiosmtpd.delivery.route import Routes, parse_route
from tests.delivery.support import Place, route
from tests.rows import each_row


@each_row(
    ("pattern", "address", "matches"),
    [
        ("*", "postmaster", True),
        ("*", "", True),
        ("*@a.test", "x@A.Test", True),
        ("*@A.test", "x@a.test", True),
        ("*@a.test", "x@b.a.test", False),
        ("*@*.test", "x@b.a.test", True),
        ("Ann@a.test", "ann@a.test", False),
        ("postmaster@a.test", "PostMaster@a.test", True),
        ("postmaster", "Postmaster", True),
        ("bo-?@a.test", "bo-1@a.test", True),
        ("bo-?@a.test", "bo-12@a.test", False),
        ("*@[192.0.2.1]", "x@[192.0.2.1]", True),
        ("*@[192.0.2.1]", "x@1", False),
        ("b?@a.test", "bö@a.test", True),
        ("a.b@a.test", "axb@a.test", False),
    ],
)
def test_patterns(pattern: str, address: str, matches: bool) -> None:
    assert route(Place(), pattern).matches(address) is matches


@pytest.mark.parametrize(
    ("text", "is_relay"),
    [
        ("smtp://mx.test", True),
        ("SMTPS://mx.test", True),
        ("*@*=smtp://mx.test", True),
        ("*@a.test,*@*.*=smtp://mx.test", True),
        ("**=smtp+starttls://mx.test", True),
        ("*@a.test=smtp://mx.test", False),
        ("*@*.test=smtp://mx.test", False),
        ("lmtp://mx.test", False),
        ("maildir:mail", False),
    ],
)
def test_relays(text: str, is_relay: bool) -> None:
    assert parse_route(text).is_relay is is_relay


def test_the_first_route_that_matches_counts() -> None:
    first, second = route(Place(), ["*@a.test", "*@b.test"], "one"), route(Place(), "x@*", "two")
    routes = Routes([first, second])
    assert routes.find("x@b.test") is first
    assert routes.find("x@c.test") is second
    assert routes.find("y@c.test") is None


def test_names_are_made_of_place_and_pattern() -> None:
    names = [Route("smtp://mx.test", "*@a.test").name, Route("maildir:/tmp/x").name]
    assert names == ["smtp+*@a.test", "maildir"]


def test_equal_names_are_refused() -> None:
    with pytest.raises(ValueError, match="two routes are called 'app'"):
        Routes([route(Place()), route(Place())])
    with pytest.raises(ValueError, match="no route"):
        Routes([])


@pytest.mark.parametrize(
    ("text", "pattern", "name"),
    [
        ("smtp://mx.test", "*", "smtp"),
        ("*@a.test=smtp://mx.test", "*@a.test", "smtp+*@a.test"),
        ("a=b@a.test=maildir:/tmp/c=d", "a=b@a.test", "maildir+a-b@a.test"),
        ("command:x=1 cat", "*", "command"),
        ("reject", "*", "reject"),
        ("*@b.test=reject", "*@b.test", "reject+*@b.test"),
    ],
)
def test_routes_as_text(text: str, pattern: str, name: str) -> None:
    parsed = parse_route(text)
    assert (parsed.patterns, parsed.name) == ((pattern,), name)


def test_options_in_a_url() -> None:
    one = parse_route(
        "*@a.test=smtps://mx.test#verify=no&name=out&retry=remote&give_up=2d&concurrency=3"
        "&timeout=1m&mode=direct&fallback=none&bounce=smtp%3A//relay.test&dead=drop"
    )
    assert (one.name, one.concurrency, one.timeout) == ("out", 3, 60)
    assert (one.retry.first, one.retry.give_up) == (300, 2 * 86400)
    assert (one.mode, one.fallback, one.dead) == ("direct", None, "drop")
    assert one.bounce is not None
    assert one.bounce.to == "smtp://relay.test"
    assert one.to == "smtps://mx.test#verify=no"


@pytest.mark.parametrize(
    "options", ["concurrency=many", "give_up=soon", "retry=x", "mode=x", "verify=2", "x=1", "x"]
)
def test_wrong_options_in_a_url(options: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        parse_route(f"smtps://mx.test#{options}")


def test_a_text_that_is_not_a_route_hides_passwords() -> None:
    with pytest.raises(ValueError) as caught:
        parse_route("smpt://ann:secret@mx.test")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Route("smtps://ann:secret@mx.test"))


@each_row(
    "options",
    [
        {"retry": "often"},
        {"concurrency": 0},
        {"concurrency": True},
        {"timeout": "soon"},
        {"dead": "forget"},
        {"dead": "drop"},
        {"mode": "fast"},
        {"fallback": "disk"},
        {"name": "two words"},
        {"name": ""},
        {"unknown": 1},
    ],
)
@each_row("to", ["smtp://mx.test", Place(), "reject"])
def test_wrong_options_are_one_line(to: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        Route(to, **options)


@pytest.mark.parametrize(
    "to", [None, 3, object(), Place], ids=["none", "number", "object", "class"]
)
def test_things_that_are_not_outlets(to: Any) -> None:
    with pytest.raises(ValueError, match="neither a URL, an outlet nor a function"):
        Route(to)


def test_a_function_is_an_outlet() -> None:
    def receive(mail: Mail) -> None:
        pass

    one = Route(receive, "*@a.test")
    assert one.name == "receive+*@a.test"
    assert type(one.outlet).__name__ == "PythonOutlet"


def test_options_of_a_route() -> None:
    one = Route(Place(), retry={"first": "1m"}, timeout="2m", bounce=Place(), dead="drop", name="x")
    assert (one.retry, one.timeout) == (Retry(first=60), 120)
    assert one.bounce is not None
    assert one.bounce.name == "x:bounce"
    assert Routes([one]).by_name == {"x": one, "x:bounce": one.bounce}
    assert Routes([one]).find("a@b.test") is one


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aiosmtpd.delivery.outlets.webhook", raising=False)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(Misconfigured, match=r"pip install \"aiosmtpd\[webhook\]\""):
        Route("https://hook.test/x")


def test_many_patterns_and_a_bounce() -> None:
    route = Route("reject", [f"*@{number}.mail.test" for number in range(20)], bounce="reject")
    assert route.bounce is not None
    assert route.bounce.name == f"{route.name}:bounce"
