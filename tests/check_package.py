"""Try the wheel and the sdist as a stranger would: ``python tests/check_package.py DIST_FOLDER``.

Each is installed in a bare environment; it tells its version and takes one message.
"""

import os
import smtplib
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path


def check_contents(wheel: Path, sdist: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "aiosmtpd/py.typed" in names, names
    assert "aiosmtpd/inbox/page/index.html" in names, names
    assert not [name for name in names if "tests/" in name], "the wheel has tests in it"
    tops = {name.split("/")[0] for name in names}
    assert all(top == "aiosmtpd" or top.endswith(".dist-info") for top in tops), tops
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.rst", "LICENSE", "tox.ini", "pyproject.toml", "aiosmtpd/smtp.py"} <= inside


def check_installed(package: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        scripts = Path(folder) / ("Scripts" if os.name == "nt" else "bin")
        python = scripts / "python"
        command = [str(python), "-m", "pip", "install", "--quiet", str(package)]
        subprocess.run(command, check=True, cwd=folder)
        check_version(scripts / "aiosmtpd", folder)
        check_message(python, folder)


def check_version(program: Path, folder: str) -> None:
    done = subprocess.run(
        [str(program), "--version"], check=True, capture_output=True, text=True, cwd=folder
    )
    assert done.stdout.startswith("aiosmtpd 1.5."), done.stdout


def check_message(python: Path, folder: str) -> None:
    command = [str(python), "-m", "aiosmtpd", "-n", "-l", "127.0.0.1:0"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            port = int(server.stderr.readline().rpartition(":")[2])
            with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
                client.sendmail("a@b.test", ["c@d.test"], "Subject: hello\n\nHi!")
            printed = [server.stdout.readline() for _ in range(5)]
        finally:
            server.terminate()
        assert printed[0] == "---------- MESSAGE FOLLOWS ----------\n", printed
        assert printed[1] == "mail options: ['SIZE=21']\n", printed
        assert printed[3] == "Subject: hello\n", printed
        assert server.wait(30) == 0


def main() -> None:
    dist = Path(sys.argv[1])
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    check_contents(wheel, sdist)
    for package in (wheel, sdist):
        check_installed(package)
        print(f"{package.name}: installed, tells its version, takes a message")


if __name__ == "__main__":
    main()
