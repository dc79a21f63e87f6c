"""The text and the links of HTML as a reader sees them."""

import time
import tracemalloc

import pytest
from hypothesis import example, given, settings, strategies as st

from aiosmtpd.mail.html_elements import DEEPEST
from aiosmtpd.mail.html_styles import MOST_CLASSES
from aiosmtpd.mail.html_text import read, shown
from tests.rows import each_row


def text(html: str) -> str:
    return read(html).text


# The head and the body: section 13.2.6.4.


@pytest.mark.parametrize(
    "html",
    [
        "<head><title>x</title><body>code 482913",
        "<html><head><title>x</title><meta charset=utf-8><p>code 482913</html>",
        "<head><style>p{}</style></head>code 482913",
        "<title>x</title>code 482913",
        "<head>code 482913</head>",
        "<!doctype html><script>1</script><body>code 482913</body>\n</html>\n",
        "<p>code 482913<div style='color:red",
        "<body>code </body></html>482913",
    ],
)
def test_the_body_is_text_and_the_head_is_not(html: str) -> None:
    assert text(html) == "code 482913"


def test_links_of_a_page_without_the_end_of_its_head() -> None:
    page = "<head><title>x</title><body><a href=https://a.test/x>x</a>"
    assert read(page) == ("x", ["https://a.test/x"])


# Lines and blanks.


@each_row(
    ("html", "lines"),
    [
        ("a<br>b<br/>c</br>d", "a\nb\nc\nd"),
        ("a<br><br>b", "a\n\nb"),
        ("a<br><br><br><br>b", "a\n\nb"),
        ("<div>a<br></div><div>b</div>c", "a\nb\nc"),
        ("<div><div>a</div></div><div><div>b</div></div>", "a\nb"),
        ("<div>a</div><div><br></div><div>b</div>", "a\n\nb"),
        ("<div>a</div><div>&nbsp;</div><div>b</div>", "a\n\nb"),
        ("<p>a<p>b</p>c", "a\n\nb\n\nc"),
        ("a</p>b", "a\n\nb"),
        ("<h1>a</h1><p>b</p><p></p><p> </p><h2>c</h2>d", "a\n\nb\n\nc\n\nd"),
        ("  a \n b\t<b>c </b> d<i> e</i>f ", "a b c d ef"),
        ("a<b>b</b>c<span>d</span>", "abcd"),
        ("a <!-- b --> c", "a c"),
        ("a\r\n b\rc&#13;&#10;d&#12;e<pre>f&#13;&#10;g&#12;</pre>", "a b c d e\nf\ng"),
        ("a<hr>b", "a\nb"),
        ("<span style='display: block'>a</span>b", "a\nb"),
        ("<div style='display:inline-block'>a</div> <div style='display:inline'>b</div>c", "a bc"),
        ("<pre>\n a\n\tb\n\n\n  c </pre>d", " a\n\tb\n\n  c\nd"),
        ("<pre>\n\na</pre>", "a"),
        ("<pre>a<b>\nb </b>c  <i> </i>\n \n</pre>d", "a\nb c\n\nd"),
        (
            "a<div style='white-space: pre-wrap'>b\n c<p style='white-space:normal'>d\n e",
            "a\nb\n c\n\nd e",
        ),
        ("<textarea>\na\n<b></textarea>", "a\n<b>"),
        ("<select><option>a<option>b</select>", "a\nb"),
        ("<dl><dt>a<dd>b<dt>c<dd>d</dl>", "a\nb\nc\nd"),
        ("<details><summary>a</summary>b</details>c", "a\nb\nc"),
        ("<noscript>a</noscript>", "a"),
        ("<img alt='A logo' src=x> b <img src=y><img alt=''>c", "A logo b c"),
    ],
)
def test_lines(html: str, lines: str) -> None:
    assert text(html) == lines
    assert shown(html) == lines


@pytest.mark.parametrize(
    ("html", "lines"),
    [
        ("a&nbsp;b", "a\xa0b"),
        ("a&nbsp;&nbsp; &nbsp;b&nbsp;<br>&nbsp;c", "a b\nc"),
        ("a&zwnj;&nbsp;&zwnj;&nbsp;&#847;&zwnj;&nbsp;b", "a b"),
        ("a&#8199;&#65279;&#847; &#8199;&#65279;&#847;<p>b", "a\n\nb"),
        ("ex&shy;am&shy;ple 12&#8203;34&#8288;56", "example 123456"),
        ("👨&zwj;👩 نمی&zwnj;بینم &zwnj;b", "👨\u200d👩 نمی\u200cبینم b"),
        ("山田　太郎", "山田　太郎"),
        ("<div>&zwnj;</div>a<div>&zwnj;&nbsp;&zwnj;</div>", "a"),
    ],
)
def test_invisible_characters(html: str, lines: str) -> None:
    assert text(html) == lines


