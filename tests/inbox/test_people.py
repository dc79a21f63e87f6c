"""Addresses and tags: their readers accept anything, in linear time."""

from time import process_time

import pytest
from hypothesis import given, strategies as st

from aiosmtpd.inbox import labels
from aiosmtpd.inbox.people import MOST, read, sender
from tests.rows import each_row


@each_row(
    ("value", "expected"),
    [
        ("ann@x.test", [("", "ann@x.test")]),
        ("Ann <ann@x.test>", [("Ann", "ann@x.test")]),
        ("<ann@x.test>", [("", "ann@x.test")]),
        ('"Bob, the builder" <bob+vip@x.test>', [("Bob, the builder", "bob+vip@x.test")]),
        (r'"a \"b\" c" <a@x>', [('a "b" c', "a@x")]),
        ("Ann Lee <a@x>, b@x", [("Ann Lee", "a@x"), ("", "b@x")]),
        ("ann@x (Ann Lee)", [("Ann Lee", "ann@x")]),
        ("(comment (nested)) ann@x", [("comment nested", "ann@x")]),
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe?= Shop <s@x>", [("Grüße Shop", "s@x")]),
        ("=?utf-8?Q?Doe,_J?= <j@x>", [("Doe, J", "j@x")]),
        ('"=?utf-8?q?J=C3=BC?=" <j@x>', [("Jü", "j@x")]),
        ('"a b"@x', [("", '"a b"@x')]),
        ('<"a>b"@x>', [("", '"a>b"@x')]),
        ("<@relay,@other:ann@x>", [("", "ann@x")]),
        ("undisclosed-recipients:;", []),
        ("group: a@x, B <b@x>; c@x", [("", "a@x"), ("B", "b@x"), ("", "c@x")]),
        ("a@x; b@x", [("", "a@x"), ("", "b@x")]),
        ("jürgen@x", [("", "jürgen@x")]),
        ("Ann <postmaster>", [("Ann", "postmaster")]),
        ("nothing at all", []),
        ("", []),
        ("<>", []),
        (",,;", []),
        ("x <", []),
        ("\udcff@x", [("", "\ufffd@x")]),
    ],
)
def test_addresses(value: str, expected: list[tuple[str, str]]) -> None:
    assert read(value) == expected


def test_a_sender_without_an_address_is_a_name() -> None:
    assert sender("The =?utf-8?q?B=C3=B6ss?=") == ("The Böss", "")
    assert sender("Ann <a@x>, Bob <b@x>") == ("Ann", "a@x")
    assert sender("") == ("", "")


@given(st.text(st.sampled_from('ab@<>()",;:\\ =?qé\udc80'), max_size=60))
def test_any_field_is_read(value: str) -> None:
    for name, address in read(value):
        assert address
        (name + address).encode()


@pytest.mark.parametrize(
    "value", ["(" * 10**6, '"' * 10**6, "<" * 10**6, "\\" * 10**6, "a@x," * 10**5, "=?" * 10**6]
)
def test_long_fields_take_no_time(value: str) -> None:
    began = process_time()
    assert len(read(value)) <= MOST
    assert process_time() - began < 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vip", "vip"),
        ("bad/!", "bad"),
        ("  two   words ", "two words"),
        ("a.b-c_d@e", "a.b-c_d@e"),
        ("grün", "gr n"),
        ("/!", ""),
        ("x" * 200, "x" * 100),
    ],
)
def test_tags_are_cleaned(text: str, expected: str) -> None:
    assert labels.cleaned(text) == expected


def test_the_first_spelling_of_a_tag_wins() -> None:
    assert labels.unique(["Vip", "VIP", "a", "!", "B"]) == ["a", "B", "Vip"]
    assert len(labels.unique(map(str, range(200)))) == labels.MOST


def test_tags_of_addresses() -> None:
    assert labels.of_address("a+x+y@example.com") == ["x", "y"]
    assert labels.of_address("a@b+c") == []
