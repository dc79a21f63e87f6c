"""``--proxy-protocol``: a header that a trusted proxy sends is accepted without a hook."""

from __future__ import annotations

from typing import Any

from aiosmtpd.smtp import MISSING, SMTP


def proxied(protocol: type[SMTP]) -> type[SMTP]:
    """Return a subclass for handlers that have no ``handle_PROXY``, and for those that have."""

    class Proxied(protocol):  # type: ignore[misc, valid-type]
        async def _call_handler_hook(self, command: str, *args: Any) -> Any:
            status = await super()._call_handler_hook(command, *args)
            return True if command == "PROXY" and status is MISSING else status

    return Proxied
