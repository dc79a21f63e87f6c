"""``Metrics`` on a real server."""

import smtplib
from contextlib import suppress
from typing import Any

from aiosmtpd.handlers import Sink
from aiosmtpd.observers.metrics import Metrics, Snapshot, sample
from tests.client import PATIENCE
from tests.net.support import serving


class Choosy(Sink):
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "550 5.6.0 No" if b"no" in envelope.content else "250 2.0.0 OK"


def counts(found: Snapshot, name: str) -> dict[str, float]:
    start = sample(name)
    return {key[len(start) :]: value for key, value in found["counters"].items() if start in key}


def test_a_session_is_counted() -> None:
    metrics = Metrics()
    with serving(Choosy(), observers=[metrics], max_connections_per_host=1) as controller:
        with smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client:
            with suppress(smtplib.SMTPDataError):
                client.sendmail("ann@a.test", ["bo@b.test"], b"no")
            client.sendmail("ann@a.test", ["bo@b.test"], b"yes")
            with suppress(smtplib.SMTPConnectError):
                smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE)
            client.docmd("FOO")
        port = controller.port
    found = metrics.snapshot()
    assert found["gauges"] == {"aiosmtpd_connections": 0}
    listener = f'{{listener="smtp:{port}",tls="none"}}'
    assert counts(found, "connections_total") == {listener: 2}
    assert counts(found, "connections_refused_total") == {'{reason="host"}': 1}
    assert counts(found, "messages_total") == {
        '{result="accepted"}': 1,
        '{result="rejected"}': 1,
        '{result="deferred"}': 0,
        '{result="aborted"}': 0,
    }
    commands = counts(found, "commands_total")
    assert commands['{verb="DATA",class="3xx"}'] == 2
    assert commands['{verb="DATA",class="2xx"}'] == 1
    assert commands['{verb="DATA",class="5xx"}'] == 1
    assert commands['{verb="none",class="5xx"}'] == 1
    assert not [name for name in commands if "FOO" in name]


def test_a_message_that_breaks_off_is_counted() -> None:
    metrics = Metrics()
    with serving(Sink(), observers=[metrics]) as controller:
        client = smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE)
        client.helo("client.test")
        client.mail("ann@a.test")
        client.rcpt("bo@b.test")
        client.docmd("DATA")
        client.send(b"Subject: half\r\n")
        client.close()
    assert counts(metrics.snapshot(), "messages_total")['{result="aborted"}'] == 1
