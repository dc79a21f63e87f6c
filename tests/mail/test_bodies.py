"""The parts that are shown as text or HTML, and those that are attached."""

from hypothesis import given, strategies as st

from aiosmtpd.mail.flowed import joined
from tests.mail.making import mail_of, multipart, part
from tests.rows import each_row

PLAIN = part("Content-Type: text/plain", "plain")
PAGE = part("Content-Type: text/html", "<p>page</p>")
NAMED = part("Content-Type: text/html; name=body.html", "<p>page</p>")
IMAGE = part("Content-Type: image/png; name=a.png", "png")
FILE = part("Content-Type: text/plain; name=a.txt", "file")
ATTACHED = part("Content-Type: text/plain\nContent-Disposition: attachment", "file")
IN_PAGE = part("Content-Type: text/html\nContent-ID: <a@b.test>", "frame")


# RFC 8621 section 4.1.4: a part that follows another is an attachment if it has a name.
@each_row(
    ("content", "text", "html", "attached"),
    [
        (NAMED, "", "<p>page</p>", []),
        (FILE, "file", "", []),
        (ATTACHED, "", "", [""]),
        (multipart("mixed", NAMED, IMAGE), "", "<p>page</p>", ["a.png"]),
        (multipart("mixed", PLAIN, NAMED), "plain", "", ["body.html"]),
        (multipart("mixed", PLAIN, FILE, PLAIN), "plain\nplain", "", ["a.txt"]),
        (multipart("alternative", PLAIN, NAMED), "plain", "<p>page</p>", []),
        (multipart("alternative", PLAIN, PAGE), "plain", "<p>page</p>", []),
        (multipart("related", PAGE, IN_PAGE, IMAGE), "", "<p>page</p>", ["", "a.png"]),
        (multipart("related", PLAIN, PAGE), "plain", "<p>page</p>", []),
        (multipart("x-new", PLAIN, IMAGE), "plain", "", ["a.png"]),
        (multipart("mixed", IMAGE, PLAIN), "plain", "", ["a.png"]),
    ],
)
def test_bodies_and_attachments(content: bytes, text: str, html: str, attached: list[str]) -> None:
    mail = mail_of(content)
    assert (mail.text, mail.html) == (text, html)
    assert [one.name for one in mail.attachments] == attached == [one.name for one in mail.attached]
    assert len(mail.bodies) + len(mail.attached) == sum(not one.parts for one in mail.parts)


def test_text_of_an_attached_message_is_not_the_text() -> None:
    message = part("Content-Type: message/rfc822", b"Subject: in\r\n\r\ninner")
    mail = mail_of(multipart("mixed", PLAIN, message))
    assert mail.text == "plain"
    assert [one.text for one in mail.parts if one.type == "text/plain"] == ["plain", "inner"]


# RFC 3676 section 4.
@each_row(
    ("text", "made"),
    [
        ("https://example.com/a \nb\n", "https://example.com/ab\n"),
        ("a \nb \nc\nd\n", "abc\nd\n"),
        ("> a \n> b\n", "> ab\n"),
        (">> a \n> b \nc\n", ">> a\n> b\nc\n"),
        (" > no quote\n From us\n", "> no quote\nFrom us\n"),
        ("a \n-- \nAnna\n", "a\n-- \nAnna\n"),
        ("> -- \n> Anna", "> -- \n> Anna"),
        ("a \n\nb", "a\nb"),
        (">\n> \n>>", ">\n>\n>>"),
        ("a ", "a "),
        ("", ""),
    ],
)
def test_soft_breaks_are_joined(text: str, made: str) -> None:
    mail = mail_of(part("Content-Type: text/plain; Format=Flowed; DelSp=Yes", text))
    assert mail.text == made


def test_without_delsp_the_blank_stays() -> None:
    mail = mail_of(part("Content-Type: text/plain; format=flowed", "one \r\ntwo\r\n"))
    assert mail.text == "one two\n"
    assert mail.bodies[0].text == "one \r\ntwo\r\n"


def test_a_link_that_was_cut_is_whole() -> None:
    text = "See https://example.com/reset?token= \r\nabcdef now\r\n"
    mail = mail_of(part("Content-Type: text/plain; format=flowed; delsp=yes", text))
    assert mail.links == ["https://example.com/reset?token=abcdef"]
    assert mail.readable == "See https://example.com/reset?token=abcdef now\n"


def test_only_plain_text_flows() -> None:
    mail = mail_of(part("Content-Type: text/html; format=flowed; delsp=yes", "a \nb"))
    assert mail.html == "a \nb"


@given(st.lists(st.sampled_from([">", " ", "a", "\n", "-- "])).map("".join), st.booleans())
def test_flowing_loses_nothing_but_blanks(text: str, without_blank: bool) -> None:
    made = joined(text, without_blank=without_blank)
    assert made.count("a") == text.count("a")
    assert made.count("\n") <= text.count("\n")
