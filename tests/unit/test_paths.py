"""Paths and parameters of MAIL and RCPT: RFC 5321 section 4.1.2, RFC 6531 section 3.3."""

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings, strategies as st

from aiosmtpd.protocol import paths
from aiosmtpd.protocol.paths import NULL_PATH, MalformedPath
from tests.rows import each_row

# Lines without a section: the grammar of RFC 5321 section 4.1.2.
VALID = [
    # Common addresses.
    ("<a@b.test>", "a@b.test"),
    ("<anne.elliot@mail.example.com>", "anne.elliot@mail.example.com"),
    ("<a@localhost>", "a@localhost"),
    ("<a@1.test>", "a@1.test"),
    ("<a@xn--bcher-kva.test>", "a@xn--bcher-kva.test"),
    ("<!#$%&'*+-/=?^_`{|}~@b.test>", "!#$%&'*+-/=?^_`{|}~@b.test"),  # RFC 5322 3.2.3: atext
    ("<0@0>", "0@0"),
    ("<Postmaster>", "Postmaster"),  # RFC 5321 4.1.1.3
    ("<A@B.TEST>", "A@B.TEST"),  # RFC 5321 2.4: the case is kept
    # Quoted strings: unneeded quotes are dropped.
    ('<"a"@b.test>', "a@b.test"),
    ('<"a b"@b.test>', '"a b"@b.test'),
    ('<"a@b"@b.test>', '"a@b"@b.test'),
    ('<">"@b.test>', '">"@b.test'),
    ('<"<a@b>"@b.test>', '"<a@b>"@b.test'),
    ('<"(c)"@b.test>', '"(c)"@b.test'),
    ('<""@b.test>', '""@b.test'),
    (r'<"\a"@b.test>', "a@b.test"),  # quoted-pairSMTP
    (r'<"a\"b"@b.test>', r'"a\"b"@b.test'),
    (r'<"a\\b"@b.test>', r'"a\\b"@b.test'),
    (r'<"\ "@b.test>', '" "@b.test'),
    (r'<"\\"@b.test>', r'"\\"@b.test'),
    # Address literals: RFC 5321 4.1.3.
    ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
    ("<a@[255.255.255.255]>", "a@[255.255.255.255]"),
    ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
    ("<a@[ipv6:::1]>", "a@[ipv6:::1]"),  # RFC 5234 2.3: literal text in any case
    ("<a@[IPv6:1:2:3:4:5:6:7:8]>", "a@[IPv6:1:2:3:4:5:6:7:8]"),
    ("<a@[IPv6:::ffff:192.0.2.1]>", "a@[IPv6:::ffff:192.0.2.1]"),
    ('<"a b"@[192.0.2.1]>', '"a b"@[192.0.2.1]'),
    # Source routes are dropped: RFC 5321 4.1.1.3, appendix C.
    ("<@c.test:a@b.test>", "a@b.test"),
    ("<@c.test,@d.test:a@b.test>", "a@b.test"),
    ('<@c.test:"a b"@b.test>', '"a b"@b.test'),
    ("<@c.test:a@[192.0.2.1]>", "a@[192.0.2.1]"),
    ("<@c.test:postmaster>", "postmaster"),
    # RFC 6531 3.3: UTF-8 in local parts, quoted strings and domains.
    ("<é@b.test>", "é@b.test"),
    ("<a@bücher.test>", "a@bücher.test"),
    ("<用户@例子.广告>", "用户@例子.广告"),
    ('<"é é"@b.test>', '"é é"@b.test'),
    ("<\u00a0@b.test>", "\u00a0@b.test"),
    ("<\U0010ffff@b.test>", "\U0010ffff@b.test"),
]

LENIENT = [
    # No brackets.
    ("a@b.test", "a@b.test"),
    ("postmaster", "postmaster"),
    ('"a b"@b.test', '"a b"@b.test'),
    ("a@[192.0.2.1]", "a@[192.0.2.1]"),
    ("é@b.test", "é@b.test"),
    # Blanks around the address.
    (" <a@b.test>", "a@b.test"),
    ("\t<a@b.test> \r", "a@b.test"),
    ("< a@b.test >", "a@b.test"),
    ("<\ta@b.test\t>", "a@b.test"),
    (" a@b.test ", "a@b.test"),
    # A dotted mix of atoms and quoted strings.
    ('<a."b"@b.test>', "a.b@b.test"),
    ('<"a".b@b.test>', "a.b@b.test"),
    ('<"a b".c."d"@b.test>', '"a b.c.d"@b.test'),
    ('<"a"."b"@b.test>', "a.b@b.test"),
    # Dots anywhere.
    ("<.a@b.test>", ".a@b.test"),
    ("<a.@b.test>", "a.@b.test"),
    ("<a..b@b.test>", "a..b@b.test"),
    ("<..@b.test>", "..@b.test"),
    # Labels.
    ("<a@_dmarc.b_c.test>", "a@_dmarc.b_c.test"),
    ("<a@-b.test>", "a@-b.test"),
    # Any local part without a domain.
    ("<a>", "a"),
    ('<"a b">', '"a b"'),
]

