"""One attack, and how it is made."""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from tests.attack.servers import Starter
from tests.attack.wire import TLS, Place, Skipped

PLAIN = ("smtp", "lmtp", "proxy", "modern", "all", "cli")
EVERY = (*PLAIN, *TLS)
ESMTP = ("modern", "all", "cli")
"""Modes in which BDAT and PIPELINING are offered."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


@attrs.frozen
class Attack:
    """One attack: the figure that `run` returns must be at most `limit`.

    `run` gets a place, or with `own` a victim that was started with `server`, and how often or
    how many MiB. `quick` is for the run among the other tests, in which a limit of seconds or
    milliseconds is ten times as wide: machines that test are slow and shared.
    """

    name: str
    run: Callable[[Any, int], float]
    unit: str
    limit: float
    quick: int
    full: int
    modes: tuple[str, ...] = ("smtp",)
    server: Mapping[str, Any] = NOTHING
    own: bool = False
    alone: bool = False

    @property
    def anywhere(self) -> bool:
        """Tell whether it can be made against any server."""
        return not (self.own or self.alone or self.server)


@attrs.frozen
class Outcome:
    """The result of an attack: `figure` is None if it could not be made or had no end."""

    attack: Attack
    mode: str
    figure: float | None
    limit: float
    why: str = ""
    skipped: bool = False

    @property
    def withstood(self) -> bool:
        return self.figure is not None and self.figure <= self.limit

    def __str__(self) -> str:
        what = f"{self.attack.name} ({self.mode})"
        if self.skipped:
            return f"{what:44} skipped        {self.why}"
        verdict = "withstood" if self.withstood else "NOT WITHSTOOD"
        figure = self.why if self.figure is None else f"{self.figure:.3g} {self.attack.unit}"
        return f"{what:44} {verdict:14} {figure} (at most {self.limit:g})"


def make(attack: Attack, mode: str, starter: Starter, *, quick: bool) -> Outcome:
    """Start a server as the attack wants it, and make the attack."""

    def run(count: int) -> float:
        if attack.alone:
            return attack.run(starter, count)
        if attack.own:
            with starter.serve(mode, **attack.server) as victim:
                return attack.run(victim, count)
        with starter.lend(mode, attack.server) as victim:
            figure = attack.run(victim.place, count)
            if victim.process.poll() is None:
                return figure
            raise ConnectionError(f"the server ended: {victim.errors()[-300:]}")

    return _judge(attack, mode, run, quick=quick)


def make_against(attack: Attack, place: Place, *, quick: bool) -> Outcome:
    """Make an attack against a server that runs somewhere."""
    return _judge(attack, place.mode, lambda count: attack.run(place, count), quick=quick)


def _judge(attack: Attack, mode: str, run: Callable[[int], float], *, quick: bool) -> Outcome:
    wide = 10 if quick and attack.unit in ("s", "ms") else 1
    limit = attack.limit * wide
    began = time.monotonic()
    try:
        figure = run(attack.quick if quick else attack.full)
    except Skipped as reason:
        return Outcome(attack, mode, None, limit, str(reason), skipped=True)
    except (OSError, EOFError) as error:
        after = time.monotonic() - began
        return Outcome(attack, mode, None, limit, f"{type(error).__name__}: {error}, {after:.0f} s")
    return Outcome(attack, mode, figure, limit)
