"""Servers of ours to attack: each a process of its own, ended with the `with`."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.attack.wire import PATIENCE, Attacker, Place, Skipped

TARGET = Path(__file__).with_name("target.py")
ROOT = TARGET.parent.parent.parent


@attrs.frozen
class Victim:
    """A server that was started for an attack, and the files that it writes."""

    place: Place
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def mailbox(self) -> Path:
        return self.folder / "box"

    def delivered(self) -> list[dict[str, Any]]:
        """Return the records that the handler wrote."""
        file = self.folder / "deliveries"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def log(self) -> str:
        file = self.folder / "log"
        # As it is: universal newlines would hide a forged line.
        return file.read_bytes().decode("utf-8", "replace") if file.exists() else ""

    def errors(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")

    def tasks(self) -> int:
        """Return how many tasks its event loop has, when those that end have ended."""
        if self.process.stdout is None:
            raise Skipped("its command line counts no tasks")
        self.process.send_signal(signal.SIGUSR1)
        return int(self.process.stdout.readline())

    def end(self, number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@attrs.define
class Starter:
    """Starts servers with one Python; *python* is its path, ours by default.

    With *reuse* all tests that borrow a server of one kind share it.
    """

    python: str = sys.executable
    flags: tuple[str, ...] = ()
    reuse: bool = False
    _lent: dict[str, Victim] = attrs.field(factory=dict)
    _lending: threading.Lock = attrs.field(factory=threading.Lock)
    _servers: ExitStack = attrs.field(factory=ExitStack)
    _folder: "tempfile.TemporaryDirectory[str]" = attrs.field(
        factory=lambda: tempfile.TemporaryDirectory(prefix="attack-")
    )

    @property
    def foreign(self) -> bool:
        return self.python != sys.executable

    def pem(self) -> Path:
        """Return the certificate of all TLS servers, with its key."""
        import trustme

        path = Path(self._folder.name) / "server.pem"
        if not path.exists():
            issued = trustme.CA().issue_cert("127.0.0.1")
            issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    @property
    def folder(self) -> str:
        return self._folder.name

    def strict(self) -> "Starter":
        """Return one that starts servers with all warnings as errors."""
        return attrs.evolve(self, flags=("-X", "dev", "-W", "error"))

    def __enter__(self) -> "Starter":
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()
        self._folder.cleanup()

    @contextmanager
    def lend(self, mode: str, options: Mapping[str, Any]) -> Iterator[Victim]:
        """Give a server of this mode, which may have been attacked before."""
        if not self.reuse:
            with self.serve(mode, **options) as victim:
                yield victim
            return
        key = json.dumps([mode, dict(options)])
        with self._lending:
            if key not in self._lent or self._lent[key].process.poll() is not None:
                self._lent[key] = self._servers.enter_context(self.serve(mode, **options))
            victim = self._lent[key]
        yield victim

    @contextmanager
    def serve(self, mode: str, *wrapper: str, **options: Any) -> Iterator[Victim]:
        """Run a server of this mode; *options* are those of ``target.py``."""
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        folder.chmod(0o755)
        with open(folder / "stderr", "wb") as errors:
            if mode == "cli":
                process, port = self._run_command_line(folder, errors, options.get("keywords", {}))
            else:
                process, port = self._run_target(mode, wrapper, folder, errors, options)
        place = Place("127.0.0.1", port, mode, process.pid)
        try:
            if mode == "cli":
                # Its socket is ours: it takes connections before the server is there.
                Attacker(place).close()
            yield Victim(place, folder, process)
        finally:
            process.kill()
            process.communicate()

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        ours = {} if self.foreign else {"PYTHONPATH": str(ROOT)}
        return {**kept, **ours}

    def _run_target(
        self, mode: str, wrapper: tuple[str, ...], folder: Path, errors: Any, more: dict[str, Any]
    ) -> "tuple[subprocess.Popen[bytes], int]":
        options = {
            "mode": mode,
            "handler": "keep",
            "keywords": {},
            "auth": False,
            "level": "WARNING",
            "seconds": 0.0,
            "rlimit": {},
            "next_hop": 0,
            "folder": str(folder / "box"),
            "deliveries": str(folder / "deliveries"),
            "log": str(folder / "log"),
            "pem": str(self.pem()) if mode in ("starttls", "smtps") else "",
            **more,
        }
        command = [*wrapper, self.python, *self.flags, "-P", str(TARGET), json.dumps(options)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=self.environment(), cwd=folder
        )
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            process.wait()
            text = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
            raise Skipped(f"the server cannot be started so: {text.strip().splitlines()[-1:]}")
        return process, int(port)

    def _run_command_line(
        self, folder: Path, errors: Any, keywords: dict[str, Any]
    ) -> "tuple[subprocess.Popen[bytes], int]":
        if self.foreign:
            raise Skipped("its command line takes no inherited socket")
        # A socket of ours: clients may come before the process is ready.
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
            listen = f"fd:{sock.fileno()}"
            command = [self.python, *self.flags, "-m", "aiosmtpd", "-n", "-l", listen, "-c", "Sink"]
            if "data_size_limit" in keywords:
                command += ["-s", str(keywords["data_size_limit"])]
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=self.environment(),
                pass_fds=[sock.fileno()],
                cwd=folder,
            )
            return process, int(sock.getsockname()[1])
