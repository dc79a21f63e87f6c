"""The text format of Prometheus, version 0.0.4, and the names of all metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from aiosmtpd.observers.samples import PREFIX, SECONDS, SIZES, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LAGS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds of the age of a message when it is delivered, in seconds."""

BATCHES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
"""Upper bounds of the number of messages that one commit of the spool stores."""

Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """A metric: its type, the sentence that says what it is, its labels, a histogram's bounds."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _seconds(help: str, *labels: str) -> Metric:
    return Metric("histogram", help, labels, SECONDS)


_OF_SESSIONS: dict[str, Metric] = {
    "connections": Metric("gauge", "Open connections.", ("slot",)),
    "connections_total": Metric(
        "counter", "Connections that began, also those refused.", ("listener", "tls")
    ),
    "connections_refused_total": Metric("counter", "Connections refused by a limit.", ("reason",)),
    "tls_handshakes_total": Metric("counter", "TLS handshakes that ended.", ("result", "version")),
    "auth_total": Metric(
        "counter", "AUTH commands that checked a password.", ("mechanism", "result")
    ),
    "commands_total": Metric(
        "counter", "Replies by verb; none is for replies to no known verb.", ("verb", "class")
    ),
    "messages_total": Metric("counter", "Messages whose data came, by the reply.", ("result",)),
    "message_bytes_total": Metric("counter", "Bytes of accepted messages."),
    "message_size_bytes": Metric("histogram", "Bytes of an accepted message.", (), SIZES),
    "data_seconds": _seconds("Time in which the data of a message came, before the handler ran."),
    "handler_seconds": _seconds("Time of the handler; with a spool, until the message was stored."),
}

_OF_DELIVERIES: dict[str, Metric] = {
    "commit_seconds": _seconds("Time in which the spool stored a message."),
    "spool_commits_total": Metric("counter", "Commits of the workers' own spools."),
    "spool_batch_messages": Metric(
        "histogram", "Messages that one commit of the spool has stored.", (), BATCHES
    ),
    "spool_messages": Metric("gauge", "Messages in the spool.", ("slot",)),
    "spool_bytes": Metric("gauge", "Bytes of the messages in the spool.", ("slot",)),
    "spool_oldest_seconds": Metric("gauge", "Age of the oldest message in the spool.", ("slot",)),
    "spool_dead_messages": Metric(
        "gauge", "Deliveries that were given up and are kept.", ("slot",)
    ),
    "deliveries_total": Metric("counter", "Results of deliveries, by route.", ("route", "result")),
    "delivery_seconds": _seconds("Time of one try of a delivery.", "route"),
    "delivery_lag_seconds": Metric(
        "histogram", "Age of a message when it was delivered.", ("route",), LAGS
    ),
    "route_up": Metric("gauge", "1 while a route delivers, 0 while it is down.", ("route", "slot")),
}

_OF_PROCESSES: dict[str, Metric] = {
    "build_info": Metric(
        "gauge", "1, with the versions of aiosmtpd and Python.", ("version", "python")
    ),
    "workers": Metric("gauge", "Worker processes that the configuration asks for."),
    "worker_ready": Metric("gauge", "1 while the worker of a slot serves.", ("slot",)),
    "worker_restarts_total": Metric(
        "counter", "Workers that were replaced, by the reason.", ("reason",)
    ),
    "worker_cpu_seconds_total": Metric("counter", "CPU time of the workers of a slot.", ("slot",)),
    "worker_resident_memory_bytes": Metric("gauge", "Resident memory of a worker.", ("slot",)),
    "worker_open_fds": Metric("gauge", "Open file descriptors of a worker.", ("slot",)),
    "event_loop_lag_seconds": _seconds("Delay of a timer in a worker's event loop.", "slot"),
    "config_last_reload_successful": Metric("gauge", "1 if the last reload has succeeded."),
    "config_last_reload_timestamp_seconds": Metric("gauge", "Time of the last good reload."),
    "tls_certificate_not_after_timestamp_seconds": Metric(
        "gauge", "Time a certificate ends.", ("name",)
    ),
    "listen_queue_length": Metric("gauge", "Connections that wait to be accepted.", ("listener",)),
}

_OF_THE_MASTER: dict[str, Metric] = {
    "process_cpu_seconds_total": Metric("counter", "CPU time of the master process."),
    "process_resident_memory_bytes": Metric("gauge", "Resident memory of the master process."),
    "process_virtual_memory_bytes": Metric("gauge", "Virtual memory of the master process."),
    "process_open_fds": Metric("gauge", "Open file descriptors of the master process."),
    "process_max_fds": Metric("gauge", "File descriptors that the master process may have."),
    "process_start_time_seconds": Metric("gauge", "Time when the master process began."),
}

METRICS: Mapping[str, Metric] = {
    **{
        PREFIX + name: metric
        for name, metric in (_OF_SESSIONS | _OF_DELIVERIES | _OF_PROCESSES).items()
    },
    **_OF_THE_MASTER,
}
"""All metrics by name, in the order in which they are shown."""


def render(numbers: Snapshot) -> str:
    """Return the numbers in the text format; samples of an unknown metric are left out."""
    by_name: dict[str, list[str]] = {name: [] for name in METRICS}
    for kind in "counters", "gauges":
        for sample, value in numbers[kind].items():
            if (lines := by_name.get(sample.partition("{")[0])) is not None:
                lines.append(f"{sample} {_number(value)}\n")
    for sample, values in numbers["histograms"].items():
        name, _, labels = sample.partition("{")
        if (lines := by_name.get(name)) is not None:
            lines.extend(_histogram(name, labels.removesuffix("}"), values))
    return "".join(_families(by_name))


def _families(by_name: Mapping[str, list[str]]) -> Iterator[str]:
    for name, lines in by_name.items():
        if lines:
            metric = METRICS[name]
            yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"
            yield from lines


def _histogram(name: str, labels: str, values: list[float]) -> Iterator[str]:
    *counts, total = values
    bounds = [*map(_number, METRICS[name].bounds), "+Inf"]
    more, count = f"{labels}," if labels else "", 0.0
    for bound, number in zip(bounds, counts, strict=True):
        count += number
        yield f'{name}_bucket{{{more}le="{bound}"}} {_number(count)}\n'
    shown = f"{{{labels}}}" if labels else ""
    yield f"{name}_sum{shown} {_number(total)}\n{name}_count{shown} {_number(count)}\n"


def _number(value: float) -> str:
    """Return a number; whole ones without a point, so that large ones keep all their digits."""
    return str(int(value)) if value == int(value) else repr(float(value))