# Tables.


@each_row(
    ("rows", "lines"),
    [
        ("<td>Your code</td><td>482913</td>", "Your code 482913"),
        ("<tr><td>Your code</td><td>482913</td></tr>", "Your code 482913"),
        ("<tr><td>a<td>b<tr><td>c<td>d", "a b\nc d"),
        ("<thead><tr><th>a<th>b<tbody><tr><td>c<td>d<tfoot><tr><td>e", "a b\nc d\ne"),
        ("<caption>a</caption><tr><td>b</td></tr>", "a\nb"),
        ("<tr><td><p>a</p></td><td><p>b</p></td></tr><tr><td>c</td>", "a b\n\nc"),
        ("<tr><td><div>a</div></td><td><div>b</div></td></tr><tr><td>c</td>", "a b\nc"),
        ("<tr><td></td><td>a</td><td> </td><td>b</td></tr>", "a b"),
        ("<tr><td>&nbsp;</td><td>a</td></tr><tr><td>&nbsp;</td><td>b</td></tr>", "a\nb"),
        ("<tr><td>a<br>b</td><td>c</td><td>d</td></tr>", "a\nb\nc\nd"),
        ("<tr><td>a</td><td><ul><li>b</li></ul></td></tr>", "a\n\nb"),
        ("<tr><td>a</td><td><table><tr><td>b<tr><td>c</table></td></tr>", "a\n\nb\nc"),
        ("<tr><td><b>a</b></td> <td>b</td></tr> <tr> <td>c</td> </tr>", "a b\nc"),
    ],
)
def test_rows_are_lines_and_cells_have_a_blank_between(rows: str, lines: str) -> None:
    assert text(f"<table>{rows}</table>") == lines
    assert text(f"x<table>{rows}</table>y") == f"x\n\n{lines}\n\ny"
    assert text(rows) == lines


# Hidden text.


@each_row(
    "hidden",
    [
        *("<div hidden>#</div>", "<p hidden>#<p>", "<div style='display:none'>#</div>"),
        *("<div style='color:red;DISPLAY : NONE !important;display:block'>#</div>",),
        *("<div style='display:block;display:none'>#</div>", "<i style='visibility:hidden'>#</i>"),
        *("<div style='max-height:0;overflow:hidden'>#</div>", "<div style='opacity:0'>#</div>"),
        *("<div style='height:0px;overflow:hidden'>#</div>", "<p style='font-size:0'>#</p>"),
        *("<p style='font:0/0 a'>#</p>", "<span style='display:/* x */none'>#</span>"),
        *("<span style='display&colon;none'>#</span>", "<div hidden><div>#</div>#</div>"),
        *("<div hidden><p>#</div>", "<div hidden><b>#</div>", "<b hidden><div>#</b></div>"),
        *("<div hidden><table><tr><td>#</div>#</table>#</div>", "<div hidden><br>#<hr></div>"),
        *("<ul><li hidden>#<li></ul>", "<table><td hidden>#<td></table>"),
        *("<table><tr hidden><td>#<td>#<tr><td></table>", "<div hidden></span></p>#</div>"),
        *("<table hidden><tr><td>#</table>", "<div hidden><img alt='#'></div>"),
        *("<img alt='#' hidden>", "<script>#</script>", "<style>#</style>", "<title>#</title>"),
        *("<template><p>#</p></template>", "<iframe>#</iframe>", "<svg><title>#</title></svg>"),
        *(
            "<noframes>#</noframes>",
            "<datalist><option>#</datalist>",
            "<svg><style>#</style></svg>",
        ),
        *("<!--[if mso]><p>#</p><![endif]-->", "<a hidden>#<a></a>", "<option hidden>#<option>"),
        *("<span style='display:none;font-size:1px;color:#fff'>#</span>", "<o:p hidden>#</o:p>"),
    ],
)
def test_hidden_text_is_not_read(hidden: str) -> None:
    html = f"<div>111111</div>{hidden.replace('#', '222222')}<div>333333</div>"
    assert text(html).split() == ["111111", "333333"]
    assert shown(html).replace("* ", "").split() == ["111111", "333333"]


