"""Measure the time to import the server, and the time to the first 220 of the command line."""

import os
import socket
import statistics
import subprocess
import time

from contestants import BUILD, HERE, Contestant, free_port

TIMES = 15
IMPORT = (
    "import asyncio, attrs, time; began = time.perf_counter(); import aiosmtpd.smtp; "
    "print((time.perf_counter() - began) * 1e3)"
)
BARE = (
    "import asyncio, sys\n"
    "sys.path.insert(0, {here!r})\n"
    "from floor import Floor\n"
    "async def main():\n"
    "    server = await asyncio.get_running_loop().create_server(Floor, '127.0.0.1', {port})\n"
    "    await server.serve_forever()\n"
    "asyncio.run(main())\n"
)


def surroundings(path: str) -> dict[str, str]:
    """Return an environment that keeps compiled modules, whatever our own environment says."""
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(BUILD / "pycache")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


def import_milliseconds(contestant: Contestant) -> float:
    """Return the time of one import of ``aiosmtpd.smtp``, after asyncio and attrs."""
    environ = surroundings(contestant.path)
    command = [contestant.command[0], "-P", "-c", IMPORT]
    told = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return float(told.stdout)


def import_times(them: list[Contestant]) -> dict[str, float]:
    """Return the medians of imports that took turns, in milliseconds."""
    found: dict[str, list[float]] = {one.name: [] for one in them}
    for _ in range(TIMES):
        for one in them:
            found[one.name].append(import_milliseconds(one))
    return {name: statistics.median(times) for name, times in found.items()}


def first_greeting(python: str, arguments: list[str], path: str, port: int) -> float:
    """Return the seconds from starting a program to its first 220."""
    environ = surroundings(path)
    began = time.perf_counter()
    process = subprocess.Popen([python, *arguments], env=environ, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                    if client.recv(1024).startswith(b"220"):
                        return time.perf_counter() - began
            except ConnectionRefusedError:
                if process.poll() is not None or time.perf_counter() - began > 20:
                    raise
    finally:
        process.kill()
        process.wait()


def greeting_times(us: list[Contestant]) -> dict[str, float]:
    """Return the medians of seconds to the first 220: command lines, and a bare asyncio server."""
    found: dict[str, list[float]] = {name: [] for name in ["bare", *(one.name for one in us)]}
    for _ in range(TIMES):
        port = free_port()
        bare = BARE.format(here=str(HERE), port=port)
        found["bare"].append(first_greeting(us[0].command[0], ["-P", "-c", bare], "", port))
        for one in us:
            port = free_port()
            arguments = ["-P", "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}"]
            arguments += ["-c", "aiosmtpd.handlers.Sink"]
            found[one.name].append(first_greeting(one.command[0], arguments, one.path, port))
    return {name: statistics.median(times) for name, times in found.items()}
