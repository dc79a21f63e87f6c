"""Copies of a message, which are run, and its links."""

import ast
import shlex
import smtplib
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.inbox import links
from aiosmtpd.inbox.copies import Places, copy, kinds, literal, slug, stable_part
from aiosmtpd.inbox.letter import Letter
from aiosmtpd.inbox.store import Store
from aiosmtpd.testing import Inbox
from tests.inbox.own_support import PAGE
from tests.inbox.support import add, mail

ODD = "a'b\"c\\d\r\ne\u202ef\U0001f600\udc80{}$(x)`y`"


def letter(store: Store, content: bytes = PAGE, **more: Any) -> Letter:
    stored = store.message(add(store, content, **more))
    assert stored is not None
    return Letter(stored)


def test_a_copy_as_a_test(store: Store) -> None:
    assert copy(letter(store), "pytest", Places()) == (
        "def test_reset_your_password(smtp_inbox):\n"
        "    ...  # here your program sends the message\n"
        '    mail = smtp_inbox.wait(to="bob@example.org", subject="Reset your password")\n'
        '    assert mail.sender == "ann@example.org"\n'
        '    assert mail.link("/reset/")\n'
        "    assert mail.code()  # 481205 in the message that was copied\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        PAGE,
        mail(),
        mail(subject=""),
        mail(subject="Grüße [*] \"q\" 'x'"),
        mail("see https://example.org/?a=1"),
        mail(more='Content-Type: application/pdf; name="a\\"b.pdf"\r\n'),
        mail("see https://[1::/reset and 481205"),
    ],
    ids=range(7),
)
def test_a_copied_test_passes_with_the_message(store: Store, content: bytes) -> None:
    copied = letter(store, content)
    code = copy(copied, "pytest", Places())
    with Inbox() as smtp_inbox:
        with smtplib.SMTP("127.0.0.1", smtp_inbox.port) as client:
            client.sendmail("ann@example.org", ["bob@example.org"], content)
        names: dict[str, Any] = {}
        exec(code, names)
        [function] = [value for name, value in names.items() if name.startswith("test_")]
        function(smtp_inbox)


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_copied_program_sends_the_message(
    store: Store, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = mail("Grüße\r\n.\r\n" + "x\r\n" * size)
    copied = letter(store, content)
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{copied.stored.id}.eml").write_bytes(content)
    with Inbox() as inbox:
        exec(copy(copied, "python", Places(f"127.0.0.1:{inbox.port}")), {})
        sent = inbox.wait(to="bob@example.org", sender="ann@example.org")
    assert sent.content == content


def test_a_copy_with_addresses_in_utf_8(store: Store) -> None:
    copied = letter(store, sender="jürgen@example.org")
    code = copy(copied, "python", Places("[::1]:25"))
    assert 'smtplib.SMTP("::1", 25)' in code
    assert code.rstrip().endswith("message, mail_options=['SMTPUTF8', 'BODY=8BITMIME'])")


@pytest.mark.parametrize("kind", ["send", "curl"])
def test_a_copied_command_is_two_lines(store: Store, kind: str) -> None:
    to = "-o$(x)@example.org"
    copied = letter(store, sender="", recipients=[to, "b'c@example.org"])
    get, send = copy(copied, kind, Places()).splitlines()
    file = f"{copied.stored.id}.eml"
    url = f"http://127.0.0.1:8025/api/message/{copied.stored.id}/copy?as=eml"
    assert shlex.split(get) == ["curl", "-o", file, url]
    words = shlex.split(send)
    assert words[-1] == file
    assert any(word.endswith(to) for word in words)
    assert ("--from=" in words) is (kind == "send")


def test_a_copy_as_an_address_to_wait_at(store: Store) -> None:
    copied = letter(store, mail(subject="A & B"))
    places = Places(web="http://box/mail/")
    assert copy(copied, "wait", places) == (
        "http://box/mail/api/wait?to=bob@example.org&subject=A%20%26%20B\n"
    )


@pytest.mark.parametrize("kind", kinds())
def test_odd_messages_can_be_copied(store: Store, kind: str) -> None:
    content = mail(
        ODD.replace("\udc80", ""), subject=ODD.replace("\r\n", " ").replace("\udc80", "")
    )
    copied = letter(store, content, sender=ODD, recipients=[ODD])
    text = copy(copied, kind, Places())
    if kind in ("pytest", "python"):
        ast.parse(text.encode("utf-8", "backslashreplace").decode())


def test_a_string_of_python() -> None:
    assert literal("a") == '"a"'
    for text in ODD, "'", '"', "'\"", "\\", "":
        assert ast.literal_eval(literal(text)) == text


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("Re: Your order #5!", "re_your_order_5"),
        ("✓", "the_message"),
        ("x" * 99, "x" * 50),
        ("Long " * 20, "_".join(["long"] * 10)),
    ],
)
def test_the_name_of_a_test(subject: str, name: str) -> None:
    assert slug(subject) == name


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("https://a.test/reset/1f2e3d?x=1", "/reset/"),
        ("https://a.test/reset?token=1", "/reset"),
        ("https://a.test/?token=1", "https://a.test"),
        ("https://a.test/7", "https://a.test"),
        ("https://a.test/a/b/abcdefghijklmnopq", "/a/b/"),
        ("https://[1::/reset", ""),
    ],
)
def test_the_stable_part_of_a_link(url: str, part: str) -> None:
    assert stable_part(url) == part


