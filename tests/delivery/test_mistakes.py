"""Mistakes in routes that are refused at the start, each with one line."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Delivery, Misconfigured, Route
from aiosmtpd.delivery.item import Later, Never
from aiosmtpd.delivery.outlets import make_outlet
from aiosmtpd.delivery.outlets.python import PythonOutlet
from aiosmtpd.delivery.route import Routes, parse_route
from tests.delivery.hops import item_of


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("example.com", "a pattern has an @, such as '*@example.com', not 'example.com'"),
        ("*@example.com ", "a pattern has no spaces"),
        ("*@a.test,*@b.test", "write several patterns as a list"),
        ("*@[192.0.2.1", "both brackets"),
        ("", "a pattern has an @"),
    ],
)
def test_patterns_that_match_nothing(pattern: str, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Route("reject", pattern)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ['"a, b"@a.test', "*.test", "PostMaster", "?@[*]"])
def test_patterns_that_can_match(pattern: str) -> None:
    assert Route("reject", pattern).patterns == (pattern,)


def test_a_comma_separates_patterns() -> None:
    route = parse_route('*@a.test,"x,y"@b.test=reject')
    assert route.patterns == ("*@a.test", '"x,y"@b.test')


def test_places_without_options_have_those_of_the_route() -> None:
    route = parse_route("maildir:mail#name=files&timeout=5m&retry=remote")
    assert (route.to, route.name, route.timeout) == ("maildir:mail", "files", 300)
    assert parse_route("command:cat #x").to == "command:cat #x"
    for place in "maildir:mail", "python:shop.mail:Files":
        with pytest.raises(ValueError, match="has no options, found #foo=1"):
            parse_route(f"{place}#foo=1")


def test_a_pattern_in_the_place_of_a_url() -> None:
    with pytest.raises(ValueError) as caught:
        Delivery("spool", ["*@a.test=smtps://ann:secret@mx.test"])
    assert str(caught.value) == "write Route('smtps://ann:***@mx.test', match='*@a.test')"
    with pytest.raises(ValueError, match="write match="):
        Route("reject", pattern="*@a.test")


@pytest.mark.parametrize(
    ("url", "texts"),
    [
        ("smtp://mx.test#timeout=abc", ["timeout: 'abc' is not a duration", "smtp://mx.test"]),
        ("smtp://mx.test#give_up=abc", ["give_up: 'abc' is not a duration", "smtp://mx.test"]),
    ],
)
def test_durations_are_named(url: str, texts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        parse_route(url)
    assert all(text in str(caught.value) for text in texts)


async def test_a_missing_file_of_an_authority_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    outlet = make_outlet(f"smtps://mx.test#cafile={file}")
    with pytest.raises(Misconfigured, match=f"cafile: {re.escape(str(file))}: No such file"):
        await outlet.open()
    await outlet.close()


def test_equal_names_have_an_advice() -> None:
    with pytest.raises(ValueError, match="on the command line #name=NAME"):
        Routes(["reject", "reject"])


class Incomplete:
    async def put(self, item: Any) -> None:
        pass


class Plain(Incomplete):
    def open(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("kind", [Incomplete, Plain])
def test_outlets_without_coroutines(kind: type) -> None:
    text = f"outlet {kind.__name__}: write async def open"
    with pytest.raises(ValueError, match=text):
        Route(kind())
    with pytest.raises(ValueError, match=text):
        Route(f"python:{__name__}:{kind.__name__}")
    assert __name__ in sys.modules


@pytest.mark.parametrize("text", ["250 2.0.0 OK", "354 go on", "OK"])
def test_a_failure_is_a_refusal(text: str) -> None:
    with pytest.raises(ValueError):
        Never(text)
    with pytest.raises(ValueError):
        Later(reply=text)


async def test_a_failure_that_says_success_fails() -> None:
    def receive(mail: Any) -> None:
        raise Never("250 2.0.0 OK")

    with pytest.raises(ValueError, match="not a refusal: write a reply code 4yz or 5yz"):
        await PythonOutlet(receive).put(item_of())
