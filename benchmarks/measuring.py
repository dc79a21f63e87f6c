"""Measure a row: all servers run side by side and take turns in short rounds."""

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import attrs
from contestants import Contestant, Running, running
from load import Client
from scenarios import Load, Scenario

ROUNDS = 15


@attrs.define
class Figures:
    """One server's figures of a row: µs of CPU a message, and seconds of delay, by round."""

    cpu: list[float] = attrs.field(factory=list)
    delays: list[float] = attrs.field(factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.cpu)

    def ratios(self, base: "Figures") -> list[float]:
        """Return how many times less CPU than *base* was used, by round."""
        return [other / own for other, own in zip(base.cpu, self.cpu, strict=True)]

    def ratio(self, base: "Figures") -> float:
        return statistics.median(self.ratios(base))

    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.cpu, n=4)
        return low, high

    def p99(self) -> float:
        """Return the delay in seconds that one message of a hundred exceeds; 0 if unknown."""
        return statistics.quantiles(self.delays, n=100)[98] if len(self.delays) > 1 else 0.0


def measure(
    scenario: Scenario, them: Sequence[Contestant], rounds: int = ROUNDS
) -> dict[str, Figures]:
    """Return the figures of all servers that support the scenario.

    They all run from the beginning, and each gets its share of every round, so that a disturbance
    of the machine disturbs them alike.
    """
    able = [one for one in them if scenario.server in one.skills]
    found = {one.name: Figures() for one in able}
    with ExitStack() as stack:
        servers: list[tuple[str, Running, Load]] = []
        for one in able:
            server = stack.enter_context(running(one, scenario.server))
            load = scenario.load(server.port)
            stack.callback(load.close)
            load.run(max(scenario.connections, scenario.messages // 4))
            servers.append((one.name, server, load))
        for number in range(rounds):
            # The last one takes 1 % more CPU: they take turns in that too.
            for name, server, load in servers[:: -1 if number % 2 else 1]:
                before = server.cpu_seconds()
                delays = load.run(scenario.messages)
                # The CPU of a running server is known at the next tick, so it may still be 0.
                cpu = max(server.cpu_seconds() - before, 1e-6)
                found[name].cpu.append(cpu / scenario.messages * 1e6)
                found[name].delays += delays
    return found


def idle_memory(contestant: Contestant, connections: int, tls: bool) -> float:
    """Return the memory of an idle connection after EHLO, in bytes."""
    with (
        running(contestant, "starttls" if tls else "smtp") as server,
        ExitStack() as stack,
        # Some servers wait for 0.1 s before they greet, to catch clients that send first.
        ThreadPoolExecutor(50) as threads,
    ):

        def connect(number: int) -> None:
            for client in threads.map(lambda _: Client(server.port, tls), range(number)):
                stack.callback(client.close)

        connect(50)
        before = server.memory()
        connect(connections)
        return (server.memory() - before) / connections


def peak_memory(contestant: Contestant, body: bytes) -> float:
    """Return the peak memory for one message, beyond 1 MiB, as a multiple of its size."""
    from load import SMALL, transaction

    with running(contestant, "smtp") as server:
        client = Client(server.port)
        client.ask(*transaction(SMALL))
        before = server.memory()
        client.ask(*transaction(body))
        grown = server.memory("VmHWM") - before
        client.close()
        return (grown - 2**20) / len(body)
