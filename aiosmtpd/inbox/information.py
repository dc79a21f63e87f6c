"""The routes of Mailpit's API that tell about the server and the page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd._version import __version__
from aiosmtpd.inbox import wire
from aiosmtpd.inbox.answers import json_answer
from aiosmtpd.inbox.services import Services

VERSION = f"v{__version__}"


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes; none of them asks another server."""
    began = monotonic()

    async def info(request: Request) -> Response:
        """Return the numbers of the store and of the process."""
        return await json_answer(request, lambda: wire.dump(_info(services, began)))

    async def webui(request: Request) -> Response:
        """Return the settings of the page."""
        return await json_answer(request, lambda: wire.dump(_webui(services)))

    return [Route("/api/v1/info", info), Route("/api/v1/webui", webui)]


def _info(services: Services, began: float) -> dict[str, Any]:
    store = services.store
    # First: it waits for the messages and attempts that are late.
    tags = store.tags()
    counts = store.counts()
    return {
        "Version": VERSION,
        "LatestVersion": VERSION,
        "Database": str(store.path or ""),
        "DatabaseSize": store.database_size(),
        "Messages": counts.total,
        "Unread": counts.unread,
        "Tags": tags,
        "RuntimeStats": {
            "Uptime": int(monotonic() - began),
            "Memory": memory(),
            "MessagesDeleted": counts.deleted,
            "SMTPAccepted": counts.accepted,
            "SMTPAcceptedSize": counts.accepted_size,
            "SMTPRejected": counts.rejected,
            "SMTPIgnored": counts.ignored,
        },
    }


def _webui(services: Services) -> dict[str, Any]:
    relay = services.relay
    return {
        "Label": services.options.label,
        "MessageRelay": {
            "Enabled": relay is not None,
            "SMTPServer": relay.name if relay else "",
            "ReturnPath": "",
            "AllowedRecipients": relay.allow if relay else "",
            "BlockedRecipients": relay.block if relay else "",
            "OverrideFrom": "",
            "PreserveMessageIDs": False,
            "RecipientAllowlist": relay.allow if relay else "",
        },
        "SpamAssassin": False,
        "ChaosEnabled": services.faults is not None,
        "DuplicatesIgnored": services.store.ignore_duplicates,
        "HideDeleteAllButton": not services.options.delete_all,
    }


def memory() -> int:
    """Return the bytes of memory that the process uses, at most so far if only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        try:
            import resource  # not on Windows
        except ImportError:
            return 0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
