"""The pytest plugin: inboxes as fixtures, and their transcripts in the report of a failure.

If the package is installed, pytest imports this module in each run. It imports nothing of ours
until a test uses one of its fixtures, and uses only what pytest 7.0 and pluggy 1.0 have: a run that
does not need it must not end because of it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Unpack

import pytest

if TYPE_CHECKING:
    from aiosmtpd.testing.authority import Authority
    from aiosmtpd.testing.inbox import Inbox, InboxKeywords, StartsInbox
    from aiosmtpd.testing.page import InboxPage

# Without a stash (pytest before 7.0) reports have no transcripts.
_INBOXES = pytest.StashKey[list[Any]]() if hasattr(pytest, "StashKey") else None
_PAGE = pytest.StashKey[Any]() if hasattr(pytest, "StashKey") else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the page."""
    parser.getgroup("aiosmtpd").addoption(
        "--smtp-inbox-web",
        action="store_true",
        help="show the messages of all inboxes on a page in the browser; after a failure, wait "
        "until you have looked at it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    text = "smtp(**options): options of the test's smtp_inbox, the same as those of Inbox"
    config.addinivalue_line("markers", f"{text} (tls='starttls', users=..., size_limit=...)")
    if config.getoption("smtp_inbox_web", False):
        for name in "starlette", "uvicorn", "wsproto":
            if find_spec(name) is None:
                text = f'--smtp-inbox-web needs {name}: pip install "aiosmtpd[inbox]"'
                raise pytest.UsageError(text)


def smtp_options(**options: Unpack[InboxKeywords]) -> pytest.MarkDecorator:
    """Return the marker ``pytest.mark.smtp`` with these options, which type checkers know.

    Raises TypeError for an unknown option.
    """
    from aiosmtpd.protocol.settings import check_names
    from aiosmtpd.testing.inbox import OwnKeywords

    own = OwnKeywords.__annotations__
    check_names(options.keys() - own.keys(), "Inbox", own)
    return pytest.mark.smtp(**options)


@pytest.fixture(scope="session")
def smtp_ca() -> Iterator[Authority]:
    """A certificate authority for all servers of the run: ``ca_file``, ``client_context()``."""
    from aiosmtpd.testing.authority import Authority

    authority = Authority()
    yield authority
    authority.close()


@pytest.fixture(scope="session")
def _smtp_shared(request: pytest.FixtureRequest) -> Iterator[Inbox]:
    from aiosmtpd.testing.inbox import Inbox

    with Inbox(web=_page(request.config) or False) as inbox:
        yield inbox


def _page(config: pytest.Config) -> InboxPage | None:
    """Return the page of the run, which the first inbox starts; None if it is not wanted."""
    # A worker of pytest-xdist has no terminal that says where its page is.
    if (
        _PAGE is None
        or not config.getoption("smtp_inbox_web", False)
        or hasattr(config, "workerinput")
    ):
        return None
    if _PAGE not in config.stash:
        from aiosmtpd.testing.page import InboxPage  # needs an extra

        config.stash[_PAGE] = InboxPage(usual_port=True)
        config.stash[_PAGE].start()
    page: InboxPage = config.stash[_PAGE]
    return page


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Say where the page is."""
    page = config.stash.get(_PAGE, None) if _PAGE is not None else None
    if page is not None:
        page.ask_to_look = exitstatus == 1 and is_on_terminal()
        terminalreporter.write_line(f"the messages of this run: {page.url}")


def is_on_terminal() -> bool:
    """Return True if a person can press a key."""
    streams = sys.__stdin__, sys.__stdout__
    return all(stream is not None and stream.isatty() for stream in streams)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the page; after a failure, when a person at the terminal wants it to end."""
    if _PAGE is None or (page := config.stash.get(_PAGE, None)) is None:
        return
    del config.stash[_PAGE]
    if page.ask_to_look:
        print(f"{page.url} stays until you press Enter", flush=True)
        with suppress(KeyboardInterrupt, EOFError):
            input()
    page.stop()


@pytest.fixture
def smtp_server(request: pytest.FixtureRequest) -> Iterator[StartsInbox]:
    """A function that starts an :class:`aiosmtpd.testing.Inbox`; all stop when the test ends."""
    from aiosmtpd.testing.inbox import Inbox

    with ExitStack() as stack:

        def start(**options: Unpack[InboxKeywords]) -> Inbox:
            if options.get("tls"):
                options.setdefault("authority", request.getfixturevalue("smtp_ca"))
            if (page := _page(request.config)) is not None:
                options.setdefault("web", page)
            inbox = stack.enter_context(Inbox(**options))
            _remember(request, inbox)
            return inbox

        yield start


@pytest.fixture
def smtp_inbox(request: pytest.FixtureRequest) -> Inbox:
    """An empty :class:`aiosmtpd.testing.Inbox`, whose server runs during the whole test run.

    With a marker ``smtp``, a test gets its own server with the options of the marker.
    """
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("smtp"):
        # The closest marker comes first and takes precedence.
        options = {**marker.kwargs, **options}
    if options:
        start: StartsInbox = request.getfixturevalue("smtp_server")
        return start(**options)
    inbox: Inbox = request.getfixturevalue("_smtp_shared")
    inbox.clear()
    _remember(request, inbox)
    return inbox


def _remember(request: pytest.FixtureRequest, inbox: Inbox) -> None:
    if (page := _page(request.config)) is not None:
        # The messages of a test have its name as a tag.
        page.tag = request.node.name
    if _INBOXES is not None:
        request.node.stash.setdefault(_INBOXES, []).append(inbox)


# Not wrapper=True, the form that pluggy recommends: pluggy has it only from 1.2 on.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, Any, None]:
    """Add the transcripts to the report of a failure."""
    outcome = yield
    if _INBOXES is None:
        return
    inboxes = item.stash.get(_INBOXES, [])
    if outcome.excinfo is None and (report := outcome.get_result()).failed:
        for inbox in inboxes:
            if transcript := inbox.transcript:
                title = f"SMTP transcript of {inbox.host} port {inbox.port}"
                report.sections.append((title, transcript))
    if call.when == "teardown":
        # The item lives until the end of the run, and may run again before it.
        inboxes.clear()


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """List the messages on both sides if the comparison involves messages."""
    module = sys.modules.get("aiosmtpd.mail.message")
    if op != "==" or module is None:
        return None
    found = [side for side in (left, right) if isinstance(side, list)]
    # Not isinstance(): it asks an object for its class, and a lazy one may raise or do work then.
    if not any(issubclass(type(one), module.DecodedMail) for side in found for one in side):
        return None
    lines = ["the messages differ"]
    for name, side in ("left", left), ("right", right):
        messages = side if isinstance(side, list) else [side]
        lines.append(f"{name}: {len(messages)}")
        lines += [f"  {one!r}" for one in messages]
    return lines
