"""Count the clients that ``aiosmtpd serve`` lets down when its workers are replaced or killed.

Run ``python benchmarks/fleet.py [MODE ...]``. Each mode starts a server with workers and a spool,
and a route to a function that writes the name of each message down. The clients send a message
again until it is acknowledged, in sessions of one to five messages.

reload: SIGHUP, again and again. kill9: kill -9 of a worker. kill9-master: kill -9 of the master,
and a new one. term: SIGTERM. Lost is a message that was acknowledged and never delivered; wanted: 0
in each mode. Tries beyond the first, resets, ends without a word and 421: 0 for reload.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from load import message

HERE = Path(__file__).parent
BODY = message(4000)
PATIENCE = 60.0
MARKS = (b'"event": "worker.ready"', b'"event": "config.reload"')

SINK = """
import os
FILE = os.open(os.environ["SINK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
async def take(mail):
    os.write(FILE, mail.recipients[0].partition("@")[0].encode() + b"\\n")
"""

CONFIGURATION = """
listen = ["smtp://127.0.0.1:{port}"]
workers = {workers}
user = "{user}"
hostname = "mx.test"
[limits]
connections_per_host = 0
[spool]
path = "spool"
min_free = 0
[[route]]
name = "sink"
to = "python:sink:take"
concurrency = 100
[log]
level = "info"
"""

ROWS = (
    "acknowledged",
    "tries beyond the first",
    "connections refused",
    "resets before the greeting",
    "resets later",
    "ends without a word",
    "ends after the final dot",
    "421",
    "other replies",
)


class Client(asyncio.Protocol):
    """One client: sends its messages one after another, each until it is acknowledged."""

    def __init__(self, number: int, load: "Load") -> None:
        self.number = number
        self.load = load
        self.count = 0

    def connected(self) -> None:
        self.buffer = b""
        self.left = random.randint(1, 5)
        self.stage = "greeting"
        self.loop_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def keep_on(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.load.is_over:
            self.connected()
            try:
                transport, _ = await loop.create_connection(
                    lambda: self, "127.0.0.1", self.load.port
                )
            except ConnectionRefusedError:
                self.load.seen["connections refused"] += 1
                await asyncio.sleep(0.02)
                continue
            except ConnectionError:
                self.load.seen["resets before the greeting"] += 1
                continue
            try:
                await asyncio.wait_for(self.loop_done, PATIENCE)
            finally:
                transport.close()
            await asyncio.sleep(random.uniform(0, 0.02))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\n") + 1) > 0:
            line, self.buffer = self.buffer[:end], self.buffer[end:]
            if line[3:4] == b" ":
                self.reply(line)

    def reply(self, line: bytes) -> None:
        if line.startswith(b"421"):
            self.load.seen["421"] += 1
            self.retry("left")
            return
        wanted, following = STAGES[self.stage]
        if not line.startswith(wanted):
            self.load.seen["other replies"] += 1
            self.retry("left")
        elif self.stage == "dot":
            self.load.acknowledged.add(self.name)
            self.load.seen["acknowledged"] += 1
            self.count += 1
            self.left -= 1
            over = self.left == 0 or self.load.is_over
            self.send("quit", b"QUIT\r\n") if over else self.begin()
        elif self.stage == "quit":
            self.stage = "left"
            self.transport.close()
        elif following == "mail":
            self.begin()
        else:
            self.send(following, self.text(following))

    def text(self, stage: str) -> bytes:
        if stage == "rcpt":
            return f"RCPT TO:<{self.name}@example.com>\r\n".encode()
        return {"ehlo": b"EHLO client.test\r\n", "data": b"DATA\r\n", "dot": BODY}[stage]

    @property
    def name(self) -> str:
        return f"{self.number}-{self.count}"

    def begin(self) -> None:
        self.send("mail", b"MAIL FROM:<sender@example.com>\r\n")

    def send(self, stage: str, data: bytes) -> None:
        self.stage = stage
        self.transport.write(data)

    def retry(self, stage: str) -> None:
        self.load.seen["tries beyond the first"] += 1
        self.stage = stage
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        seen = self.load.seen
        if self.stage not in ("left", "quit"):
            seen["tries beyond the first"] += 1
            if error is not None:
                early = self.stage == "greeting"
                seen["resets before the greeting" if early else "resets later"] += 1
            else:
                seen["ends without a word"] += 1
            if self.stage == "dot":
                seen["ends after the final dot"] += 1
        if not self.loop_done.done():
            self.loop_done.set_result(None)


STAGES = {
    "greeting": (b"220", "ehlo"),
    "ehlo": (b"250", "mail"),
    "mail": (b"250", "rcpt"),
    "rcpt": (b"250", "data"),
    "data": (b"354", "dot"),
    "dot": (b"250", ""),
    "quit": (b"221", ""),
}


class Load:
    """All clients, and what they have seen."""

    def __init__(self, port: int, clients: int) -> None:
        self.port = port
        self.is_over = False
        self.seen: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.tasks = [asyncio.ensure_future(Client(n, self).keep_on()) for n in range(clients)]

    async def stop(self) -> None:
        self.is_over = True
        for task in self.tasks:
            await task


async def until(happened: Callable[[], bool], pause: float = 0.01) -> bool:
    """Look again and again until this is so, or for a minute."""
    deadline = time.monotonic() + PATIENCE
    while not (is_so := happened()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(pause)
    return is_so


class Serving:
    """The server's processes."""

    def __init__(
        self, folder: Path, port: int, workers: int, configuration: str = CONFIGURATION
    ) -> None:
        self.folder = folder
        user = "root" if os.geteuid() == 0 else os.environ.get("USER", "")
        text = configuration.format(port=port, workers=workers, user=user)
        (folder / "aiosmtpd.toml").write_text(text)
        (folder / "sink.py").write_text(SINK)
        self.workers = workers
        self.log = folder / "log"
        self.log.touch()
        self.read = 0
        self.known: list[dict[str, Any]] = []
        self.ready_after = 0.0

    async def start(self) -> None:
        environment = {**os.environ, "SINK": str(self.folder / "got")}
        before, began = self.count("worker.ready"), time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-P", "-m", "aiosmtpd", "serve", "aiosmtpd.toml"],
                cwd=self.folder, env=environment, stderr=log,
            )  # fmt: skip
        await self.until(lambda: self.count("worker.ready") >= before + self.workers)
        self.ready_after = time.monotonic() - began

    async def until(self, happened: Callable[[], bool]) -> None:
        if not await until(lambda: happened() or self.process.poll() is not None):
            raise SystemExit("too late: see the log")
        if self.process.poll() is not None:
            raise SystemExit(self.log.read_text()[-3000:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name that the log has so far."""
        with self.log.open("rb") as file:
            file.seek(self.read)
            lines = file.read().rpartition(b"\n")[0].splitlines(keepends=True)
        self.read += sum(map(len, lines)) + bool(lines and not lines[-1].endswith(b"\n"))
        for line in lines:
            if any(mark in line for mark in MARKS):
                self.known.append(json.loads(line))
        return [one for one in self.known if one["event"] == name]

    def count(self, name: str) -> int:
        return len(self.events(name))

    def has_more(self, name: str, before: int) -> bool:
        return self.count(name) > before

    def is_new(self, slot: int, victim: int) -> bool:
        return self.newest(slot) != victim

    def newest(self, slot: int) -> int:
        pids = [one["worker"] for one in self.events("worker.ready") if one["slot"] == slot]
        return int(pids[-1])

    def rss(self) -> dict[str, list[int]]:
        """Return the memory of the master and of the workers in KiB."""
        pids = [self.process.pid, *(self.newest(slot) for slot in range(self.workers))]
        sizes = []
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            sizes.append(int(status.partition("VmRSS:")[2].split()[0]))
        return {"master": sizes[:1], "workers": sizes[1:]}

    def delivered(self) -> Counter[str]:
        got = self.folder / "got"
        return Counter(got.read_text().split() if got.exists() else ())

    async def end(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, PATIENCE)


async def reload(serving: Serving, options: argparse.Namespace) -> list[str]:
    seconds = []
    for _ in range(options.reloads):
        await asyncio.sleep(options.every)
        before, began = serving.count("config.reload"), time.monotonic()
        serving.process.send_signal(signal.SIGHUP)
        await serving.until(partial(serving.has_more, "config.reload", before))
        seconds.append(time.monotonic() - began)
    failed = [one for one in serving.events("config.reload") if one["result"] != "ok"]
    return [
        f"{options.reloads} reloads, {len(failed)} failed, the longest took {max(seconds):.2f} s"
    ]


async def kill9(serving: Serving, options: argparse.Namespace) -> list[str]:
    seconds = []
    for number in range(options.kills):
        await asyncio.sleep(20 / options.kills)
        slot = number % serving.workers
        victim, began = serving.newest(slot), time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await serving.until(partial(serving.is_new, slot, victim))
        seconds.append(time.monotonic() - began)
    seconds.sort()
    middle = seconds[len(seconds) // 2]
    return [
        f"{options.kills} kills of workers; served again after {middle:.2f} s (median), "
        f"{seconds[-1]:.2f} s (longest)"
    ]


async def kill9_master(serving: Serving, options: argparse.Namespace) -> list[str]:
    seconds = []
    for _ in range(3):
        await asyncio.sleep(3)
        workers = [serving.newest(slot) for slot in range(serving.workers)]
        serving.process.kill()
        serving.process.wait()
        began = time.monotonic()
        await until(partial(all_ended, workers))
        seconds.append(time.monotonic() - began)
        await serving.start()
    return [
        f"3 kills of the master; its workers had ended after {max(seconds):.2f} s at the latest"
    ]


async def term(serving: Serving, options: argparse.Namespace) -> list[str]:
    await asyncio.sleep(5)
    began = time.monotonic()
    code = await serving.end()
    return [f"SIGTERM: exit code {code} after {time.monotonic() - began:.2f} s"]


MODES = {"reload": reload, "kill9": kill9, "kill9-master": kill9_master, "term": term}


def all_ended(pids: list[int]) -> bool:
    return not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def run(mode: str, options: argparse.Namespace) -> None:
    with TemporaryDirectory() as name:
        port = free_port()
        serving = Serving(Path(name), port, options.workers)
        await serving.start()
        ready, load, began = serving.ready_after, Load(port, options.clients), time.monotonic()
        await asyncio.sleep(1)
        said = await MODES[mode](serving, options)
        rss = serving.rss() if mode != "term" else None
        await asyncio.sleep(0 if mode == "term" else 1)
        await load.stop()
        rate = len(load.acknowledged) / (time.monotonic() - began)
        if mode == "term":
            await serving.start()
        # An acknowledged message that is lost never comes.
        await until(lambda: load.acknowledged <= serving.delivered().keys(), 0.2)
        code = await serving.end()
        show(mode, [*said, f"{rate:,.0f} messages/s, ready after {ready:.2f} s"], load, serving)
        if rss is not None:
            print("  RSS in MiB:", {key: [kb >> 10 for kb in one] for key, one in rss.items()})
        print(f"  exit code at the end: {code}")


def show(mode: str, said: list[str], load: Load, serving: Serving) -> None:
    print(f"{mode}, {len(load.tasks)} clients, {serving.workers} workers")
    for line in said:
        print(f"  {line}")
    for row in ROWS:
        print(f"  {row:40}{load.seen[row]:9,}")
    delivered = serving.delivered()
    lost = load.acknowledged - delivered.keys()
    twice = sum(times > 1 for times in delivered.values())
    print(f"  {'acknowledged and lost':40}{len(lost):9,}")
    print(f"  {'delivered twice':40}{twice:9,}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("modes", nargs="*", default=list(MODES), metavar="MODE", help=f"{[*MODES]}")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two reloads")
    parser.add_argument("--kills", type=int, default=25, help="kills of workers in 20 s")
    options = parser.parse_args()
    for mode in options.modes:
        asyncio.run(run(mode, options))


if __name__ == "__main__":
    main()
