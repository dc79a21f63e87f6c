"""Measure the replies to a plain client while 500 TLS clients shake hands at once.

Run ``python benchmarks/handshakes.py``. A server process has two ports: a plain one, and one that
speaks TLS from the start. This process talks to the first: NOOP after NOOP. A second process
begins 500 handshakes at the second port at once, with a P-256 key and with one of RSA, 2048 bits.
Wanted: one reply of a hundred waits 50 ms longer than at rest, at most; and no handshake takes
longer than its own timeout.
"""

import argparse
import asyncio
import select
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contestants import BUILD, SERVER_CPU, pin, prepare
from load import Client, Step

KEYS = {"P-256": "ec -pkeyopt ec_paramgen_curve:prime256v1", "RSA 2048": "rsa:2048"}
NOOP = Step(b"NOOP\r\n")
AT_REST = 2000
"""Replies to measure at rest; under load it is as many as come."""


def pem_of(key: str) -> Path:
    """Return a key and its certificate, made at the first use."""
    file = BUILD / f"{key.replace(' ', '-').lower()}.pem"
    if not file.exists():
        subprocess.run(
            f"openssl req -x509 -newkey {KEYS[key]} -nodes -days 3650 -subj /CN=localhost"
            f" -keyout {file}.key -out {file}.crt".split(),
            check=True,
            capture_output=True,
        )
        file.write_text("".join(Path(f"{file}{end}").read_text() for end in (".key", ".crt")))
    return file


# The server process.


async def serve(pem: str, timeout: float) -> None:
    from aiosmtpd import Server
    from aiosmtpd.handlers import Sink

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = Server(
        Sink(),
        listen=["smtp://127.0.0.1:0", "smtps://127.0.0.1:0"],
        ssl_context=context,
        hostname="mx.test",
        handshake_timeout=timeout,
    )
    await server.start()
    print(*(address[1] for address in server.addresses), flush=True)
    await server.serve_forever()


# The process with the load.


async def shake_hands(port: int, number: int) -> None:
    """Begin handshakes at once; print how long each took, in seconds, or -1 if it failed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connections = [socket.socket() for _ in range(number)]
    for one in connections:
        one.connect(("127.0.0.1", port))
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def one_of_them(connection: socket.socket) -> float:
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(
                sock=connection, ssl=context, server_hostname="localhost"
            )
        except OSError:
            return -(time.monotonic() - began)
        took = time.monotonic() - began
        await reader.readline()
        writer.transport.abort()
        return took

    print(*await asyncio.gather(*map(one_of_them, connections)), flush=True)


@contextmanager
def running(*arguments: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout
    return process.stdout.readline().split()


# The plain client.


def p99(delays: Sequence[float]) -> float:
    return statistics.quantiles(delays, n=100)[98]


def delay_of(client: Client) -> float:
    began = time.perf_counter()
    client.ask(NOOP)
    delay = time.perf_counter() - began
    # A client that rests now and then: it takes no CPU from those that shake hands.
    time.sleep(0.0005)
    return delay


def measure(key: str, loop: str, options: argparse.Namespace) -> tuple[float, float, float, int]:
    """Return p99 at rest and under load, the longest handshake, all in seconds; and failures."""
    with (
        running("--serve", pem_of(key), "--loop", loop, "--timeout", options.timeout) as server,
        running("--shake-hands", options.number, "--port", (ports := line_of(server))[1]) as load,
    ):
        client = Client(int(ports[0]))
        assert line_of(load) == ["connected"]
        at_rest = [delay_of(client) for _ in range(AT_REST)]
        assert load.stdin
        assert load.stdout
        load.stdin.write("go\n")
        load.stdin.flush()
        under_load: list[float] = []
        while not select.select([load.stdout], [], [], 0)[0]:
            under_load.append(delay_of(client))
        took = [float(word) for word in line_of(load)]
        client.close()
    return p99(at_rest), p99(under_load), max(map(abs, took)), sum(time < 0 for time in took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=500, help="handshakes at once")
    parser.add_argument("--timeout", type=float, default=30.0, help="of a handshake, in seconds")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], action="append")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--shake-hands", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        pin(SERVER_CPU)
        run = asyncio.run
        if options.loop == ["uvloop"]:
            import uvloop

            run = uvloop.run
        run(serve(options.serve, options.timeout))
        return
    prepare()
    if options.shake_hands:
        asyncio.run(shake_hands(options.port, options.shake_hands))
        return
    print(f"{options.number} handshakes at once; the delay that 1 reply of 100 exceeds, in ms")
    for loop in options.loop or ["asyncio", "uvloop"]:
        for key in KEYS:
            rest, busy, longest, failed = measure(key, loop, options)
            print(
                f"  {loop:8} {key:9} at rest {rest * 1e3:6.1f}, under load {busy * 1e3:6.1f},"
                f" more {(busy - rest) * 1e3:6.1f}; the longest handshake {longest:5.2f} s,"
                f" {failed} failed",
                flush=True,
            )


if __name__ == "__main__":
    main()
