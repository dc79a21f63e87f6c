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
from random import Random
from time import monotonic
from typing import Any, TypeAlias, TypeVar, cast

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


class _Rule:
    """A fault in force, and how often it has met its events."""

    def __init__(self, fault: Fault, clock: Callable[[], float]) -> None:
        self.fault = fault
        self.kind, self.value = parse_effect(fault.effect)
        self._clock = clock
        self._met = 0
        self._random = Random(fault.seed)  # noqa: S311 - no secret
        self._let_through: deque[float] = deque()

    def strikes(self) -> bool:
        """Count an event that matches, and tell whether it goes wrong."""
        fault = self.fault
        self._met += 1
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
        self._rules: tuple[_Rule, ...] = ()
        for fault in faults:
            self.add(fault)

    def __iter__(self) -> Iterator[Fault]:
        return iter([rule.fault for rule in self._rules])

    def add(self, fault: Fault | str) -> Fault:
        """Put a fault after the others, its count at zero; return it. From any thread."""
        if isinstance(fault, str):
            fault = parse_fault(fault)
        self._rules = (*self._rules, _Rule(fault, self._clock))
        return fault

    def clear(self) -> None:
        """Remove all faults. From any thread."""
        self._rules = ()

    def struck(
        self, stage: str, *, sender: str | None, recipients: Sequence[str], client: str
    ) -> _Plan:
        """Count one event; return the kinds of effects that happen, each with its value."""
        plan: _Plan = {}
        for rule in self._rules:
            about = rule.kind not in plan and rule.fault.matches(
                stage, sender=sender, recipients=recipients, client=client
            )
            if about and rule.strikes():
                plan[rule.kind] = rule.value
        return plan

    # The seam.

    async def before(self, server: Any, stage: str, argument: Any) -> None:
        """Let the faults of a stage strike; see Observer."""
        envelope = server.envelope
        is_recipient = stage == "end-of-data" and argument is not None
        plan = self.struck(
            stage,
            sender=argument if stage == "mail" else envelope.mail_from,
            recipients=[argument] if stage == "rcpt" or is_recipient else envelope.rcpt_tos,
            client=server.session.client_address[0],
        )
        if not plan:
            return
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
