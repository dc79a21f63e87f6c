"""Faults for tests of programs that send mail: declared, and injected by the server.

A :class:`Fault` says where something goes wrong, for whom, what goes wrong, and how often;
:func:`parse_fault` reads one from a line of text, and :func:`faulty` makes a server class in which
they happen. The same rules serve in code, in tests, and as ``--fault`` on the command line.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from random import Random
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import attrs
from public import public

from aiosmtpd.observers.fault import Fault as Fault, parse_effect, parse_fault as parse_fault
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Refused

public(Fault=Fault, parse_fault=parse_fault)

P = TypeVar("P")

REASON = "closed by a fault"

_Plan: TypeAlias = dict[str, Any]
"""The effects that strike at one event: their kinds, and what they need to know."""


@public
class FaultCount(NamedTuple):
    """A fault in force, and how often it has struck."""

    number: int
    """From 1 on, in the order of the additions; no other fault of the same object has it."""
    fault: Fault
    met: int
    """Events that it was asked about and that its stage and its patterns match."""
    struck: int
    """Events that went wrong because of it."""
    mark: str
    """The mark that it was added with."""


class _Rule:
    """A fault in force, and how often it has met its events."""

    def __init__(self, number: int, fault: Fault, mark: str, clock: Callable[[], float]) -> None:
        self.number = number
        self.fault = fault
        self.mark = mark
        self.kind, self.value = parse_effect(fault.effect)
        self.struck = 0
        self._clock = clock
        self._met = 0
        self._random = Random(fault.seed)  # noqa: S311 - no secret
        self._let_through: deque[float] = deque()

    @property
    def count(self) -> FaultCount:
        """The numbers of now."""
        return FaultCount(self.number, self.fault, self._met, self.struck, self.mark)

    def strikes(self) -> bool:
        """Count an event that matches, and tell whether it goes wrong."""
        self._met += 1
        struck = self._has_its_turn()
        self.struck += struck
        return struck

    def _has_its_turn(self) -> bool:
        fault = self.fault
        if fault.times is not None:
            return self._met <= fault.times
        if fault.every is not None:
            return self._met % fault.every == 0
        if fault.percent is not None:
            return self._random.random() * 100 < fault.percent
        if fault.per_minute is not None:
            return self._is_over(fault.per_minute)
        return True

    def _is_over(self, limit: int) -> bool:
        now = self._clock()
        while self._let_through and self._let_through[0] <= now - 60:
            self._let_through.popleft()
        if len(self._let_through) >= limit:
            return True
        self._let_through.append(now)
        return False


@public
class Faults:
    """The faults of one server, for all of its connections: they may change while it runs.

    They are asked in their order, and of each kind of effect the first that strikes is the one
    that happens; a fault after it does not count the event. Kinds are: a reply (or ``say``),
    ``delay``, ``drip``, ``drop``, ``drop after``, ``truncate`` and ``tls-failure``. *faults* are
    :class:`Fault` or their texts; *clock* (seconds) and *sleep* (a coroutine function of seconds)
    are for tests. Raises ValueError for a text that is not a fault.
    """

    def __init__(
        self,
        faults: Iterable[Fault | str] = (),
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Coroutine[Any, Any, object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self.sleep = sleep
        #: Called with the connection and each fault that strikes there, before its effect.
        self.on_strike: Callable[[Any, Fault], object] | None = None
        self._gate = Lock()
        self._numbers = count(1)
        self._rules: tuple[_Rule, ...] = ()
        for fault in faults:
            self.add(fault)

    def __iter__(self) -> Iterator[Fault]:
        return iter([rule.fault for rule in self._rules])

    def add(self, fault: Fault | str, *, mark: str = "") -> Fault:
        """Put a fault after the others, its count at zero; return it. From any thread.

        *mark* is any text by which :meth:`replace` and :meth:`clear` find it again.
        """
        fault = _parsed(fault)
        with self._gate:
            self._rules = (*self._rules, self._rule(fault, mark))
        return fault

    def counts(self) -> list[FaultCount]:
        """Return the faults in their order with their numbers. From any thread."""
        return [rule.count for rule in self._rules]

    def remove(self, number: int) -> bool:
        """Remove the fault with this number; return False if there is none. From any thread."""
        with self._gate:
            before = self._rules
            self._rules = tuple(rule for rule in before if rule.number != number)
            return len(self._rules) < len(before)

    def replace(self, faults: Iterable[Fault | str], *, mark: str | None = None) -> None:
        """Put faults in place of all, or of those with a mark. From any thread.

        If one of the texts is not a fault, raises ValueError and changes nothing.
        """
        parsed = [_parsed(fault) for fault in faults]
        with self._gate:
            kept = [rule for rule in self._rules if mark is not None and rule.mark != mark]
            new = [self._rule(fault, mark or "") for fault in parsed]
            self._rules = (*kept, *new)

    def clear(self, *, mark: str | None = None) -> None:
        """Remove all faults, or those with a mark. From any thread."""
        self.replace((), mark=mark)

    def _rule(self, fault: Fault, mark: str) -> _Rule:
        return _Rule(next(self._numbers), fault, mark, self._clock)

    def struck(
        self, stage: str, *, sender: str | None, recipients: Sequence[str], client: str
    ) -> _Plan:
        """Count one event; return the kinds of effects that happen, each with its value."""
        rules = self._striking(stage, sender=sender, recipients=recipients, client=client)
        return {kind: rule.value for kind, rule in rules.items()}

    def _striking(
        self, stage: str, *, sender: str | None, recipients: Sequence[str], client: str
    ) -> dict[str, _Rule]:
        striking: dict[str, _Rule] = {}
        for rule in self._rules:
            about = rule.kind not in striking and rule.fault.matches(
                stage, sender=sender, recipients=recipients, client=client
            )
            if about and rule.strikes():
                striking[rule.kind] = rule
        return striking

    # The seam.

    async def before(self, server: Any, stage: str, argument: Any) -> None:
        """Let the faults of a stage strike; see Observer."""
        envelope = server.envelope
        is_recipient = stage == "end-of-data" and argument is not None
        striking = self._striking(
            stage,
            sender=argument if stage == "mail" else envelope.mail_from,
            recipients=[argument] if stage == "rcpt" or is_recipient else envelope.rcpt_tos,
            client=server.session.client_address[0],
        )
        if not striking:
            return
        if self.on_strike is not None:
            for rule in striking.values():
                self.on_strike(server, rule.fault)
        plan = {kind: rule.value for kind, rule in striking.items()}
        delivery = _Delivery(server, plan, self.sleep)
        if is_recipient:
            # In LMTP: the reply to one recipient. The others' come in their turn.
            server.wrap_next_reply(delivery.suffer_and_send)
            if plan.keys() & {"drop", "reply"}:
                raise Refused(plan.get("reply", replies.OK))
            return
        await delivery.suffer()
        if plan.keys() & {"drip", "drop after", "truncate"}:
            server.wrap_next_reply(delivery.send)
        if "reply" in plan:
            raise Refused(plan["reply"])
        if "tls-failure" in plan:
            # Without a certificate no handshake succeeds.
            server.tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _parsed(fault: Fault | str) -> Fault:
    return parse_fault(fault) if isinstance(fault, str) else fault


class _Delivery:
    """Sends the reply of one event in the way that its faults ask for."""

    def __init__(self, server: Any, plan: _Plan, sleep: Callable[[float], Any]) -> None:
        self._server = server
        self._plan = plan
        self._sleep = sleep

    async def suffer_and_send(self, data: bytes) -> None:
        """Let the effects before a reply happen, then send it."""
        await self.suffer()
        if "drop" not in self._plan:
            await self.send(data)

    async def suffer(self) -> None:
        """Let the effects before a reply happen."""
        if "delay" in self._plan:
            await self._pause(self._plan["delay"])
        if "drop" in self._plan:
            self._server.disconnect(reason=REASON)

    async def send(self, data: bytes) -> None:
        """Send a reply: some of it, or byte by byte, and maybe close."""
        plan = self._plan
        if "truncate" in plan:
            data = data[
                : _half_of_last_line(data) if plan["truncate"] is None else plan["truncate"]
            ]
        if "drip" in plan:
            await self._drip(data, plan["drip"])
        else:
            self._server.send(data)
        if plan.keys() & {"drop after", "truncate"}:
            self._server.disconnect(reason=REASON)

    async def _drip(self, data: bytes, seconds: float) -> None:
        for place in range(len(data)):
            # Not after the last byte: the client's answer to it must not come too early.
            if place:
                await self._pause(seconds)
            self._server.send_now(data[place : place + 1])

    async def _pause(self, seconds: float) -> None:
        """Wait, but neither for a client that has gone nor in a server that stops."""
        try:
            await self._server.pause(seconds, sleep=self._sleep)
        except ConnectionResetError:
            self._server.disconnect(reason=REASON)
            raise


def _half_of_last_line(reply: bytes) -> int:
    """Return the size of a reply without the second half of its last line."""
    before = reply.rfind(b"\n", 0, -1) + 1
    return before + (len(reply) - before) // 2


@public
def faulty(protocol: type[P], faults: Faults | Iterable[Fault | str]) -> type[P]:
    """Return a subclass of *protocol*, which is ``SMTP``, ``LMTP`` or one of theirs, with faults.

    The keyword ``observers=[Faults(...)]`` does the same. Raises ValueError for a text that is not
    a fault.
    """
    observer = faults if isinstance(faults, Faults) else Faults(faults)

    @lru_cache(maxsize=1)
    def watched(settings: Any) -> Any:
        return attrs.evolve(settings, observers=(*settings.observers, observer))

    class Faulty(protocol):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **keywords: Any) -> None:
            if keywords.get("settings") is not None:
                keywords["settings"] = watched(keywords["settings"])
            else:
                keywords["observers"] = [*keywords.get("observers", ()), observer]
            super().__init__(*args, **keywords)

    Faulty.__name__ = Faulty.__qualname__ = f"Faulty{protocol.__name__}"
    return cast("type[P]", Faulty)
