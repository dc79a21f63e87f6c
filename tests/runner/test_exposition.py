"""The text format of metrics, read by the reference parser of Prometheus."""

from typing import Any

import pytest

from aiosmtpd.observers.metrics import Metrics, Snapshot, sample
from aiosmtpd.runner.exposition import LAGS, METRICS, render
from aiosmtpd.runner.totals import Totals, nothing, with_label

parser = pytest.importorskip("prometheus_client.parser")


def parsed(numbers: Snapshot) -> dict[str, Any]:
    families = parser.text_string_to_metric_families(render(numbers))
    return {family.name: family for family in families}


def values(numbers: Snapshot) -> dict[tuple[str, ...], float]:
    return {
        (one.name, *(f"{key}={value}" for key, value in one.labels.items())): one.value
        for family in parsed(numbers).values()
        for one in family.samples
    }


def test_all_kinds_are_read_back() -> None:
    numbers: Snapshot = {
        "counters": {sample("messages_total", result="accepted"): 3},
        "gauges": {sample("route_up", route='a "b"\\\nc', slot="0"): 1},
        "histograms": {sample("delivery_lag_seconds", route="app"): [1, *[0] * 12, 2, 4.25]},
    }
    found = values(numbers)
    assert found["aiosmtpd_messages_total", "result=accepted"] == 3
    assert found["aiosmtpd_route_up", 'route=a "b"\\\nc', "slot=0"] == 1
    name = "aiosmtpd_delivery_lag_seconds"
    assert found[f"{name}_bucket", "route=app", "le=0.1"] == 1
    assert found[f"{name}_bucket", "route=app", f"le={LAGS[-1]:g}"] == 1
    assert found[f"{name}_bucket", "route=app", "le=+Inf"] == 3
    assert found[f"{name}_count", "route=app"] == 3
    assert found[f"{name}_sum", "route=app"] == 4.25


def test_each_metric_has_its_type_and_a_sentence() -> None:
    for name, metric in METRICS.items():
        numbers = nothing()
        if metric.kind == "histogram":
            numbers["histograms"][name] = [0.0] * (len(metric.bounds) + 2)
        else:
            numbers["counters" if metric.kind == "counter" else "gauges"][name] = 1
        (family,) = parsed(numbers).values()
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")


def test_all_names_of_the_observer_are_known() -> None:
    found = Metrics().snapshot()
    names = [name for part in found.values() for name in part]  # type: ignore[attr-defined]
    assert {name.partition("{")[0] for name in names} <= METRICS.keys()


def test_an_unknown_name_is_left_out() -> None:
    numbers = nothing()
    numbers["gauges"]["aiosmtpd_of_another_version"] = 1
    numbers["histograms"]["aiosmtpd_of_another_version"] = [1, 1]
    assert render(numbers) == ""


def test_large_numbers_keep_their_digits() -> None:
    numbers = nothing()
    numbers["counters"][sample("message_bytes_total")] = 12_345_678_901_234_567
    assert render(numbers).endswith("aiosmtpd_message_bytes_total 12345678901234567\n")


def worker(accepted: int, connections: int, seconds: float = 0.0) -> Snapshot:
    metrics = Metrics().snapshot()
    metrics["counters"][sample("messages_total", result="accepted")] = accepted
    metrics["gauges"][sample("connections")] = connections
    metrics["gauges"][sample("route_up", route="app")] = 1
    metrics["histograms"][sample("data_seconds")] = [accepted, *[0] * 14, seconds]
    return metrics


ACCEPTED = sample("messages_total", result="accepted")


def test_counters_of_workers_that_end_are_kept() -> None:
    totals = Totals()
    totals.update(0, 100, worker(5, 2, 1.5))
    totals.update(1, 101, worker(1, 3, 0.5))
    assert totals.snapshot()["counters"][ACCEPTED] == 6
    totals.ended(100)
    totals.update(0, 102, worker(0, 0))
    totals.ended(99)
    found = totals.snapshot()
    assert found["counters"][ACCEPTED] == 6
    histogram = found["histograms"][sample("data_seconds")]
    assert (histogram[0], histogram[-1]) == (6, 2.0)
    assert found["gauges"][sample("connections", slot="0")] == 0
    assert found["gauges"][sample("connections", slot="1")] == 3


def test_later_numbers_of_a_worker_replace_the_first() -> None:
    totals = Totals()
    totals.update(0, 100, worker(5, 2))
    totals.update(0, 100, worker(7, 1))
    assert totals.snapshot()["counters"][ACCEPTED] == 7
    assert totals.latest(100) == worker(7, 1)
    assert totals.latest(7) is None


def test_a_slot_may_have_two_workers() -> None:
    totals = Totals()
    totals.update(0, 100, worker(5, 2))
    totals.update(0, 101, worker(1, 3))
    gauges = totals.snapshot()["gauges"]
    assert gauges[sample("connections", slot="0")] == 5
    assert gauges[sample("route_up", route="app", slot="0")] == 1


def test_a_histogram_with_other_bounds_is_not_added() -> None:
    totals, name = Totals(), sample("data_seconds")
    totals.update(0, 100, worker(5, 2))
    other = worker(1, 1)
    other["histograms"][name] = [1, 2, 3]
    totals.ended(100)
    totals.update(0, 101, other)
    assert totals.snapshot()["histograms"][name][0] == 5


def test_labels_are_added_after_the_own_ones() -> None:
    assert with_label("a", slot="0") == 'a{slot="0"}'
    assert with_label('a{b="c"}', slot="0") == 'a{b="c",slot="0"}'