REFUSED = [
    "",
    " ",
    "<",
    ">",
    "< >",
    "<\t>",
    "@",
    "<@>",
    # Brackets.
    "<a@b.test",
    "<a@b.test ",
    "<a@b.test SIZE=1",
    "<<a@b.test>>",
    "<<a@b.test>",
    "<a@<b.test>>",
    "<a@b.test\\>",
    # Local parts.
    "<@b.test>",
    "@b.test",
    "<a b@b.test>",
    "<a@b@c.test>",
    "<a,b@c.test>",
    "<a;b@c.test>",
    "<a:b@c.test>",
    "<a[b@c.test>",
    "<a\\b@c.test>",
    "<a\\ b@c.test>",
    '<a"b"@c.test>',
    '<"a"b@c.test>',
    '<"a""b"@c.test>',
    '<"a" ."b"@c.test>',
    '<"a@b.test>',
    '<a"@b.test>',
    '<"a\\"@b.test>',
    '<"a"b"@b.test>',
    '""',
    '<"">',
    # Comments, which RFC 5321 does not allow.
    "<a@b.test(c)>",
    "<a@b.test>(c)",
    "<a@b.test> (c)",
    "<a(c)@b.test>",
    "<(c)a@b.test>",
    "(c)<a@b.test>",
    "a@b.test (c)",
    # Domains.
    "<a@>",
    "a@",
    "<a@ b.test>",
    "<a@.>",
    "<a@b.>",
    "<a@.b>",
    "<a@b..test>",
    "<a@b .test>",
    "<a@b!c>",
    "<a@b/c>",
    '<a@"b">',
    # Address literals: RFC 5321 4.1.3.
    "<a@[]>",
    "<a@[192.0.2]>",
    "<a@[192.0.2.256]>",
    "<a@[192.0.2.1.1]>",
    "<a@[192.0.2.1>",
    "<a@192.0.2.1]>",
    "<a@[192.0.2.1]x>",
    "<a@[ 192.0.2.1]>",
    "<a@[::1]>",
    "<a@[IPv6:]>",
    "<a@[IPv6:::1%eth0]>",
    "<a@[IPv6:1:2:3:4:5:6:7]>",
    "<a@[IPv6:1:2:3:4:5:6:7:8:9]>",
    "<a@[IPv6:12345::]>",
    "<a@[IPv6:g::]>",
    "<a@[IPv6:1::2::3]>",
    "<a@[IPv6:192.0.2.1]>",
    "<a@[IPv7:::1]>",
    "<a@[x400:c=gb]>",  # a tag that is not registered
    "<a@[tag:content]>",
    "<a@[IPv6:" + ":" * 60 + "]>",
    "<a@[192.0.2.\u0661]>",
    # Source routes: RFC 5321 appendix C.
    "<@c.test:>",
    "<@c.test>",
    "<@c.test,a@b.test>",
    "<@c.test,:a@b.test>",
    "<@c.test,d.test:a@b.test>",
    "<@:a@b.test>",
    "<@c.test:@d.test:a@b.test>",
    "<c.test:a@b.test>",
    "<@[192.0.2.1]:a@b.test>",
    "@c.test:a@b.test",
    # Control characters: RFC 5321 4.1.2.
    "<a\x00@b.test>",
    "<a@b\x00.test>",
    '<"\x00"@b.test>',
    '<"\\\x00"@b.test>',
    '<"a\tb"@b.test>',
    '<"a\r\nb"@b.test>',
    '<"\x7f"@b.test>',
    '<"\\\x7f"@b.test>',
    "<a\x7f@b.test>",
    "<a\n@b.test>",
    "<\x80@b.test>",
    "<a@b\x9f.test>",
    '<"\x85"@b.test>',
    "a\x85@b.test",
    # Invalid UTF-8: RFC 6531 3.3.
    "<\udcff@b.test>",
    "<a@\udcc3.test>",
    '<"\udcff"@b.test>',
    '<"\\\udcff"@b.test>',
    '<"\\é"@b.test>',  # RFC 5321: quoted-pairSMTP is ASCII
    "\udcff",
]


