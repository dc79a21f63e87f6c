"""What is known of a connection and of a transaction: values for the handlers' hooks."""

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
"""What a hook returns to leave a command to the server, and what stands for "no answer"."""


@attrs.define(kw_only=True, eq=True, order=True, slots=False)
class AuthResult:
    """The outcome of an authentication.

    *success*: the credentials are right. *handled*: the mechanism has said the failure itself.
    *message*: the reply to send instead of the usual one. *auth_data*: what becomes
    ``session.auth_data``; its repr is never shown, it may hold secrets.
    """

    success: bool
    handled: bool = True
    message: str | None = None
    auth_data: Any = attrs.field(default=None, repr=lambda _: "...")


@public
class LoginPassword(NamedTuple):
    """A login and its password, as bytes; the password is never shown."""

    login: bytes
    password: bytes

    def __str__(self) -> str:
        return (
            f"LoginPassword(login='{self.login.decode(errors='backslashreplace')}', password=...)"
        )

    def __repr__(self) -> str:
        return str(self)


class derived(Generic[T]):  # noqa: N801 - a decorator
    """A property that programs may set: they add attributes of their own, by any name."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        return self if owner is None else self._function(owner)  # type: ignore[return-value]


@public
class Session:
    """One connection, or what is left of it to know after a TLS handshake began it anew.

    ``peer`` is the socket's address of the client, ``host_name`` what it called itself, and
    ``extended_smtp`` true after EHLO. ``ssl`` is None without TLS, else a dict with the keys
    ``peercert``, ``cipher``, ``compression``, ``ssl_object`` and ``sslcontext``.
    ``authenticated`` is None where nobody tried, else a bool. Hooks may add attributes.
    """

    # Of the class, as most connections never set it.
    xclient: dict[str, str | None] | None = None

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.peer: Any = None
        self.ssl: dict[str, Any] | None = None
        self.host_name: str | None = None
        self.extended_smtp = False
        self.loop = loop
        self.proxy_data: Any = None
        self.auth_data: Any = None
        self.authenticated: bool | None = None
        self._login_data: Any = None

    @derived
    def client_address(self) -> tuple[str, int]:
        """The client's own host and port: by XCLIENT or the PROXY header, else the peer's.

        Host ``""`` and port 0 where it has none, as on a Unix socket.
        """
        if self.xclient and (address := self.xclient.get("ADDR")):
            return address, int(self.xclient.get("PORT") or 0)
        proxied = self.proxy_data
        if proxied is not None and proxied and proxied.src_port is not None:
            return str(proxied.src_addr), proxied.src_port
        if isinstance(self.peer, tuple):
            return self.peer[0], self.peer[1]
        return "", 0

    def set_login_data(self, value: Any) -> None:
        """Keep what the deprecated ``login_data`` shows, without its warning."""
        self._login_data = value

    @property
    def login_data(self) -> Any:
        """The identity of 1.3: use ``auth_data``."""
        log.warning("Session.login_data is deprecated and will be removed in version 2.0")
        return self._login_data

    @login_data.setter
    def login_data(self, value: Any) -> None:
        log.warning("Session.login_data is deprecated and will be removed in version 2.0")
        self._login_data = value


class Stored(Protocol):
    """Mail data that is not in memory."""

    size: int

    def read_at(self, position: int, octets: int) -> bytes:
        """Return at most *octets* octets from a position."""

    def open(self) -> BinaryIO:
        """Return a reader of its own, at the beginning."""


@public
class Recipient(NamedTuple):
    """A recipient as the client named it; *params* are the meanings by keyword."""

    address: str
    params: dict[str, Any]


@public
class Envelope:
    """One mail transaction: RFC 5321 section 3.3.

    ``mail_from`` is the reverse-path (None before MAIL, ``"<>"`` for the null one) and
    ``rcpt_tos`` the forward-paths; ``mail_options`` and ``rcpt_options`` are ``KEY=value``
    strings. ``mail_params`` are the meanings of MAIL's parameters by keyword, and ``recipients``
    the accepted ones with the meanings of theirs. ``original_content`` is the mail data (bytes),
    ``content`` the same or, with ``decode_data``, as str. :meth:`open` reads it as a file, which
    is where messages above ``spill_size`` are. Hooks may add attributes.
    """

    # Of the class, as most transactions never set them.
    mail_params: Mapping[str, Any] = MappingProxyType({})
    xforward: dict[str, str | None] | None = None
    _spill: Stored | None = None

    def __init__(self) -> None:
        self.mail_from: str | None = None
        self.mail_options: list[str] = []
        self.smtp_utf8 = False
        self.content: str | bytes | None = None
        self.original_content: bytes | None = None
        self.rcpt_tos: list[str] = []
        self.rcpt_options: list[str] = []
        # An address alone where there are no parameters: a hundred of them come at once.
        self._recipients: list[str | tuple[str, dict[str, Any]]] = []

    @derived
    def recipients(self) -> list[Recipient]:
        """The accepted recipients as the client named them, with their parameters."""
        # Made when asked for: a named tuple takes longer to make than a recipient to accept.
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
        """Return the mail data as a binary file, at its beginning; each call opens another one."""
        if self._spill is not None:
            return self._spill.open()
        return BytesIO(self.original_content or b"")

    def _keep(self, spill: Stored, decode: Callable[[bytes], str | bytes]) -> None:
        """Have the mail data in a file; it is read into memory where ``content`` is asked for."""
        self._spill, self._decode = spill, decode
        # So that __getattr__ is asked for them.
        del self.original_content, self.content

    if not TYPE_CHECKING:  # pragma: no branch - a checker would take any name

        def __getattr__(self, name: str) -> Any:
            spill = self.__dict__.get("_spill")
            if spill is None or name not in ("original_content", "content"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.original_content = spill.read_at(0, spill.size)
            self.content = self._decode(self.original_content)
            return self.__dict__[name]
