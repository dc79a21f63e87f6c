"""Codes, links and the readable text of messages in HTML."""

from typing import Any

import pytest

from aiosmtpd import Envelope, Session
from aiosmtpd.mail.message import DecodedMail
from tests.rows import each_row


def mail(html: str, text: str = "") -> DecodedMail:
    envelope = Envelope()
    envelope.mail_from, envelope.rcpt_tos = "shop@example.com", ["anna@example.org"]
    parts = {"plain": text, "html": html}
    body = "".join(
        f"--b\r\nContent-Type: text/{kind}; charset=utf-8\r\n\r\n{content}\r\n"
        for kind, content in parts.items()
        if content
    )
    head = "Subject: x\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n"
    envelope.original_content = f"{head}{body}--b--\r\n".encode()
    no_loop: Any = None
    return DecodedMail(Session(no_loop), envelope)


@each_row(
    "html",
    [
        "<head><title>x</title><body>code 482913",
        "<table><tr><td>Your code</td><td>482913</td></tr></table>",
        "<td>Your code</td><td>482913</td>",
        "<p style='display:none'>Your code is 111111</p><p>482913</p>",
        "<style>.preview{display:none}</style><p class=preview>111111<p>482913",
        "<p hidden>111111</p>code&nbsp;482913",
        "<p title='> 111111'>code:<br>482913</p>",
        "<!--[if mso]>111111<![endif]-->482&shy;913",
        "<a href='https://a.test/111111'>https://a.test/222222</a> 482913",
        "<p>&#52;82913</p>",
    ],
)
def test_the_code_is_the_one_that_a_reader_sees(html: str) -> None:
    assert mail(html).code() == "482913"


def test_a_hidden_code_is_not_a_code() -> None:
    with pytest.raises(LookupError, match="no code of 6 digits"):
        mail("<p style='display:none'>482913</p>").code()


def test_a_code_in_an_address_is_not_a_code() -> None:
    text = "<https://a.test/?token=abc\n111111> https://a.test/222222, 482913"
    assert mail("", text).code() == "482913"


@pytest.mark.parametrize(
    "html",
    [
        '<a title="a > b" href="https://a.test/?a=1&timestamp=5&region=eu">x</a>',
        '<a class="x"href="https://a.test/?a=1&timestamp=5&region=eu">x</a>',
        "<a href=https://a.test/?a=1&amp;timestamp=5&amp;region=eu>x</a>",
        "<base href=https://a.test/b><a href=/?a=1&timestamp=5&region=eu>x</a>",
        "<head><title>x</title><body><a href='https://a.test/?a=1&timestamp=5&region=eu'>",
    ],
)
def test_the_link_is_the_one_that_a_browser_opens(html: str) -> None:
    assert mail(html).links == ["https://a.test/?a=1&timestamp=5&region=eu"]


def test_links_of_the_text_come_first() -> None:
    both = mail("<a href=https://a.test/b><a href=mailto:x@a.test>", "“https://a.test/?t=a_”.")
    assert both.links == ["https://a.test/?t=a_", "https://a.test/b"]


def test_the_readable_text_keeps_tables_and_lists() -> None:
    page = (
        "<table><tr><th>Item<th>Price<tr><td>Pen<td>2 €</table>"
        "<ol><li>Pay<li>Wait</ol><blockquote>Thanks</blockquote>"
    )
    shown = "Item Price\nPen 2 €\n\n1. Pay\n2. Wait\n\n> Thanks"
    assert mail(page).readable == shown
    assert mail(page, "text").readable.strip() == "text"
