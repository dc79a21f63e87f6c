"""Write the figures as a page: ``python benchmarks/figures.py ASYNCIO.json [UVLOOP.json]``.

Reads the files of ``compare.py --json`` and writes ``docs/explain/figures.rst``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from contestants import PUBLISHED, ROOT
from scenarios import SCENARIOS

PAGE = ROOT / "docs" / "explain" / "figures.rst"
OTHERS = ("floor", "nodemailer", "go-smtp", "smtp-sink")


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: list[str], rows: list[list[str]], widths: str) -> str:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [head, *rows]:
        for first, cell in zip("*" + " " * len(row), row, strict=False):
            lines.append(f"   {first} - {cell}".rstrip())
    return "\n".join(lines) + "\n"


def row(name: str, found: dict[str, Any], loop: str) -> list[str]:
    """Return a row: µs of 1.4.6 and of this server, the ratio, the goal, ratios of the others."""
    scenario = SCENARIOS[name]
    ours, published = found["ours"], found.get(PUBLISHED)
    wanted = scenario.goals[loop == "uvloop"] if scenario.goals else None
    cells = [
        scenario.title,
        number(published["median"]) if published else "",
        number(ours["median"]),
        f"**{ours['ratio']:.3g}**" if "ratio" in ours else "",
        "" if wanted is None else f"{wanted:g}",
    ]
    for other in OTHERS:
        ratio = found.get(other, {}).get("ratio")
        cells.append("" if ratio is None else f"{ratio:.3g}")
    return cells


def page(results: list[dict[str, Any]]) -> str:
    versions = results[0]["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        "Figures\n-------\n",
        f"Written by ``benchmarks/figures.py``. {told}.\n",
    ]
    head = ["scenario", "1.4.6, µs", "ours, µs", "ours", "wanted", *OTHERS]
    for result in results:
        loop = result["loop"]
        rows = [row(name, result[name], loop) for name in SCENARIOS if name in result]
        parts.append(f"On {loop}: CPU for a message in µs, and the ratio of 1.4.6 to each.\n")
        parts.append(table(head, rows, "28 9 9 8 8 8 10 9 9"))
    parts.append("Memory, and starting:\n")
    others = {
        title: figures
        for title, figures in results[0].items()
        if title not in (*SCENARIOS, "loop", "versions")
    }
    columns = [PUBLISHED, "ours", "bare", *OTHERS]
    rows = [
        [title, *(number(figures[one]) if one in figures else "" for one in columns)]
        for title, figures in others.items()
    ]
    parts.append(table(["", *columns], rows, "36 9 9 9 9 10 9 9"))
    if "thousand" in results[0]:
        delays = [f"{name} {one['p99_ms']:,.0f} ms" for name, one in results[0]["thousand"].items()]
        parts.append(
            "With 1,000 connections at once, one of a hundred messages waits longer than: "
            + ", ".join(delays)
            + ".\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    found = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    PAGE.write_text(page(found), encoding="utf-8")
