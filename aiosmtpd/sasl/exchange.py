"""A SASL exchange from the server's side (RFC 4422 section 3): pure, without a socket."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from aiosmtpd.protocol.session import LoginPassword


class Malformed(Exception):
    """A client's response cannot be taken apart."""


class Claim:
    """The end of an exchange: the credentials that the client gave, for the server to judge."""

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials


class Exchange(Protocol):
    """One exchange of one mechanism; a new mechanism is one class with these two names."""

    mechanism: ClassVar[str]

    def step(self, response: bytes | None) -> bytes | Claim:
        """Take a response of the client; return the next challenge, or the client's claim.

        *response* is None if the client sent no initial response (RFC 4422 section 5.1). Raises
        :exc:`Malformed`.
        """


class Plain:
    """PLAIN: one response with identity, login and password. RFC 4616."""

    mechanism: ClassVar[str] = "PLAIN"

    def step(self, response: bytes | None) -> bytes | Claim:
        """See Exchange."""
        if response is None:
            return b""
        try:
            _identity, login, password = response.split(b"\0")
        except ValueError:
            raise Malformed from None
        return Claim(LoginPassword(login, password))


class Login:
    """LOGIN: two challenges, for the login and for the password; the first may be left out."""

    mechanism: ClassVar[str] = "LOGIN"

    def __init__(self, ask_login: bytes, ask_password: bytes) -> None:
        self._ask_login = ask_login
        self._ask_password = ask_password
        self._login: bytes | None = None

    def step(self, response: bytes | None) -> bytes | Claim:
        """See Exchange."""
        if response is None:
            return self._ask_login
        if self._login is None:
            self._login = response
            return self._ask_password
        return Claim(LoginPassword(self._login, response))
