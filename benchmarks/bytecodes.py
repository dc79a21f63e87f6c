"""Count the bytecode instructions of a conversation, function by function.

``python benchmarks/bytecodes.py [SCENARIO]``: a conversation in memory, without kernel and
sockets. The counts are the same on every machine and in every run, however busy the machine is. Use
it to measure a small change of the server. ``--help`` lists the scenarios.
"""

import argparse
import asyncio
import os
import ssl
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from contestants import BUILD, PEM, certificate
from load import EHLO, QUIT, STARTTLS
from scenarios import SCENARIOS

HERE = Path(__file__).parent
MESSAGES = 60


class Network(asyncio.Transport):
    """Keep the bytes that the server writes, and wake the client."""

    def __init__(self, protocol: Any) -> None:
        super().__init__({"peername": ("127.0.0.1", 25)})
        self.protocol = protocol
        self.sent = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.sent += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Do nothing: all bytes are already written."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closing = True


class TLSClient:
    """The client's side of TLS."""

    def __init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing)

    def shake_hands(self, data: bytes = b"") -> bytes:
        """Take the server's part of the handshake, and return the next one of the client."""
        self.incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            self.object.do_handshake()
        return self.outgoing.read()

    def write(self, data: bytes) -> bytes:
        """Return the ciphertext of *data*."""
        self.object.write(data)
        return self.outgoing.read()

    def read(self, data: bytes) -> None:
        """Take ciphertext, and drop its text."""
        self.incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            while self.object.read():
                pass


class Conversation:
    """Talk to the server from callbacks of the loop, as a socket's transport does."""

    def __init__(self, name: str) -> None:
        from server import factory

        scenario = SCENARIOS[name]
        self.make = factory(scenario.server)
        self.each = scenario.each
        self.in_tls = scenario.tls
        self.pieces = [step.data for step in scenario.steps]
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.counts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def connected(self) -> Iterator[None]:
        self.tls: TLSClient | None = None
        self.server = self.make()
        self.network = Network(self.server)
        self.server.connection_made(self.network)
        while not self.network.sent:
            yield
        # The server's task begins.
        yield
        yield from self.said(EHLO)
        if self.in_tls:
            yield from self.said(STARTTLS)
            tls = TLSClient()
            yield from self.arrives(tls.shake_hands())
            yield from self.arrives(tls.shake_hands(self.network.sent))
            self.tls = tls
            tls.read(self.network.sent)
            yield from self.said(EHLO)

    def arrives(self, data: bytes) -> Iterator[None]:
        self.network.sent = b""
        protocol = self.network.protocol
        view = protocol.get_buffer(-1)
        view[: len(data)] = data
        protocol.buffer_updated(len(data))
        while not self.network.sent:
            yield

    def said(self, data: bytes) -> Iterator[None]:
        if self.tls is None:
            yield from self.arrives(data)
            return
        yield from self.arrives(self.tls.write(data))
        self.tls.read(self.network.sent)

    def steps(self) -> Iterator[None]:
        yield from self.connected()
        sys.settrace(self.trace)
        for _ in range(MESSAGES):
            if self.each:
                yield from self.connected()
            for piece in self.pieces:
                yield from self.said(piece)
            if self.each:
                yield from self.said(QUIT)
                self.server.connection_lost(None)
        sys.settrace(None)

    def go(self, steps: Iterator[None]) -> None:
        try:
            next(steps)
        except StopIteration:
            self.done.set_result(None)
        except Exception as error:
            self.done.set_exception(error)
        else:
            self.loop.call_soon(self.go, steps)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if "aiosmtpd" not in code.co_filename:
            return None
        place = f"{code.co_filename.rpartition('aiosmtpd/')[2]} {code.co_qualname}"
        if event == "call":
            self.calls[place] += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.counts[place] += 1
        return self.trace


async def count(name: str) -> Conversation:
    conversation = Conversation(name)
    conversation.go(conversation.steps())
    await conversation.done
    return conversation


def main() -> None:
    names = (
        "lockstep", "one-write", "hooks", "connections", "recipients-one-write", "starttls", "tls"
    )  # fmt: skip
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("scenario", nargs="?", default="lockstep", choices=names)
    name = parser.parse_args().scenario
    if SCENARIOS[name].tls:
        BUILD.mkdir(parents=True, exist_ok=True)
        certificate()
        os.environ["BENCHMARK_PEM"] = str(PEM)
    sys.path.insert(0, str(HERE.parent))
    found = asyncio.run(count(name))
    total, calls = sum(found.counts.values()), sum(found.calls.values())
    print(f"{SCENARIOS[name].title}: {total / MESSAGES:,.0f} bytecodes in {calls / MESSAGES:.0f}")
    print("calls of the server's functions for a message\n\nbytecodes  calls")
    for place, codes in found.counts.most_common():
        if codes >= MESSAGES * 5:
            print(f"{codes / MESSAGES:9,.0f}  {found.calls[place] / MESSAGES:5.1f}  {place}")


if __name__ == "__main__":
    main()
