"""Measure the cost of a message as connections, recipients and bytes grow, and plot it.

Run ``python benchmarks/scaling.py``; it writes ``docs/explain/scaling.svg``, and
``scaling-narrow.svg`` for narrow screens. A line that stays level is cost that grows linearly.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from contestants import PUBLISHED, ROOT, Contestant, contestants, prepare
from load import SMALL, in_one_write, message, transaction
from measuring import measure
from plot import Panel, svg
from scenarios import Scenario

CONNECTIONS = (10, 100, 1000, 5000)
RECIPIENTS = (1, 10, 100, 1000)
OCTETS = tuple(10**power for power in range(3, 10))

Lines = dict[str, list[tuple[float, float]]]


def medians(scenario: Scenario, them: Sequence[Contestant], rounds: int) -> dict[str, float]:
    found = measure(scenario, them, rounds)
    return {name: statistics.median(figures.cpu) for name, figures in found.items()}


def grown(
    steps: Sequence[tuple[float, Scenario, float]], them: Sequence[Contestant], rounds: int
) -> Lines:
    """Return for each server the points of its line: (x, scenario, divisor)."""
    lines: Lines = {}
    for x, scenario, share in steps:
        for name, cpu in medians(scenario, them, rounds).items():
            lines.setdefault(name, []).append((x, cpu / share))
        print(scenario.title, {name: round(line[-1][1], 2) for name, line in lines.items()})
    return lines


def panels(them: Sequence[Contestant], rounds: int) -> list[Panel]:
    small, ours = transaction(SMALL), [one for one in them if one.name == "ours"]
    by_connections = [
        (n, Scenario(f"{n} connections", small, max(400, n), n), 1.0) for n in CONNECTIONS
    ]
    by_recipients = [
        (n, Scenario(f"{n} recipients", in_one_write(SMALL, n), max(4, 400 // n), 4), float(n))
        for n in RECIPIENTS
    ]
    by_octets = [
        (
            n,
            Scenario(f"{n} octets", transaction(message(n)), max(1, 10**6 // n), 1, "stream"),
            n / 1e6,
        )
        for n in OCTETS
    ]
    return [
        Panel("µs of CPU a message of 1 KB", "connections", grown(by_connections, them, rounds)),
        Panel(
            "µs of CPU a recipient, in one write", "recipients", grown(by_recipients, them, rounds)
        ),
        Panel("µs of CPU a MB to handle_BODY", "octets", grown(by_octets, ours, rounds)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "explain" / "scaling.svg")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    prepare()
    them = [one for one in contestants("asyncio") if one.name in (PUBLISHED, "ours", "floor")]
    found = panels(them, options.rounds)
    options.svg.write_text(svg(found), encoding="utf-8")
    narrow = options.svg.with_stem(f"{options.svg.stem}-narrow")
    narrow.write_text(svg(found, stacked=True), encoding="utf-8")
    if options.json:
        lines = {panel.title: panel.lines for panel in found}
        options.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
