"""Run the commands that a page shows in a console, and compare their output with the page."""

import doctest
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

EXAMPLES = Path(__file__).parent
PATIENCE = 30.0
"""Seconds to wait for any output."""

SHIMS = {
    "aiosmtpd": "-m aiosmtpd",
    "pytest": "-m pytest -p no:cacheprovider -p aiosmtpd.testing.plugin",
    "python": "",
}
NOT_OURS = {"PYTEST_ADDOPTS", "SMTP_HOST", "XDG_CACHE_HOME"}
"""Variables that would change what the commands do."""

PAGES_PORT = "8025"
"""The port in the text of a page; the commands get a free port."""


class Console:
    """The terminals of one page; a terminal with a name keeps its program running."""

    def __init__(self, folder: Path) -> None:
        self._running: dict[str, _Running] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        programs = folder / "bin"
        programs.mkdir()
        for name, arguments in SHIMS.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            (programs / name).chmod(0o755)
        for name in ("shop.py", "tickets.py", "aiosmtpd.toml"):
            shutil.copy(EXAMPLES / name, folder)
        for example in EXAMPLES.glob("test_*.py"):
            shutil.copy(example, folder)
        self._environment = {
            **{key: value for key, value in os.environ.items() if key not in NOT_OURS},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            # Other installed plugins would print lines of their own.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "COLUMNS": "80",
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
        }

    def check(self, terminal: str, text: str) -> None:
        """Run the commands after ``$`` and compare; raise AssertionError if they differ.

        ``^C`` interrupts the program of a terminal with a name.
        """
        before, *commands = f"\n{text}\n".split("\n$ ")
        if before.strip():
            self._running[terminal].compare(before.lstrip("\n"))
        for one in commands:
            command, _, output = one.partition("\n")
            self._run(terminal, command.replace(PAGES_PORT, self.port), output)

    def _run(self, terminal: str, command: str, output: str) -> None:
        if terminal:
            self._running[terminal] = _Running(command, self._environment, self.port)
            self._running[terminal].compare(output)
            return
        done = subprocess.run(  # noqa: S603 - the page's own
            ["/bin/sh", "-c", command],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=PATIENCE,
        )
        found = done.stdout.replace(self.port, PAGES_PORT)
        assert _same(output, found), f"$ {command}\n{found}"

    def close(self) -> None:
        """End the programs that still run."""
        for program in self._running.values():
            program.close()


class _Running:
    """A server in a terminal."""

    def __init__(self, command: str, environment: dict[str, str], port: str) -> None:
        self._port = port
        self._process = subprocess.Popen(  # noqa: S603 - the page's own
            ["/bin/sh", "-c", f"exec {command}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._wait_until_it_listens()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line.replace(self._port, PAGES_PORT))
        self._lines.put(None)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            try:
                socket.create_connection(("localhost", int(self._port))).close()
            except OSError:
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(0.05)
            else:
                return

    def compare(self, output: str) -> None:
        """Read until the program has printed this."""
        output, interrupt, rest = output.partition("^C\n")
        self._read_until(output)
        if interrupt:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE)
            self._read_until(rest)

    def _read_until(self, output: str) -> None:
        found = ""
        while not _same(output, found):
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                line = None
            assert line is not None, found
            found += line

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _same(expected: str, found: str) -> bool:
    # Blank lines at the end of a block are not part of a page.
    wanted, got = (f"{text.strip(chr(10))}\n" for text in (expected, found))
    return wanted == got or doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS)
