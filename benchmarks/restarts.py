"""Count the clients that a rolling restart lets down: one server process replaces another.

Run ``python benchmarks/restarts.py``. This process holds the listening socket and never closes it.
Two server processes serve it by ``fd:``, each with 1 ms of CPU for a message. In turn, a new one
is started and the old one gets SIGTERM. Half of the clients send one message for each
connection; the others keep theirs until the server ends it. Wanted: no reset, no end without a
word, no 421 for the first half within linger; and for the others one 421 for each connection that
ended, between two transactions.
"""

import argparse
import asyncio
import logging
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from load import DATA, EHLO, MAIL, QUIT, RCPT, SMALL

WORKERS = 2
PATIENCE = 30.0
STEPS = ((MAIL, b"250"), (RCPT, b"250"), (DATA, b"354"), (SMALL, b"250"))

WHERE = {
    "connect": "before the first one",
    "begun": "before the first one",
    "rest": "between transactions",
    "transaction": "in a transaction",
}
"""The place of a 421, by the stage of the client."""

ROWS = (
    "sessions of one message",
    "messages on kept connections",
    "421 to a kept connection, between transactions",
    "421 to a kept connection, before the first one",
    "421 to a kept connection, in a transaction",
    "421 to a client of one message, within linger",
    "421 to a client of one message, later",
    "reset before the banner",
    "reset later",
    "end without a word",
    "other replies",
)


class Handler:
    """Work for a while, so that clients wait in the accept queue."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        return "250 OK"


async def serve(descriptor: str, linger: float) -> None:
    """Be a server process: serve the socket until SIGTERM."""
    from aiosmtpd import Server

    logging.getLogger("mail.log").setLevel(logging.ERROR)
    server = Server(Handler(), listen=f"fd:{descriptor}", hostname="mx.test")
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    print("ready", flush=True)
    await stopping.wait()
    await server.stop(PATIENCE, linger=linger)


class Said421(Exception):
    """The server takes its leave."""


class Clients:
    """The load, and what it has seen."""

    def __init__(self, port: int, linger: float) -> None:
        self.port = port
        self.linger = linger
        self.seen: Counter[str] = Counter()
        self.are_done = False

    async def keep_on(self, session: Callable[[], Awaitable[None]]) -> None:
        while not self.are_done:
            await session()
            await asyncio.sleep(random.uniform(0.1, 0.3))

    async def converse(self, is_kept: bool) -> None:
        """Run one connection, and count how it ends."""
        stage = "connect"
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            self.seen["reset before the banner"] += 1
            return

        async def ask(data: bytes, code: bytes) -> None:
            writer.write(data)
            while (line := await asyncio.wait_for(reader.readline(), PATIENCE))[3:4] == b"-":
                pass
            if line.startswith(b"421"):
                raise Said421
            if not line:
                raise EOFError
            if not line.startswith(code):
                self.seen["other replies"] += 1

        try:
            await ask(b"", b"220")
            stage = "begun"
            await ask(EHLO, b"250")
            while True:
                for data, code in STEPS:
                    await ask(data, code)
                    stage = "transaction"
                stage = "rest"
                if not is_kept or self.are_done:
                    break
                self.seen["messages on kept connections"] += 1
                await asyncio.sleep(random.uniform(0.1, 0.3))
            await ask(QUIT, b"221")
            self.seen["sessions of one message"] += not is_kept
        except Said421:
            self.seen[self.farewell(is_kept, stage, time.monotonic() - began)] += 1
            if await reader.read():
                self.seen["other replies"] += 1
        except ConnectionError:
            self.seen["reset before the banner" if stage == "connect" else "reset later"] += 1
        except EOFError:
            self.seen["end without a word"] += 1
        finally:
            writer.close()

    def farewell(self, is_kept: bool, stage: str, seconds: float) -> str:
        """Return the row of a 421."""
        if is_kept:
            return f"421 to a kept connection, {WHERE[stage]}"
        # On a machine that has more to do, a session may take longer than linger.
        when = "within linger" if seconds < self.linger else "later"
        return f"421 to a client of one message, {when}"

    def one(self) -> Awaitable[None]:
        return self.converse(False)

    def kept(self) -> Awaitable[None]:
        return self.converse(True)


class Master:
    """The holder of the socket: it starts and ends server processes."""

    def __init__(self, sock: socket.socket, linger: float) -> None:
        self.sock = sock
        self.linger = linger
        self.running: list[asyncio.subprocess.Process] = []
        self.old: list[asyncio.subprocess.Process] = []

    async def start_one(self) -> None:
        descriptor = str(self.sock.fileno())
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--serve", descriptor, "--linger", str(self.linger),
            pass_fds=[self.sock.fileno()], stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.running.append(process)
        assert process.stdout
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("a server process did not start")

    async def restart_one(self) -> None:
        """Start a process; when it is ready, let the oldest one end."""
        await self.start_one()
        self.old.append(self.running.pop(0))
        self.old[-1].terminate()

    async def end(self) -> list[int]:
        """End all; return their exit codes."""
        for process in self.running:
            process.terminate()
        return [await process.wait() for process in self.old + self.running]


async def run(options: argparse.Namespace) -> Counter[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        master = Master(sock, options.linger)
        try:
            for _ in range(WORKERS):
                await master.start_one()
            clients = Clients(sock.getsockname()[1], options.linger)
            async with asyncio.TaskGroup() as group:
                for number in range(options.clients):
                    session = clients.kept if number % 2 else clients.one
                    group.create_task(clients.keep_on(session))
                for _ in range(options.restarts):
                    await asyncio.sleep(options.every)
                    await master.restart_one()
                await asyncio.sleep(options.linger)
                clients.are_done = True
        finally:
            codes = await master.end()
    clients.seen["exit codes other than 0"] = sum(code != 0 for code in codes)
    return clients.seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--restarts", type=int, default=15)
    parser.add_argument("--every", type=float, default=0.6, help="seconds between two restarts")
    parser.add_argument("--linger", type=float, default=2.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.linger))
        return
    began = time.monotonic()
    seen = asyncio.run(run(options))
    print(f"{options.restarts} restarts in {time.monotonic() - began:.1f} s, ", end="")
    print(f"{options.clients} clients, linger {options.linger:g} s")
    for row in (*ROWS, "exit codes other than 0"):
        print(f"  {row:50}{seen[row]:8,}")


if __name__ == "__main__":
    main()
