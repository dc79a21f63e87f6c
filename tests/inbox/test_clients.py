"""The clients that programs use with Mailpit, unmodified, against a whole inbox.

They are installed from npm and PyPI into a folder of pytest's cache, at the versions below.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.inbox.web import Box, serving

pytestmark = pytest.mark.browser

NPM = {"mailpit-api": "2.1.0", "cypress-mailpit": "2.0.0"}
PYPI = {"pytest-mailpit": "0.4.1", "mailpit-api-client": "1.0.0"}
SCRIPTS = Path(__file__).parent / "clients"
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "web-auth": {"users": {"ann": "pass word"}},
    "web-root": {"root": "/mail/"},
}


def run(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, **more)


def folder_for(config: pytest.Config, name: str, versions: dict[str, str]) -> Path:
    """Return the folder to install into, one for each worker of xdist; Path() without a cache."""
    if (cache := getattr(config, "cache", None)) is None:
        return Path()
    words = "-".join(f"{package}-{version}" for package, version in sorted(versions.items()))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    return Path(cache.mkdir(f"inbox-{name}-{worker}")) / words


@pytest.fixture(scope="module")
def node_modules(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    """Return the folder with the packages of npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not there")
    folder = folder_for(request.config, "npm", NPM)
    if folder == Path():
        folder = tmp_path_factory.mktemp("npm")
    modules = folder / "node_modules"
    if not all((modules / package).is_dir() for package in NPM):
        folder.mkdir(parents=True, exist_ok=True)
        packages = [f"{package}@{version}" for package, version in NPM.items()]
        # Without Cypress itself, which is a browser of 200 MB: a stand-in makes its requests.
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps")
        done = run(npm, "install", *quiet, "--prefix", folder, *packages)
        if done.returncode:
            pytest.skip(f"npm cannot install the clients: {done.stderr.strip()[-300:]}")
    return modules


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    """Return the Python of an environment with the packages of PyPI."""
    folder = folder_for(request.config, "pypi", PYPI)
    if folder == Path():
        folder = tmp_path_factory.mktemp("pypi") / "venv"
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done_file = folder / "installed"
    if not done_file.exists():
        venv.create(folder, with_pip=True, clear=True)
        packages = [f"{package}=={version}" for package, version in PYPI.items()]
        done = run(python, "-m", "pip", "install", "-q", *packages)
        if done.returncode:
            pytest.skip(f"pip cannot install the clients: {done.stderr.strip()[-300:]}")
        done_file.touch()
    return python


@pytest.fixture(params=MODES)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with serving(**MODES[request.param]) as box:
        yield box


def login(box: Box) -> list[str]:
    users = box.services.options.users or {}
    return [word for user in users.items() for word in user]


def url_with_login(box: Box) -> str:
    if not login(box):
        return box.url
    return box.url.replace("://", "://ann:pass%20word@")


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the error of each test that a script of node has run, "" for a success."""
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["name"]: one.get("error", "") for one in found}


@pytest.mark.parametrize(
    ("script", "module", "least"),
    [
        ("mailpit_api.mjs", "mailpit-api/dist/index.mjs", 20),
        ("cypress_mailpit.mjs", "cypress-mailpit/dist/index.js", 8),
    ],
)
def test_clients_of_npm(box: Box, node_modules: Path, script: str, module: str, least: int) -> None:
    done = run("node", SCRIPTS / script, node_modules / module, box.url, *login(box))
    found = outcomes(done)
    assert {name: error for name, error in found.items() if error} == {}
    assert len(found) >= least


@pytest.mark.parametrize(
    ("script", "count"), [("pytest_mailpit_tests.py", 13), ("mailpit_api_client_tests.py", 5)]
)
def test_clients_of_pypi(box: Box, python: Path, script: str, count: int, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    smtp = f"127.0.0.1:{box.smtp_port}"
    # A folder without our settings of pytest.
    shutil.copy(SCRIPTS / script, tmp_path)
    done = run(
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", script),
        *("--mailpit-url", url_with_login(box), "-o", f"mailpit_smtp={smtp}"),
        *("-o", "mailpit_poll_interval=0.05", f"--junit-xml={report}"),
        cwd=tmp_path,
        env={"INBOX_URL": url_with_login(box), "INBOX_SMTP": smtp, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout
    suite = ElementTree.parse(report).getroot()[0]
    assert [int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")] == [
        *(count, 0, 0, 0)
    ]
