"""An inbox for tests: a real server on the loopback, and the messages that it received."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, TypedDict, Unpack
from urllib.parse import quote

from public import public

from aiosmtpd.mail.criteria import Pattern, Wanted
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.observers.faults import Fault
from aiosmtpd.protocol.settings import SMTPKeywords, check_names
from aiosmtpd.testing.authority import Authority
from aiosmtpd.testing.server import InboxServer

if TYPE_CHECKING:
    from aiosmtpd.testing.page import InboxPage

PATIENCE = 5.0
"""Default time, in seconds, that an inbox waits for a message."""

MailProtocol: TypeAlias = Literal["smtp", "lmtp"]
TLSMode: TypeAlias = Literal["starttls", "implicit"]


class OwnKeywords(TypedDict, total=False):
    """The keywords that ``Inbox`` has beside those of ``SMTP``."""

    host: str
    port: int
    protocol: MailProtocol
    tls: TLSMode | None
    users: Mapping[str, str] | None
    size_limit: int | None
    authority: Authority | None
    web: bool | InboxPage


class InboxKeywords(SMTPKeywords, OwnKeywords, total=False):
    """All keywords of ``Inbox``."""


class StartsInbox(Protocol):
    """The function that the fixture ``smtp_server`` is."""

    def __call__(self, **options: Unpack[InboxKeywords]) -> Inbox:
        """Start an inbox, which stops when the test ends."""
        raise NotImplementedError


class _News:
    """Tells which messages a waiter has not compared yet: there may be thousands of others."""

    def __init__(self) -> None:
        self._messages: list[DecodedMail] = []
        self._number = 0

    def in_(self, messages: list[DecodedMail]) -> list[DecodedMail]:
        """Return the messages that were added since the last call."""
        if messages is not self._messages:
            # The inbox was cleared meanwhile.
            self._messages, self._number = messages, 0
        begin, self._number = self._number, len(messages)
        return messages[begin:]


@public
class NoMessage(AssertionError):
    """An expected message did not arrive, or an unexpected one did. The text lists what arrived."""


@public
class Inbox:
    """Catches the mail of a program under test; ``with`` or ``async with`` starts and stops it.

    The server runs in a thread of its own, so that a busy test or event loop does not block it. A
    message is in :attr:`messages` before its client gets the reply.

    The server listens on *host* and *port*; port 0 means any free one. *protocol* is ``"smtp"`` or
    ``"lmtp"``. *tls* is None, ``"starttls"`` (mail is refused without it) or ``"implicit"``; TLS
    needs trustme (the extra ``devtls``). *users* maps names to passwords; if there are any, clients
    must authenticate. *size_limit* is in bytes. With *web*, the messages are also on a page of
    ``aiosmtpd inbox`` at :attr:`web_url`; it needs the extra ``inbox``. All other keywords are
    those of :class:`aiosmtpd.smtp.SMTP`. Raises ValueError or TypeError for a wrong value.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        protocol: MailProtocol = "smtp",
        tls: TLSMode | None = None,
        users: Mapping[str, str] | None = None,
        size_limit: int | None = None,
        authority: Authority | None = None,
        web: bool | InboxPage = False,
        **SMTP_parameters: Unpack[SMTPKeywords],
    ) -> None:
        check_names(SMTP_parameters, type(self).__name__, OwnKeywords.__annotations__)
        if tls not in (None, "starttls", "implicit"):
            raise ValueError(f'tls is None, "starttls" or "implicit", not {tls!r}')
        self.host = host
        self._protocol = protocol
        self._tls = tls
        self._users = dict(users or {})
        self._own_authority = tls is not None and authority is None
        self._authority = Authority() if self._own_authority else authority
        if size_limit is not None:
            SMTP_parameters["data_size_limit"] = size_limit
        self._server = InboxServer(
            host,
            port,
            protocol=protocol,
            context=self._authority.server_context if tls and self._authority else None,
            starttls=tls == "starttls",
            users=self._users,
            parameters=SMTP_parameters,
            web=web,
        )
        self._own_page = self._server.page if web is True else None
        self._condition = threading.Condition()
        self._watchers: set[Callable[[], None]] = set()
        self._messages: list[DecodedMail] = []
        self._address = ""
        self.clear()

    # Start and stop.

    def start(self) -> None:
        """Start the server; raises OSError if it cannot listen."""
        self._server.catcher.take = self._take
        if self._own_authority and self._authority is not None:
            self._authority.open()
        # None also if the inbox has started already: the page of that start goes on.
        page = None if self.web_url else self._own_page
        if page is not None:
            page.start()
        try:
            self._server.start()
        except BaseException:
            if page is not None:
                page.stop()
            raise
        if page is not None:
            page.services.smtp.update(host=self.host, port=self.port)

    def stop(self) -> None:
        """Stop the server and keep the messages."""
        self._server.stop(no_assert=True)
        if self._own_page is not None:
            self._own_page.stop()
        if self._own_authority and self._authority is not None:
            self._authority.close()

    def clear(self) -> None:
        """Remove messages, faults and transcript, and choose a new :attr:`address`."""
        if self._own_page is not None:
            self._own_page.clear()
        self._server.faults.clear()
        with self._condition:
            self._messages = []
        self._address = f"inbox-{secrets.token_hex(4)}@example.com"
        self._server.transcript.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        # In a thread: clients in this event loop may have to end first.
        await asyncio.to_thread(self.stop)

    def fail(self, stage: str, effect: str, **keywords: Any) -> Fault:
        """Inject a fault from now on, until :meth:`clear`.

        For example ``inbox.fail("rcpt", "450 4.2.1 Mailbox busy", times=2)``: the arguments are
        those of :class:`aiosmtpd.testing.faults.Fault`, which is returned. Raises ValueError or
        TypeError for a wrong value.
        """
        return self._server.faults.add(Fault(stage, effect, **keywords))

    # Addresses, for clients.

    @property
    def address(self) -> str:
        """A mail address that no other inbox has; mail to other addresses is accepted too."""
        return self._address

    @property
    def port(self) -> int:
        """The TCP port; before the start, 0 if it is to be any free one."""
        return self._server.port

    @property
    def url(self) -> str:
        """The URL, such as ``smtp://127.0.0.1:53112``, with the first user, if any.

        Its scheme is ``smtp``, ``smtps`` or ``lmtp``.
        """
        scheme = "smtps" if self._tls == "implicit" else self._protocol
        user = "".join(
            f"{quote(name, safe='')}:{quote(password, safe='')}@"
            for name, password in list(self._users.items())[:1]
        )
        return f"{scheme}://{user}{self._place}"

    @property
    def web_url(self) -> str:
        """The address of the page in a browser; ``""`` without *web* and while it is stopped."""
        return self._server.page.url if self._server.page else ""

    @property
    def _place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ca_file(self) -> Path | None:
        """The PEM file that a client has to trust; None without TLS."""
        return self._authority.ca_file if self._authority else None

    def client_context(self) -> ssl.SSLContext:
        """Return a TLS context for a client; raises ValueError without TLS."""
        if self._authority is None:
            raise ValueError("this inbox has no TLS")
        return self._authority.client_context()

    def env(self, prefix: str = "SMTP_") -> dict[str, str]:
        """Return environment variables for a program: HOST, PORT and URL, each after *prefix*.

        With users there are USERNAME and PASSWORD of the first too; with TLS there is
        SSL_CERT_FILE, without the prefix, which OpenSSL reads.
        """
        found = {"HOST": self.host, "PORT": str(self.port), "URL": self.url}
        for name, word in list(self._users.items())[:1]:
            found |= {"USERNAME": name, "PASSWORD": word}
        named = {prefix + name: value for name, value in found.items()}
        return named | ({"SSL_CERT_FILE": str(self.ca_file)} if self._tls else {})

    def django_settings(self, *, mailers: bool = False) -> dict[str, Any]:
        """Return the settings with which Django sends to this inbox: ``EMAIL_HOST`` and so on.

        With *mailers*, return ``MAILERS``, which replaces them from Django 6.1 on.
        """
        user, password = next(iter(self._users.items()), ("", ""))
        backend = "django.core.mail.backends.smtp.EmailBackend"
        options = {
            "host": self.host,
            "port": self.port,
            "username": user,
            "password": password,
            "use_tls": self._tls == "starttls",
            "use_ssl": self._tls == "implicit",
            "timeout": 10,
        }
        if mailers:
            return {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": options}}}
        names = {"username": "HOST_USER", "password": "HOST_PASSWORD"}
        named = {f"EMAIL_{names.get(name, name.upper())}": options[name] for name in options}
        return {"EMAIL_BACKEND": backend, **named}

    # Received messages.

    def _take(self, mail: DecodedMail) -> None:
        with self._condition:
            self._messages.append(mail)
            self._condition.notify_all()
            watchers = list(self._watchers)
        for tell in watchers:
            # The watcher's event loop may have ended with the test.
            with suppress(RuntimeError):
                tell()

    @property
    def messages(self) -> list[DecodedMail]:
        """All messages, in the order in which they arrived."""
        with self._condition:
            return list(self._messages)

    @property
    def transcript(self) -> str:
        """The lines of clients (C) and server (S), each with its session and its time in seconds.

        Secrets and mail data are left out. Only the last 500 lines are kept.
        """
        return str(self._server.transcript)

    def wait(
        self,
        *,
        to: Pattern | None = None,
        sender: Pattern | None = None,
        subject: Pattern | None = None,
        text: Pattern | None = None,
        timeout: float = PATIENCE,
    ) -> DecodedMail:
        """Return the first message that matches all patterns, as soon as it arrives.

        A pattern is a string, compared in any case, in which ``*``, ``?`` and ``[...]`` are
        wildcards, or a compiled regular expression. Patterns for subject and text may match a part
        of it. After *timeout* seconds, raises :class:`NoMessage`, which lists the messages and why
        they do not match.
        """
        __tracebackhide__ = True  # pytest shows the caller instead
        wanted = Wanted(to, sender, subject, text)
        return self._wait(wanted, timeout) or self._complain(wanted, timeout)

    async def wait_async(
        self,
        *,
        to: Pattern | None = None,
        sender: Pattern | None = None,
        subject: Pattern | None = None,
        text: Pattern | None = None,
        timeout: float = PATIENCE,
    ) -> DecodedMail:
        """Wait like :meth:`wait`, without blocking the event loop."""
        __tracebackhide__ = True
        wanted = Wanted(to, sender, subject, text)
        found = await self._watch(wanted, timeout)
        return found or self._complain(wanted, timeout)

    def assert_none(
        self,
        *,
        to: Pattern | None = None,
        sender: Pattern | None = None,
        subject: Pattern | None = None,
        text: Pattern | None = None,
        within: float = 0.0,
    ) -> None:
        """Raise :class:`NoMessage` if a match is there or arrives *within* seconds."""
        __tracebackhide__ = True
        wanted = Wanted(to, sender, subject, text)
        _refuse(self._wait(wanted, within), wanted)

    async def assert_none_async(
        self,
        *,
        to: Pattern | None = None,
        sender: Pattern | None = None,
        subject: Pattern | None = None,
        text: Pattern | None = None,
        within: float = 0.0,
    ) -> None:
        """Check like :meth:`assert_none`, without blocking the event loop."""
        __tracebackhide__ = True
        wanted = Wanted(to, sender, subject, text)
        _refuse(await self._watch(wanted, within), wanted)

    def _wait(self, wanted: Wanted, seconds: float) -> DecodedMail | None:
        news = _News()
        with self._condition:
            return self._condition.wait_for(lambda: wanted.first(news.in_(self._messages)), seconds)

    async def _watch(self, wanted: Wanted, seconds: float) -> DecodedMail | None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._condition:
            self._watchers.add(tell)
        try:
            deadline, news = monotonic() + seconds, _News()
            while (found := wanted.first(self._new_ones(news))) is None:
                async with asyncio.timeout(deadline - monotonic()):
                    await changed.wait()
                changed.clear()
        except TimeoutError:
            return None
        finally:
            with self._condition:
                self._watchers.discard(tell)
        return found

    def _new_ones(self, news: _News) -> list[DecodedMail]:
        with self._condition:
            return news.in_(self._messages)

    def _complain(self, wanted: Wanted, seconds: float) -> Any:
        __tracebackhide__ = True
        messages = self.messages
        what = f"no message {wanted}".rstrip()
        lines = [f"{what} came within {seconds:g} s"]
        for mail in messages:
            lines += [f"  {mail!r}:", *(f"    {one}" for one in wanted.differences(mail))]
        transcript = self._server.transcript
        if messages:
            lines[0] += f"; {len(messages)} that came:"
        elif not transcript.lines:
            lines[0] += f"; no client has connected to {self._place}"
        elif refusal := transcript.last_refusal():
            lines[0] += f"; the last client got: {refusal}"
        else:
            lines[0] += "; no message at all has come"
        raise NoMessage("\n".join(lines))


def _refuse(found: DecodedMail | None, wanted: Wanted) -> None:
    __tracebackhide__ = True
    if found is not None:
        what = f"a message {wanted}".rstrip()
        raise NoMessage(f"{what} came: {found!r}\n{found.readable}")
