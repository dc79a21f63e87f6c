"""Measure ``aiosmtpd serve`` with one and two workers, into the spool and into nothing.

Run ``python benchmarks/fleet_rate.py``. Postfix's ``smtp-source`` sends messages of 4 KB in 40
sessions, one message each. The load and the server share the machine: compare the rows of one run.
CPU is that of the master and of its workers.
"""

import argparse
import asyncio
import resource
import statistics
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fleet import CONFIGURATION, Serving, free_port

HANDLER = """
class Handler:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"
"""

CASES = (("nothing", 1), ("spool", 1), ("nothing", 2), ("spool", 2))


def configuration(target: str) -> str:
    if target == "spool":
        return CONFIGURATION
    head, _, rest = CONFIGURATION.partition("[spool]")
    return head.replace("[limits]", 'handler = "nothing:Handler"\n[limits]') + (
        "[log]" + rest.partition("[log]")[2]
    )


async def measure(target: str, workers: int, messages: int) -> tuple[float, float]:
    """Return messages per second, and the milliseconds of CPU for each."""
    with TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "nothing.py").write_text(HANDLER)
        serving = Serving(folder, port, workers, configuration(target))
        await serving.start()
        command = ["smtp-source", "-c", "-s", "40", "-m", str(messages), "-l", "4096"]
        command += ["-f", "a@b.test", "-t", "c@d.test", f"127.0.0.1:{port}"]
        began = time.monotonic()
        load = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        if await load.wait():
            raise SystemExit("smtp-source has failed")
        seconds = time.monotonic() - began
        loaded = resource.getrusage(resource.RUSAGE_CHILDREN)
        await serving.end()
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = ended.ru_utime + ended.ru_stime - loaded.ru_utime - loaded.ru_stime
        return messages / seconds, cpu / messages * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            rates[case].append(asyncio.run(measure(*case, options.messages)))
    print(f"{'target':10}{'workers':>8}{'messages/s':>12}{'ms of CPU':>11}{'of nothing, 1':>15}")
    base = statistics.median(rate for rate, _ in rates["nothing", 1])
    for (target, workers), found in rates.items():
        rate, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{target:10}{workers:8}{rate:12,.0f}{cpu:11.2f}{rate / base:15.2f}")


if __name__ == "__main__":
    main()