@each_row(("text", "address"), VALID + LENIENT)
def test_valid_paths_are_parsed(text: str, address: str) -> None:
    assert paths.parse(text) == (address, "")
    # The result is a path again, and parses to itself.
    assert paths.parse(f"<{address}>") == (address, "")
    # A limit takes the slow way, which common addresses skip.
    assert paths.parse(text, local_part_limit=999) == (address, "")


@each_row("text", REFUSED)
def test_malformed_paths_are_refused(text: str) -> None:
    for limit in (0, 999):
        with pytest.raises(MalformedPath):
            paths.parse(text, limit)


@pytest.mark.parametrize("text", ["a@b.", "a@b..c", '"a"b@c.test', '"a""b"@c.test'])
def test_text_after_a_bare_address_is_refused(text: str) -> None:
    """RFC 5321 section 4.1.2: no part of these texts is a Mailbox."""
    with pytest.raises(MalformedPath):
        paths.parse(text)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<>", ""),
        (" <> ", ""),
        ("<> SIZE=1", "SIZE=1"),
        ("<>\tSIZE=1  BODY=7BIT ", "SIZE=1  BODY=7BIT"),
    ],
)
def test_the_null_path(text: str, rest: str) -> None:
    """RFC 5321 section 4.5.5."""
    assert paths.parse(text) == (NULL_PATH, rest)


def test_the_null_path_is_spelt_with_brackets() -> None:
    assert NULL_PATH == "<>"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<a@b.test> SIZE=1", "SIZE=1"),
        ("<a@b.test>  SIZE=1  BODY=7BIT ", "SIZE=1  BODY=7BIT"),
        ("< a@b.test > SIZE=1", "SIZE=1"),
        ("a@b.test SIZE=1", "SIZE=1"),
        ("a@b.test\tSIZE=1", "SIZE=1"),
        ("<a@b.test>SIZE=1", "SIZE=1"),
        ("<a@b.test >SIZE=1", "SIZE=1"),
        ("<a@b.test> <c@d.test>", "<c@d.test>"),
        ("<a@b.test>>", ">"),
    ],
)
def test_the_text_after_an_address_is_returned(text: str, rest: str) -> None:
    for limit in (0, 999):
        assert paths.parse(text, limit) == ("a@b.test", rest)


@pytest.mark.parametrize(
    ("local", "length"),
    [
        ("a" * 10, 10),
        ('"' + "a" * 10 + '"', 10),
        ('"a b"', 3),
        (r'"\a\b"', 2),
        ('a."b"', 3),
        ("é" * 10, 10),
    ],
)
def test_the_local_part_limit_ignores_quotes(local: str, length: int) -> None:
    """The limit is in characters, that of RFC 5321 section 4.5.3.1.1 in bytes: 64."""
    for text in (f"<{local}@b.test>", f"<@c.test:{local}@b.test>", f"{local}@b.test", f"<{local}>"):
        address = paths.parse(text, 0)
        assert paths.parse(text, length) == address
        with pytest.raises(MalformedPath):
            paths.parse(text, length - 1)


@settings(deadline=None, max_examples=500)
@given(st.text(alphabet='<>@"\\.,:[]()ab1 \t\r\x00\x7f\x80é\udcff-_'), st.sampled_from([0, 1, 64]))
@example('<"\\', 0)
def test_any_text_is_an_address_or_malformed(text: str, limit: int) -> None:
    try:
        address, rest = paths.parse(text, limit)
    except MalformedPath:
        return
    assert address
    assert rest == rest.strip(" \t\r")
    assert rest in text
    address.encode()
    assert not any(character < " " or "\x7f" <= character < "\xa0" for character in address)
    if address != NULL_PATH:
        assert paths.parse(f"<{address}>", limit) == (address, "")


@settings(deadline=None)
@given(
    st.text(
        alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E)
        | st.characters(min_codepoint=0xA0, max_codepoint=0xD7FF),
        min_size=1,
    )
)
def test_any_text_can_be_quoted(local: str) -> None:
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    address, rest = paths.parse(f'<"{escaped}"@b.test>')
    assert rest == ""
    assert address in (f"{local}@b.test", f'"{escaped}"@b.test')
    # Quotes are dropped only if all parts are atoms and dots.
    assert (address[0] != '"') == (not set(local) & set(' "(),:;<>@[\\]'))


