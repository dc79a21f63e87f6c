"""The dashboard and the alerts, with a real Prometheus that scrapes a real server."""

import json
import re
import shutil
import smtplib
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.runner.exposition import METRICS
from aiosmtpd.runner.tables import TLS, Auth, LimitsTable
from tests.client import PATIENCE
from tests.conftest import Certificates
from tests.delivery.support import until
from tests.runner.fleet import MARKS
from tests.runner.test_fleet_watch import Watched

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"

pytestmark = [
    *MARKS,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]

NOTHING: dict[str, Any] = {"result": []}


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Scrape a server twice a second, with the alerts; yield the address of the API."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, evaluation_interval: 1s}\n"
        f"rule_files: [{MONITORING / 'alerts.yml'}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: aiosmtpd, static_configs: [{{targets: ['{target}']}}]}}\n"
    )
    words = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with subprocess.Popen(
        ["prometheus", *words, f"--web.listen-address={address}", "--log.level=error"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield f"http://{address}/api/v1"
        finally:
            process.kill()


def asked(api: str, path: str, **query: str) -> Any:
    """Return the data of an answer; None while Prometheus does not answer."""
    with suppress(OSError):
        url = f"{api}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.loads(answer.read())["data"]
    return None


def rules(api: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(api, "rules")["groups"][0]["rules"]
    return found


def queries() -> dict[str, str]:
    """Return the queries of the dashboard, with the names of their panels."""
    found = {}
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            found[f"{panel['title']} {target['refId']}"] = query
    return found


def use(fleet: Watched, certificates: Certificates) -> None:
    """Send mail, log in, be refused: each metric has a value after that."""
    for number in range(3):
        fleet.send(number)
    with fleet.client() as client:
        client.starttls(context=certificates.client_context())
        with suppress(smtplib.SMTPAuthenticationError):
            client.login("ann", "wrong")
        client.login("ann", "right")
        client.docmd("RCPT TO:<x>")
        with suppress(smtplib.SMTPConnectError), fleet.client(), fleet.client():
            pass


def test_each_query_of_the_dashboard_has_a_result(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = TLS(cert=str(certificates.cert_file), key=str(certificates.key_file))
    auth = Auth(users="users", pairs=(("ann", "right"),))
    limits = LimitsTable(connections_per_host=2)
    with (
        Watched(tmp_path, tls=tls, auth=auth, limits=limits) as fleet,
        prometheus(tmp_path, fleet.web.removeprefix("http://")) as api,
    ):
        until(lambda: bool((asked(api, "query", query="aiosmtpd_workers") or NOTHING)["result"]))
        use(fleet, certificates)

        def empty() -> list[str]:
            results = {name: asked(api, "query", query=query) for name, query in queries().items()}
            return [name for name, data in results.items() if not data["result"]]

        until(lambda: not empty())
        until(lambda: all(rule["health"] == "ok" for rule in rules(api)))
        alerts = rules(api)
        assert [rule["name"] for rule in alerts if rule["state"] != "inactive"] == []
        text = fleet.get("/metrics").partition(" ")[2]
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        metric = METRICS[re.sub(r"_(bucket|sum|count)$", "", name)]
        found = re.findall(r"(\w+)=", labels)
        assert [label for label in found if label != "le"] == list(metric.labels), name
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_alerts_are_right() -> None:
    for words in ["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"]:
        subprocess.run(["promtool", *words], cwd=MONITORING, check=True, capture_output=True)
