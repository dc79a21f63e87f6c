"""The rows of the table: the traffic, the kind of server, and the goal."""

from collections.abc import Sequence

import attrs
from load import SMALL, Client, Crowd, Step, in_chunk, in_one_write, message, transaction


@attrs.frozen
class Scenario:
    """A row: *messages* in a round, over *connections* that stay open or are new for *each*.

    *goals* are the wanted ratios of CPU to 1.4.6, on asyncio and on uvloop.
    """

    title: str
    steps: Sequence[Step]
    messages: int
    connections: int = 1
    server: str = "smtp"
    each: bool = False
    tls: bool = False
    goals: tuple[float, float] | None = None

    def load(self, port: int) -> "Load":
        if self.each and self.tls:
            return Handshakes(port, self.steps, self.server == "smtps")
        return Crowd(port, self.connections, self.steps, self.tls, self.each)


class Handshakes:
    """A connection and a TLS handshake for each message, one after the other."""

    def __init__(self, port: int, steps: Sequence[Step], from_start: bool) -> None:
        self.port = port
        self.from_start = from_start
        self.steps = steps

    def run(self, messages: int) -> list[float]:
        for _ in range(messages):
            client = Client(self.port, tls=True, from_start=self.from_start)
            client.ask(*self.steps)
            client.close()
        return []

    def close(self) -> None:
        """Do nothing: no connection is left."""


Load = Crowd | Handshakes

ALWAYS = transaction(SMALL)
MEGABYTE = transaction(message(10**6))

SCENARIOS = {
    "lockstep": Scenario("1 KB, lockstep, 10 connections", ALWAYS, 400, 10, goals=(6, 8)),
    "one-write": Scenario(
        "1 KB, a transaction in one write", in_one_write(SMALL), 400, 10, goals=(8, 10)
    ),
    "hooks": Scenario("1 KB, a hook on every step", ALWAYS, 400, 10, "hooks", goals=(4.5, 5.5)),
    "connections": Scenario(
        "1 KB, a connection each", ALWAYS, 200, 10, each=True, goals=(3.8, 5.5)
    ),
    "recipients": Scenario(
        "100 recipients, lockstep", transaction(SMALL, 100), 10, 10, goals=(9, 11)
    ),
    "recipients-one-write": Scenario(
        "100 recipients, in one write", in_one_write(SMALL, 100), 20, 10, goals=(75, 85)
    ),
    "1MB": Scenario("1 MB in lines of 76 bytes", MEGABYTE, 10, goals=(25, 17)),
    "25MB": Scenario(
        "25 MB in lines of 76 bytes", transaction(message(25 * 10**6)), 1, goals=(25, 17)
    ),
    "thread": Scenario("1 KB to a plain def", ALWAYS, 400, 10, "thread", goals=(3, 3)),
    "1MB-long-lines": Scenario(
        "1 MB in lines of 998 bytes", transaction(message(10**6, 998)), 20, goals=(4, 3)
    ),
    "1MB-stuffed": Scenario(
        "1 MB of stuffed lines", transaction(message(10**6, 76, b"..")), 10, goals=(12, 11)
    ),
    "starttls": Scenario(
        "STARTTLS and 1 KB, each", ALWAYS, 40, 1, "starttls", each=True, tls=True, goals=(2.2, 2.5)
    ),
    "tls": Scenario(
        "1 KB on an open TLS connection", ALWAYS, 300, 10, "starttls", tls=True, goals=(3, 4)
    ),
    "smtps": Scenario(
        "TLS from the start and 1 KB, each", ALWAYS, 40, 1, "smtps", each=True, tls=True
    ),
    "1MB-tls": Scenario("1 MB over TLS", MEGABYTE, 10, 1, "starttls", tls=True),
    "thousand": Scenario("1 KB, 1,000 connections at once", ALWAYS, 2000, 1000, goals=(5, 6)),
    "modern": Scenario("1 KB in one write, modern", in_one_write(SMALL), 400, 10, "modern"),
    "1MB-chunk": Scenario("1 MB by BDAT, modern", in_chunk(message(10**6)), 10, 1, "modern"),
    "25MB-chunk": Scenario("25 MB by BDAT, modern", in_chunk(message(25 * 10**6)), 1, 1, "modern"),
    "100MB-stream": Scenario("100 MB to handle_BODY", transaction(message(10**8)), 1, 1, "stream"),
}

OURS_ALONE = ("modern", "stream")
