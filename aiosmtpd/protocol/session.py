"""Session and envelope: the state of a connection and of a transaction, as hooks get it."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, NamedTuple, Protocol, TypeVar

import attrs
from public import public

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

log = logging.getLogger("mail.log")


T = TypeVar("T")


class _Missing(enum.Enum):
    MISSING = object()


MISSING = _Missing.MISSING
"""A hook returns this to let the server reply as usual; elsewhere it means that there is no
answer."""


@attrs.define(kw_only=True, eq=True, order=True, slots=False)
class AuthResult:
    """The outcome of an authentication.

    *success* is True if the credentials are right. *handled* is True if the mechanism has sent the
    reply to a failure itself. *message* is the reply to send instead of the usual one, None for
    the usual one. *auth_data* becomes ``session.auth_data``; it may contain secrets, so the repr
    of the result hides it.
    """

    success: bool
    handled: bool = True
    message: str | None = None
    auth_data: Any = attrs.field(default=None, repr=lambda _: "...")


@public
class LoginPassword(NamedTuple):
    """A login and its password, as bytes; the repr hides the password."""

    login: bytes
    password: bytes

    def __str__(self) -> str:
        return (
            f"LoginPassword(login='{self.login.decode(errors='backslashreplace')}', password=...)"
        )

    def __repr__(self) -> str:
        return str(self)


class derived(Generic[T]):  # noqa: N801 - a decorator
    """A property that an instance's attribute may replace: programs set any name on a session."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        return self if owner is None else self._function(owner)  # type: ignore[return-value]


class _TLS(Protocol):
    """A layer of TLS."""

    def facts(self) -> dict[str, Any]:
        """Return what is known of it, by the keys of ``Session.ssl``."""


class _Facts:
    """``Session.ssl`` in TLS: made when it is first asked for, and kept by the session."""

    def __get__(self, session: Any, kind: type | None = None) -> Any:
        if session is None:
            return None
        facts = session.ssl = session._tls.facts()
        return facts


@public
class Session:
    """The state of one SMTP session. STARTTLS begins a new one on the same connection.

    ``peer`` is the client's address as the socket has it, ``host_name`` the name that the client
    gave in HELO or EHLO, and ``extended_smtp`` True after EHLO. ``ssl`` is None without TLS, else
    a dict with the keys ``peercert``, ``cipher``, ``compression``, ``ssl_object`` and
    ``sslcontext``. ``authenticated`` is None before AUTH, then False or True. Hooks may add
    attributes.
    """

    # A class attribute: most connections never set it.
    xclient: dict[str, str | None] | None = None
    ssl: dict[str, Any] | None = _Facts()  # type: ignore[assignment]

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.peer: Any = None
        self.ssl = None
        self.host_name: str | None = None
        self.extended_smtp = False
        self.loop = loop
        self.proxy_data: Any = None
        self.auth_data: Any = None
        self.authenticated: bool | None = None
        self._login_data: Any = None

    @derived
    def client_address(self) -> tuple[str, int]:
        """The client's host and port, from XCLIENT, the PROXY header or the socket, in this order.

        On a Unix socket, or if XCLIENT says that the address is not known, host ``""`` and port 0.
        """
        if self.xclient and "ADDR" in self.xclient:
            # An unknown client is not the proxy, whose address may be trusted.
            address = self.xclient["ADDR"]
            return (address, int(self.xclient.get("PORT") or 0)) if address else ("", 0)
        proxied = self.proxy_data
        # The command 0, LOCAL, is the proxy's own connection: its addresses mean nothing.
        if proxied and proxied.src_port is not None and proxied.command != 0:
            return str(proxied.src_addr), proxied.src_port
        if isinstance(self.peer, tuple):
            return self.peer[0], self.peer[1]
        return "", 0

    def _begin_tls(self, tls: _TLS) -> None:
        """Let ``ssl`` have the facts about a TLS layer."""
        self._tls = tls
        # Access calls the descriptor now.
        del self.ssl

    def set_login_data(self, value: Any) -> None:
        """Set the value of the deprecated ``login_data`` without a warning in the log."""
        self._login_data = value

    @property
    def login_data(self) -> Any:
        """The authenticated identity, as 1.3 named it; use ``auth_data``."""
        log.warning("Session.login_data is deprecated and will be removed in version 2.0")
        return self._login_data

    @login_data.setter
    def login_data(self, value: Any) -> None:
        log.warning("Session.login_data is deprecated and will be removed in version 2.0")
        self._login_data = value


