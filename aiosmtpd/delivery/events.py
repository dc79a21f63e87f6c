"""Events of deliveries, for those who count or log them. Free of asyncio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import attrs
from public import public


@public
@attrs.frozen(kw_only=True)
class Event:
    """An event of a delivery; ``Delivery`` calls its *on_event* with each, in some thread.

    ``kind`` is ``"stored"`` (the message is on the disk), ``"delivered"``, ``"deferred"`` (some
    recipients wait for another try), ``"dead"`` (some are given up), ``"down"`` or ``"up"`` (the
    route). ``seconds`` is how long the commit or the try took, ``lag`` the age of a message when it
    was delivered, ``due`` the time of the next try in seconds since 1970. ``attempts`` counts the
    tries with this one; it is 0 for a direct delivery that did not wait in the spool.
    """

    kind: Literal["stored", "delivered", "deferred", "dead", "down", "up"]
    route: str = ""
    queue_id: str = ""
    recipients: int = 0
    attempts: int = 0
    seconds: float = 0.0
    lag: float = 0.0
    error: str = ""
    due: float | None = None


OnEvent: TypeAlias = Callable[[Event], object]
