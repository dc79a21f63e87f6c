"""Deliver accepted messages: a spool, retries, and the places to which mail goes.

The names are imported when they are asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiosmtpd.delivery.consumer import ConsumedMail as ConsumedMail, consume as consume
    from aiosmtpd.delivery.handler import Delivery as Delivery
    from aiosmtpd.delivery.item import (
        Arrival as Arrival,
        Full as Full,
        Item as Item,
        Later as Later,
        Misconfigured as Misconfigured,
        Never as Never,
        Outlet as Outlet,
        TooLarge as TooLarge,
    )
    from aiosmtpd.delivery.mail import Mail as Mail
    from aiosmtpd.delivery.route import Route as Route
    from aiosmtpd.delivery.schedule import Retry as Retry
    from aiosmtpd.delivery.spool import Spool as Spool, SpoolError as SpoolError
else:
    _HOMES = {
        "Arrival": "item",
        "ConsumedMail": "consumer",
        "Delivery": "handler",
        "Full": "item",
        "Item": "item",
        "Later": "item",
        "Mail": "mail",
        "Misconfigured": "item",
        "Never": "item",
        "Outlet": "item",
        "Retry": "schedule",
        "Route": "route",
        "Spool": "spool",
        "SpoolError": "spool",
        "TooLarge": "item",
        "consume": "consumer",
    }

    __all__ = list(_HOMES)

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
