"""Outlets made from URLs, and URLs as they are shown."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery.item import Misconfigured
from aiosmtpd.delivery.outlets import has_secret, make_outlet, shown
from aiosmtpd.delivery.outlets.maildir import MaildirOutlet
from aiosmtpd.delivery.outlets.place import parse
from aiosmtpd.delivery.outlets.smtp import SMTPOutlet
from aiosmtpd.delivery.outlets.webhook import WebhookOutlet
from tests.rows import each_row

WRONG = {
    "": "not a place to deliver to",
    "nothing": "not a place to deliver to",
    "/var/mail": "not a place to deliver to",
    "ftp://host": "not a place to deliver to",
    "smpt://host": "did you mean smtp:?",
    "smtp:host": "write smtp://HOST:PORT",
    "smtp://": "write smtp://HOST",
    "smtp://host:0": "invalid port: 0",
    "smtp://host:65536": "invalid port: 65536",
    "smtp://host:x": "write smtp://HOST or smtp://HOST:PORT",
    "smtp://host/path": "and nothing after it",
    "smtp://host?x=y": "and nothing after it",
    "smtp://a host": "write smtp://HOST",
    "smtp:///run/socket": "only lmtp:// goes to a Unix socket",
    "smtps://user@host": "AUTH needs a user and a password",
    "smtp://user:secret@host": "plain text",
    "lmtp://user:secret@host": "plain text",
    "maildir:": "write maildir:/path",
    "maildir://host/path": "write maildir:/path",
    "python:module": "write python:MODULE:FUNCTION",
    "python::function": "write python:MODULE:FUNCTION",
    "python:no_such_module:f": "cannot import no_such_module: ModuleNotFoundError",
    "python:os.path:nothing": "os.path has no nothing",
    "python:os:name": "'posix' is not a function",
    "command:": "write command:COMMAND",
    "command:  ": "write command:COMMAND",
    "https://": "a URL with a host is needed",
    "https://host:x/": "Invalid port",
    "https://user:secret/x@host/": "Invalid port",
    "https://user:x/secret@host/": "Invalid port",
    "https://host/#headers=secret": "option 'headers' cannot be in a URL",
    "smtp://ho\nst\x1b": "write smtp://HOST",
}


@each_row("url", WRONG)
def test_a_wrong_url_is_one_line(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_outlet(url)
    text = str(caught.value)
    assert WRONG[url] in text
    assert text.isprintable()
    assert "secret" not in text


@each_row(
    ("url", "options", "said"),
    [
        ("smtp://host", {"verfy": False}, "unknown option 'verfy': did you mean verify?"),
        ("smtp://host", {"color": 1}, "unknown option 'color': it has user, password, verify"),
        ("maildir:/x", {"color": 1}, "unknown option 'color': it has no options"),
        ("smtp://host", {"reply_timeout": 0}, "a timeout is more than 0 seconds"),
        ("smtp://host", {"hostname": "a b"}, "invalid hostname 'a b'"),
        ("smtp://host", {"cafile": "x"}, "cafile and context are for smtps://"),
        ("https://host", {"format": "xml"}, "format is raw or json, not 'xml'"),
        ("https://host", {"secret": "my secret"}, "write whsec_ and"),
        ("https://host", {"secret": "whsec_AAAA"}, "at least 16 bytes"),
        ("https://host", {"headers": {"A": "b\r\nC: d"}}, "that HTTP does not allow"),
        ("https://host", {"reply_timeout": -1}, "a timeout is more than 0 seconds"),
        ("https://host", {"reply_timeout": "soon"}, "not supported"),
    ],
)
def test_a_wrong_option_is_one_line(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_outlet(url, **options)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{url}: ")
    assert "my secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("smtps://host#verfy=no", "unknown option 'verfy': did you mean verify?"),
        ("smtps://host#verify", "write #verify=VALUE"),
        ("smtps://host#verify=maybe", "verify is yes or no, not 'maybe'"),
        ("smtps://host#verify=no&verify=no", "option 'verify' is there twice"),
        ("smtps://host#reply_timeout=soon", "reply_timeout is a number, not 'soon'"),
        ("smtps://host#context=x", "option 'context' cannot be in a URL"),
        ("https://host/#headers=x", "option 'headers' cannot be in a URL"),
        ("https://host/#secret=hidden", "secret: write whsec_"),
        ("https://host/#secret=file:/no/such", "secret: /no/such: No such file or directory"),
    ],
)
def test_a_wrong_option_in_a_url(url: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_outlet(url)
    assert said in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_options_in_a_url(tmp_path: Path) -> None:
    url = "smtps://me:p#ss@host#verify=no&reply_timeout=2.5&hostname=mx.example.com"
    hop = make_outlet(url, reply_timeout=3)
    assert isinstance(hop, SMTPOutlet)
    assert str(hop.place) == "smtps://host:465"
    assert hop.login == ("me", "p#ss")
    assert hop.tls is not None
    assert not hop.tls.verify
    assert (hop.reply_timeout, hop.hostname) == (3, "mx.example.com")
    (tmp_path / "a secret").write_text("whsec_" + "A" * 32 + "\n")
    hook = make_outlet(f"https://host/a?b=c#format=json&secret=file:{tmp_path}/a%20secret")
    assert isinstance(hook, WebhookOutlet)
    assert hook.url == "https://host/a?b=c"
    assert (hook.format, hook.keys) == ("json", (bytes(24),))
    assert isinstance(folder := make_outlet("maildir:/a#b=c"), MaildirOutlet)
    assert folder.folder == "/a#b=c"


@each_row(
    ("url", "expected"),
    [
        ("smtp://host", "smtp://host:25"),
        ("SMTP://host/", "smtp://host:25"),
        ("smtps://host", "smtps://host:465"),
        ("smtp+starttls://host", "smtp+starttls://host:587"),
        ("lmtp://host", "lmtp://host:24"),
        ("lmtp://[::1]:2424", "lmtp://[::1]:2424"),
        ("lmtp:///run/lmtp", "lmtp://unix:/run/lmtp"),
        ("lmtp://unix:/run/lmtp", "lmtp://unix:/run/lmtp"),
        ("lmtp://unix:///run/a%20b", "lmtp://unix:/run/a b"),
        ("smtps://me:p%40ss@host:1", "smtps://host:1"),
        ("smtps://me:p@ss@host:1", "smtps://host:1"),
    ],
)
def test_a_next_hop(url: str, expected: str) -> None:
    place = parse(url)
    assert str(place) == expected
    if "me:" in url:
        assert (place.user, place.password) == ("me", "p@ss")
        assert "p@ss" not in repr(place)


MASKED = {
    "smtp://host:25": "smtp://host:25",
    "smtp://user@host": "smtp://user@host",
    "smtps://user:hidden@host": "smtps://user:***@host",
    "smtps://user:hid@den@host": "smtps://user:***@host",
    "smtps://user:hid/den?x#y@host": "smtps://user:***@host",
    "nats://hidden@host/subject": "nats://***@host/subject",
    "nats://a:hidden@one,b:hidden@two/subject": "nats://***@two/subject",
    "https://hidden:hidden@host/path": "https://***@host/path",
    "https://host/path?token=hidden&page=2": "https://host/path?token=***&page=2",
    "https://host/?API_KEY=hidden": "https://host/?API_KEY=***",
    "https://host/services/T024/hidden7hidden7hidden7": "https://host/services/T024/***",
    "https://host/a-page-with-a-long-name-of-words": (
        "https://host/a-page-with-a-long-name-of-words"
    ),
    "https://user:hid/den@host/a@b": "https://***@b",
    "https://host:8080/a@b": "https://host:8080/a@b",
    "https://[::1]:8080/a@b": "https://[::1]:8080/a@b",
    "https://host/path#headers=hidden": "https://host/path#headers=***",
    "command:curl https://a:hidden@host/": "command:curl https://***@host/",
    "maildir:/var/mail/a@b": "maildir:/var/mail/a@b",
    "nonsense://user:hidden@host": "nonsense://user:***@host",
}


@each_row("url", MASKED)
def test_secrets_are_masked(url: str) -> None:
    assert shown(url) == MASKED[url]
    assert has_secret(url) == ("hid" in url)


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "httpx2":
            raise ModuleNotFoundError("No module named 'httpx2'", name="httpx2")
        return real(name, *args, **keywords)

    monkeypatch.delitem(sys.modules, "aiosmtpd.delivery.outlets.webhook", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Misconfigured) as caught:
        make_outlet("https://host/")
    assert str(caught.value) == 'https:// needs pip install "aiosmtpd[webhook]"'


def test_a_client_is_imported_when_a_route_has_it() -> None:
    code = """if 1:
        import sys
        from aiosmtpd.delivery.outlets import make_outlet
        clients = {"httpx2", "nats", "smtplib", "mailbox", "email"}
        print(*sorted(clients & {*sys.modules}))
        make_outlet("smtp://host")
        print(*sorted(clients & {*sys.modules} - {"email"}))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["", "smtplib"]
