"""An observer that logs each connection and each message, and lists the open sessions."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiosmtpd.observers.metrics import listener_of, result_of
from aiosmtpd.runner.logs import Addresses, event

if TYPE_CHECKING:
    from aiosmtpd.delivery.events import Event
    from aiosmtpd.protocol.replies import Reply

SHOWN = 200
"""Sessions, at most, that one worker lists."""


class _Session:
    """The part of a session that its last line tells."""

    __slots__ = ("began", "commands", "is_refused", "listener", "messages", "verb")

    def __init__(self, listener: str) -> None:
        self.began = monotonic()
        self.listener = listener
        self.commands = self.messages = 0
        self.verb = ""
        self.is_refused = False


class SessionLog:
    """Logs events of sessions and deliveries, with addresses as *addresses* says."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._sessions: dict[Any, _Session] = {}

    def sessions(self, number: int = SHOWN) -> list[dict[str, Any]]:
        """Return the open sessions, the oldest first, at most *number*."""
        now = monotonic()
        found: list[dict[str, Any]] = []
        for server, session in self._sessions.items():
            if len(found) == number:
                break
            found.append(
                {
                    "session": server.session_id,
                    "client": self._client(server),
                    "listener": session.listener,
                    "seconds": round(now - session.began, 1),
                    "tls": server.session.ssl is not None,
                    "auth": bool(server.session.authenticated),
                    "commands": session.commands,
                    "messages": session.messages,
                    "last": session.verb,
                }
            )
        return found

    def _client(self, server: Any) -> str | None:
        return self._addresses.one(str(server.session.client_address[0]))

    # The seam.

    def began(self, server: Any) -> None:
        """See Observer."""
        session = self._sessions[server] = _Session(listener_of(server))
        self._log(server, "connection.open", logging.DEBUG, listener=session.listener)

    def refused(self, server: Any, reply: Reply) -> None:
        """See Observer."""
        self._sessions[server].is_refused = True
        self._log(server, "connection.refused", listener=listener_of(server), reply=str(reply))

    def line(self, server: Any, line: bytes, secret: bool) -> None:
        """See Observer."""
        self._sessions[server].commands += 1

    def reply(self, server: Any, verb: str, reply: Reply) -> None:
        """See Observer."""
        if verb:
            self._sessions[server].verb = verb

    def taken(self, server: Any, message: Any) -> None:
        """See Observer."""
        session, envelope = self._sessions[server], message.envelope
        result = result_of(message.replies)
        session.messages += result == "accepted"
        at_debug = logging.getLogger().isEnabledFor(logging.DEBUG)
        auth = server.session.auth_data if server.session.authenticated else None
        tls = (server.session.ssl or {}).get("cipher")
        self._log(
            server,
            "message.accepted" if result == "accepted" else "message.refused",
            queue_id=envelope.received_id or None,
            sender=self._addresses.one(envelope.mail_from or ""),
            to_count=len(envelope.rcpt_tos),
            to=[self._addresses.one(one) for one in envelope.rcpt_tos] if at_debug else None,
            size=message.size,
            ms={"data": _ms(message.data_seconds), "handler": _ms(message.handler_seconds)},
            code=message.reply.code,
            reply=self._addresses.in_text(str(message.reply)),
            helo=self._addresses.one(server.session.host_name or ""),
            tls=f"{tls[1]} {tls[0]}" if tls else None,
            auth=self._login(auth),
        )

    def ended(self, server: Any, reason: str) -> None:
        """See Observer."""
        session = self._sessions.pop(server)
        # Probes of balancers say nothing.
        is_silent = session.is_refused or not session.commands
        self._log(
            server,
            "connection.close",
            logging.DEBUG if is_silent else logging.INFO,
            listener=session.listener,
            reason=self._addresses.in_text(reason),
            seconds=round(monotonic() - session.began, 3),
            commands=session.commands,
            messages=session.messages,
        )

    def _login(self, auth: Any) -> str | None:
        """Return the name that a client has logged in with."""
        login = getattr(auth, "login", None)
        if isinstance(login, bytes):
            login = login.decode("utf-8", "backslashreplace")
        return self._addresses.one(login) if isinstance(login, str) else None

    def _log(self, server: Any, name: str, level: int = logging.INFO, **fields: Any) -> None:
        event(name, level, session=server.session_id, client=self._client(server), **fields)

    # Deliveries.

    def on_event(self, told: Event) -> None:
        """Log an event of a delivery; called in the courier's thread."""
        error = self._addresses.in_text(told.error) or None
        if told.kind in ("down", "up"):
            level = logging.WARNING if told.kind == "down" else logging.INFO
            event(f"route.{told.kind}", level, route=told.route, error=error)
        elif told.kind != "stored":
            event(
                "delivery.done" if told.kind == "delivered" else f"delivery.{told.kind}",
                logging.WARNING if told.kind == "dead" else logging.INFO,
                queue_id=told.queue_id,
                route=told.route,
                to_count=told.recipients,
                attempts=told.attempts,
                ms=_ms(told.seconds),
                lag=round(told.lag, 3),
                error=error,
                next=None if told.due is None else round(told.due, 3),
            )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
