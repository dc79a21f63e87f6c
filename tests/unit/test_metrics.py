"""The numbers that ``Metrics`` keeps, with sessions that are played to it."""

from types import SimpleNamespace
from typing import Any

import pytest

from aiosmtpd.observers.metrics import SECONDS, SIZES, Histogram, Metrics, sample
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Reply


def connection(port: int | None = 25, *, tls: bool = False) -> Any:
    name = "/run/smtp" if port is None else ("192.0.2.1", port)
    transport = SimpleNamespace(get_extra_info={"sockname": name}.get)
    session = SimpleNamespace(ssl={} if tls else None)
    family = "LMTP" if port is None else "SMTP"
    # A namespace has no hash.
    server = type("Server", (), {})()
    vars(server).update(
        transport=transport, session=session, protocol_family=family, tls_from_start=None
    )
    return server


def message(*texts: str, size: int = 100) -> Any:
    each = [Reply(text) for text in texts]
    return SimpleNamespace(replies=each, size=size, data_seconds=0.002, handler_seconds=0.2)


def messages(metrics: Metrics) -> dict[str, float]:
    counters = metrics.snapshot()["counters"]
    words = "accepted", "rejected", "deferred", "aborted"
    return {word: counters[sample("messages_total", result=word)] for word in words}


def test_a_sample_has_its_labels() -> None:
    assert sample("workers") == "aiosmtpd_workers"
    found = sample("route_up", route='a "b"\\\n', slot="0")
    assert found == 'aiosmtpd_route_up{route="a \\"b\\"\\\\\\n",slot="0"}'


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in 0.5, 1.0, 1.5, 9.0:
        histogram.observe(value)
    assert histogram.snapshot() == [2, 1, 1, 12.0]


def test_connections_are_counted_by_listener() -> None:
    metrics = Metrics()
    plain, tls, unix = connection(), connection(465, tls=True), connection(None)
    for server in plain, tls, unix:
        metrics.began(server)
    metrics.ended(tls, "connection closed")
    found = metrics.snapshot()
    assert found["gauges"] == {"aiosmtpd_connections": 2}
    assert metrics.open_connections == 2
    for listener, kind in ("smtp:25", "none"), ("smtp:465", "implicit"), ("lmtp:unix", "none"):
        assert found["counters"][sample("connections_total", listener=listener, tls=kind)] == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (replies.TOO_MANY_CONNECTIONS, "connections"),
        (replies.TOO_MANY_OF_HOST, "host"),
        (replies.TOO_MANY_ARRIVALS, "rate"),
        (Reply("421 4.3.0 Closed"), "other"),
    ],
    ids=lambda value: value if len(value) < 12 else "",
)
def test_refusals_are_counted_by_reason(reply: Reply, reason: str) -> None:
    metrics = Metrics()
    metrics.refused(connection(), reply)
    assert metrics.snapshot()["counters"][sample("connections_refused_total", reason=reason)] == 1


def test_replies_are_counted_by_verb_and_class() -> None:
    metrics, server = Metrics(), connection()
    metrics.reply(server, "", Reply("220 mx"))
    for text in "250 OK", "550 No", "250 OK":
        metrics.reply(server, "RCPT", Reply(text))
    counters = metrics.snapshot()["counters"]
    assert counters['aiosmtpd_commands_total{verb="RCPT",class="2xx"}'] == 2
    assert counters['aiosmtpd_commands_total{verb="RCPT",class="5xx"}'] == 1
    assert counters['aiosmtpd_commands_total{verb="none",class="2xx"}'] == 1


def test_handshakes_and_logins_are_counted_by_result() -> None:
    metrics, server = Metrics(), connection()
    metrics.tls(server, "ok", "TLSv1.3")
    metrics.tls(server, "no shared cipher", None)
    metrics.auth(server, "PLAIN", True)
    metrics.auth(server, "PLAIN", False)
    counters = metrics.snapshot()["counters"]
    assert counters[sample("tls_handshakes_total", result="ok", version="TLSv1.3")] == 1
    assert counters[sample("tls_handshakes_total", result="failed", version="none")] == 1
    assert counters[sample("auth_total", mechanism="PLAIN", result="ok")] == 1
    assert counters[sample("auth_total", mechanism="PLAIN", result="failed")] == 1


def test_many_mechanisms_have_one_name() -> None:
    metrics, server = Metrics(), connection()
    for number in range(100):
        metrics.auth(server, f"X{number}", False)
    names = [name for name in metrics.snapshot()["counters"] if "auth_total" in name]
    assert len(names) == 33
    assert metrics.snapshot()["counters"][sample("auth_total", mechanism="other", result="failed")]


@pytest.mark.parametrize(
    ("texts", "result"),
    [
        (["250 OK"], "accepted"),
        (["451 Later"], "deferred"),
        (["550 No"], "rejected"),
        (["550 No", "250 OK"], "accepted"),
        (["550 No", "451 Later"], "deferred"),
    ],
    ids=["accepted", "deferred", "rejected", "one of two", "none of two"],
)
def test_a_message_has_the_best_of_its_replies(texts: list[str], result: str) -> None:
    metrics, server = Metrics(), connection()
    metrics.began(server)
    metrics.data(server, 100)
    metrics.taken(server, message(*texts))
    metrics.ended(server, "QUIT")
    expected = {**dict.fromkeys(("accepted", "rejected", "deferred", "aborted"), 0), result: 1}
    assert messages(metrics) == expected


def test_messages_that_break_off_are_counted() -> None:
    metrics, server = Metrics(), connection()
    metrics.began(server)
    # The first is given up by a RSET between two chunks, the second by the end.
    metrics.data(server, 10)
    metrics.data(server, 20)
    metrics.ended(server, "connection lost")
    assert messages(metrics)["aborted"] == 2


def test_sizes_and_times_are_in_histograms() -> None:
    metrics, server = Metrics(), connection()
    metrics.taken(server, message("250 OK", size=3000))
    metrics.taken(server, message("550 No", size=9000))
    found = metrics.snapshot()
    sizes = found["histograms"]["aiosmtpd_message_size_bytes"]
    assert (sum(sizes[:-1]), sizes[-1]) == (1, 3000)
    assert sizes[SIZES.index(4096.0)] == 1
    assert found["histograms"]["aiosmtpd_data_seconds"][SECONDS.index(0.0025)] == 2
    assert found["histograms"]["aiosmtpd_handler_seconds"][-1] == pytest.approx(0.4)
    assert found["counters"]["aiosmtpd_message_bytes_total"] == 3000
