"""``aiosmtpd wait --link``: scripts get the address that a reader would click, unchanged."""

import os
import smtplib
from collections.abc import Callable
from functools import partial

import pytest

from tests.client import PATIENCE
from tests.net.program import Program, environment
from tests.net.test_cli_wait import run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are ended by POSIX signals")


LinkIn = Callable[..., str]


def send(port: int, message: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.sendmail("a@b.test", ["c@d.test"], message.encode())


@pytest.fixture
def link_in(capfd: pytest.CaptureFixture[str]) -> LinkIn:
    """Run the command here with a message; return what it prints."""

    def link_in(message: str, *args: str) -> str:
        assert run("--link", *args, client=partial(send, message=message)) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return out

    return link_in


def plain(text: str) -> str:
    return f"Content-Type: text/plain; charset=utf-8\nSubject: x\n\n{text}\n"


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("https://x.test/f\u00fc\u65e5", "https://x.test/f\u00fc\u65e5"),
        # Neither character is part of an address: RFC 3986 section 2, RFC 3987 section 4.1.
        ("https://x.test/a\x1b[2J", "https://x.test/a"),
        ("https://x.test/a\u202eb", "https://x.test/a"),
    ],
)
def test_an_address_in_text_is_printed_safely(text: str, link: str, link_in: LinkIn) -> None:
    assert link_in(plain(text)) == link + "\n"


@pytest.mark.parametrize(
    ("text", "link"),
    [
        # A token in base64url may end in any of its 64 letters: RFC 4648 section 5.
        ("Go to https://x.test/reset?token=abc_", "https://x.test/reset?token=abc_"),
        ("Go to https://x.test/reset?token=abc-.", "https://x.test/reset?token=abc-"),
        # RFC 3986 section 3.2.2: an IPv6 address ends in a bracket.
        ("See http://[::1]!", "http://[::1]"),
        ("See \u201chttps://x.test/a\u201d.", "https://x.test/a"),
        # Appendix C: a line may end inside angle brackets.
        ("Go to <https://x.test/reset?\ntoken=abc>", "https://x.test/reset?token=abc"),
    ],
)
def test_the_end_of_an_address(text: str, link: str, link_in: LinkIn) -> None:
    assert link_in(plain(text)) == link + "\n"


def test_an_address_that_the_output_cannot_show() -> None:
    env = environment(PYTHONIOENCODING="ascii")
    with Program("wait", "-l", "127.0.0.1:0", "--link", env=env) as program:
        program.listens()
        send(program.port, plain("https://x.test/f\u00fc"))
        assert program.ended() == (0, "https://x.test/f%C3%BC\n", "")


@pytest.mark.parametrize(
    "pattern", ["/reset?token=", "*/reset?token=*", "[::1]/reset", "/\\?token/"]
)
def test_patterns_may_have_signs_of_addresses(pattern: str, link_in: LinkIn) -> None:
    text = "http://[::1]/other and http://[::1]/reset?token=abc."
    assert link_in(plain(text), pattern) == "http://[::1]/reset?token=abc\n"
