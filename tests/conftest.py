"""Fixtures for all tests: certificates, and the event loop of the run."""

import asyncio
import asyncio.events
import atexit
import faulthandler
import gc
import os
import shlex
import shutil
import ssl
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import attrs
import pytest
import trustme
from hypothesis import HealthCheck, settings

# Each worker would compile all tests, and each process the package: an eighth of all CPU time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY = Path("/dev/shm")
"""A folder whose files are in memory, on Linux."""

ROOM = 2 << 30
"""Bytes that must be free in memory: temporary files take a quarter of them."""


def has_room() -> bool:
    """Return True if temporary files can be in memory: programs too, which tests run."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return False
    disk = os.statvfs(MEMORY)
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return not disk.f_flag & os.ST_NOEXEC and min(disk.f_bavail * disk.f_frsize, memory) > ROOM


def is_left(folder: Path) -> bool:
    """Return True for a folder of a run of this user that was killed."""
    try:
        is_ours = folder.stat().st_uid == os.getuid()
    except OSError:
        return False
    return is_ours and not Path("/proc", folder.name.split("-")[1]).exists()


def work_in_memory() -> None:
    """Put temporary files into memory until the end: a busy disk makes tests take twice as long.

    With ``TMPDIR`` they are there, and pytest keeps them.
    """
    for left in MEMORY.glob("t-*-*"):
        if is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"t-{os.getpid()}-", dir=MEMORY)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Processes of other users have folders in it.
    os.chmod(folder, 0o755)
    # The workers of -n inherit it.
    os.environ["TMPDIR"] = tempfile.tempdir = folder


if has_room():
    work_in_memory()

# A test must not fail because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uvloop", action="store_true", help="run every event loop on uvloop")


LONGEST_TEST = 300.0
"""Seconds after which a test that hangs ends the run, with a traceback of all threads."""

WATCHED = 30.0
"""Seconds of tests that share one watch: pytest's own would start and end a thread for each."""


class Watch:
    """Ends a run that hangs in a test, *WATCHED* seconds early at the soonest."""

    def __init__(self) -> None:
        # Tests capture the standard error.
        self._output = os.fdopen(os.dup(2), "w")
        self._begun = -WATCHED

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        if monotonic() - self._begun > WATCHED:
            faulthandler.dump_traceback_later(LONGEST_TEST, exit=True, file=self._output)
            self._begun = monotonic()

    def pytest_enter_pdb(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def pytest_unconfigure(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._output.close()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Watch(), "watch")
    if config.getoption("--uvloop"):
        import uvloop

        # asyncio.Runner, pytest-asyncio and the controllers ask here for new loops.
        asyncio.new_event_loop = uvloop.new_event_loop
        asyncio.events.new_event_loop = uvloop.new_event_loop


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Start the workers of ``-n`` in development mode (``-X dev``) if this process is in it."""
    if sys.flags.dev_mode:
        for spec in specs:
            spec.python = shlex.join([sys.executable, "-X", "dev"])


def pytest_collection_finish() -> None:
    """Keep the thousands of collected tests out of the many ``gc.collect()`` of the tests."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    return f"event loop: {'uvloop' if config.getoption('--uvloop') else 'asyncio'}"


@attrs.frozen
class Certificates:
    """A CA, a server's and a client's certificate, as PEM files and as ready contexts."""

    folder: Path
    authority: trustme.CA

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def cert_file(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key_file(self) -> Path:
        return self.folder / "server.key"

    def server_context(self, verify: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        context.load_verify_locations(self.ca_file)
        context.verify_mode = verify
        return context

    def client_context(self, *, own_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if own_certificate:
            self.authority.issue_cert("client@example.com").configure_cert(context)
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1", "::1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server.private_key_pem.write_to_path(str(folder / "server.key"))
    for blob in server.cert_chain_pems:
        blob.write_to_path(str(folder / "server.pem"), append=True)
    return Certificates(folder, authority)