@each_row(
    "seen",
    [
        *("<div hidden style='display:block'>#</div>", "<div style='display:none;display:block'>#"),
        *("<div style='visibility:hidden'><b style='visibility:visible'>#</b></div>",),
        *(
            "<td style='font-size:0'><div style='font-size:13px'>#</div>",
            "<p style='font-size:0.5px'>#",
        ),
        *("<td style='font-size:0'><div style='font:bold 13px/20px Arial'>#</div>",),
        *("<div style='font-size:0'><table><tr><td>#</table></div>", "<p style='opacity:0.9'>#"),
        *("<td style='font-size:0px'><img alt='#'>",),
        *("<div style='max-height:0'>#</div>", "<div style='height:0;font-size:10px'>#</div>"),
        *("<div style='mso-hide:all'>#</div>", "<div style='background:url(x);color:none'>#</div>"),
        *("<div hidden>x</div>#", "<div hidden><p>x</div>#", "<p hidden>x<div>#</div>"),
        *("<div hidden><table><tr><td>x</table></div>#", "<div hidden>x</p></span></div>#"),
        *("<b hidden>x</b>#", "<b hidden><i>x</b>#", "<div><b hidden><p>x</b>#</div>"),
        *("<!--[if !mso]><!-->#<!--<![endif]-->", "<![if !mso]>#<![endif]>", "<x-y>#</x-y>"),
        *("<svg><text>#</text></svg>", "<svg><p>#", "<div style=';;:;display'>#</div>"),
        *("<br style='display:none'>#", "<template>x</template>#", "<button hidden>x<button>#"),
    ],
)
def test_text_that_is_seen_is_read(seen: str) -> None:
    assert text(seen.replace("#", "222222")).split() == ["222222"]


@each_row(
    ("css", "element"),
    [
        (".x{display:none}", "p class=x"),
        (".x , .y {color:red;display:none!important}", "p class='z Y'"),
        ("p.x{display:none}", "p class=x"),
        ("#x{display:none}", "p id=x"),
        ("p#x{visibility:hidden}", "p id=x"),
        ("p{font-size:0}", "p"),
        ("@import 'a';@charset 'b';.x{display:none}", "p class=x"),
        ("@media print{.y{}}/*{*/.x{display:none/*}*/}", "p class=x"),
        ("<!-- .x{display:none} -->", "p class=x"),
        (".x{max-height:0;overflow:hidden}", "p class=x"),
        (".x{display:none!important}", "p class=x style='display:block'"),
        ("p.x{display:none}.x{display:block}", "p class=x"),
        (".x{display:block}.x{display:none}", "p class=x"),
        (".y{display:block}.x{display:none}", "p class='x y'"),
        (".x{display:none", "p class=x"),
        ("}.x{display:none}", "p class=x"),
    ],
)
def test_a_style_sheet_hides_text(css: str, element: str) -> None:
    page = f"<style>.q{{}}</style><style type=text/css>{css}</style>a<{element}>b</p>c"
    assert text(page) == "ac"


@each_row(
    ("css", "element"),
    [
        ("@media (max-width:9px){.x{display:none}}", "p class=x"),
        ("@media print{@supports(x){.x{display:none}}}", "p class=x"),
        (".x{display:none}", "p class=y"),
        (".x{display:none}", "p class=x style='display:block'"),
        (".x{display:none}#y{display:block}", "p class=x id=y"),
        (".x{display:none}.y{display:block}", "p class='y x'"),
        (".x{display:none}.x{display:block}", "p class=x"),
        (".y .x{display:none}", "p class=x"),
        (".x:hover,.x>.y,[class]{display:none}", "p class=x"),
        ("q.x{display:none}", "p class=x"),
    ],
)
def test_a_style_sheet_does_not_hide_text(css: str, element: str) -> None:
    assert text(f"<style>.q{{opacity:0}}{css}</style>a<{element}>b</p>c") == "a\n\nb\n\nc"


def test_the_first_classes_of_an_element_count() -> None:
    sheet, others = "<style>.x{display:none}</style>", "y " * (MOST_CLASSES - 1)
    assert text(f"{sheet}<p class='{others}x'>a") == ""
    assert text(f"{sheet}<p class='{others}y x'>a") == "a"


def test_a_style_sheet_for_paper_does_not_count() -> None:
    page = "<style media=print>p{display:none}</style><p>a"
    assert text(page) == "a"
    assert text(page.replace("print", "Screen")) == ""
    assert text(f"<template>{page.replace('print', 'all')}</template><p>b") == "b"


# Links.


