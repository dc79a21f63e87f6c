"""The server of an inbox, in a thread of its own."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve

from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.observers.faults import Faults
from aiosmtpd.process.users import Users
from aiosmtpd.protocol.settings import Settings, SMTPKeywords
from aiosmtpd.smtp import SMTP, Envelope, Session
from aiosmtpd.testing.transcript import Kept

if TYPE_CHECKING:
    from aiosmtpd.testing.page import InboxPage

PROTOCOLS: dict[str, type[SMTP]] = {"smtp": SMTP, "lmtp": LMTP}


class Catcher:
    """A handler that accepts each message and passes it to :attr:`take`, a function or None."""

    def __init__(self) -> None:
        self.take: Callable[[DecodedMail], None] | None = None
        self.page: InboxPage | None = None

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Pass the message on before the reply is sent."""
        if self.page is not None:
            await self.page.take(server, session, envelope)
        if self.take is not None:
            self.take(DecodedMail(session, envelope))
        return "250 OK"


class InboxServer(Controller):
    """Serves as the options of an inbox say, and records the dialogue."""

    def __init__(
        self,
        hostname: str,
        port: int,
        *,
        protocol: str,
        context: ssl.SSLContext | None,
        starttls: bool,
        users: Mapping[str, str],
        parameters: SMTPKeywords,
        web: InboxPage | bool = False,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is smtp or lmtp, not {protocol!r}")
        self.catcher = Catcher()
        self.transcript = Kept()
        self.faults = Faults()
        keywords: dict[str, Any] = {"extensions": "modern", **parameters}
        if starttls:
            keywords = {"require_starttls": True, "tls_context": context, **keywords}
        self.catcher.page = self.page = self._page_of(web)
        shown = [] if self.page is None else [self.page.intake]
        keywords["observers"] = [
            *keywords.get("observers", ()),
            self.faults,
            *shown,
            self.transcript,
        ]
        # The full name of the host is looked up in the DNS, which may take a while.
        keywords.setdefault("hostname", "localhost")
        super().__init__(
            self.catcher,
            hostname,
            port,
            ssl_context=None if starttls else context,
            server_hostname=keywords.pop("hostname"),
            shutdown_timeout=0.5,
            **keywords,
        )
        self._protocol = PROTOCOLS[protocol]
        self._settings = Settings.of(self.SMTP_kwargs)
        if users:
            # Not by keywords: they warn of passwords in the clear, which matter to no test.
            self._settings = evolve(
                self._settings,
                authenticator=Users(list(users.items())),
                auth_required=True,
                auth_require_tls=context is not None,
            )

    def _page_of(self, web: InboxPage | bool) -> InboxPage | None:
        if not isinstance(web, bool):
            return web
        if not web:
            return None
        try:
            from aiosmtpd.testing.page import InboxPage  # needs an extra
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            text = f'the page of an inbox needs {missing}: pip install "aiosmtpd[inbox]"'
            raise ModuleNotFoundError(text, name=error.name) from None
        return InboxPage(faults=self.faults)

    def factory(self) -> SMTP:
        """Return the object for a connection."""
        return self._protocol(self.handler, settings=self._settings)
