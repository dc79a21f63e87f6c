"""The connections of one server: how many there are, and how they end."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiosmtpd.engine.rounds import end_round
from aiosmtpd.protocol.limits import Crowd


class Member(Protocol):
    """A connection, as the registry knows it."""

    def shut_down(self) -> None:
        """End now if the client is waited for, else after the running command."""

    def abort(self) -> None:
        """End now."""

    def ended(self) -> asyncio.Future[None]:
        """Return a future that is done when the connection and its task have ended."""


def descriptors() -> int | None:
    """Return how many file descriptors this process may have; None if that is unknown."""
    try:
        import resource  # not on Windows
    except ImportError:  # pragma: no cover
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


class Registry:
    """The open connections of one server, to count them and to end them.

    *crowd* enforces the limits on connections; None is for a crowd of this server alone.
    """

    def __init__(self, crowd: Crowd | None = None) -> None:
        self.connections: set[Member] = set()
        self._refused: set[Member] = set()
        self.crowd = Crowd(descriptors()) if crowd is None else crowd
        self.is_patient = False
        """True if the server stops with a *linger*: its closes wait for bytes on their way."""

    def add(self, connection: Member) -> int:
        """Add a connection; return how many there are with it, without those that are refused."""
        self.connections.add(connection)
        return len(self.connections) - len(self._refused)

    def refuse(self, connection: Member) -> None:
        """Count a connection that was refused no longer; it is still to end."""
        self._refused.add(connection)

    def discard(self, connection: Member) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        self._refused.discard(connection)

    async def stop(self, timeout: float = 10.0) -> None:
        """End every connection; return when none is left, and no task of theirs.

        Clients between two transactions get ``421 4.3.2`` at once. A running transaction gets
        *timeout* seconds to end; after that its task is cancelled and the connection is aborted.
        RFC 5321 section 3.8.
        """
        for connection in list(self.connections):
            connection.shut_down()
        await self.wait(timeout)
        for connection in list(self.connections):
            connection.abort()
        await self.wait(None)
        end_round(asyncio.get_running_loop())

    async def wait(self, timeout: float | None) -> None:
        """Wait *timeout* seconds at most until the connections that are open have ended."""
        ended = [connection.ended() for connection in list(self.connections)]
        if ended:
            await asyncio.wait(ended, timeout=timeout)
