"""Measure the replies to a plain client while 500 TLS clients shake hands at once.

Run ``python benchmarks/handshakes.py``. A server process has two ports: a plain one, and one that
speaks TLS from the start. This process talks to the first: NOOP after NOOP. A second process
begins 500 handshakes at the second port at once, with a P-256 key and with one of RSA, 2048 bits.
Wanted: one reply of a hundred waits 50 ms longer than at rest, at most; and no handshake takes
longer than its own timeout. Run it as root on a machine that others use: the server and the plain
client then go before all other processes.
"""

import argparse
import asyncio
import os
import select
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from contestants import BUILD, SERVER_CPU, pin, prepare
from load import Client, Step

KEYS = {"P-256": "ec -pkeyopt ec_paramgen_curve:prime256v1", "RSA 2048": "rsa:2048"}
NOOP = Step(b"NOOP\r\n")
AT_REST = 2000
"""Replies to measure at rest; under load it is as many as come."""

PATIENCE = 60.0


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


def go_first() -> None:
    """Go before all other processes, if this one may: their CPU is not the server's delay."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


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


class Hand:
    """A TLS client whose first bytes are ready to be sent."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.is_done()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def is_done(self) -> bool:
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            return True
        return False

    def send(self) -> None:
        self.socket.sendall(self.outgoing.read())

    def finish(self) -> bool:
        """Go on until the server's first reply; return False if the server ends before."""
        while not self.is_done():
            if not (data := self.socket.recv(65536)):
                return False
            self.incoming.write(data)
        self.send()
        return bool(self.socket.recv(1))


def shake_hands(port: int, number: int) -> None:
    """Make handshakes at once; print the seconds until each had its end, negative if it failed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    hands = [Hand(context, port) for _ in range(number)]
    print("connected", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    for hand in hands:
        hand.send()
    took = []
    for hand in hands:
        is_well = hand.finish()
        took.append((time.monotonic() - began) * (1 if is_well else -1))
    print(*took, flush=True)


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


class Measured(NamedTuple):
    """Delays of the plain client at rest and under load, and the times of the handshakes."""

    at_rest: list[float]
    under_load: list[float]
    handshakes: list[float]

    def __str__(self) -> str:
        rest, busy = p99(self.at_rest) * 1e3, p99(self.under_load) * 1e3
        return (
            f"at rest {rest:5.1f}, under load {busy:5.1f}, more {busy - rest:5.1f}"
            f" (longest {max(self.under_load) * 1e3:5.1f}, of {len(self.under_load):,});"
            f" longest handshake {max(map(abs, self.handshakes)):.2f} s,"
            f" {sum(one < 0 for one in self.handshakes)} failed"
        )


def measure(key: str, loop: str, options: argparse.Namespace) -> Measured:
    with running("--serve", pem_of(key), "--loop", loop, "--timeout", options.timeout) as server:
        plain, tls = line_of(server)
        client = Client(int(plain))
        at_rest = [delay_of(client) for _ in range(AT_REST)]
        with running("--shake-hands", options.number, "--port", tls) as load:
            assert line_of(load) == ["connected"]
            assert load.stdin
            assert load.stdout
            load.stdin.write("go\n")
            load.stdin.flush()
            under_load: list[float] = []
            while not select.select([load.stdout], [], [], 0)[0]:
                under_load.append(delay_of(client))
            took = [float(word) for word in line_of(load)]
            client.close()
    return Measured(at_rest, under_load, took)


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
        go_first()
        run = asyncio.run
        if options.loop == ["uvloop"]:
            import uvloop

            run = uvloop.run
        run(serve(options.serve, options.timeout))
        return
    prepare()
    if options.shake_hands:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        shake_hands(options.port, options.shake_hands)
        return
    go_first()
    print(f"{options.number} handshakes at once; the delay that 1 reply of 100 exceeds, in ms")
    for loop in options.loop or ["asyncio", "uvloop"]:
        for key in KEYS:
            print(f"  {loop:8}{key:9}{measure(key, loop, options)}", flush=True)


if __name__ == "__main__":
    main()
