"""What the arguments of MAIL and RCPT say: an address and parameters (RFC 5321 section 4.1.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiosmtpd.engine.auth import AuthCommands
from aiosmtpd.protocol import paths, replies
from aiosmtpd.protocol.extensions import parse_parameters
from aiosmtpd.protocol.replies import Refused, Reply

MAIL_SYNTAX = "MAIL FROM: <address>"
RCPT_SYNTAX = "RCPT TO: <address>"


class MailArguments(AuthCommands):
    """A connection that reads addresses and parameters."""

    # fmt: off
    __slots__ = (
        "_domains", "_ignore_unknown_params", "_transactions",
    )
    # fmt: on

    local_part_limit = 0

    _ignore_unknown_params: bool
    _transactions: int
    _domains: set[str] | None

    def mail_syntax(self) -> Reply:
        """Return the 501 that shows how MAIL is written."""
        return self._path_syntax(MAIL_SYNTAX)

    def _path_syntax(self, text: str) -> Reply:
        extended = " [SP <mail-parameters>]" if self.session.extended_smtp else ""
        return replies.syntax_of(text + extended)

    def _strip_command_keyword(self, keyword: str, arg: str) -> str | None:
        """Return what follows *keyword* (``FROM:``, in any case), or None."""
        length = len(keyword)
        return arg[length:].strip() if arg[:length].upper() == keyword else None

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Return the address that *arg* begins with and what follows it, or None and None."""
        try:
            return paths.parse(arg, self.local_part_limit)
        except paths.MalformedPath:
            return None, None

    def _getparams(self, params: Iterable[str]) -> dict[str, str | bool] | None:
        """Return parameters by upper-case keyword, True for those without a value, or None."""
        given = paths.parameters(params)
        if given is None:
            return None
        return {key: True if value is None else value for key, value in given.items()}

    def _path(self, keyword: str, arg: str | None, syntax: str) -> tuple[str, str]:
        """Return the address and the parameters' text of MAIL or RCPT; raises Refused."""
        path = self._strip_command_keyword(keyword, arg) if arg else None
        if not path:
            raise Refused(self._path_syntax(syntax))
        try:
            address, rest = self._getaddr(path)
        except Exception as error:
            from email.errors import HeaderParseError  # seldom needed

            # A program's own _getaddr may raise either.
            if not isinstance(error, ValueError | HeaderParseError):
                raise
            raise Refused(replies.MALFORMED_ADDRESS) from error
        if address is None:
            raise Refused(replies.MALFORMED_ADDRESS)
        if not address or (rest and not self.session.extended_smtp):
            raise Refused(self._path_syntax(syntax))
        return address, rest or ""

    def _parameters(
        self, text: str, parsers: Mapping[str, Any], syntax: str, unknown: Reply
    ) -> tuple[list[str], dict[str, Any]]:
        """Return the options of MAIL or RCPT, ``KEY=value``, and their meanings; raises Refused."""
        given = self._getparams(paths.words(text))
        if given is None:
            raise Refused(self._path_syntax(syntax))
        values = {key: value if isinstance(value, str) else None for key, value in given.items()}
        meanings, strangers = parse_parameters(self, parsers, values)
        if strangers and not self._ignore_unknown_params:
            raise Refused(unknown)
        if "BODY" in meanings:
            values["BODY"] = meanings["BODY"]
        options = [key if value is None else f"{key}={value}" for key, value in values.items()]
        return options, meanings

    # What a client may ask for in one session: RFC 9422.

    def _limit_transactions(self, limit: int) -> None:
        """Refuse a transaction too many."""
        if self._transactions >= limit:
            raise Refused(replies.TOO_MANY_TRANSACTIONS)
        self._transactions += 1

    def _limit_domains(self, address: str, limit: int) -> None:
        """Refuse a recipient of a domain too many."""
        domain = address.rpartition("@")[2].lower()
        if self._domains is None:
            self._domains = set()
        if domain not in self._domains and len(self._domains) >= limit:
            raise Refused(replies.TOO_MANY_DOMAINS)
        self._domains.add(domain)
