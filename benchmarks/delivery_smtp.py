"""Measure messages from SMTP into the spool, beside the same server with a sink.

``python benchmarks/delivery_smtp.py`` needs Postfix's ``smtp-source``. Both servers take turns in
short rounds; the ratio is the median of the rounds. With the spool, each message is on the disk
before its 250, and is then delivered to an outlet that drops it.

The rate is taken until the last 250. The courier delivers meanwhile, as it does in a server; the
messages that it has not delivered by then do not count. The CPU time does contain all deliveries:
it is that of this process, with the server, the spool and the courier. ``smtp-source`` needs CPU
time too, and shares the machine.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from aiosmtpd.delivery import Delivery, Item, Route
from aiosmtpd.handlers import Sink
from aiosmtpd.server import Server

SOURCE = shutil.which("smtp-source", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

WANTED = 0.5
"""The smallest ratio that is enough."""


class Drop:
    """An outlet that drops each message."""

    async def open(self) -> None:
        """Do nothing."""

    async def put(self, item: Item) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class Figures(NamedTuple):
    """Messages per second, and CPU seconds per message with its delivery."""

    rate: float
    cpu: float


async def send(port: int, messages: int, sessions: int, size: int) -> float:
    """Send the messages; return the seconds."""
    began = time.perf_counter()
    words = ("-s", sessions, "-m", messages, "-l", size, "-f", "a@b.test", "-t", "c@d.test")
    process = await asyncio.create_subprocess_exec(
        str(SOURCE), *map(str, words), f"127.0.0.1:{port}"
    )
    if await process.wait():
        raise SystemExit("smtp-source has failed")
    return time.perf_counter() - began


async def measure(handler: Any, options: argparse.Namespace) -> Figures:
    """Serve with a handler, and send it all messages of a round."""
    async with Server(handler, listen="127.0.0.1:0", extensions="modern") as server:
        port = int(server.addresses[0][1])
        cpu = time.process_time()
        seconds = await send(port, options.messages, options.sessions, options.size)
        while isinstance(handler, Delivery) and (await handler.counts()).messages:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cpu = time.process_time() - cpu
    return Figures(options.messages / seconds, cpu / options.messages)


async def compare(options: argparse.Namespace, folder: Path) -> None:
    """Let both take turns, and print a table."""
    sinks, spools = [], []
    for number in range(options.rounds):
        spool = folder / str(number)
        sinks.append(await measure(Sink(), options))
        spools.append(await measure(Delivery(spool, [Route(Drop())]), options))
        shutil.rmtree(spool)
    for title, figures in ("sink", sinks), ("spool", spools):
        rate = statistics.median(one.rate for one in figures)
        cpu = statistics.median(one.cpu for one in figures)
        print(f"{title:8}{rate:8,.0f} messages/s {1e6 * cpu:6,.0f} µs CPU/message")
    ratio = statistics.median(
        ours.rate / sink.rate for ours, sink in zip(spools, sinks, strict=True)
    )
    print(f"ratio   {ratio:8.2f} (wanted: {WANTED})")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    if SOURCE is None:
        parser.error("smtp-source is not installed: it is in the package postfix")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        asyncio.run(compare(options, Path(folder)))


if __name__ == "__main__":
    main()
