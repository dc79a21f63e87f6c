"""The servers to compare: this one, the published 1.4.6, the floor, others if installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "benchmarks"
PEM = BUILD / "server.pem"
PUBLISHED = "1.4.6"
EVERYTHING = frozenset({"smtp", "hooks", "thread", "starttls", "smtps", "modern", "stream"})
SERVER_CPU, LOAD_CPU = 0, 1


@attrs.frozen
class Contestant:
    """A server to measure: its skills, and its command, with ``WHAT`` and ``PORT`` to fill in."""

    name: str
    command: tuple[str, ...]
    skills: frozenset[str] = EVERYTHING
    path: str = ""
    loop: str = "asyncio"


def environment(name: str, *requirements: str) -> Path:
    """Return the Python of a venv of its own, made at the first use."""
    folder = BUILD / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", *requirements]
        subprocess.run(command, check=True, cwd=HERE)
    return python


def ours(name: str, tree: Path, loop: str) -> Contestant:
    """Return a tree of this project as a contestant."""
    python = environment("ours", "atpublic", "attrs", "uvloop")
    command = (str(python), str(HERE / "server.py"), "WHAT", loop)
    return Contestant(name, command, path=str(tree), loop=loop)


def floor(us: Contestant) -> Contestant:
    """Return the floor; it runs in this project's venv, with its layer of TLS."""
    skills = frozenset({"smtp", "starttls", "smtps"})
    return attrs.evolve(us, name="floor", command=(*us.command, "floor"), skills=skills)


def contestants(loop: str) -> list[Contestant]:
    """Return all servers that can run here; those in Python run on the given event loop."""
    published = environment("published", f"aiosmtpd=={PUBLISHED}", "uvloop")
    us = ours("ours", ROOT, loop)
    script = str(HERE / "server.py")
    return [
        Contestant(
            PUBLISHED,
            (str(published), script, "WHAT", loop),
            EVERYTHING - {"modern", "stream"},
            loop=loop,
        ),
        us,
        floor(us),
        *others(),
    ]


def others() -> list[Contestant]:
    """Return the servers of other projects that are installed: see README.rst."""
    found = []
    skills = frozenset({"smtp", "starttls"})
    node = shutil.which("node")
    if node and (BUILD / "node" / "node_modules" / "smtp-server").exists():
        found.append(
            Contestant("nodemailer", (node, str(HERE / "others/node_server.js"), str(PEM)))
        )
    packaged = Path("/usr/share/gocode/src/github.com/emersion/go-smtp")
    if (go := shutil.which("go")) and packaged.exists():
        found.append(Contestant("go-smtp", (str(go_server(go)), str(PEM))))
    found = [attrs.evolve(one, skills=skills) for one in found]
    if sink := shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        # Started by root, it insists on another user.
        user = () if os.getuid() else ("-u", "nobody")
        command = (sink, *user, "-m", "10000", "-h", "mx.test", "127.0.0.1:PORT", "1024")
        found.append(Contestant("smtp-sink", command, frozenset({"smtp"})))
    return found


def go_server(go: str) -> Path:
    """Return the server around go-smtp, built at the first use."""
    source, program = HERE / "others" / "main.go", BUILD / "go-server"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        settings = {
            "GO111MODULE": "off",
            "GOPATH": "/usr/share/gocode",
            "GOCACHE": str(BUILD / "go"),
        }
        subprocess.run(
            [go, "build", "-o", str(program), str(source)],
            check=True,
            env={**os.environ, **settings},
        )
    return program


def versions() -> dict[str, str]:
    """Return the versions of the other servers."""
    asked = {
        "nodemailer": [
            "node",
            "-p",
            "require('./node/node_modules/smtp-server/package.json').version",
        ],
        "node": ["node", "--version"],
        "go": ["go", "version"],
        "go-smtp": ["dpkg-query", "-W", "-f", "${Version}", "golang-github-emersion-go-smtp-dev"],
        "postfix": ["dpkg-query", "-W", "-f", "${Version}", "postfix"],
    }
    found = {"python": sys.version.split()[0]}
    for name, command in asked.items():
        if shutil.which(command[0]):
            told = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, check=False)
            if told.returncode == 0:
                found[name] = told.stdout.strip()
    return found


@attrs.define
class Running:
    """A running server: its port, its process, and the CPU that it has used."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its threads, by the kernel's clock of another process."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def memory(self, field: str = "VmRSS") -> int:
        """Return its memory in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise LookupError(field)


@contextmanager
def running(contestant: Contestant, what: str) -> Iterator[Running]:
    """Run a server on the server's CPU."""
    port = free_port() if "127.0.0.1:PORT" in contestant.command else 0
    command = [word.replace("PORT", str(port)) for word in contestant.command]
    command = [what if word == "WHAT" else word for word in command]
    environ = {**os.environ, "PYTHONPATH": contestant.path, "BENCHMARK_PEM": str(PEM)}
    folder = BUILD / "node" if contestant.name == "nodemailer" else BUILD
    process = subprocess.Popen(
        command,
        env=environ,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=None if contestant.path else subprocess.DEVNULL,
        text=True,
        preexec_fn=pin_server,
    )
    assert process.stdout
    try:
        if port:
            wait_for(port)
        yield Running(port or int(process.stdout.readline()), process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Wait until the server listens; it does not print its port."""
    deadline = time.monotonic() + 10
    with socket.socket() as one:
        while one.connect_ex(("127.0.0.1", port)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no server listens on port {port}")
            time.sleep(0.02)


def pin_server() -> None:
    pin(SERVER_CPU)


def pin(cpu: int) -> None:
    """Stay on one CPU, if there is another one for the other processes."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {cpu})


def prepare() -> None:
    """Make the folder and the certificate; stay on the load's CPU; allow many sockets."""
    import resource

    BUILD.mkdir(parents=True, exist_ok=True)
    certificate()
    pin(LOAD_CPU)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))


def certificate() -> None:
    if not PEM.exists():
        subprocess.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650"
            f" -subj /CN=localhost -keyout {PEM.name}.key -out {PEM.name}.crt".split(),
            cwd=BUILD,
            check=True,
            capture_output=True,
        )
        parts = (Path(f"{PEM}.key"), Path(f"{PEM}.crt"))
        PEM.write_text("".join(part.read_text() for part in parts))
