"""Measure streaming: 100 MB to ``handle_BODY``, and to a protocol that drops its input.

Run ``python benchmarks/streaming.py``. The ratio is the CPU time of the bare protocol to that of
the server: at 1, streaming would cost nothing.
"""

import argparse
import asyncio
from typing import cast

from contestants import HERE, ROOT, Contestant, ours, prepare
from load import in_chunk, message, transaction
from measuring import measure
from scenarios import Scenario

OCTETS = 10**8
ANSWERS = {b"DATA": b"354 go\r\n", b"EHLO": b"250 HELP\r\n"}


class Dropping(asyncio.Protocol):
    """Read and drop mail data of a known size."""

    def __init__(self, octets: int) -> None:
        self.octets = octets
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is not an instance of it.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"220 bare\r\n")

    def data_received(self, data: bytes) -> None:
        if self.left:
            self.left -= len(data)
            if not self.left:
                self.transport.write(b"250 OK\r\n")
            return
        verb = data[:4]
        if verb == b"BDAT":
            # The command and the first bytes of its chunk arrive together.
            command, _, begin = data.partition(b"\r\n")
            self.left = int(command.split()[1]) - len(begin)
            return
        if verb == b"DATA":
            self.left = self.octets
        self.transport.write(ANSWERS.get(verb, b"250 OK\r\n"))


async def serve(octets: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Dropping(octets), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def compare(rounds: int, loop: str) -> None:
    prepare()
    body = message(OCTETS)
    us = ours("ours", ROOT, loop)
    command = (us.command[0], str(HERE / "streaming.py"), "--serve", str(len(body)))
    bare = Contestant("bare", (*command, "--uvloop") if loop == "uvloop" else command)
    for title, steps in (("DATA", transaction(body)), ("BDAT", in_chunk(body))):
        row = Scenario(f"100 MB to handle_BODY by {title}", steps, 1, 1, "stream")
        found = measure(row, [us, bare], rounds)
        ratios = sorted(found["ours"].ratios(found["bare"]))
        low, middle, high = (ratios[len(ratios) * part // 4] for part in (1, 2, 3))
        print(
            f"{row.title:32}{found['bare'].median / 1e3:8,.1f} ms bare"
            f"{found['ours'].median / 1e3:8,.1f} ms ours   {middle:6.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--serve", type=int, metavar="OCTETS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    loop = "uvloop" if options.uvloop else "asyncio"
    if options.serve is None:
        compare(options.rounds, loop)
    elif options.uvloop:
        import uvloop

        uvloop.run(serve(options.serve))
    else:
        asyncio.run(serve(options.serve))


if __name__ == "__main__":
    main()
