"""Deliver to a next hop by SMTP or LMTP: ``smtps://user:password@relay.example.com``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Sequence

import attrs
from public import public

from aiosmtpd.delivery.item import Item, Later, Misconfigured, Never, Results, TooLarge
from aiosmtpd.delivery.nexthop import (
    NO_8BIT,
    NO_BINARY,
    NO_REQUIRETLS,
    NO_UTF8_ADDRESS,
    NO_UTF8_HEADER,
    own_name,
)
from aiosmtpd.delivery.outlets import wire
from aiosmtpd.delivery.outlets.client import Client, one_line
from aiosmtpd.delivery.outlets.place import Place, parse
from aiosmtpd.delivery.outlets.workers import Workers

# One parameter of MAIL or RCPT: RFC 5321 section 4.1.2. It cannot become two of them.
_PARAMETER = re.compile(r"([0-9A-Za-z][0-9A-Za-z-]*)(?:=[!-<>-~]+)?")

# A path that cannot end early. A bracket or a blank needs quotes, and only a whole local part can
# be quoted (RFC 5321 section 4.1.2): a hop may see no quotes in the middle of a word.
_PATH = re.compile(r'(?:"(?:[^"\\]|\\.)*+"(?=@|\Z))?+(?:"(?:[^"\\<> ]|\\[^<> ])*+"|[^"<> ])*+')

_MAIL_DSN = {"RET", "ENVID"}
_RCPT_DSN = {"NOTIFY", "ORCPT"}

WANTS_LOGIN = 530
"""The hop wants AUTH or TLS first: RFC 4954 section 6, RFC 3207 section 4.

