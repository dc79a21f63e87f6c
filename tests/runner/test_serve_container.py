"""``aiosmtpd serve`` as in a container: process 1, on a disk that is read-only."""

import os
import shutil
import signal
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.net.support import free_port
from tests.runner.test_serve_process import text, wait_for

pytestmark = pytest.mark.fleet

UNSHARE = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
if hasattr(os, "geteuid") and os.geteuid() != 0:
    UNSHARE += ["--user", "--map-root-user"]

SCRIPT = """
mount --make-rprivate / && mount --rbind / / && mount -o remount,ro,bind / || exit 3
mount --bind "$1" "$1" && mount -o remount,rw,bind "$1" && cd "$1" || exit 3
mount --bind "$2" "$2" && mount -o remount,ro,bind "$2" || exit 3
touch "$2/written" 2>/dev/null && exit 4
exec "$3" -m aiosmtpd serve a.toml
"""


def are_allowed() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run([*UNSHARE, "mount", "--make-rprivate", "/"], check=False, timeout=20)
    return done.returncode == 0


def test_process_1_on_a_disk_that_is_read_only(tmp_path: Path) -> None:
    if not are_allowed():
        pytest.skip("namespaces are not allowed here")
    state, other = tmp_path / "state", tmp_path / "other"
    state.mkdir()
    other.mkdir()
    port = free_port()
    lines = text(port).splitlines()[1:]
    (state / "a.toml").write_text("\n".join(['user = "root"', *lines]))
    command = [*UNSHARE, "sh", "-c", SCRIPT, "sh", str(state), str(other), sys.executable]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with (
        open(tmp_path / "log", "wb") as log,
        subprocess.Popen(command, stderr=log, env=environment) as process,
    ):
        try:
            wait_for(
                lambda: (
                    "is listening on" in (tmp_path / "log").read_text()
                    or process.poll() is not None
                )
            )
            assert process.poll() is None, (tmp_path / "log").read_text()
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.sendmail("b@b.test", ["a@a.test"], "Subject: hello\r\n\r\n")
            wait_for(lambda: any((state / "mail").glob("new/*")))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            os.kill(int(children), signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert list(other.iterdir()) == []
