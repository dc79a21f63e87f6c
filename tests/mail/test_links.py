"""Web addresses in plain text: the begin, the end, and the time of the search."""

# ruff: noqa: RUF001 - punctuation of several scripts is what is tested

import time

import pytest
from hypothesis import example, given, settings, strategies as st

from aiosmtpd.mail import links
from tests.rows import each_row

A = "https://a.test/x"


# Characters at the end that are part of an address (RFC 3986, sections 2.3 and 3.3).


@each_row(
    "url",
    [
        *("https://a.test/?token=abc_", "https://a.test/?token=abc__", "https://a.test/?t=YQ=="),
        *("https://a.test/x-", "https://a.test/x/", "https://a.test/~", "https://a.test/#"),
        *("https://a.test/?a&", "https://a.test/x+", "https://a.test/x%", "https://a.test/$"),
        *("https://a.test/?a[]=1&b[0]=2", "https://a.test/?ids[]", "https://a.test/b_(c)"),
        *("https://a.test/x(y(z))", "https://a.test/Rubik's_Cube"),
        *("http://[::1]", "http://[::1]:8025", "http://[2001:db8::1]/x", "HTTP://A.TEST/B"),
        *("https://user:pass@a.test:8/x;y=1,2?q=a/b:c@d!e#f?g", "http://localhost:8000/x"),
        *("https://ja.test/東京", "https://exämple.test/straße", "https://a.test/a.b,c"),
        *("https://a.test/?u=https://b.test/", "https://a.test/?a=1&timestamp=5&region=eu"),
    ],
)
def test_an_address_is_found_whole(url: str) -> None:
    assert links.find(url) == [url]
    assert links.find(f"See {url}.") == [url]
    assert links.find(f"a ({url}), b") == [url]
    assert links.find(f"[{url}]") == [url]
    assert links.find(f"<{url}>") == [url]
    assert links.find(f"“{url}”\n{url}\n") == [url, url]


# Characters that belong to the text around.


@each_row(
    "around",
    [
        *("{}.", "{}...", "{}!?", "{};", "{}:", "{}, b", "({})", "({}).", "[{}]", "{{{}}}"),
        *('"{}"', "'{}'", "'{}'.", "`{}`", "“{}”", "‘{}’", "„{}“", "«{}»", "‹{}›", "<{}>"),
        *(
            "「{}」",
            "『{}』",
            "《{}》",
            "【{}】",
            "（{}）",
            "{}。谢谢",
            "{}，然后",
            "{}！",
            "{}：",
            "{}、",
        ),
        *("{}،", "{}؟", "{}؛", "{}۔", "{}।", "{}॥", "{}։", "{}።", "{}។", "{}…", "{}—", "{};"),
        *("_{}_", "**{}**", "~{}~", "__{}__", "|{}|", "{}\\", "{}'", "{}\u200b", "{}\xa0x"),
        *("[text]({})", "[text]({})x", "{}](y)", "({}).x", "{}<br>", "a{}\u2028", "{}\x1b[0m"),
    ],
)
def test_the_text_around_is_not_part_of_it(around: str) -> None:
    assert links.find(around.format(A)) == [A]
    assert links.blanked(around.format(A)) == around.format(" ")


def test_a_link_of_markdown_names_two_addresses() -> None:
    assert links.find(f"[{A}]({A}/y)") == [A, f"{A}/y"]


def test_a_parenthesis_may_be_within() -> None:
    assert links.find("https://a.test/a)b https://a.test/(a") == [
        "https://a.test/a)b",
        "https://a.test/(a",
    ]


def test_one_mark_of_emphasis_is_dropped() -> None:
    assert links.find(f"_{A}?t=abc__") == [f"{A}?t=abc_"]


@pytest.mark.parametrize(
    "text", ["", "https://", "http://.", "(https://)", "https://…", "https://?a", "ftp://a.test"]
)
def test_without_a_host_there_is_no_address(text: str) -> None:
    assert links.find(text) == []
    assert links.blanked(text) == text
    assert not links.is_web_address(text)


# Addresses between < and > (RFC 3986, appendix C).


@each_row(
    ("text", "found"),
    [
        ("<https://a.test/x?token=abc\ndef>", ["https://a.test/x?token=abcdef"]),
        ("<https://a.test/x?token=abc\r\n  def> y", ["https://a.test/x?token=abcdef"]),
        ("<https://a.test/x \t\ny\nz>", ["https://a.test/xyz"]),
        ("<URL:https://a.test/x\ny>", ["https://a.test/xy"]),
        ("<https://a.test/x.>", ["https://a.test/x."]),
        ("<https://a.test/'x)>", ["https://a.test/'x)"]),
        ("<https://a.test/x y>", ["https://a.test/x"]),
        ("<https://a.test/x\n\ny>", ["https://a.test/x"]),
        ("<https://a.test/x\nhttps://a.test/y", ["https://a.test/x", "https://a.test/y"]),
        ("<https://a.test/x\n<https://a.test/y>", ["https://a.test/x", "https://a.test/y"]),
        ("https://a.test/x\ny>", ["https://a.test/x"]),
        ('<a href="https://a.test/x">', ["https://a.test/x"]),
        ("<https://a.test/x\x1b[0m>", ["https://a.test/x"]),
        ("<https://a.test/x\u202ey>", ["https://a.test/x"]),
    ],
)
def test_an_address_in_angle_brackets_is_joined(text: str, found: list[str]) -> None:
    assert links.find(text) == found


def test_a_broken_address_is_blanked_whole() -> None:
    assert links.blanked("a <https://a.test/?t=abc\n123456>, b") == "a < >, b"


def test_only_addresses_are_blanked() -> None:
    assert links.blanked("no address, 123456") == "no address, 123456"
    assert links.blanked(f"{A}. 123456 {A}") == " . 123456  "


def test_web_addresses_have_a_scheme_and_a_host() -> None:
    assert links.is_web_address("HTTPS://A.test")
    assert links.is_web_address("http://[::1]/")
    assert not links.is_web_address("mailto:a@b.test")
    assert not links.is_web_address("/a?b=https://a.test")


# Any input.

PIECES = st.sampled_from(
    [
        "https://",
        "HTTP://",
        "a.test",
        "[::1]",
        *"<>()[]{}'\"_*~|\\.,;:/ \n\r\t\0",
        "<URL:",
        "。",
        "\ud800",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)))
@example("<https://a\nb>")
@settings(max_examples=300, deadline=None)
def test_each_address_is_a_piece_of_the_text(text: str) -> None:
    end = 0
    for link in links.each(text):
        assert end <= link.begin < link.end <= len(text)
        assert links.is_web_address(link.url)
        assert link.url == "".join(text[link.begin : link.end].split())
        assert not set(link.url) & set(' \t\r\n\x00\x1b<>"')
        end = link.end
    kept = links.blanked(text)
    assert len(kept) <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        *("http://", "https://a]", "<https://a\n", "https://a.", "https://a'", "https://a<"),
        *("https://a(", "<https://a>", "https://a)b", "_https://a_", "https://a\n)", "<URL:"),
    ],
)
def test_time_of_the_search_is_linear(text: str) -> None:
    for whole in (text * 20_000, "<https://a" + text[-1] * 200_000, "https://a" + "(" * 100_000):
        before = time.process_time()
        links.find(whole)
        links.blanked(whole)
        # Quadratic time would take minutes.
        assert time.process_time() - before < 10
