"""Two machines behind HAProxy, played by two masters: the configuration that the docs show."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.runner.tables import Drain, LimitsTable, Proxy
from tests.delivery.support import until
from tests.net.support import free_port
from tests.net.test_haproxy import HAPROXY, HAProxy, running
from tests.runner.fleet import MARKS, Load
from tests.runner.test_fleet_watch import ACCEPTED, Watched, held

CONFIGURATION = Path(__file__).parents[2] / "docs" / "monitoring" / "haproxy.cfg"

pytestmark = [*MARKS, pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")]


@contextmanager
def machines(folder: Path, **keywords: Any) -> Iterator[tuple[Watched, Watched]]:
    """Run two masters that trust a balancer."""
    options = {
        "workers": 1,
        "proxy": Proxy(trusted=("127.0.0.0/8",)),
        "limits": LimitsTable(connections_per_host=0),
        **keywords,
    }
    for name in "mx1", "mx2":
        (folder / name).mkdir()
    with Watched(folder / "mx1", **options) as first, Watched(folder / "mx2", **options) as second:
        yield first, second


@contextmanager
def balanced(folder: Path, *backends: Watched, many: bool = False) -> Iterator[HAProxy]:
    """Run HAProxy with the configuration of the docs, at ports of the loopback.

    With *many*, one host may open any number of connections.
    """
    port, admin = free_port(), folder / "admin"
    text = CONFIGURATION.read_text()
    changes = {
        "maxconn 20000": "maxconn 200",
        "/run/haproxy/admin.sock": str(admin),
        "bind :25": f"bind 127.0.0.1:{port}",
        "conn_rate gt 60": f"conn_rate gt {10**6 if many else 60}",
        "conn_cur gt 20": f"conn_cur gt {10**6 if many else 20}",
        "check port 9025 inter 1s": "check inter 100ms",
    }
    for number, backend in enumerate(backends, 1):
        web = backend.web.rpartition(":")[2]
        changes[f"10.0.0.1{number}:25"] = f"127.0.0.1:{backend.port} port {web}"
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    with running(folder, text, port, admin) as proxy:
        for name in "mx1", "mx2":
            proxy.wait_until(lambda name=name: is_up(proxy, name))  # type: ignore[misc]
        yield proxy


def is_up(proxy: HAProxy, server: str) -> bool:
    status = proxy.status(server)
    return status["status"] == "UP" and status["check_status"] == "L7OK"


def test_a_machine_that_drains_disturbs_no_client(tmp_path: Path) -> None:
    with (
        machines(tmp_path) as (first, second),
        balanced(tmp_path, first, second, many=True) as proxy,
        Load(proxy.port) as load,
    ):
        load.more(30)
        assert proxy.ask("set server smtp/mx1 state drain").strip() == ""
        proxy.wait_until(lambda: proxy.status("mx1")["scur"] == "0")
        assert first.end() == 0
        load.more(30)
        load.stop()
        assert load.disturbed == []
        until(lambda: second.counters()[ACCEPTED] > 0)
        until(lambda: load.acknowledged <= {*first.delivered(), *second.delivered()})


def test_a_machine_that_ends_disturbs_no_client(tmp_path: Path) -> None:
    with (
        machines(tmp_path, drain=Drain(delay=2.0, linger=5.0)) as (first, second),
        balanced(tmp_path, first, second, many=True) as proxy,
        Load(proxy.port) as load,
    ):
        load.more(30)
        assert first.end() == 0
        load.more(30)
        load.stop()
        assert load.disturbed == []


def test_a_limit_holds_over_two_machines(tmp_path: Path) -> None:
    with (
        machines(tmp_path) as (first, second),
        balanced(tmp_path, first, second) as proxy,
        held(proxy.port, 30) as lines,
    ):
        assert sum(line.startswith("220 ") for line in lines) == 20
        served = [len(one.ask("sessions")["sessions"]) for one in (first, second)]
        assert sum(served) == 20
        assert min(served) > 0
        # The machines see the address of the client, not that of the balancer.
        clients = {one["client"] for one in first.ask("sessions")["sessions"]}
        assert clients == {"127.0.0.1"}
        assert lines.count("") == 10
