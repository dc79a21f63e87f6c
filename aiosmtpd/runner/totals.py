"""Sums of the numbers of all workers, which never fall when a worker ends."""

from __future__ import annotations

from typing import TypeGuard

from aiosmtpd.observers.samples import Snapshot, escaped, sample

CONNECTIONS = sample("connections")


def nothing() -> Snapshot:
    """Return a snapshot without numbers."""
    return {"counters": {}, "gauges": {}, "histograms": {}}


class Totals:
    """The numbers of the workers that live, and the sums of those that have ended.

    Counters and histograms are summed over all workers. Gauges are those of workers that live;
    each gets the label ``slot``.
    """

    def __init__(self) -> None:
        self._base = nothing()
        self._latest: dict[int, tuple[int, Snapshot]] = {}

    def update(self, slot: int, pid: int, numbers: Snapshot) -> None:
        """Note the latest numbers of a worker."""
        self._latest[pid] = slot, numbers

    def ended(self, pid: int) -> None:
        """Keep the last counters of a worker that has ended, and forget its gauges."""
        found = self._latest.pop(pid, None)
        if found is not None:
            add(self._base, found[1])

    def latest(self, pid: int) -> Snapshot | None:
        """Return the latest numbers of a worker that lives; None if it has sent none."""
        found = self._latest.get(pid)
        return None if found is None else found[1]

    def snapshot(self) -> Snapshot:
        """Return the sums."""
        total = nothing()
        for one in (self._base, *(numbers for _, numbers in self._latest.values())):
            add(total, one)
        for slot, numbers in sorted(self._latest.values(), key=lambda found: found[0]):
            for gauge, value in numbers["gauges"].items():
                name = with_label(gauge, slot=str(slot))
                if gauge == CONNECTIONS:
                    # A slot may have two workers while one of them drains.
                    value += total["gauges"].get(name, 0)
                total["gauges"][name] = value
        return total


def add(total: Snapshot, more: Snapshot) -> None:
    """Add the counters and histograms of *more* to *total*."""
    counters, histograms = total["counters"], total["histograms"]
    for name, value in more["counters"].items():
        counters[name] = counters.get(name, 0) + value
    for name, values in more["histograms"].items():
        before = histograms.get(name)
        histograms[name] = list(values) if before is None else _sums(before, values)


def _sums(first: list[float], second: list[float]) -> list[float]:
    if len(first) != len(second):
        # A worker of another version, with other bounds: its numbers cannot be added.
        return first
    return [one + other for one, other in zip(first, second, strict=True)]


def with_label(name: str, **labels: str) -> str:
    """Return the name of a sample with more labels after its own."""
    name, _, own = name.partition("{")
    pairs = [own.removesuffix("}")] if own else []
    pairs += [f'{key}="{escaped(text)}"' for key, text in labels.items()]
    return f"{name}{{{','.join(pairs)}}}"


def is_snapshot(value: object) -> TypeGuard[Snapshot]:
    """Return True if a worker has sent its numbers; one of another version may not."""
    return isinstance(value, dict) and value.keys() >= nothing().keys()
