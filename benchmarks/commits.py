"""Compare two commits of this project side by side, to check that a change is an improvement.

Run ``python benchmarks/commits.py BASE [HEAD]``. Each is checked out under ``build/``. Without
HEAD, the working tree is compared with BASE. A ratio above 1: HEAD uses less CPU. ``--floor``
adds the floor's ratio: more cannot be saved.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contestants import BUILD, ROOT, floor, ours, prepare
from measuring import ROUNDS, Figures, idle_memory, measure
from scenarios import SCENARIOS
from startup import import_times


def git(*command: str) -> str:
    told = subprocess.run(["git", *command], cwd=ROOT, check=True, capture_output=True, text=True)
    return told.stdout.strip()


@contextmanager
def checked_out(commit: str | None) -> Iterator[tuple[str, Path]]:
    """Return a commit's short name and its tree; without a commit, the working tree."""
    if commit is None:
        yield "here", ROOT
        return
    name = git("rev-parse", "--short", commit)
    tree = BUILD / f"tree-{name}"
    git("worktree", "add", "--force", "--detach", str(tree), name)
    try:
        yield name, tree
    finally:
        git("worktree", "remove", "--force", str(tree))


def row(title: str, base: Figures, head: Figures) -> str:
    ratios = sorted(head.ratios(base))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    return (
        f"{title:38}{base.median:10,.1f} -> {head.median:10,.1f} µs"
        f"   {head.ratio(base):6.3f} ({low:.3f} to {high:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("head", nargs="?")
    parser.add_argument("--rounds", type=int, default=2 * ROUNDS)
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS, "memory", "startup"])
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--floor", action="store_true", help="measure the floor too")
    parser.add_argument("--json", type=Path, help="write the ratios here")
    options = parser.parse_args()
    prepare()
    loop = "uvloop" if options.uvloop else "asyncio"
    ratios = {}
    with checked_out(options.base) as (before, old), checked_out(options.head) as (after, new):
        them = [ours(before, old, loop), ours(after, new, loop)]
        runners = [*them, floor(them[1])] if options.floor else them
        for name, scenario in SCENARIOS.items():
            if name in (options.scenario or SCENARIOS):
                base, head, *bare = measure(scenario, runners, options.rounds).values()
                print(row(scenario.title, base, head), flush=True)
                for figures in bare:
                    print(row("  floor", base, figures), flush=True)
                ratios[name] = head.ratio(base)
        if "memory" in (options.scenario or ["memory"]):
            octets = [idle_memory(one, 2000, False) for one in them]
            print(f"bytes of an idle connection: {octets[0]:,.0f} -> {octets[1]:,.0f}")
        if "startup" in (options.scenario or ["startup"]):
            times = list(import_times(them).values())
            print(f"ms of importing aiosmtpd.smtp: {times[0]:.1f} -> {times[1]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
