"""The samples of metrics: their names, as Prometheus writes them, and histograms."""

from __future__ import annotations

from bisect import bisect_left
from typing import TypedDict

PREFIX = "aiosmtpd_"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of a histogram of seconds."""

SIZES = tuple(float(1024 * 4**power) for power in range(9))
"""Upper bounds of the buckets of the sizes of messages, in bytes: 1 KiB to 64 MiB."""


class Snapshot(TypedDict):
    """Numbers by sample: the name of a metric, with its labels as Prometheus writes them.

    A histogram is the number of values in each bucket, the last one without a bound, and their sum.
    """

    counters: dict[str, float]
    gauges: dict[str, float]
    histograms: dict[str, list[float]]


def sample(metric: str, /, **labels: str) -> str:
    """Return the name of a sample: ``'aiosmtpd_workers{slot="0"}'`` for "workers" and slot "0"."""
    if not labels:
        return PREFIX + metric
    pairs = ",".join([f'{key}="{escaped(text)}"' for key, text in labels.items()])
    return f"{PREFIX}{metric}{{{pairs}}}"


def escaped(text: str) -> str:
    """Return the value of a label as it stands between quotes."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Histogram:
    """Counts values by size: *bounds* are the upper bounds of its buckets."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, number: int = 1) -> None:
        """Count a value *number* times."""
        self.counts[bisect_left(self._bounds, value)] += number
        self.sum += value * number

    def snapshot(self) -> list[float]:
        """Return the counts, and the sum after them."""
        return [*self.counts, self.sum]