@each_row(
    ("html", "links"),
    [
        ('<a title="a > b" href="https://a.test/x">', ["https://a.test/x"]),
        ('<a class="x"href="https://a.test/x">', ["https://a.test/x"]),
        (
            '<a href="https://a.test/?a=1&timestamp=5&region=eu">',
            ["https://a.test/?a=1&timestamp=5&region=eu"],
        ),
        ("<a href=https://a.test/?t=YQ==>", ["https://a.test/?t=YQ=="]),
        ("<a href='\n https://a.test/x\n?y=\tz '>", ["https://a.test/x?y=z"]),
        ("<map><area href=https://a.test/x></map>", ["https://a.test/x"]),
        ("<p hidden><a href=https://a.test/x>", ["https://a.test/x"]),
        ("<a href=a><a href=b><a name=c>", ["a", "b"]),
        ("<!-- <a href=a> --><script><a href=b></script><link href=c><base>", []),
        ("<base href=https://a.test/b/c><a href=d><a href=/e><a href='//f.test'>", None),
        ("<a href='x\0\x1b\ud800'>", ["x\ufffd"]),
    ],
)
def test_links(html: str, links: list[str] | None) -> None:
    if links is None:
        links = ["https://a.test/b/d", "https://a.test/e", "https://f.test"]
    assert read(html).links == links


@pytest.mark.parametrize(
    ("base", "link"),
    [
        *(
            ("https://[", "x"),
            ("x-msg://1/", "x"),
            ("cid:1", "x"),
            ("", "x"),
            ("https://a.test", ""),
        ),
        *(("https://a.test", "HTTPS://B.test/../x"), ("https://a.test/" + "b" * 6000, "x")),
    ],
)
def test_a_base_that_does_not_matter(base: str, link: str) -> None:
    found = read(f"<base href='{base}'><a href='{link}'>").links
    assert found == [link or base]


def test_many_links_with_a_long_base_stay_as_they_are() -> None:
    page = f"<base href=https://a.test/{'b/' * 2000}>" + "<a href=../x>" * 2_000
    found = read(page).links
    assert found[0] == f"https://a.test/{'b/' * 1999}x"
    assert found[-1] == "../x"
    assert sum(map(len, found)) < 3 * len(page)


def test_far_too_deep_elements_are_read_flat() -> None:
    deep = "<div>" * DEEPEST
    page = f"a{deep}<p hidden>b<td>c<td><a href=https://a.test/x>d</a><script>e</script>f</td>"
    assert read(page) == ("a\n\nb c df", ["https://a.test/x"])
    assert text(f"{page}{'</div>' * DEEPEST}<p hidden>g</p>h") == "a\n\nb c df\nh"


# Text for a terminal.


@each_row(
    ("html", "lines"),
    [
        ("<ul><li>a<li>b<p>c</ul>d", "* a\n* b\n\n  c\n\nd"),
        ("<ol><li>a<li>b<li value=9>c<li>d</ol>", "1. a\n2. b\n9. c\n10. d"),
        ("<ol start=3><li>a<ul><li>b<li>c</ul>d</ol>", "3. a\n   * b\n   * c\n   d"),
        ("<ol start=x><li value=''>a", "1. a"),
        ("<li>a<li>b", "* a\n* b"),
        ("<ul><li></li><li>a</ul>", "* a"),
        ("<ul hidden><li>x</ul><ol><li>a", "1. a"),
        (
            "a<blockquote>b<p>c<blockquote>d</blockquote></blockquote>e",
            "a\n\n> b\n\n> c\n\n> > d\n\ne",
        ),
        ("<p>a <a href=https://a.test/x>b</a>, c", "a b <https://a.test/x>, c"),
        ("<a href=https://a.test/x>https://a.test/x</a>", "https://a.test/x"),
        ("<a href=#top>a</a><a name=b>c</a>", "ac"),
        ("<a href=mailto:b@c.test>a</a>", "a <mailto:b@c.test>"),
        ("<a href=https://a.test/x><img alt=Logo src=x></a>", "Logo <https://a.test/x>"),
        ("<base href=https://a.test><a href=/x>a</a>", "a <https://a.test/x>"),
        ("<p hidden><a href=https://a.test/x>a</a></p>b", "b"),
        ("<table><tr><td>a<td><a href=https://a.test/x>b</a></table>", "a b <https://a.test/x>"),
    ],
)
def test_text_for_a_terminal(html: str, lines: str) -> None:
    assert shown(html, targets=True) == lines


def test_targets_are_shown_only_if_wanted() -> None:
    assert shown("<a href=https://a.test/x>a</a>") == "a"


# Any input.

