"""The command line as a process, for tests."""

import io
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

import aiosmtpd
from aiosmtpd import main
from tests.client import PATIENCE, Client
from tests.conftest import Certificates

ROOT = Path(aiosmtpd.__file__).parent.parent
MODULE = ("-m", "aiosmtpd")
LISTENING = "Server is listening on "
MESSAGE = b"Subject: x\r\n\r\nbody\r\n.\r\n"

ROOT_ONLY = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root")


def environment(**more: str) -> dict[str, str]:
    """Return our environment without the variables of Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ours = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    return {**kept, **ours, **more}


class Ended(NamedTuple):
    """The result of a process."""

    code: int
    out: str
    err: str


class Program:
    """A process that ends with the `with` at the latest, and after some time by itself."""

    def __init__(self, *args: str, python: Sequence[str] = MODULE, **keywords: Any) -> None:
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
        keywords = {"stdin": subprocess.DEVNULL, "env": environment(), **keywords}
        # Unbuffered, so that communicate() finds what readline() has left.
        command = [sys.executable, *python, *args]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(command, bufsize=0, **keywords)
        self.addresses: list[str] = []
        # A test that waits for its output sees an end instead.
        self._watchdog = threading.Timer(2 * PATIENCE, self.process.kill)
        self._watchdog.start()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()
        self._watchdog.join()

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    def out_line(self) -> str:
        return self._line(self.process.stdout)

    def err_line(self) -> str:
        return self._line(self.process.stderr)

    def _line(self, stream: IO[bytes] | None) -> str:
        assert stream is not None
        return stream.readline().decode()

    def message(self) -> list[str]:
        """Read one printed message."""
        lines = [self.out_line()]
        while lines[-1] and "END MESSAGE" not in lines[-1]:
            lines.append(self.out_line())
        return lines

    def until(self, text: str) -> str:
        """Read the standard error up to the line with this text; return that line."""
        lines = [self.err_line()]
        while lines[-1] and text not in lines[-1]:
            lines.append(self.err_line())
        assert text in lines[-1], "".join(lines)
        return lines[-1]

    def listens(self) -> None:
        """Read the addresses at which it listens."""
        where = self.until(LISTENING).partition(LISTENING)[2]
        self.addresses = where.strip().split(" and ")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> Ended:
        out, err = self.process.communicate(timeout=PATIENCE)
        return Ended(self.process.returncode, (out or b"").decode(), (err or b"").decode())

    def end(self, number: int = signal.SIGTERM) -> Ended:
        self.send(number)
        return self.ended()


@contextmanager
def serving(*args: str, **keywords: Any) -> Iterator[Program]:
    """Run a server; without a `-l` among the arguments on a free port."""
    where = () if "-l" in args else ("-l", "127.0.0.1:0")
    with Program("-n", *where, *args, **keywords) as program:
        program.listens()
        yield program


def refused(*args: str, code: int = 2, cwd: Path | None = None) -> str:
    """Return the one line that a command says in this process before it exits with this code."""
    out, err = io.StringIO(), io.StringIO()
    with (
        as_left(),
        chdir(cwd or "."),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as caught,
    ):
        main.main(args)
    exit_code = caught.value.code
    assert isinstance(exit_code, int)
    return only_line(Ended(exit_code, out.getvalue(), err.getvalue()), code)


@contextmanager
def as_left() -> Iterator[None]:
    """Undo what the command line does for a process that is its own."""
    program, path, modules = main.PROGRAM, list(sys.path), set(sys.modules)
    loggers = [logging.getLogger(name) for name in (None, "mail.log", "mail.debug")]
    before = [(one, one.level, list(one.handlers)) for one in loggers]
    main.PROGRAM = "aiosmtpd"
    try:
        yield
    finally:
        main.PROGRAM = program
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if not name.startswith("aiosmtpd"):
                del sys.modules[name]
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


def refused_by_process(*args: str, code: int = 2, **keywords: Any) -> str:
    """Return the one line that a process says before it ends with this code."""
    with Program(*args, **keywords) as program:
        return only_line(program.ended(), code)


def only_line(ended: Ended, code: int) -> str:
    """Return the only line that a command has said; it must be on its standard error."""
    assert (ended.code, ended.out) == (code, ""), ended
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    return ended.err


def reach(address: str, tls: ssl.SSLContext | None = None) -> Client:
    """Connect to an address as the server spells it; any greeting will do."""
    host, _, port = address.rpartition(":")
    place = address if address.startswith("/") else (host.strip("[]"), int(port))
    client = Client(place, tls=tls, greet=False)
    client.greeting = client.reply()
    return client


def reach_tls(address: str, certificates: Certificates) -> Client:
    return reach(address, certificates.client_context())


def cert(certificates: Certificates, name: str) -> tuple[str, ...]:
    files = str(certificates.cert_file), str(certificates.key_file)
    return f"--{name}cert", files[0], f"--{name}key", files[1]


@contextmanager
def inherited(*args: str, **keywords: Any) -> Iterator[tuple[Program, int]]:
    """Run a server on a socket of ours: clients may come before it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd, port = sock.fileno(), sock.getsockname()[1]
        with Program("-n", "-l", f"fd:{fd}", *args, pass_fds=[fd], **keywords) as program:
            yield program, port
