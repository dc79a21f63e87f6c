"""What the connections of one server have in common."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiosmtpd.protocol.limits import Crowd

if TYPE_CHECKING:
    from aiosmtpd.engine.connection import Connection


def _descriptors() -> int | None:
    """Return how many file descriptors this process may have; None where nobody says."""
    try:
        import resource  # not on Windows
    except ImportError:  # pragma: no cover
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


class Shared:
    """The connections of one server, to count them and to end them."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.crowd = Crowd(_descriptors())
        self.stopping = False

    async def stop(self, timeout: float = 10.0) -> None:
        """End every connection; return when none is left, and no task of theirs.

        Clients that are waited for get ``421 4.3.2`` at once. A running command gets *timeout*
        seconds to end; after that its task is cancelled and the connection is aborted. RFC 5321
        section 3.8.
        """
        self.stopping = True
        for connection in list(self.connections):
            connection.shut_down()
        await self._wait(timeout)
        for connection in list(self.connections):
            connection.abort()
        await self._wait(None)
        self.stopping = False

    async def _wait(self, timeout: float | None) -> None:
        ended = [connection.ended() for connection in list(self.connections)]
        if ended:
            await asyncio.wait(ended, timeout=timeout)