# Parameters.


@each_row(
    ("text", "found"),
    [
        ("", {}),
        (" ", {}),
        ("SIZE=1", {"SIZE": "1"}),
        ("size=1 Body=8bitMIME", {"SIZE": "1", "BODY": "8bitMIME"}),
        ("SMTPUTF8", {"SMTPUTF8": None}),
        ("  A \t B=c  ", {"A": None, "B": "c"}),
        ("X-Y=z 1=2", {"X-Y": "z", "1": "2"}),
        ("A-=b", {"A-": "b"}),
        ("AUTH=<>", {"AUTH": "<>"}),
        ("X=!~<>[]{}\\\"',.:;()", {"X": "!~<>[]{}\\\"',.:;()"}),
        ("X=a=b", {"X": "a=b"}),  # RFC 5321 4.1.2 does not allow = in a value; 1.4 does
        ("X=é", {"X": "é"}),  # RFC 6531 3.3
    ],
)
def test_parameters_are_parsed(text: str, found: dict[str, str | None]) -> None:
    assert paths.parameters(paths.words(text)) == found
    assert list(paths.parameters(paths.words(text)) or {}) == list(found)


@each_row(
    "text",
    [
        "=",
        "=1",
        "SIZE=",
        "SIZE= 1",
        "SIZE = 1",
        "-A=1",
        "A_B=1",
        "A.B",
        "É=1",
        "<a@b.test>",
        "A=\x00",
        "A=\x7f",
        "A\x00",
        # The same keyword twice.
        "SIZE=1 SIZE=1",
        "SIZE=1 size=2",
        "A A",
        "A A=1",
        # One bad word among good ones.
        "SIZE=1 ? BODY=7BIT",
        # RFC 6531 3.3: UTF8-non-ascii; surrogates stand for invalid UTF-8.
        "X=\udcff",
        # RFC 5321 4.1.2: SP separates words, which contain no control characters.
        "SIZE=1\x0bBODY=7BIT",
        "SIZE=1\x1cBODY=7BIT",
        "SIZE=1\x85BODY=7BIT",
    ],
)
def test_malformed_parameters_are_refused(text: str) -> None:
    assert paths.parameters(paths.words(text)) is None


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u2028"])
def test_unicode_spaces_do_not_split_words(blank: str) -> None:
    """RFC 6531 section 3.3: UTF8-non-ascii may be in a value."""
    assert paths.parameters(paths.words(f"X=a{blank}b")) == {"X": f"a{blank}b"}


# Xtext: RFC 3461 section 4.


def encode(text: str) -> str:
    return "".join(
        character if "!" <= character <= "~" and character not in "+=" else f"+{ord(character):02X}"
        for character in text
    )


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=255)))
@example("+=+41")
def test_encoded_xtext_decodes_to_the_same_text(text: str) -> None:
    assert paths.xtext(encode(text)) == text


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_each_character_may_be_encoded(text: str) -> None:
    assert paths.xtext("".join(f"+{ord(character):02X}" for character in text)) == text


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("", ""),
        ("anne@b.test", "anne@b.test"),
        ("a+2Bb+3Dc@b.test", "a+b=c@b.test"),  # RFC 4954 section 5
        ("+2B2B", "+2B"),
        ("<>", "<>"),
    ],
)
def test_xtext_is_decoded(text: str, decoded: str) -> None:
    assert paths.xtext(text) == decoded


@each_row(
    "text",
    ["+", "+4", "+4g", "+2b", "+ 2B", "a=b", "a b", "a\x00", "a\x7f", "é", "a\n", "+\u0664\u0661"],
)
def test_malformed_xtext_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        paths.xtext(text)


# Linear time. A path of 100 kB blocks the loop of 1.4.6 for ten seconds.

SMALL, LARGE = 1_000, 100_000

