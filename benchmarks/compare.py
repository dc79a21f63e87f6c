"""Compare the CPU for each message: this server, the published 1.4.6, the floor, other servers.

Run ``python benchmarks/compare.py``. All servers run on one CPU, the load on another. They take
turns in short rounds; the figure is the median of the rounds' ratios.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contestants import PUBLISHED, Contestant, contestants, prepare, versions
from load import message
from measuring import ROUNDS, Figures, idle_memory, measure, peak_memory
from scenarios import SCENARIOS, Scenario
from startup import greeting_times, import_times

OTHER_ROWS = ("memory", "startup")


def row(scenario: Scenario, found: dict[str, Figures], loop: str) -> str:
    """Return the lines of one row: each server's median, its quartiles and its ratio to 1.4.6."""
    base, lines = found.get(PUBLISHED), [scenario.title]
    for name, figures in found.items():
        low, high = figures.quartiles()
        line = f"  {name:11}{figures.median:10,.0f} µs  ({low:,.0f} to {high:,.0f})"
        if base and figures is not base:
            line += f"   {figures.ratio(base):6.2f} × less"
            if scenario.goals and name == "ours":
                line += f", wanted {scenario.goals[loop == 'uvloop']:g}"
        if scenario.connections > 100:
            line += f"   p99 {figures.p99() * 1e3:,.0f} ms"
        lines.append(line)
    return "\n".join(lines)


def kept(found: dict[str, Figures]) -> dict[str, dict[str, Any]]:
    """Return the figures of a row for the JSON."""
    base, result = found.get(PUBLISHED), {}
    for name, figures in found.items():
        result[name] = {
            "cpu_us": [round(value, 2) for value in figures.cpu],
            "median": round(figures.median, 2),
            "p99_ms": round(figures.p99() * 1e3, 2),
        }
        if base:
            result[name]["ratio"] = round(figures.ratio(base), 3)
    return result


def memory_rows(them: Sequence[Contestant], connections: int) -> dict[str, dict[str, float]]:
    """Return the memory of connections and messages, in bytes and as multiples of a message."""
    body = message(25 * 10**6)
    with_tls = [one for one in them if "starttls" in one.skills]
    return {
        f"bytes of an idle connection, of {connections:,}": {
            one.name: idle_memory(one, connections, False) for one in them
        },
        f"bytes of an idle TLS connection, of {connections // 10:,}": {
            one.name: idle_memory(one, connections // 10, True) for one in with_tls
        },
        "peak of taking 25 MB, beyond 1 MiB, as a multiple": {
            one.name: peak_memory(one, body) for one in them if "hooks" in one.skills
        },
    }


def startup_rows(them: Sequence[Contestant]) -> dict[str, dict[str, float]]:
    """Return how long importing and starting take, in milliseconds."""
    pair = [one for one in them if "hooks" in one.skills]
    greeting = greeting_times(pair)
    return {
        "ms to import aiosmtpd.smtp after asyncio and attrs": import_times(pair),
        "ms to the first 220 of the command line": {
            name: seconds * 1e3 for name, seconds in greeting.items()
        },
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS, *OTHER_ROWS])
    parser.add_argument("--uvloop", action="store_true", help="those in Python run on uvloop")
    parser.add_argument("--only", action="append", help="a contestant; 1.4.6 is always there")
    parser.add_argument("--connections", type=int, default=5000, help="idle ones, for memory")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    prepare()
    loop = "uvloop" if options.uvloop else "asyncio"
    them = contestants(loop)
    if options.only:
        them = [one for one in them if one.name in (PUBLISHED, *options.only)]
    wanted = options.scenario or [*SCENARIOS, *OTHER_ROWS]
    results: dict[str, Any] = {"loop": loop, "versions": versions()}
    for name, scenario in SCENARIOS.items():
        if name in wanted:
            found = measure(scenario, them, options.rounds)
            print(row(scenario, found, loop), flush=True)
            results[name] = kept(found)
            keep(results, options.json)
    other = memory_rows(them, options.connections) if "memory" in wanted else {}
    if "startup" in wanted:
        other |= startup_rows(them)
    for title, figures in other.items():
        print(title)
        for name, figure in figures.items():
            print(f"  {name:11}{figure:12,.2f}", flush=True)
    keep(results | other, options.json)


def keep(results: dict[str, Any], file: Path | None) -> None:
    """Write the figures so far: a run takes ten minutes and may be interrupted."""
    if file is not None:
        file.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
