"""Receive messages into the store: a handler and an observer of the server."""

from __future__ import annotations

from typing import Any

from public import public

from aiosmtpd.inbox.store import SessionLog, Store


@public
class Intake:
    """Handler and observer in one: give the same object as both.

    ``SMTP(intake, observers=[..., intake])``. It stores each message before its 250, and keeps for
    each session its dialogue. Refused MAIL, RCPT, DATA, AUTH, EHLO and STARTTLS, failed handshakes
    and refused connections become attempts. A session without a message and without a refusal is
    not stored. If the store fails, the client gets 451 4.3.0.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle_BODY(self, server: Any, session: Any, envelope: Any, body: Any) -> Any:
        """Store a message as it arrives; reply with its id, as ``250 2.0.0 Ok: queued as ID``."""
        raise NotImplementedError

    def fault(self, server: Any, rule: str) -> None:
        """Note that a fault strikes in the connection *server*, before the refusal it makes."""
        raise NotImplementedError

    def log_of(self, server: Any) -> SessionLog | None:
        """Return the log of a connection that is open."""
        raise NotImplementedError
