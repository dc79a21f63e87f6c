"""Tokens of HTML: the states of the HTML standard, section 13.2.5."""

import time
from html.entities import html5

import pytest

from aiosmtpd.mail.html_tokens import Tag, Tokens, attributes_of, decoded
from tests.rows import each_row

NAMES = frozenset({"href", "title", "class", "id", "=x", 'x"y'})


def texts(html: str) -> list[str]:
    """Return the texts, and the names of the tags."""
    return [
        f"{'/' * token.closes}{token.name}" if isinstance(token, Tag) else token
        for token in Tokens(html)
        if token
    ]


def first(html: str) -> dict[str, str]:
    """Return the attributes of the first tag."""
    tag = next(token for token in Tokens(html) if isinstance(token, Tag))
    return attributes_of(tag.source, NAMES)


# Attributes: sections 13.2.5.32 to 13.2.5.40.


@each_row(
    ("source", "attributes"),
    [
        ('<a title="a > b" href=/x>', {"title": "a > b", "href": "/x"}),
        ('<a class="x"href="/y">', {"class": "x", "href": "/y"}),
        ("<a class='x'href='/y'>", {"class": "x", "href": "/y"}),
        ("<a href=/x href=/y HREF=/z>", {"href": "/x"}),
        ("<a href='' href=/y>", {"href": ""}),
        ("<a href=https://a.test/?b=c/>", {"href": "https://a.test/?b=c/"}),
        ("<a href=/x\"y'z<`=>", {"href": "/x\"y'z<`="}),
        ("<a href = \n '/x' >", {"href": "/x"}),
        ("<a href=>", {"href": ""}),
        ("<a href>", {"href": ""}),
        ("<a title href=/x>", {"title": "", "href": "/x"}),
        ("<a/href=/x/title=y>", {"href": "/x/title=y"}),
        ("<a / href='/x'/title=y>", {"href": "/x", "title": "y"}),
        ("<a =x=1 href=/y>", {"=x": "1", "href": "/y"}),
        ('<a x"y=1 href=/y>', {'x"y': "1", "href": "/y"}),
        ("<a title=\"<a href='no'>\" href=/x>", {"title": "<a href='no'>", "href": "/x"}),
        ("<a\fhref=/x\ntitle=y\r\nclass=z>", {"href": "/x", "title": "y", "class": "z"}),
        ('<a href="/a\nb">', {"href": "/a\nb"}),
        ("<a " + "x=1 " * 100 + "href=/x>", {"href": "/x"}),
        ("<a data-href=/y x:href=/z>", {}),
    ],
)
def test_attributes(source: str, attributes: dict[str, str]) -> None:
    assert first(source) == attributes
    assert texts(f"a{source}b")[::2] == ["a", "b"]


# Character references: sections 13.2.5.72 to 13.2.5.80.


@each_row(
    ("source", "in_text", "in_attribute"),
    [
        ("?a=1&timestamp=5&region=eu", "?a=1\xd7tamp=5®ion=eu", "?a=1&timestamp=5&region=eu"),
        ("?a&copy=1", "?a©=1", "?a&copy=1"),
        ("?a&amp;copy=1", "?a&copy=1", "?a&copy=1"),
        ("&copy;=1", "©=1", "©=1"),
        ("&copy", "©", "©"),
        ("&copy-", "©-", "©-"),
        ("&copyé", "©é", "©é"),
        ("&notit;", "¬it;", "&notit;"),
        ("&notin;", "∉", "∉"),
        ("&amp;lt;", "&lt;", "&lt;"),
        ("&ampamp;", "&amp;", "&ampamp;"),
        ("&NotEqualTilde;", "≂̸", "≂̸"),
        ("&AMP", "&", "&"),
        ("&nosuch;", "&nosuch;", "&nosuch;"),
        ("&;&#;&#x;& &&#xg", "&;&#;&#x;& &&#xg", "&;&#;&#x;& &&#xg"),
        ("&#65;&#x41;&#X41&#65", "AAAA", "AAAA"),
        ("&#128;&#x99;&#129;", "€™\x81", "€™\x81"),
        ("&#0;&#xD800;&#x110000;", "\ufffd" * 3, "\ufffd" * 3),
        ("&#" + "9" * 5000 + ";", "\ufffd", "\ufffd"),
        ("&#" + "0" * 5000 + "65;", "A", "A"),
        ("&#x1F600;", "😀", "😀"),
        ("&" + "a" * 5000, "&" + "a" * 5000, "&" + "a" * 5000),
    ],
)
def test_character_references(source: str, in_text: str, in_attribute: str) -> None:
    assert decoded(source) == in_text
    assert decoded(source, in_attribute=True) == in_attribute
    assert first(f'<a href="{source}">') == {"href": in_attribute}


def test_all_names_of_characters_are_known() -> None:
    for name, character in html5.items():
        assert decoded(f"&{name}") == character
        assert decoded(f"&{name}", in_attribute=True) == character


# Tags, comments and other markup: sections 13.2.5.1 to 13.2.5.8 and 13.2.5.41 to 13.2.5.69.


