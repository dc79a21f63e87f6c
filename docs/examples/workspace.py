"""The place of the examples of one page: an empty folder with a certificate for localhost."""

import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache, cached_property
from pathlib import Path

from console import Console

_script = (Path(__file__).parent / "make-certificate.sh").read_text()
MAKE_CERTIFICATE = shlex.split(_script.replace("\\\n", ""))

has_openssl = shutil.which("openssl") is not None
has_pytest = importlib.util.find_spec("pytest") is not None


class Workspace:
    """A new folder; the constructor enters it."""

    def __init__(self) -> None:
        self._before = os.getcwd()
        if "PYTHONPATH" in os.environ:
            # A relative path would be another folder for a process started from here.
            folders = os.environ["PYTHONPATH"].split(os.pathsep)
            os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
        self._folder = tempfile.TemporaryDirectory()
        os.chdir(self._folder.name)
        # Some examples make mistakes on purpose: hide their tracebacks.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        for name, text in _certificate().items():
            Path(name).write_text(text)

    @cached_property
    def console(self) -> Console:
        """Return the terminals of the page."""
        return Console(Path(self._folder.name))

    def leave(self) -> None:
        """Go back and remove the folder."""
        if "console" in vars(self):
            self.console.close()
        os.chdir(self._before)
        self._folder.cleanup()


@cache
def _certificate() -> dict[str, str]:
    if not has_openssl:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(  # noqa: S603 - a command of ours
            MAKE_CERTIFICATE, cwd=folder, check=True, capture_output=True
        )
        return {name: (Path(folder) / name).read_text() for name in ("cert.pem", "key.pem")}


def make_certificate(host: str, cert: str, key: str) -> None:
    """Make another certificate, in these files of the workspace."""
    new = {"localhost": host, "cert.pem": cert, "key.pem": key}
    command = [new.get(word, word.replace("localhost", host)) for word in MAKE_CERTIFICATE]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - a command of ours
