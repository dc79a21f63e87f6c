"""The plugin for pytest, as a test suite uses it."""

import ast
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from textwrap import dedent

import pytest

from aiosmtpd.testing import Inbox

pytest_plugins = ["pytester"]

PLUGIN = ("-p", "aiosmtpd.testing.plugin", "-p", "no:cacheprovider")

SEND = """
import smtplib
import pytest

def send(inbox, subject="hi", **tls):
    with smtplib.SMTP(inbox.host, inbox.port, timeout=10) as client:
        if tls:
            client.starttls(**tls)
        if "me" in inbox.url:
            client.login("me", "secret")
        client.sendmail("shop@example.com", [inbox.address], f"Subject: {subject}\\n\\nhello\\n")
"""


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs begin quickly: pytester imports every plugin again for each."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run a suite of tests in this process."""
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = --strict-markers\n")

    def run(text: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(SEND + dedent(text))
        return pytester.runpytest_inprocess(*PLUGIN, *args)

    return run


def test_an_inbox_for_each_test(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("""
        seen = set()

        @pytest.mark.parametrize("number", range(3))
        def test_one(smtp_inbox, number):
            assert smtp_inbox.messages == []
            assert smtp_inbox.transcript == ""
            send(smtp_inbox)
            send(smtp_inbox)
            assert len(smtp_inbox.messages) == 2
            smtp_inbox.fail("mail", "450 busy")
            seen.add((smtp_inbox.port, smtp_inbox.address))

        def test_one_server_and_three_addresses():
            assert len({port for port, _ in seen}) == 1
            assert len({address for _, address in seen}) == 3
    """)
    result.assert_outcomes(passed=4)


def test_the_marker(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("""
        @pytest.mark.smtp(size_limit=10, users={"me": "secret"})
        class TestSmall:
            def test_too_big(self, smtp_inbox):
                with pytest.raises(smtplib.SMTPSenderRefused):
                    send(smtp_inbox)

            @pytest.mark.smtp(size_limit=1000, tls="starttls")
            def test_not_too_big(self, smtp_inbox, smtp_ca):
                assert smtp_inbox.ca_file == smtp_ca.ca_file
                send(smtp_inbox, context=smtp_ca.client_context())
                assert smtp_inbox.messages[0].session.ssl
    """)
    result.assert_outcomes(passed=2)


def test_servers_of_several_kinds(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("""
        servers = []

        def test_servers(smtp_inbox, smtp_server):
            lmtp, tls = smtp_server(protocol="lmtp"), smtp_server(tls="implicit")
            servers.extend([lmtp, tls])
            send(smtp_inbox)
            with smtplib.LMTP(lmtp.host, lmtp.port) as client:
                client.sendmail("a@b.test", ["c@d.test"], "Subject: x")
            context = tls.client_context()
            with smtplib.SMTP_SSL(tls.host, tls.port, context=context) as client:
                client.sendmail("a@b.test", ["c@d.test"], "Subject: x")
            assert [len(one.messages) for one in (smtp_inbox, lmtp, tls)] == [1, 1, 1]

        def test_they_have_stopped():
            for server in servers:
                with pytest.raises(OSError):
                    smtplib.SMTP(server.host, server.port)
    """)
    result.assert_outcomes(passed=2)


def test_the_report_of_a_failure(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("""
        def test_fails(smtp_inbox, smtp_server):
            smtp_server()
            send(smtp_inbox, "Welcome")
            smtp_inbox.wait(subject="Farewell", timeout=0)

        def test_passes(smtp_inbox):
            send(smtp_inbox)
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * no message with subject 'Farewell' came within 0 s; 1 that came:",
            "E *   <DecodedMail 'Welcome' from shop@example.com to inbox-*@example.com>:",
            "E *     subject 'Welcome', not 'Farewell'",
            "*- SMTP transcript of 127.0.0.1 port * -*",
            "#1 * S: 220 *",
            "#1 * -- * bytes of mail data",
        ]
    )
    assert result.stdout.str().count("SMTP transcript") == 1


def test_lists_of_messages_that_differ(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("""
        def test_fails(smtp_inbox):
            send(smtp_inbox, "Welcome")
            assert smtp_inbox.messages == ["Farewell"]

        def test_one_message(smtp_inbox):
            send(smtp_inbox, "Welcome")
            assert None == smtp_inbox.messages

        def test_no_message(smtp_inbox):
            assert smtp_inbox.messages == 1

        def test_another_operator(smtp_inbox):
            assert smtp_inbox.messages is None
    """)
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "E * the messages differ",
            "E *   left: 1",
            "E *     <DecodedMail 'Welcome' from shop@example.com to inbox-*@example.com>",
            "E *   right: 1",
            "E *     'Farewell'",
            "E *   left: 1",
            "E *     None",
        ]
    )


def test_tests_that_are_coroutines(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite(
        """
        import asyncio

        async def caught(inbox):
            task = asyncio.create_task(asyncio.to_thread(send, inbox, "Later"))
            assert (await inbox.wait_async(subject="later")).subject == "Later"
            await task

        @pytest.mark.asyncio
        async def test_with_pytest_asyncio(smtp_inbox):
            await caught(smtp_inbox)

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_with_anyio(smtp_inbox):
            await caught(smtp_inbox)
        """,
        *("-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    result.assert_outcomes(passed=2)


def test_workers_side_by_side(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        SEND
        + """
@pytest.mark.parametrize("number", range(40))
def test_one(smtp_inbox, number):
    send(smtp_inbox, str(number))
    (mail,) = smtp_inbox.messages
    assert mail.subject == str(number)
"""
    )
    result = pytester.runpytest_subprocess(*PLUGIN, "-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=40)


def test_the_entry_point_names_the_plugin() -> None:
    assert entry_points(group="pytest11")["aiosmtpd"].value == "aiosmtpd.testing.plugin"


def test_a_marker_that_type_checkers_know(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("""
        from aiosmtpd.testing import smtp_options

        @smtp_options(protocol="lmtp", hostname="mx.test")
        class TestLMTP:
            def test_one(self, smtp_inbox):
                assert smtp_inbox.url.startswith("lmtp://")

            @smtp_options(protocol="smtp")
            def test_the_closest_wins(self, smtp_inbox):
                assert smtp_inbox.url.startswith("smtp://")
    """)
    result.assert_outcomes(passed=2)


def test_a_misspelt_option_of_the_marker(suite: Callable[..., pytest.RunResult]) -> None:
    result = suite("""
        @pytest.mark.smtp(sizelimit=1)
        def test_one(smtp_inbox): ...
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*unexpected keyword argument 'sizelimit'. Did you mean 'size_limit'?"]
    )


def test_an_unused_plugin_imports_nothing() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import aiosmtpd.testing.plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ast.literal_eval(run.stdout) == [
        "aiosmtpd",
        "aiosmtpd._version",
        "aiosmtpd.testing",
        "aiosmtpd.testing.plugin",
    ]


def test_fixtures_of_our_own_suite(smtp_inbox: Inbox, smtp_server: Callable[..., Inbox]) -> None:
    assert smtp_inbox.port != smtp_server().port