@each_row(
    ("html", "found"),
    [
        ("a < b <3 <= <", ["a < b <3 <= <"]),
        ("a</", ["a</"]),
        ("a</>b</ c>d</3>e", ["a", "b", "d", "e"]),
        ("a<p", ["a"]),
        ("a<p x='>b", ["a"]),
        ("a</p x='>b", ["a"]),
        ("a</p title='>'>b", ["a", "/p", "b"]),
        ("<A><b/><x-y><a<b>", ["a", "b", "x-y", "a<b"]),
        ("<!-->a", ["a"]),
        ("<!--->a", ["a"]),
        ("<!---->a", ["a"]),
        ("<!----!>a", ["a"]),
        ("<!--a--!>b", ["b"]),
        ("<!-- a > b -- > c --->d", ["d"]),
        ("<!--<!-->a", ["a"]),
        ("a<!-- b", ["a"]),
        ("<!->a", ["a"]),
        ("<!>a<?>b<!x>c<?xml version='1.0'?>d", ["a", "b", "c", "d"]),
        ("<!doctype html>a<!DOCTYPE x 'y>'z>b", ["a", "'z>b"]),
        ("<![CDATA[a>b]]>", ["b]]>"]),
        ("a<!x", ["a"]),
        ("<![if !mso]>a<![endif]>", ["a"]),
        ("<!--[if mso]><p>a<![endif]-->b", ["b"]),
        ("<!--[if !mso]><!-->a<!--<![endif]-->b", ["a", "b"]),
    ],
)
def test_markup(html: str, found: list[str]) -> None:
    assert texts(html) == found


# Elements without markup in them: sections 13.2.5.2 to 13.2.5.5 and 13.2.5.15 to 13.2.5.31.


@each_row(
    ("html", "found"),
    [
        ("<style>a<b></styles></style x>c", ["style", "a<b></styles>", "/style", "c"]),
        ("<STYLE>a</Style/>c", ["style", "a", "/style", "c"]),
        ("<style/>a</style>b", ["style", "a", "/style", "b"]),
        ("<style>a", ["style", "a"]),
        ("<style>&lt;</style>", ["style", "&lt;", "/style"]),
        ("<\u017ftyle>a", ["<\u017ftyle>a"]),
        ("<style></\u017ftyle>a", ["style", "</\u017ftyle>a"]),
        ("<title>a<b>&lt;</title>c", ["title", "a<b><", "/title", "c"]),
        ("<textarea><!--</textarea>-->", ["textarea", "<!--", "/textarea", "-->"]),
        ("<xmp><b></xmp>c", ["xmp", "<b>", "/xmp", "c"]),
        ("<iframe><b></iframe>c", ["iframe", "<b>", "/iframe", "c"]),
        ("<noscript><b>c</noscript>", ["noscript", "b", "c", "/noscript"]),
        ("<plaintext><b></plaintext>", ["plaintext", "<b></plaintext>"]),
        ("<script>if (a<b) '</scr'</script>c", ["script", "if (a<b) '</scr'", "/script", "c"]),
        ("<script><!--</script>c", ["script", "<!--", "/script", "c"]),
        (
            "<script><!--<script></script>a</script>b",
            ["script", "<!--<script></script>a", "/script", "b"],
        ),
        ("<script><!--<script>--></script>b", ["script", "<!--<script>-->", "/script", "b"]),
        ("<script><!--><script></script>b", ["script", "<!--><script>", "/script", "b"]),
        ("<script><!--<script></script>a-->", ["script", "<!--<script></script>a-->"]),
        ("<script><script></script>b", ["script", "<script>", "/script", "b"]),
    ],
)
def test_elements_without_markup(html: str, found: list[str]) -> None:
    assert texts(html) == found


def test_in_svg_style_is_an_ordinary_element() -> None:
    tokens = Tokens("<svg><style><b>a</style><![CDATA[<b>]]></svg><style><b></style>")
    found = []
    for token in tokens:
        found.append(token.name if isinstance(token, Tag) else token)
        tokens.foreign = "svg" in found and found.count("svg") < 2
    assert [one for one in found if one] == [
        *("svg", "style", "b", "a", "style", "<b>", "svg", "style", "<b>", "style")
    ]


@pytest.mark.parametrize(
    "piece",
    [
        *("<!--", "<a href=", "<a href='", '<a "', "</a", "<a ", "=", " =", "<", "<!", "</", "<?"),
        *("<style>", "<title></title", "<script><!--", "<script>", "&", "&#", "&#1", "&a", "a\n "),
        *("<a x", "<a/", "/", "'", "<b>", "<![CDATA[", "]]", "-->", "\0", "\ud800", "<plaintext>"),
    ],
)
def test_time_of_the_tokens_is_linear(piece: str) -> None:
    for html in (piece * 50_000, "<a " + piece * 50_000, "<script><!--" + piece * 50_000):
        before = time.process_time()
        for token in Tokens(html):
            if isinstance(token, Tag):
                attributes_of(token.source, NAMES)
        # Quadratic time would take minutes.
        assert time.process_time() - before < 10
