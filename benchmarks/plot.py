"""Plots as SVG: lines over two logarithmic axes, and nothing else.

The page of figures shows them in its own colours, light or dark: ``docs/_static/look.css``.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10

import attrs

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 340, 300, 62, 34, 48
COLOURS = {"ours": "var(--ours)", "1.4.6": "var(--before)", "floor": "var(--soft)"}
STYLE = """\
.plot { --ink: #1b1f24; --soft: #5e5c64; --line: #d0d4d9; --ours: #1a5fb4; --before: #c64600; }
@media (prefers-color-scheme: dark) {
  .plot { --ink: #e6e9ed; --soft: #b3bac2; --line: #3d444d; --ours: #62a0ea; --before: #ff9a56; }
}
.plot text { fill: var(--ink); }
"""

Points = Sequence[tuple[float, float]]


@attrs.frozen
class Panel:
    """One plot: *lines* by name, each of points (x, y)."""

    title: str
    x: str
    lines: Mapping[str, Points]


def short(value: float) -> str:
    """Return a power of ten as one writes it on an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def panel_svg(panel: Panel, right: int, down: int) -> str:
    points = [point for line in panel.lines.values() for point in line]
    low_x, high_x = (log10(pick(x for x, _ in points)) for pick in (min, max))
    low_y, high_y = floor(log10(min(y for _, y in points))), ceil(log10(max(y for _, y in points)))
    wide, high = WIDTH - LEFT - 16, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + wide * (log10(x) - low_x) / (high_x - low_x),
            TOP + high * (high_y - log10(y)) / (high_y - low_y),
        )

    parts = [f'<g transform="translate({right} {down})">']
    parts.append(f'<text x="{LEFT}" y="18" font-weight="bold">{panel.title}</text>')
    for power in range(low_y, high_y + 1):
        y = at(10**low_x, 10**power)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}h{wide}" stroke="var(--line)"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(10**power)}</text>'
        )
    for x in sorted({x for x, _ in points}):
        place = at(x, 10**low_y)[0]
        parts.append(
            f'<text x="{place:.1f}" y="{TOP + high + 16}" text-anchor="middle">{short(x)}</text>'
        )
    parts.append(
        f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 10}" text-anchor="middle">{panel.x}</text>'
    )
    for name, line in panel.lines.items():
        colour = COLOURS[name]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
            for x, y in (at(*point) for point in line)
        ]
        x, y = at(*line[-1])
        parts.append(
            f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="end" style="fill: {colour}">'
            f"{name}</text>"
        )
    return "\n".join([*parts, "</g>"])


def svg(panels: Sequence[Panel], stacked: bool = False) -> str:
    """Return a document with the panels side by side, or *stacked* for a narrow screen."""
    count = len(panels)
    wide, high = (WIDTH, HEIGHT * count) if stacked else (WIDTH * count, HEIGHT)
    inside = "\n".join(
        panel_svg(panel, *((0, n * HEIGHT) if stacked else (n * WIDTH, 0)))
        for n, panel in enumerate(panels)
    )
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        f'font-family="sans-serif" font-size="13">\n<style>\n{STYLE}</style>\n{inside}\n</svg>\n'
    )
