"""Try the plugin for pytest beside other versions and plugins.

``python tests/plugin_matrix.py [WORD...]`` tries the rows whose names contain a word, or all.

It installs each row of the table below from a package index, in an environment of its own, and
prints what happened. Not part of the test suite: it needs the network and some minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from textwrap import dedent

PROJECT = Path(__file__).parents[1]

UNUSED = {
    "test_unused.py": """
        def test_nothing():
            pass
    """
}

USED = {
    "test_used.py": """
        import smtplib
        import pytest

        def send(inbox, **tls):
            with smtplib.SMTP(inbox.host, inbox.port, timeout=10) as client:
                if tls:
                    client.starttls(**tls)
                client.sendmail("a@b.test", [inbox.address], "Subject: hi\\n\\nhello\\n")

        @pytest.mark.parametrize("number", range(4))
        def test_inbox(smtp_inbox, number):
            send(smtp_inbox)
            assert [mail.subject for mail in smtp_inbox.messages] == ["hi"]

        @pytest.mark.smtp(tls="starttls")
        def test_marker(smtp_inbox, smtp_ca):
            send(smtp_inbox, context=smtp_ca.client_context())
            assert smtp_inbox.wait(subject="hi").text == "hello\\n"

        def test_server(smtp_server):
            send(smtp_server(size_limit=1000))

        @pytest.mark.xfail(strict=True)
        def test_fails(smtp_inbox):
            send(smtp_inbox)
            assert smtp_inbox.messages == ["other"]
    """
}

BESIDE = {
    **USED,
    "settings.py": "SECRET_KEY = 'x'",
    "test_django.py": """
        import pytest
        from django.core.mail import send_mail

        @pytest.fixture
        def outbox(smtp_inbox, settings):
            for name, value in smtp_inbox.django_settings().items():
                setattr(settings, name, value)
            return smtp_inbox

        def test_django(outbox):
            send_mail("Hi", "hello", "a@b.test", [outbox.address])
            assert outbox.wait(subject="Hi").sender == "a@b.test"
    """,
    "test_coroutines.py": """
        import asyncio
        import pytest
        import trio
        from test_used import send

        async def caught(inbox):
            task = asyncio.create_task(asyncio.to_thread(send, inbox))
            assert (await inbox.wait_async(subject="hi")).subject == "hi"
            await task

        @pytest.mark.asyncio
        async def test_asyncio(smtp_inbox):
            await caught(smtp_inbox)

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_anyio(smtp_inbox):
            await caught(smtp_inbox)

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["trio"])
        async def test_anyio_with_trio(smtp_inbox):
            await trio.to_thread.run_sync(send, smtp_inbox)
            assert await trio.to_thread.run_sync(smtp_inbox.wait)

        @pytest.mark.trio
        async def test_trio(smtp_inbox):
            await trio.to_thread.run_sync(send, smtp_inbox)
            assert await trio.to_thread.run_sync(smtp_inbox.wait)
    """,
    "test_others.py": """
        import smtplib

        MESSAGE = "Subject: hi\\n\\nhello\\n"

        def test_smtpdfix(smtpd, smtp_inbox):
            with smtplib.SMTP(smtpd.hostname, smtpd.port, timeout=10) as client:
                client.sendmail("a@b.test", ["c@d.test"], MESSAGE)
            assert len(smtpd.messages) == 1
            assert smtp_inbox.messages == []

        def test_localserver(smtpserver, smtp_inbox):
            with smtplib.SMTP(*smtpserver.addr, timeout=10) as client:
                client.sendmail("a@b.test", ["c@d.test"], MESSAGE)
            assert len(smtpserver.outbox) == 1
            assert smtp_inbox.messages == []
    """,
}

OTHERS = (
    "pytest-asyncio",
    "pytest-xdist",
    "pytest-randomly",
    "pytest-trio",
    "pytest-django",
    "django",
    "anyio",
    "trio",
    "smtpdfix",
    "pytest-localserver[smtp]",
)

ROWS: dict[str, tuple[dict[str, str], list[str]]] = {
    **{
        f"pytest {pytest}, pluggy {pluggy}": (
            USED if pytest >= "7.4" else UNUSED,
            [f"pytest=={pytest}", f"pluggy=={pluggy}"],
        )
        for pytest, pluggy in (
            ("7.0.1", "1.0.0"),
            ("7.1.3", "1.0.0"),
            ("7.2.1", "1.0.0"),
            ("7.3.2", "1.2.0"),
            ("7.4.0", "1.0.0"),
            ("7.4.4", "1.2.0"),
            ("8.0.2", "1.4.0"),
            ("8.4.2", "1.6.0"),
            ("9.0.0", "1.6.0"),
        )
    },
    "newest": (USED, ["pytest"]),
    **{f"{name} alone": (USED, ["pytest", name]) for name in OTHERS},
    "all together": (BESIDE, ["pytest", *OTHERS]),
    "all together, pytest 8": (BESIDE, ["pytest<9", *OTHERS]),
    "all together, pytest 7.4": (BESIDE, ["pytest==7.4.4", *OTHERS]),
}
"""Rows: tests to run, and what to install."""

VARIANTS = {
    "": [],
    # In this mode pytest-asyncio takes all coroutines, also those that need trio.
    "asyncio_mode=auto": ["-o", "asyncio_mode=auto", "-p", "no:randomly", "-k", "not trio"],
    "-n 2": ["-n", "2"],
}
"""Arguments of further runs with all plugins together."""


def ran(command: list[str], folder: Path) -> tuple[bool, str]:
    """Run a command; return True if it succeeded, and its output."""
    variables = dict(os.environ)
    if (folder / "settings.py").exists():
        variables["DJANGO_SETTINGS_MODULE"] = "settings"
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600
    )
    return done.returncode == 0, done.stderr + done.stdout


def tried(name: str, folder: Path) -> bool:
    """Install one row, run its tests, print the outcome, and return True if all is well."""
    files, wanted = ROWS[name]
    venv.create(folder / "venv")
    python = str(folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    installed, output = ran([*pip, f"{PROJECT}[devtls]", *wanted], folder)
    if not installed:
        print(f"{name}: cannot be installed\n{output}", flush=True)
        return False
    for file, text in files.items():
        (folder / file).write_text(dedent(text))
    okay = True
    for variant, args in VARIANTS.items():
        if variant and files is not BESIDE:
            continue
        # Only our own warnings matter here.
        strict = ["-q", "--strict-markers", "-W", "error:::aiosmtpd"]
        passed, output = ran([python, "-m", "pytest", *strict, *args], folder)
        last = output.strip().rpartition("\n")[2]
        print(f"{name} {variant}: {last if passed else output}", flush=True)
        okay = okay and passed
    return okay


def main() -> None:
    """Try the rows whose names contain one of the arguments, or all."""
    names = [name for name in ROWS if any(word in name for word in sys.argv[1:] or [""])]
    failed = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            if not tried(name, Path(folder)):
                failed.append(name)
    print(f"{len(names) - len(failed)} of {len(names)} rows are well", *failed, sep="\n  ")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
