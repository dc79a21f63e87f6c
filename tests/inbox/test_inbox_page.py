"""The page of an inbox for tests: ``Inbox(web=True)`` and ``--smtp-inbox-web``."""

import builtins
import json
import smtplib
import socket
import sys
import time
from collections.abc import Callable
from textwrap import dedent
from typing import Any
from urllib.request import urlopen

import pytest

from aiosmtpd.testing import Inbox, page as _page
from tests.client import PATIENCE

pytest_plugins = ["pytester"]

SEND = """
import json
import smtplib
from urllib.request import urlopen

def send(inbox, subject="hi"):
    with smtplib.SMTP(inbox.host, inbox.port, timeout=10) as client:
        client.sendmail("shop@example.com", [inbox.address], f"Subject: {subject}\\n\\nhello\\n")

def rows(inbox):
    with urlopen(inbox.web_url + "api/v1/messages", timeout=10) as answer:
        return [(one["Subject"], one["Tags"]) for one in json.load(answer)["messages"]]
"""


def got(inbox: Inbox, path: str) -> Any:
    with urlopen(inbox.web_url + path, timeout=PATIENCE) as answer:
        return json.load(answer)


def send(inbox: Inbox, to: str = "bob@example.org") -> None:
    with smtplib.SMTP(inbox.host, inbox.port, timeout=PATIENCE) as client:
        client.sendmail("ann@example.org", [to], "Subject: Hi\n\nhello\n")


def test_an_inbox_with_a_page() -> None:
    with Inbox(web=True) as inbox:
        inbox.fail("rcpt", "550 5.1.1 no", recipient="no@*")
        send(inbox)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(inbox, "no@example.org")
        assert [mail.subject for mail in inbox.messages] == ["Hi"]
        [row] = got(inbox, "api/v1/messages")["messages"]
        assert row["Subject"] == "Hi"
        lines = got(inbox, f"api/message/{row['ID']}/smtp")["lines"]
        assert any("from:<ann@example.org>" in line["text"].lower() for line in lines)
        [attempt] = got(inbox, "api/rejected")["attempts"]
        assert attempt["fault"] == "rcpt to=no@*: 550 5.1.1 no"
        assert got(inbox, "api/settings")["port"] == inbox.port
        inbox.clear()
        assert got(inbox, "api/v1/messages")["total"] == 0
        assert got(inbox, "api/rejected")["total"] == 0
        assert got(inbox, "api/faults") == {"faults": []}
    assert inbox.web_url == ""


def test_a_page_ends_while_the_clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries for tests of times stop the clock that event loops have, too."""
    monkeypatch.setattr(_page, "PATIENCE", 0.3)
    inbox = Inbox(web=True)
    with monkeypatch.context() as stopped:
        stopped.setattr(time, "monotonic", lambda: 1e9)
        with inbox:
            send(inbox)
            url = inbox.web_url
    assert inbox.web_url == ""
    with pytest.raises(OSError, match="refused"):
        urlopen(url, timeout=PATIENCE)


def test_an_inbox_without_a_page() -> None:
    with Inbox() as inbox:
        assert inbox.web_url == ""


def test_a_page_with_lmtp_and_a_restart() -> None:
    inbox = Inbox(web=True, protocol="lmtp")
    for _ in range(2):
        with inbox:
            with smtplib.LMTP(inbox.host, inbox.port) as client:
                client.sendmail("ann@example.org", ["bob@example.org"], "Subject: Hi\n\n")
            assert got(inbox, "api/v1/messages")["total"] == 1


def test_a_wait_after_a_restart() -> None:
    inbox = Inbox(web=True)
    for _ in range(2):
        with inbox:
            send(inbox)
            assert got(inbox, f"api/wait?timeout={PATIENCE}")["total"] == 1


def test_a_second_start_leaves_the_page() -> None:
    with Inbox(web=True) as inbox:
        with pytest.raises(AssertionError, match="already running"):
            inbox.start()
        assert got(inbox, "api/v1/messages")["total"] == 0


def test_a_port_in_use_leaves_no_page() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        inbox = Inbox(web=True, port=sock.getsockname()[1])
        with pytest.raises(OSError, match="address already in use"):
            inbox.start()
        assert inbox.web_url == ""


def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [*sys.modules]:
        if name.startswith(("aiosmtpd.inbox.web", "aiosmtpd.testing.page", "uvicorn.")):
            monkeypatch.delitem(sys.modules, name)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_extra(monkeypatch)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "aiosmtpd\[inbox\]"'):
        Inbox(web=True)


# The option of the plugin.


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run a suite of tests in this process with the page."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    plugin = ("-p", "aiosmtpd.testing.plugin", "-p", "no:cacheprovider", "--smtp-inbox-web")

    def run(text: str) -> pytest.RunResult:
        pytester.makepyfile(SEND + dedent(text))
        return pytester.runpytest_inprocess(*plugin)

    return run


TESTS = """
    def test_one(smtp_inbox):
        send(smtp_inbox)
        assert rows(smtp_inbox) == [("hi", ["test_one"])]

    def test_two(smtp_server):
        inbox = smtp_server()
        send(inbox, "second")
        assert rows(inbox) == [("second", ["test_two"]), ("hi", ["test_one"])]
        assert len(inbox.messages) == 1
"""


def test_one_page_for_all_inboxes(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite(TESTS)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["the messages of this run: http://127.0.0.1:*/"])


def test_a_failure_keeps_the_page(
    suite: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def look() -> str:
        pages = [line for line in asked if line.startswith("http")]
        with urlopen(pages[-1].split(" ")[0] + "api/v1/messages", timeout=PATIENCE) as answer:
            seen.append(json.load(answer)["total"])
        raise EOFError

    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", look)
    monkeypatch.setattr("aiosmtpd.testing.plugin.is_on_terminal", lambda: True)
    monkeypatch.setattr(builtins, "print", lambda text, **_: asked.append(text))
    result = suite(TESTS + "\n    def test_wrong(smtp_inbox):\n        assert False\n")
    assert result.ret == 1
    assert seen == [2]


def test_without_inboxes_there_is_no_page(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("def test_nothing(): pass")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*the messages of this run*")


def test_the_option_needs_an_extra(
    suite: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_extra(monkeypatch)
    result = suite(TESTS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = '--smtp-inbox-web needs uvicorn: pip install "aiosmtpd[[]inbox]"'
    result.stderr.fnmatch_lines([f"*{line}"])
