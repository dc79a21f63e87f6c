"""Hand a message to the next hop: to all of its recipients or to none, and never half of it."""

import contextlib
import functools
import logging
import smtplib
import socket
from collections.abc import Sequence
from typing import TypeAlias

Refusals: TypeAlias = dict[str, tuple[int, bytes]]

# The next hop has answered for the message by then; its goodbye must not hold up our own answer.
_GOODBYE_TIMEOUT = 2.0

# smtplib gives its whole timeout to one call of send; a large message needs one for each piece.
_PIECE = 65536

# Parameters of MAIL that are promises to the sender, and that DATA to this hop cannot keep.
_CANNOT_KEEP = {
    "BODY=BINARYMIME": (554, b"5.6.1 Body type not supported"),
    "REQUIRETLS": (550, b"5.7.30 REQUIRETLS support required"),
}

log = logging.getLogger("mail.debug")


class NextHop:
    """The server that a message is passed on to.

    :param timeout: seconds, for each of: connection, reply, 64 KiB of the message.
    """

    def __init__(self, hostname: str, port: int, timeout: float) -> None:
        self._hostname = hostname
        self._port = port
        self._timeout = timeout

    def deliver(
        self, mail_from: str, rcpt_tos: Sequence[str], data: bytes, mail_options: Sequence[str]
    ) -> Refusals:
        """Send the message and return who was refused it, with reply code and text.

        Unless the answer is empty, nothing was sent. A hop that cannot be reached, falls silent or
        breaks off refuses all recipients, with 451: it has not taken the message (RFC 5321
        section 4.2.5). So does one that does not let us in, which is not the message's fault.
        """
        try:
            return self._send(mail_from, list(rcpt_tos), data, mail_options)
        except smtplib.SMTPRecipientsRefused as error:
            if error.recipients:
                return dict(error.recipients)
            refusal = (451, b"4.4.0 Next hop takes none of the recipients")
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            text = error.smtp_error
            refusal = (error.smtp_code, text if isinstance(text, bytes) else text.encode())
        except OSError as error:
            log.warning("next hop %s:%s: %r", self._hostname, self._port, error)
            refusal = (451, b"4.4.1 Next hop unavailable")
        return dict.fromkeys(rcpt_tos, refusal)

    def _send(
        self, mail_from: str, rcpt_tos: list[str], data: bytes, mail_options: Sequence[str]
    ) -> Refusals:
        client = smtplib.SMTP(local_hostname=_own_name(), timeout=self._timeout)
        try:
            greeting = client.connect(self._hostname, self._port)
            # No number where a program's test has put a mock in smtplib's place.
            if isinstance(code := greeting[0], int) and code != 220:
                # smtplib goes on, and what such a hop says to the rest means nothing.
                raise smtplib.SMTPConnectError(*greeting)
            AllOrNone(client)
            plain = "".join((mail_from, *rcpt_tos)).isascii()
            options = offered(client, mail_options, data, plain_paths=plain)
            # smtplib counts the parameters it is given; most messages need none of them.
            more = [options] if options else []
            return client.sendmail(mail_from, rcpt_tos, data, *more)
        finally:
            _leave(client)


class AllOrNone:
    """Steps of one smtplib client's ``sendmail``, put in the place of its own.

    The client's own go on with those recipients that were accepted, while the one reply we can
    give has to hold for all of them (RFC 5321 section 4.1.1.4); and they rewrite paths.
    """

    def __init__(self, client: smtplib.SMTP) -> None:
        self._client = client
        self._data = client.data
        self._send = client.send
        self._refused: Refusals = {}
        for step in ("mail", "rcpt", "data", "send"):
            setattr(client, step, getattr(self, step))

    def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Name the reverse-path as it is."""
        if "SMTPUTF8" in options:
            self._client.command_encoding = "utf-8"
        path = "" if sender == "<>" else sender
        return self._client.docmd("MAIL", " ".join((f"FROM:<{path}>", *options)))

    def rcpt(self, recipient: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Name a forward-path as it is, and remember a refusal."""
        code, text = self._client.docmd("RCPT", " ".join((f"TO:<{recipient}>", *options)))
        if code not in (250, 251):
            self._refused[recipient] = (code, text)
        return code, text

    def data(self, message: bytes) -> tuple[int, bytes]:
        """Send the message if nobody was refused it."""
        if self._refused:
            raise smtplib.SMTPRecipientsRefused(self._refused)
        return self._data(message)

    def send(self, text: bytes | str) -> None:
        """Send a command or a message, which may take the timeout for each piece."""
        for start in range(0, len(text), _PIECE):
            self._send(text[start : start + _PIECE])


def offered(
    client: smtplib.SMTP, mail_options: Sequence[str], data: bytes, *, plain_paths: bool
) -> list[str]:
    """Return those parameters of MAIL that this message needs and the next hop offers.

    A message that does without loses a declaration that it never needed (RFC 6152 section 3).

    :raises smtplib.SMTPDataError: the message needs one that is not offered; 8-bit octets and
        addresses would reach nobody as they were sent.
    """
    declared = {option.upper() for option in mail_options}
    options = []
    for option in declared & _CANNOT_KEEP.keys():
        raise smtplib.SMTPDataError(*_CANNOT_KEEP[option])
    if "BODY=8BITMIME" in declared:
        if _offers(client, "8bitmime"):
            options.append("BODY=8BITMIME")
        elif not data.isascii():
            raise smtplib.SMTPDataError(554, b"5.6.3 Next hop takes no 8-bit message")
    if "SMTPUTF8" in declared or not plain_paths:
        headers = data.partition(b"\r\n\r\n")[0]
        if _offers(client, "smtputf8"):
            options.append("SMTPUTF8")
        elif not plain_paths:
            raise smtplib.SMTPDataError(554, b"5.6.7 Next hop takes no address in UTF-8")
        elif not headers.isascii():
            raise smtplib.SMTPDataError(554, b"5.6.9 Next hop takes no header in UTF-8")
    return options


def _offers(client: smtplib.SMTP, keyword: str) -> bool:
    client.ehlo_or_helo_if_needed()
    return client.has_extn(keyword)


def _leave(client: smtplib.SMTP) -> None:
    with contextlib.suppress(OSError):
        if client.sock:
            client.sock.settimeout(_GOODBYE_TIMEOUT)
        client.quit()
    client.close()


@functools.cache
def _own_name() -> str:
    # Looked up once: where name service is slow, smtplib would wait for it at each message.
    name = socket.getfqdn()
    return name if "." in name else "[127.0.0.1]"