5yz refuses a message for good (RFC 5321 section 4.2.1). But 530 is about the route, which an
operator can correct: it is Later, as a wrong password is.
"""

_MAILBOX_FULL = re.compile(r"552 5\.")


def from_url(
    url: str,
    *,
    user: str = "",
    password: str = "",
    verify: bool = True,
    cafile: str | os.PathLike[str] | None = None,
    context: ssl.SSLContext | None = None,
    plain_auth: bool = False,
    reply_timeout: float = 30.0,
    final_timeout: float | None = None,
    hostname: str = "",
) -> SMTPOutlet:
    """Return the outlet of a ``smtp:``, ``smtp+starttls:``, ``smtps:`` or ``lmtp:`` URL."""
    place = parse(url)
    user, password = user or place.user, password or place.password
    if bool(user) != bool(password):
        raise ValueError("AUTH needs a user and a password")
    if place.path and not hasattr(socket, "AF_UNIX"):
        raise ValueError("this system has no Unix sockets")
    encrypted = place.scheme in {"smtps", "smtp+starttls"}
    if user and not (encrypted or place.path or plain_auth):
        raise ValueError(
            "would send the password in plain text: write smtps:// or smtp+starttls://, or set "
            "plain_auth=True (#plain_auth=yes)"
        )
    if not encrypted and (cafile or context):
        raise ValueError("cafile and context are for smtps:// and smtp+starttls://")
    if reply_timeout <= 0 or (final_timeout is not None and final_timeout <= 0):
        raise ValueError("a timeout is more than 0 seconds")
    if not re.fullmatch(r"[!-~]{0,255}", hostname):
        raise ValueError(f"invalid hostname {hostname!r}")
    return SMTPOutlet(
        place,
        login=(user, password) if user else None,
        tls=_TLS(verify, cafile, context) if encrypted else None,
        reply_timeout=reply_timeout,
        final_timeout=final_timeout,
        hostname=hostname,
    )


@attrs.define
class _TLS:
    """How to verify the certificate of a next hop."""

    verify: bool
    cafile: str | os.PathLike[str] | None
    made: ssl.SSLContext | None

    def context(self) -> ssl.SSLContext:
        """Return the context; raises OSError if the file of the authority cannot be used."""
        if self.made is None:
            context = ssl.create_default_context(cafile=self.cafile)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self.made = context
        return self.made


@public
class SMTPOutlet:
    """Sends each message to a next hop, over a connection of its own.

    Each recipient has its own result: with SMTP, a refused one does not stop the others; with LMTP
    (RFC 2033), each has its own reply after the message. A reply 4yz, 421 and trouble with the
    connection are Later, 5yz is Never. A reply that does not come in *reply_timeout* seconds ends
    the connection; after the message, it may take *final_timeout* (10 times as long).
    """

    def __init__(
        self,
        place: Place,
        *,
        login: tuple[str, str] | None = None,
        tls: _TLS | None = None,
        reply_timeout: float = 30.0,
        final_timeout: float | None = None,
        hostname: str = "",
    ) -> None:
        self.place = place
        self.login = login
        self.tls = tls
        self.reply_timeout = reply_timeout
        self.final_timeout = 10 * reply_timeout if final_timeout is None else final_timeout
        self.hostname = hostname
        self._clients: set[Client] = set()
        self._workers = Workers(place.scheme)

    async def open(self) -> None:
        """Read the file of the authority; the next hop is first reached with a message."""
        if self.tls is not None:
            try:
                await self._workers.run(self.tls.context)
            except OSError as error:
                raise Misconfigured(
                    f"{self.place}: cafile: {self.tls.cafile}: {error.strerror or error}"
                ) from None

    async def put(self, item: Item) -> Results:
        """Send the message, in a worker thread; if this is cancelled, the connection ends."""
        if not self.hostname:
            # In a thread: the first time, it may wait for the DNS.
            self.hostname = await self._workers.run(own_name)
        client = Client(self.place, self.reply_timeout, self.hostname)
        self._clients.add(client)
        try:
            return await self._workers.run(self._deliver, client, item)
        except asyncio.CancelledError:
            client.abort()
            raise
        finally:
            self._clients.discard(client)

    async def close(self) -> None:
        """End the connections and the threads."""
        for client in self._clients:
            client.abort()
        self._workers.close()

    def _deliver(self, client: Client, item: Item) -> Results:
        with item.open() as file:
            facts = wire.facts_of(wire.to_relay(file))
        transaction = _Transaction(client, item, facts, self.final_timeout)
        try:
            context = self.tls.context() if self.tls is not None else None
            client.begin(context)
            if self.login is not None:
                client.log_in(*self.login)
            transaction.verified = context is not None and context.check_hostname
            return transaction.run()
        except ssl.SSLCertVerificationError as error:
            raise Later(f"{self.place}: certificate: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise Later(f"{self.place}: TLS: {error.reason or _said(error)}") from error
        except (OSError, ValueError) as error:
            raise Later(f"{self.place}: {_said(error)}") from error
        finally:
            client.leave()


class _Transaction:
    """MAIL, RCPT and DATA for one message; ``results`` grows as the hop replies."""

    def __init__(self, client: Client, item: Item, facts: wire.Facts, last_wait: float) -> None:
        self.client = client
        self.item = item
        self.facts = facts
        self.last_wait = last_wait
        self.verified = False
        self.results: dict[str, Later | Never] = {}

    def run(self) -> Results:
        """Send the message; raise Later if the hop is of no use now, Never if it cannot be sent."""
        sender = "" if self.item.sender == "<>" else self.item.sender
        if not _is_path(sender):
            raise Never("553 5.1.7 Sender's address cannot be sent")
        parameters = self._mail_parameters(sender)
        reply = self.client.docmd("MAIL", " ".join((f"FROM:<{sender}>", *parameters)))
        if reply[0] in {421, WANTS_LOGIN}:
            raise _failure(*reply)
        if reply[0] // 100 != 2:
            return dict.fromkeys(self.item.recipients, _failure(*reply))
        accepted = [recipient for recipient in self.item.recipients if self._accepts(recipient)]
        if accepted:
            self._send(accepted)
        return self.results or None

    def _mail_parameters(self, sender: str) -> list[str]:
        declared = _keywords(self.item.arrival.mail_options)
        if declared.get("BODY", "").upper() == "BODY=BINARYMIME":
            raise _refusal(NO_BINARY)
        parameters = []
        if "REQUIRETLS" in declared:
            if not (self.verified and self._offers("requiretls")):
                raise _refusal(NO_REQUIRETLS)
            parameters.append("REQUIRETLS")
        if not self.facts.plain:
            if self._offers("8bitmime"):
                parameters.append("BODY=8BITMIME")
            elif "BODY" in declared:
                raise _refusal(NO_8BIT)
        if self._needs_utf8(sender, "SMTPUTF8" in declared):
            self.client.command_encoding = "utf-8"
            parameters.append("SMTPUTF8")
        if self._offers("size"):
            limit = self.client.esmtp_features["size"].partition(" ")[0]
            if limit.isascii() and limit.isdigit() and 0 < int(limit) < self.facts.size:
                raise TooLarge(int(limit))
            parameters.append(f"SIZE={self.facts.size}")
        return parameters + self._delivery_status(declared, _MAIL_DSN)

    def _needs_utf8(self, sender: str, declared: bool) -> bool:
        declared = declared or self.item.arrival.smtp_utf8
        if not declared and "".join((sender, *self.item.recipients)).isascii():
            return False
        if self._offers("smtputf8"):
            return True
        if not sender.isascii():
            raise _refusal(NO_UTF8_ADDRESS)
        if declared and not self.facts.plain_headers:
            raise _refusal(NO_UTF8_HEADER)
        return False

    def _accepts(self, recipient: str) -> bool:
        if not _is_path(recipient):
            self.results[recipient] = Never("553 5.1.3 Recipient's address cannot be sent")
            return False
        if not recipient.isascii() and not self._offers("smtputf8"):
            self.results[recipient] = _refusal(NO_UTF8_ADDRESS)
            return False
        declared = _keywords(self.item.arrival.rcpt_options.get(recipient, ()))
        parameters = self._delivery_status(declared, _RCPT_DSN)
        code, text = self.client.docmd("RCPT", " ".join((f"TO:<{recipient}>", *parameters)))
        if code // 100 == 2:
            return True
        failure = _failure(code, text)
        if code == 421:
            raise failure
        if code == 552 and not _MAILBOX_FULL.match(str(failure)):
            # Too many recipients, as RFC 821 said it: RFC 5321 section 4.5.3.1.10.
            failure = Later(str(failure))
        self.results[recipient] = failure
        return False

    def _send(self, accepted: list[str]) -> None:
        waiting = list(accepted)
        try:
            code, text = self.client.docmd("DATA")
            if code // 100 != 3:
                # Also 2yz: without the message, the hop has taken nothing.
                self._refuse(waiting, code, text)
                return
            if refused := self._send_message():
                self._refuse(waiting, *refused)
                return
            self.client.seconds = self.last_wait
            while waiting:
                # One reply for all, or with LMTP for each: RFC 2033 section 4.2.
                some = waiting[:1] if self.client.place.scheme == "lmtp" else waiting[:]
                self._settle(some, *self.client.getreply())
                del waiting[: len(some)]
        except OSError as error:
            if not self.results and waiting == accepted:
                raise
            self._lose(waiting, f"{self.client.place}: {_said(error)}")

    def _send_message(self) -> tuple[int, bytes] | None:
        """Send the mail data; return a refusal that came before its end."""
        client = self.client
        client.in_mail_data = True
        with self.item.open() as file:
            for piece in wire.mail_data(wire.to_relay(file)):
                try:
                    client.send_piece(piece)
                except OSError:
                    client.seconds = min(client.seconds, 2.0)
                    with contextlib.suppress(OSError):
                        reply = client.getreply()
                        if 400 <= reply[0] <= 599:
                            return reply
                    raise
        client.in_mail_data = False
        return None

    def _settle(self, recipients: list[str], code: int, text: bytes) -> None:
        if code // 100 != 2:
            self._refuse(recipients, code, text)

    def _refuse(self, recipients: list[str], code: int, text: bytes) -> None:
        failure = _failure(code, text)
        if code == 421 and not self.results and len(recipients) == len(self.item.recipients):
            raise failure
        self.results.update(dict.fromkeys(recipients, failure))

    def _lose(self, recipients: list[str], text: str) -> None:
        self.results.update(dict.fromkeys(recipients, Later(text)))

    def _delivery_status(self, declared: dict[str, str], keywords: set[str]) -> list[str]:
        if not self._offers("dsn"):
            return []
        return [option for keyword, option in declared.items() if keyword in keywords]

    def _offers(self, keyword: str) -> bool:
        return self.client.has_extn(keyword)


def _keywords(options: Sequence[str]) -> dict[str, str]:
    """Return the parameters by keyword; those that are not valid are left out."""
    found = [(_PARAMETER.fullmatch(option), option) for option in options]
    return {match[1].upper(): option for match, option in found if match is not None}


def _is_path(address: str) -> bool:
    return address.isprintable() and _PATH.fullmatch(address) is not None


def _failure(code: int, text: bytes) -> Later | Never:
    line = one_line(code, text)
    return Never(line) if 500 <= code <= 599 and code != WANTS_LOGIN else Later(line)


def _refusal(reply: tuple[int, bytes]) -> Never:
    return Never(one_line(*reply))


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
