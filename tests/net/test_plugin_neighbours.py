"""The plugin for pytest if it is not used: it must never end a run of other tests."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

OLD_PLUGGY = """
import sys, pytest
from _pytest.config import hookimpl

def old(*functions, **words):
    caller = sys._getframe(1).f_globals["__name__"]
    if "wrapper" in words and not caller.startswith("_pytest."):
        raise TypeError("__call__() got an unexpected keyword argument 'wrapper'")
    return hookimpl(*functions, **words)

pytest.hookimpl = old
"""
"""Lets only pytest itself use features that pluggy has from 1.2 on."""

NO_STASH = """
import pytest
del pytest.StashKey
"""
"""Takes away features that pytest has from 7.0 on."""

FIRST = """
import aiosmtpd
"""
"""Imports the package before pytest could rewrite its assertions."""

FAILS = """
def test_passes():
    pass

def test_fails():
    assert [1] == [2]
"""

USES = """
import smtplib

def test_passes(smtp_inbox):
    smtplib.SMTP(smtp_inbox.host, smtp_inbox.port).quit()

def test_fails(smtp_inbox):
    smtplib.SMTP(smtp_inbox.host, smtp_inbox.port).quit()
    assert not smtp_inbox.transcript
"""

LAZY = """
import smtplib
import aiosmtpd.mail.message

class Lazy:
    @property
    def __class__(self):
        raise RuntimeError("too early")

def test_passes():
    pass

def test_fails():
    assert [Lazy()] == [1]
"""

RUN = """
import sys, pytest
sys.exit(pytest.main(["-p", "no:cacheprovider", "-W", "error", *sys.argv[1:]]))
"""


PLUGIN = ("-p", "aiosmtpd.testing.plugin")
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Environment without other plugins: they need not bear old versions, and take time to load."""

SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")
ASYNCIO = ("-p", "pytest_asyncio.plugin", *SCOPE, "-o")


def run(folder: Path, before: str, tests: str, *args: str, **variables: str) -> str:
    """Run tests in a process of their own: one that passes and one that fails."""
    (folder / "test_it.py").write_text(dedent(tests))
    # With CI or BUILD_NUMBER, pytest itself tells more of a failure and asks objects more.
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "BUILD_NUMBER"}}
    done = subprocess.run(
        [sys.executable, "-c", before + RUN, *args],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, ""), done.stdout + done.stderr
    assert "1 failed, 1 passed in" in done.stdout
    return done.stdout


@pytest.mark.parametrize("before", [OLD_PLUGGY, NO_STASH, OLD_PLUGGY + NO_STASH])
def test_old_versions_run_without_the_fixtures(tmp_path: Path, before: str) -> None:
    run(tmp_path, before, FAILS, *PLUGIN, **ALONE)


def test_old_pluggy_has_transcripts(tmp_path: Path) -> None:
    assert (
        run(tmp_path, OLD_PLUGGY, USES, *PLUGIN, **ALONE).count(
            "- SMTP transcript of 127.0.0.1 port "
        )
        == 1
    )


def test_old_pytest_has_fixtures_without_transcripts(tmp_path: Path) -> None:
    assert "- SMTP transcript" not in run(tmp_path, NO_STASH, USES, *PLUGIN, **ALONE)


def test_a_package_imported_before_pytest(tmp_path: Path) -> None:
    # Only plugins that pytest finds by itself must be rewritten; hypothesis is slow to load.
    run(tmp_path, FIRST, FAILS, "-p", "no:hypothesispytest", *SCOPE)


def test_comparing_objects_that_are_lazy(tmp_path: Path) -> None:
    out = run(tmp_path, "", LAZY, *PLUGIN, **ALONE)
    assert "E       assert [" in out
    assert "RuntimeError" not in out.replace('raise RuntimeError("too early")', "")


AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for log in False, True:
        item._initrequest()
        runtestprotocol(item, log=log, nextitem=nextitem)
    return True
"""
"""Runs each test twice, as plugins for flaky tests do."""


def test_a_test_that_runs_again_has_one_transcript(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(AGAIN)
    out = run(tmp_path, "", USES, *PLUGIN, **ALONE)
    assert out.count("- SMTP transcript of 127.0.0.1 port ") == 1


MODES = """
import asyncio, pytest, smtplib

def send(inbox):
    with smtplib.SMTP(inbox.host, inbox.port, timeout=10) as client:
        client.sendmail("a@b.test", ["c@d.test"], "Subject: x")

async def caught(inbox):
    sending = asyncio.create_task(asyncio.to_thread(send, inbox))
    assert (await inbox.wait_async()).subject == "x"
    await sending

{mark}
async def test_passes(smtp_inbox):
    await caught(smtp_inbox)

{mark}
async def test_fails(smtp_inbox):
    await caught(smtp_inbox)
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("mark", "args"),
    [
        ("", [*ASYNCIO, "asyncio_mode=auto"]),
        ("@pytest.mark.asyncio", [*ASYNCIO, "asyncio_mode=strict"]),
        (
            "@pytest.mark.anyio",
            ["-p", "anyio.pytest_plugin", "-o", "anyio_mode=auto", *ASYNCIO, "asyncio_mode=strict"],
        ),
    ],
    ids=["asyncio auto", "asyncio strict", "anyio auto"],
)
def test_modes_of_plugins_for_coroutines(tmp_path: Path, mark: str, args: list[str]) -> None:
    out = run(tmp_path, "", MODES.format(mark=mark), *PLUGIN, *args, **ALONE)
    assert out.count("- SMTP transcript of 127.0.0.1 port ") == 1