PAGE = (
    "<!doctype html><html><head><title>T</title><style>p{}</style></head><body>"
    "<div style='display:none'>&zwnj;&nbsp;p</div><!-- c --><table><tr><td>a</td><td>b</td></tr>"
    "</table><ol start=2><li>x<ul><li>y</ul></ol><blockquote>q</blockquote><pre>\n r\n</pre>"
    "<svg><text>s</text></svg><a title='>' href=\"/u?a=1&amp;b=2\">v</a><script><!--</script>"
)

PIECES = st.sampled_from(
    [
        *("<p>", "<div hidden>", "<div style='display:none'>", "</div>", "</p>", "<b>", "</b>"),
        *("<table>", "<tr>", "<td>", "</td>", "</table>", "<ul>", "<ol>", "<li>", "</ul>", "<br>"),
        *("<a href=/x>", "</a>", "<blockquote>", "</blockquote>", "<svg>", "<title>", "</svg>"),
        *(
            "<pre>\n",
            "</pre>",
            "a",
            " b ",
            "&nbsp;",
            "&zwnj;",
            "&#27;",
            "&#13;",
            "&#10;",
            "\x1b[2J",
            "\0",
            "\ud800",
        ),
        *(
            "<style>",
            "</style>",
            "<!--",
            "-->",
            "<a href='",
            "'",
            '"',
            ">",
            "<",
            "&",
            "\r\n",
            "\x9b",
        ),
        *("<template>", "</template>", "<base href=https://a.test>", "<img alt=x>", "<option>"),
        *(
            "</tr>",
            "</li>",
            "</ol>",
            "<h1>",
            "</h1>",
            "<tbody>",
            "<textarea>",
            "<button>",
            "<![CDATA[",
        ),
    ]
)


def is_safe(lines: str) -> bool:
    lines.encode()
    return all(one in "\n\t" or not (one < " " or "\x7f" <= one < "\xa0") for one in lines)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
@example(PAGE)
@settings(max_examples=300, deadline=None)
def test_no_text_steers_a_terminal(html: str) -> None:
    found = read(html)
    assert is_safe(found.text)
    assert not any("\n" in link or "\t" in link or not is_safe(link) for link in found.links)
    assert is_safe(shown(html, targets=True))
    for lines in found.text, shown(html):
        assert "\n\n\n" not in lines
        assert not any(line.endswith((" ", "\xa0")) for line in lines.split("\n"))


def test_a_page_cut_anywhere_is_read() -> None:
    whole = read(PAGE)
    for end in range(len(PAGE)):
        begun = read(PAGE[:end])
        assert is_safe(begun.text)
        assert whole.links[: len(begun.links)] == begun.links
        shown(PAGE[:end], targets=True)


DEEP = (
    *("<div>", "<p>", "<b>", "<a href=/x>a", "<table><tr><td>a", "<ul><li>a", "<ol><li>a", "a<td>"),
    *(
        "<blockquote>a",
        "<svg><title>a",
        "<template>",
        "<div hidden>",
        "<pre>a",
        "<button>a",
        "a<tr>",
    ),
    *("<b hidden><div>a", "<select><option>a", "<table><a href=x>a", "<h1>a", "<svg><p>", "a<br>"),
)


@pytest.mark.parametrize("piece", DEEP)
def test_time_is_linear_at_any_depth(piece: str) -> None:
    before = time.process_time()
    ends = "</b></a></p></td></li></div></svg></span></table></ul></blockquote>"
    for html in (piece * 6_000, piece * 3_000 + ends * 600):
        read(html)
        shown(html, targets=True)
    # About 0.1 s; quadratic time would take a minute.
    assert time.process_time() - before < 7


@pytest.mark.parametrize(
    "html",
    [
        *("<a href='" + "x" * 100_000 + "'>", "<a " + "x=1 " * 100_000 + ">", "a" * 500_000),
        *("<a " + "".join(f"x{number} " for number in range(50_000)) + ">", "&amp;" * 100_000),
        *(
            "\0" * 500_000,
            "\ud800" * 200_000,
            " " * 500_000,
            "&nbsp;" * 100_000,
            "<" * 500_000,
        ),
        *("<p style='" + "display:none;" * 30_000 + "'>", "<pre>" + " \n" * 100_000),
        *(
            "<p style='" + "/*" * 200_000 + "'>",
            "<base href='" + "x" * 100_000 + "'><a href=x>",
        ),
    ],
    ids=lambda html: repr(html[:12]),
)
def test_memory_is_a_few_times_the_size(html: str) -> None:
    tracemalloc.start()
    try:
        before = time.process_time()
        read(html)
        assert time.process_time() - before < 20
        assert tracemalloc.get_traced_memory()[1] < 12 * len(html) + 200_000
    finally:
        tracemalloc.stop()