# Links.


def found(store: Store, html: str, **more: str) -> list[links.FoundLink]:
    field = "Content-Type: text/html\r\n"
    return links.find(letter(store, mail(html, more=field + more.get("more", ""))))


def test_links_with_their_places(store: Store) -> None:
    listed = found(
        store,
        '<a href="https://a.test/1"> one\n two </a><a class="btn" href="https://a.test/2">go</a>'
        '<a href="https://a.test/3"><img alt=logo></a><map><area alt=x href="https://a.test/4"></map>'
        '<a href="https://a.test/5">open',
        more="List-Unsubscribe: <https://a.test/6>, <mailto:x@a.test>\r\n",
    )
    assert [(one.url[-1], one.text, one.place) for one in listed] == [
        ("1", "one two", "html"),
        ("2", "go", "button"),
        ("3", "logo", "image"),
        ("4", "x", "image"),
        ("5", "open", "html"),
        ("6", "", "unsubscribe"),
        ("t", "", "unsubscribe"),
    ]


@pytest.mark.parametrize(
    ("anchor", "warning"),
    [
        ("<a href=''>x</a>", "the address is empty"),
        ("<a href='#'>x</a>", "no element of the message has the name ''"),
        ("<a href='#y'>x</a>", "no element of the message has the name 'y'"),
        ("<p id=y><a href='#y'>x</a>", None),
        ("<a href='/x'>x</a>", "the address is not absolute: mail programs cannot follow it"),
        ("<a href='javascript:x'>x</a>", "mail programs do not follow javascript: addresses"),
        ("<a href='mailto:a@b.c'>x</a>", None),
        ("<a href='https://'>x</a>", "the address has no host"),
        ("<a href='https://[x'>x</a>", "the address has no host"),
        ("<a href='http://example.org'>x</a>", "http: is not encrypted"),
        ("<a href='https://localhost:8000'>x</a>", "only some networks can reach localhost"),
        ("<a href='https://10.0.0.1/'>x</a>", "only some networks can reach 10.0.0.1"),
        (
            "<a href='https://staging.example.org'>x</a>",
            "staging.example.org looks like",
        ),
        ("<a href='https://example.org'>www.example.org</a>", None),
        ("<a href='https://example.org'>bank.com</a>", "its text names bank.com, it leads to"),
        ("<a href='https://example.org?utm_id=1&gclid=2'>x</a>", "parameters that track readers"),
        ("<a href='https://example.org/{{ id }}'>x</a>", "a placeholder is left in the address"),
    ],
)
def test_warnings_about_links(store: Store, anchor: str, warning: str | None) -> None:
    [link] = found(store, anchor)
    assert len(link.warnings) == (warning is not None)
    if warning is not None:
        assert link.warnings[0].startswith(warning)


@pytest.mark.parametrize(
    ("anchor", "wrong"),
    [
        ("<a href='http://localhost:3000/?utm_id=1'>x</a>", False),
        ("<a href='https://shop.example/reset'>x</a>", False),
        ("<a href='https://example.org'>bank.com</a>", True),
        ("<a href=''>x</a>", True),
    ],
)
def test_only_mistakes_make_a_link_wrong(store: Store, anchor: str, wrong: bool) -> None:
    [link] = found(store, anchor)
    assert link.json()["wrong"] is wrong
