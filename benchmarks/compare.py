"""Ours and the published 1.4.6 side by side: server CPU for each message.

Run ``python benchmarks/compare.py``. The server runs on one CPU, the load on another; the
rounds of the contestants are interleaved; what counts is the ratio of one round's figures.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from load import EHLO, SCENARIOS, SMALL, Client, message

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "benchmarks"
PUBLISHED = "1.4.6"


@attrs.frozen
class Contestant:
    """A server to measure: which Python runs it, from where, on which event loop."""

    name: str
    python: Path
    path: str = ""
    what: str = ""
    loop: str = "asyncio"


def environment(name: str, *requirements: str) -> Path:
    """Return the Python of a venv of its own, made at the first use."""
    folder = BUILD / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", *requirements]
        subprocess.run(command, check=True, cwd=HERE)
    return python


def contestants(uvloop: bool) -> list[Contestant]:
    loop = "uvloop" if uvloop else "asyncio"
    ours = environment("ours", "atpublic", "attrs", "uvloop")
    theirs = environment("published", f"aiosmtpd=={PUBLISHED}", "uvloop")
    return [
        Contestant(PUBLISHED, theirs, loop=loop),
        Contestant("ours", ours, str(ROOT), loop=loop),
        Contestant("floor", ours, what="floor", loop=loop),
    ]


@contextmanager
def running(contestant: Contestant, what: str) -> Iterator[tuple[int, int]]:
    """Run a server on CPU 0; give its port and process id."""
    env = {**os.environ, "PYTHONPATH": contestant.path, "BENCHMARK_PEM": str(BUILD / "server.pem")}
    command = [contestant.python, HERE / "server.py", contestant.what or what, contestant.loop, "0"]
    process = subprocess.Popen(
        list(map(str, command)), env=env, cwd=BUILD, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, from the scheduler's own count."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def status_kilobytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise LookupError(field)


def taking_part(server: str) -> tuple[str, ...]:
    """Tell who can do what a scenario asks for."""
    if server in ("modern", "stream"):
        return ("ours",)
    return (PUBLISHED, "ours", "floor") if server == "smtp" else (PUBLISHED, "ours")


def measure(name: str, them: list[Contestant], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Run a scenario in interleaved rounds; return each contestant's figures."""
    scenario = SCENARIOS[name]
    found: dict[str, list[dict[str, float]]] = {one.name: [] for one in them}
    for number in range(rounds + 1):
        for one in them:
            if one.name not in taking_part(scenario.server):
                continue
            with running(one, scenario.server) as (port, pid):
                scenario.run(port, max(10, scenario.messages // 10) if scenario.quick else 10)
                cpu, clock = cpu_seconds(pid), time.perf_counter()
                scenario.run(port, scenario.messages)
                cpu, clock = cpu_seconds(pid) - cpu, time.perf_counter() - clock
            if number:  # the first round warms the machine up
                found[one.name].append(
                    {"cpu_us": cpu / scenario.messages * 1e6, "per_s": scenario.messages / clock}
                )
    return found


def report(name: str, found: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{SCENARIOS[name].title}")
    base = [figure["cpu_us"] for figure in found[PUBLISHED]]
    for contestant, figures in found.items():
        if not figures:
            continue
        cpu = [figure["cpu_us"] for figure in figures]
        line = (
            f"  {contestant:8} {statistics.median(cpu):10.0f} µs CPU a message"
            f"  {statistics.median(figure['per_s'] for figure in figures):9.0f} messages/s"
        )
        if base:
            ratios = [mine / theirs for mine, theirs in zip(cpu, base, strict=True)]
            line += (
                f"  {statistics.median(ratios):6.3f} of {PUBLISHED}'s CPU"
                f" ({min(ratios):.3f} to {max(ratios):.3f})"
            )
        print(line)


def memory(them: list[Contestant], connections: int, tls: bool) -> dict[str, float]:
    """Return the memory of an idle connection after EHLO, in octets."""
    found = {}
    for one in them:
        with running(one, "starttls" if tls else "smtp") as (port, pid):
            warm = [Client(port, tls) for _ in range(50)]
            before = status_kilobytes(pid, "VmRSS")
            clients = [Client(port, tls) for _ in range(connections)]
            clients[-1].ask(EHLO, b"250")
            found[one.name] = (status_kilobytes(pid, "VmRSS") - before) * 1024 / connections
            for client in [*warm, *clients]:
                client.close()
    return found


def peak(them: list[Contestant], octets: int = 25 * 10**6) -> dict[str, float]:
    """Return the peak memory of taking one message, beyond 1 MiB, as a multiple of its size."""
    found = {}
    for one in them:
        with running(one, "smtp") as (port, pid):
            client = Client(port)
            client.deliver(SMALL)
            before = status_kilobytes(pid, "VmRSS")
            client.deliver(message(octets))
            grown = (status_kilobytes(pid, "VmHWM") - before) * 1024
            found[one.name] = (grown - 2**20) / octets
            client.close()
    return found


def certificate() -> None:
    pem = BUILD / "server.pem"
    if not pem.exists():
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost "
            f"-keyout {pem.name}.key -out {pem.name}.crt".split(),
            cwd=BUILD,
            check=True,
            capture_output=True,
        )
        parts = (Path(f"{pem}.key"), Path(f"{pem}.crt"))
        pem.write_text("".join(part.read_text() for part in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS, "memory"])
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the main scenarios, 3 rounds")
    parser.add_argument("--connections", type=int, default=5000, help="idle ones, for memory")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    certificate()
    them = contestants(options.uvloop)
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
    results: dict[str, object] = {}
    for name, scenario in SCENARIOS.items():
        if name in (options.scenario or SCENARIOS) and (scenario.quick or not options.quick):
            found = measure(name, them, 3 if options.quick else options.rounds)
            report(name, found)
            results[name] = found
    if "memory" in (options.scenario or ["memory"]):
        for title, figures in (
            ("octets an idle plain connection", memory(them[:2], options.connections, False)),
            ("octets an idle TLS connection", memory(them[:2], options.connections // 10, True)),
            ("× a 25 MB message's size at the peak, beyond 1 MiB", peak(them[:2])),
        ):
            print(f"\n{title}")
            for contestant, figure in figures.items():
                print(f"  {contestant:8} {figure:10.2f}")
            results[title] = figures
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
