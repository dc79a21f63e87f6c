"""Measure the cost of the limits: the server with those of the command line, and without.

Run ``python benchmarks/defences.py``. The ratio is the CPU with limits to the CPU without.
"""

import argparse

import attrs
from contestants import ROOT, ours, prepare
from measuring import measure
from scenarios import SCENARIOS

COMMON = ("lockstep", "one-write", "connections", "recipients-one-write", "1MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS])
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    prepare()
    us = ours("", ROOT, "uvloop" if options.uvloop else "asyncio")
    them = [
        attrs.evolve(us, name=name, command=(*us.command, name))
        for name in ("unlimited", "limited")
    ]
    for name in options.scenario or COMMON:
        without, with_them = measure(SCENARIOS[name], them, options.rounds).values()
        # ratios() returns how much less CPU a server takes than its base.
        ratios = sorted(1 / ratio for ratio in with_them.ratios(without))
        low, middle, high = (ratios[len(ratios) * part // 4] for part in (1, 2, 3))
        print(
            f"{SCENARIOS[name].title:38}{without.median:10,.1f} -> {with_them.median:10,.1f} µs"
            f"   {middle:6.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
