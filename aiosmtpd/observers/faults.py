"""Faults for tests of programs that send mail: declared, and injected by the server.

A :class:`Fault` says where something goes wrong, for whom, what goes wrong, and how often;
:func:`parse_fault` reads one from a line of text, and :func:`faulty` makes a server class in which
they happen. The same rules serve in code, in tests, and as ``--fault`` on the command line.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from itertools import compress
from random import Random
from time import monotonic
from typing import Any, ClassVar, Never, TypeAlias, TypeVar, cast

from public import public

from aiosmtpd.engine.connection import Disconnected
from aiosmtpd.lmtp import LMTP
from aiosmtpd.observers.fault import Fault as Fault, parse_effect, parse_fault as parse_fault
from aiosmtpd.protocol import replies
from aiosmtpd.protocol.replies import Refused, Reply
from aiosmtpd.protocol.session import Envelope
from aiosmtpd.smtp import SMTP

public(Fault=Fault, parse_fault=parse_fault)

_STAGE_OF_HOOK = {
    "CONNECT": "connect",
    "HELO": "ehlo",
    "EHLO": "ehlo",
    "AUTH": "auth",
    "MAIL": "mail",
    "RCPT": "rcpt",
    "DATA": "end-of-data",
    "BODY": "end-of-data",
    "QUIT": "quit",
}
_Plan: TypeAlias = dict[str, Any]
"""What strikes at one event: the kinds of effects, and what they need to know."""


def _goes_on(status: str | bytes) -> bool:
    """Tell whether a reply's last line is not its last: EHLO's are sent one by one."""
    text = status if isinstance(status, str) else status.decode("latin-1")
    return text.rpartition("\n")[2][3:4] == "-"


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
    that happens; a fault behind it does not count the event. Kinds are: a reply (or ``say``),
    ``delay``, ``drip``, ``drop``, ``drop after``, ``truncate`` and ``tls-failure``. *faults* are
    :class:`Fault` or their texts; *clock* (seconds) and *sleep* (a coroutine function of seconds)
    are for tests. Raises ValueError for a text that is no fault.
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
        """Put a fault behind the others, its count at zero; return it. From any thread."""
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


P = TypeVar("P", bound=SMTP)


@public
def faulty(protocol: type[P], faults: Faults | Iterable[Fault | str]) -> type[P]:
    """Return a subclass of *protocol*, which is ``SMTP``, ``LMTP`` or one of theirs, with faults.

    Raises ValueError for a text that is no fault.
    """
    if not isinstance(faults, Faults):
        faults = Faults(faults)
    name = f"Faulty{protocol.__name__}"
    return cast("type[P]", type(name, (_Faulty, protocol), {"faults": faults}))


class _Faulty(SMTP):
    """What faulty() puts in front of a server class: a stage is met where its hook is called."""

    faults: ClassVar[Faults]

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._plan: _Plan = {}
        self._plans: list[_Plan] = []
        self._pausing: asyncio.Future[object] | None = None

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        stage = _STAGE_OF_HOOK.get(command)
        if stage == "end-of-data" and isinstance(self, LMTP):
            self._meet_each()
        elif stage is not None:
            try:
                await self._suffer(self._struck(stage, *args[:1]))
            except Refused:
                if stage == "ehlo":
                    # It was noted before the hook.
                    self.session.host_name = None
                raise
        return await super()._call_handler_hook(command, *args)

    def _struck(self, stage: str, argument: Any = None) -> _Plan:
        envelope = self.envelope
        return self.faults.struck(
            stage,
            sender=argument if stage == "mail" else envelope.mail_from,
            recipients=[argument] if stage == "rcpt" else envelope.rcpt_tos,
            client=self.session.client_address[0],
        )

    async def _suffer(self, plan: _Plan) -> None:
        """Let what comes before a reply happen; raises Refused, or Disconnected."""
        self._plan = plan
        if "delay" in plan:
            await self._pause(plan["delay"])
        if "drop" in plan:
            self._hang_up()
        if "reply" in plan:
            raise Refused(plan["reply"])

    def _hang_up(self) -> Never:
        self._reason = self._reason or "closed by a fault"
        self.disconnect()
        raise Disconnected

    async def _pause(self, seconds: float) -> None:
        """Wait, but neither for a client that has gone nor in a server that stops."""
        self._pausing = pausing = asyncio.ensure_future(self.faults.sleep(seconds))
        try:
            await asyncio.wait([pausing])
        finally:
            self._pausing = None
            pausing.cancel()
        if pausing.cancelled():
            self._hang_up()

    def _end_pause(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that the connection is gone."""
        super().connection_lost(error)
        self._end_pause()

    def eof_received(self) -> bool | None:
        """Take note that the client sends no more; one that waits for a slow reply so is rare."""
        self._end_pause()
        return super().eof_received()

    def shut_down(self, reply: Reply = replies.SHUTTING_DOWN) -> None:
        """End the connection; what is slow on purpose is not waited for."""
        super().shut_down(reply)
        self._end_pause()

    async def push(self, status: str | bytes) -> None:
        """Send a reply in the way that the faults of its stage say."""
        # By identity: a fault's own reply may have the same text.
        if status is replies.START_MAIL_INPUT:
            await self._suffer(self._struck("data"))
        elif status is replies.READY_FOR_TLS:
            await self._suffer(self._plan)
        plan = self._plan
        if status[:3] in ("334", b"334") or not plan.keys() & {"drip", "drop after", "truncate"}:
            await super().push(status)
            return
        octets, goes_on = self._octets(status), _goes_on(status)
        ends = "drop after" in plan and not goes_on
        if "truncate" in plan:
            count = plan["truncate"]
            if not goes_on or (count is not None and count < len(octets)):
                octets = octets[: len(octets) // 2 if count is None else count]
                ends = True
            elif count is not None:
                plan["truncate"] = count - len(octets)
        if not goes_on:
            self._plan = {}
        await self._send_dripping(status, octets, plan)
        if ends:
            self._hang_up()

    async def _send_dripping(self, status: str | bytes, octets: bytes, plan: _Plan) -> None:
        self._last_status = status
        if "drip" not in plan:
            self.send(octets)
            return
        for place in range(len(octets)):
            # Not behind the last one: what the client says to it must not come too early.
            if place:
                await self._pause(plan["drip"])
            self.send(octets[place : place + 1])
            self._flush()

    async def _start_tls(
        self, context: ssl.SSLContext | Callable[[], ssl.SSLContext], go_ahead: Awaitable[None]
    ) -> None:
        # Met when the go-ahead is pushed.
        self._plan = self._struck("starttls")
        if "tls-failure" in self._plan:
            # Without a certificate no handshake succeeds.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        await super()._start_tls(context, go_ahead)

    # In LMTP each recipient has a reply, and a fault, of its own.

    def _meet_each(self) -> None:
        """Take the recipients that go wrong from the envelope; raises Refused where all do."""
        envelope = self.envelope
        self._plans = [
            self.faults.struck(
                "end-of-data",
                sender=envelope.mail_from,
                recipients=[recipient],
                client=self.session.client_address[0],
            )
            for recipient in envelope.rcpt_tos
        ]
        spared = [not plan.keys() & {"drop", "reply"} for plan in self._plans]
        envelope._recipients[:] = compress(envelope._recipients, spared)
        envelope.rcpt_tos[:] = compress(envelope.rcpt_tos, spared)
        if not any(spared):
            raise Refused(self._plans[0].get("reply", replies.OK))

    async def _answer_data(self, status: Any, envelope: Envelope) -> None:
        plans, self._plans = self._plans, []
        if not isinstance(self, LMTP) or not plans:
            await super()._answer_data(status, envelope)
            return
        each = iter(await self._replies_for(status, len(envelope.rcpt_tos)))
        for plan in plans:
            try:
                await self._suffer(plan)
            except Refused as refused:
                await self._answer(refused.reply)
            else:
                await self._answer(next(each))