class Stored(Protocol):
    """Mail data kept outside memory."""

    size: int

    def read_at(self, position: int, size: int) -> bytes:
        """Return at most *size* bytes from *position* on."""

    def open(self) -> BinaryIO:
        """Return a new reader, at the beginning."""


@public
class Recipient(NamedTuple):
    """A recipient as the client named it; *params* are its parsed parameters by keyword."""

    address: str
    params: dict[str, Any]


@public
class Envelope:
    """One mail transaction: RFC 5321 section 3.3.

    ``mail_from`` is the reverse-path (None before MAIL, ``"<>"`` for the null one) and
    ``rcpt_tos`` the forward-paths; ``mail_options`` and ``rcpt_options`` are ``KEY=value``
    strings. ``mail_params`` are the parsed parameters of MAIL by keyword; ``recipients`` are the
    accepted recipients with theirs. ``original_content`` is the mail data as bytes; ``content`` is
    the same, or a str with ``decode_data``. :meth:`open` reads the mail data as a file: messages
    larger than ``spill_size`` bytes are in one. Hooks may add attributes.
    """

    # Class attributes: most transactions never set them.
    mail_params: Mapping[str, Any] = MappingProxyType({})
    xforward: dict[str, str | None] | None = None
    received_id: str = ""
    """The id in the Received field, instead of that of the session."""
    _spill: Stored | None = None
    _unlisted = 0
    """RCPT commands that were accepted, minus the entries that they added to ``rcpt_tos``."""

    def __init__(self) -> None:
        self.mail_from: str | None = None
        self.mail_options: list[str] = []
        self.smtp_utf8 = False
        self.content: str | bytes | None = None
        self.original_content: bytes | None = None
        self.rcpt_tos: list[str] = []
        self.rcpt_options: list[str] = []
        # Just the address of a recipient without parameters: a hundred may come at once.
        self._recipients: list[str | tuple[str, dict[str, Any]]] = []

    @derived
    def recipients(self) -> list[Recipient]:
        """The accepted recipients as the client named them, with their parameters."""
        # Made on access: making a named tuple takes longer than accepting a recipient.
        kept = self._recipients
        return [Recipient(one, {}) if isinstance(one, str) else Recipient(*one) for one in kept]

    def _begin(self, address: str, options: Iterable[str] = ()) -> None:
        """Begin the transaction that a MAIL asks for."""
        self.mail_from = address
        self.mail_options.extend(options)

    def _add_recipients(self, addresses: list[str], params: dict[str, Any] | None = None) -> None:
        """Add recipients that were accepted; *params* are those of the only one."""
        self.rcpt_tos += addresses
        self._recipients += [(addresses[0], params)] if params else addresses

    def open(self) -> BinaryIO:
        """Return the mail data as a binary file, at its beginning; each call returns a new one."""
        if self._spill is not None:
            return self._spill.open()
        return BytesIO(self.original_content or b"")

    def _keep(self, spill: Stored, decode: Callable[[bytes], str | bytes]) -> None:
        """Keep the mail data in a file; reading ``content`` loads it into memory."""
        self._spill, self._decode = spill, decode
        # Without these, access calls __getattr__().
        del self.original_content, self.content

    if not TYPE_CHECKING:  # pragma: no branch - a checker would take any name

        def __getattr__(self, name: str) -> Any:
            spill = self.__dict__.get("_spill")
            if spill is None or name not in ("original_content", "content"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.original_content = spill.read_at(0, spill.size)
            self.content = self._decode(self.original_content)
            return self.__dict__[name]