HOSTILE = {
    "parentheses": ("", "(", ""),
    "parentheses in brackets": ("<", "(", ">"),
    "nested comments": ("<a@b>", "()", ""),
    "quotes": ("", '"', ""),
    "quotes in brackets": ("<", '"', ">"),
    "dotted quoted strings": ("<", '"a".', "@b>"),
    "empty quoted strings": ("<", '"".', "@b>"),
    "quoted strings, unclosed": ("<", '"a".', '"'),
    "a quoted string, unclosed": ('<"', "a", ""),
    "a quoted string": ('<"', "a ", '"@b>'),
    "backslashes": ("", "\\", ""),
    "quoted backslashes": ('<"', "\\", '"@b>'),
    "quoted backslashes, unclosed": ('<"', "\\", ""),
    "quoted pairs": ('<"', '\\"', '"@b>'),
    "opening brackets": ("", "<", ""),
    "closing brackets": ("<", ">", ""),
    "brackets with blanks": ("", "< ", ""),
    "blanks": ("", " ", ""),
    "blanks in brackets": ("<", " \t", "a@b>"),
    "blanks behind": ("<a@b", " ", "x"),
    "at signs": ("", "@", ""),
    "at signs in brackets": ("<", "@", ">"),
    "addresses": ("", "a@", ""),
    "addresses in brackets": ("<", "a@", ">"),
    "routes": ("<", "@a,", ">"),
    "routes with an end": ("<", "@a,", "@a:b@c>"),
    "routes of routes": ("<", "@a:", "b@c>"),
    "a long route": ("<@a", ".a", "b@c>"),
    "dots": ("", ".", ""),
    "dots in brackets": ("<", ".", "@b>"),
    "dots in a domain": ("<a@", ".", ">"),
    "labels": ("<a@", "a.", ">"),
    "labels, unclosed": ("<a@a", ".a", ""),
    "hyphens": ("<a@", "-", "!>"),
    "opening square brackets": ("<a@", "[", ">"),
    "closing square brackets": ("<a@[", "]", ">"),
    "colons": ("<a@[IPv6:", ":", "]>"),
    "colons and digits": ("<a@[IPv6:", "1:", "]>"),
    "digits": ("<a@[", "1.", "]>"),
    "octets of UTF-8": ("<", "é", "@b>"),
    "no UTF-8": ("<", "\udcff", "@b>"),
    "controls": ("<", "\x80", "@b>"),
    "nul": ("<", "\0", "@b>"),
}


def cost(function: Callable[[str], object], text: str) -> float:
    """Return the processor time in seconds, the best of several measurements."""
    best = float("inf")
    for _ in range(5):
        begin = time.process_time()
        try:
            function(text)
        except ValueError:
            pass
        best = min(best, time.process_time() - begin)
    return best


def of_size(size: int, begin: str, middle: str, end: str) -> str:
    return begin + middle * (size // len(middle)) + end


def assert_linear(
    function: Callable[[str], object], plain: str, parts: tuple[str, str, str]
) -> None:
    """Compare the time for *parts* with that for a *plain* text, and for a few of the parts.

    A hundred times the size may take five hundred times the time, and quadratic code takes ten
    thousand times as long; the margin is for a clock with slow ticks.
    """
    small = cost(function, of_size(SMALL, *parts)) * LARGE / SMALL
    large = cost(function, of_size(LARGE, *parts))
    assert large <= 5 * max(cost(function, plain), small) + 0.01


@pytest.mark.parametrize("parts", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("limit", [0, 64])
def test_no_path_is_slow(parts: tuple[str, str, str], limit: int) -> None:
    plain = of_size(LARGE, "<", "a", "@b.test>")
    assert_linear(lambda text: paths.parse(text, limit), plain, parts)


@pytest.mark.parametrize(
    "parts",
    [
        ("", "A ", ""),
        ("", "A=", ""),
        ("A", "=", ""),
        ("A=", "a", "\0"),
        ("", "-", ""),
        ("A", "-", "\0"),
        ("", " ", ""),
    ],
)
def test_parsing_parameters_is_linear(parts: tuple[str, str, str]) -> None:
    assert_linear(paths.parameters, of_size(LARGE, "A=", "a", ""), parts)


@pytest.mark.parametrize(
    "parts", [("", "+", ""), ("", "+4", ""), ("", "+41", "+"), ("", "+41", ""), ("", "a", "=")]
)
def test_decoding_xtext_is_linear(parts: tuple[str, str, str]) -> None:
    assert_linear(paths.xtext, of_size(LARGE, "", "a", ""), parts)


def test_the_clock_detects_quadratic_time() -> None:
    """The check above fails for quadratic code."""

    def quadratic(text: str) -> None:
        for begin in range(0, len(text), 30):
            text[begin:].count("a")

    with pytest.raises(AssertionError):
        assert_linear(quadratic, "", ("", "a", ""))
