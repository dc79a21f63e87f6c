"""Mailpit's chaos: three rules by which the SMTP server refuses now and then.

They are faults with the mark ``chaos``, so that each list of the faults has them.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Any

from attrs import evolve, frozen
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox import wire
from aiosmtpd.inbox.answers import Fields, json_answer, json_of
from aiosmtpd.inbox.services import Services
from aiosmtpd.observers.faults import Fault, Faults

MARK = "chaos"


@frozen
class Trigger:
    """One kind of refusal."""

    name: str
    stage: str
    code: int
    percent: int = 0

    def fault(self) -> Fault:
        """Return it as a fault, which strikes by chance."""
        effect = f"{self.code} Chaos {self.name.lower()} error"
        seed = SystemRandom().randrange(1, 1_000_000_000)
        return Fault(self.stage, effect, percent=self.percent, seed=seed)


TRIGGERS = (
    Trigger("Sender", "mail", 451),
    Trigger("Recipient", "rcpt", 451),
    Trigger("Authentication", "auth", 535),
)
"""The triggers as they are at first."""


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes for chaos."""
    chaos = Chaos(services.faults)
    return [
        Route("/api/v1/chaos", chaos.show, methods=["GET"]),
        Route("/api/v1/chaos", chaos.replace, methods=["PUT"]),
    ]


class Chaos:
    """Reads and writes the triggers."""

    def __init__(self, faults: Faults | None) -> None:
        self._faults = faults
        self._triggers: tuple[Trigger, ...] = TRIGGERS

    async def show(self, request: Request) -> Response:
        """Return the triggers."""
        faults = self._enabled()
        # They can be removed as faults, too.
        percents = {
            one.fault.stage: one.fault.percent or 0 for one in faults.counts() if one.mark == MARK
        }
        triggers = [evolve(one, percent=percents.get(one.stage, 0)) for one in self._triggers]
        values = {one.name: {"ErrorCode": one.code, "Probability": one.percent} for one in triggers}
        return await json_answer(request, lambda: wire.dump(values))

    async def replace(self, request: Request) -> Response:
        """Replace all triggers; a missing one refuses nothing."""
        faults = self._enabled()
        body = Fields(await json_of(await request.body()))
        triggers = tuple(_read(body, one) for one in TRIGGERS)
        faults.replace([one.fault() for one in triggers if one.percent], mark=MARK)
        self._triggers = triggers
        return await self.show(request)

    def _enabled(self) -> Faults:
        if self._faults is None:
            raise HTTPException(400, "chaos is not enabled: this SMTP server has no faults")
        return self._faults


def _read(body: Fields, default: Trigger) -> Trigger:
    values: dict[str, Any] = body.get(default.name, dict, {})
    fields = Fields(values, default.name)
    code = fields.get("ErrorCode", int, 0) or default.code
    percent = fields.get("Probability", int, 0)
    if not 400 <= code <= 599:
        raise HTTPException(400, f"{default.name}.ErrorCode is to be a number from 400 to 599")
    if not 0 <= percent <= 100:
        raise HTTPException(400, f"{default.name}.Probability is to be a number from 0 to 100")
    return evolve(default, code=code, percent=percent)
