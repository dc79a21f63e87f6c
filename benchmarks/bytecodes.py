"""Count the bytecode instructions of a conversation, function by function.

``python benchmarks/bytecodes.py [lockstep|one-write|hooks|connections|recipients-one-write]``: a
conversation in memory, without kernel and sockets. The counts are the same on every machine and in
every run, however busy the machine is. Use it to measure a small change of the server.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from load import EHLO, QUIT
from scenarios import SCENARIOS

HERE = Path(__file__).parent
MESSAGES = 60


class Network(asyncio.Transport):
    """Keep the bytes that the server writes, and wake the client."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 25)})
        self.sent = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.sent = bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Do nothing: all bytes are already written."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


class Conversation:
    """Talk to the server from callbacks of the loop, as a socket's transport does."""

    def __init__(self, name: str) -> None:
        from server import factory

        scenario = SCENARIOS[name]
        self.make = factory(scenario.server)
        self.each = scenario.each
        self.pieces = [step.data for step in scenario.steps]
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.counts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def connected(self) -> Iterator[None]:
        self.network, self.server = Network(), self.make()
        self.server.connection_made(self.network)
        while not self.network.sent:
            yield

    def said(self, data: bytes) -> Iterator[None]:
        self.network.sent = b""
        view = self.server.get_buffer(-1)  # type: ignore[attr-defined]
        view[: len(data)] = data
        self.server.buffer_updated(len(data))  # type: ignore[attr-defined]
        while not self.network.sent:
            yield

    def steps(self) -> Iterator[None]:
        yield from self.connected()
        yield from self.said(EHLO)
        sys.settrace(self.trace)
        for _ in range(MESSAGES):
            if self.each:
                yield from self.connected()
                yield from self.said(EHLO)
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
    names = "lockstep", "one-write", "hooks", "connections", "recipients-one-write"
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("scenario", nargs="?", default="lockstep", choices=names)
    name = parser.parse_args().scenario
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
