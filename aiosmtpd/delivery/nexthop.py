"""Send a message to the next hop: for all of its recipients or for none."""

import contextlib
import functools
import logging
import smtplib
import socket
from collections.abc import Sequence
from typing import TypeAlias

Refusals: TypeAlias = dict[str, tuple[int, bytes]]

# Seconds to wait for the reply to QUIT. The next hop has taken the message; do not delay ours.
_GOODBYE_TIMEOUT = 2.0

# smtplib's timeout is for one call of send(): send a large message in pieces of so many bytes.
PIECE = 65536

NO_BINARY = (554, b"5.6.1 Body type not supported")
NO_8BIT = (554, b"5.6.3 Next hop takes no 8-bit message")
NO_UTF8_ADDRESS = (554, b"5.6.7 Next hop takes no address in UTF-8")
NO_UTF8_HEADER = (554, b"5.6.9 Next hop takes no header in UTF-8")
NO_REQUIRETLS = (550, b"5.7.30 REQUIRETLS support required")

# Parameters of MAIL that promise the sender something that DATA to the next hop cannot keep.
_CANNOT_KEEP = {"BODY=BINARYMIME": NO_BINARY, "REQUIRETLS": NO_REQUIRETLS}

log = logging.getLogger("mail.debug")


class NextHop:
    """The server to which messages are forwarded.

    *timeout* is in seconds, for each of: the connection, a reply, 64 KiB of the message.
    """

    def __init__(self, hostname: str, port: int, timeout: float) -> None:
        self._hostname = hostname
        self._port = port
        self._timeout = timeout

    def deliver(
        self, mail_from: str, rcpt_tos: Sequence[str], data: bytes, mail_options: Sequence[str]
    ) -> Refusals:
        """Send the message; return the refused recipients, each with reply code and text.

        If any recipient is refused, the message is not sent. All recipients get 451 if the next hop
        cannot be reached, refuses the connection, falls silent or breaks off: it has not taken the
        message (RFC 5321 section 4.2.5).
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
            log.warning("Next hop %s:%s: %r", self._hostname, self._port, error)
            refusal = (451, b"4.4.1 Next hop unavailable")
        return dict.fromkeys(rcpt_tos, refusal)

    def _send(
        self, mail_from: str, rcpt_tos: list[str], data: bytes, mail_options: Sequence[str]
    ) -> Refusals:
        client = smtplib.SMTP(local_hostname=own_name(), timeout=self._timeout)
        try:
            greeting = client.connect(self._hostname, self._port)
            # Not an int if a program's test replaces smtplib with a mock.
            if isinstance(code := greeting[0], int) and code != 220:
                # smtplib would go on, but the hop's next replies mean nothing.
                raise smtplib.SMTPConnectError(*greeting)
            AllOrNone(client)
            plain = "".join((mail_from, *rcpt_tos)).isascii()
            options = offered(client, mail_options, data, plain_paths=plain)
            # Without parameters, pass three arguments: programs' mocks of smtplib expect that.
            more = [options] if options else []
            return client.sendmail(mail_from, rcpt_tos, data, *more)
        finally:
            _leave(client)


class AllOrNone:
    """Replaces the steps of ``sendmail`` in one smtplib client.

    smtplib's own steps continue with the recipients that were accepted, but our one reply has to be
    true for all of them (RFC 5321 section 4.1.1.4). They also rewrite paths.
    """

    def __init__(self, client: smtplib.SMTP) -> None:
        self._client = client
        self._data = client.data
        self._send = client.send
        self._refused: Refusals = {}
        for step in ("mail", "rcpt", "data", "send"):
            setattr(client, step, getattr(self, step))

    def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Send MAIL with the reverse-path unchanged."""
        if "SMTPUTF8" in options:
            self._client.command_encoding = "utf-8"
        path = "" if sender == "<>" else sender
        return self._client.docmd("MAIL", " ".join((f"FROM:<{path}>", *options)))

    def rcpt(self, recipient: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Send RCPT with the forward-path unchanged, and remember a refusal."""
        code, text = self._client.docmd("RCPT", " ".join((f"TO:<{recipient}>", *options)))
        if code not in (250, 251):
            self._refused[recipient] = (code, text)
        return code, text

    def data(self, message: bytes) -> tuple[int, bytes]:
        """Send the message if no recipient was refused; else raise SMTPRecipientsRefused."""
        if self._refused:
            raise smtplib.SMTPRecipientsRefused(self._refused)
        return self._data(message)

    def send(self, text: bytes | str) -> None:
        """Send a command or a message in pieces, with the timeout for each."""
        for start in range(0, len(text), PIECE):
            self._send(text[start : start + PIECE])


def offered(
    client: smtplib.SMTP, mail_options: Sequence[str], data: bytes, *, plain_paths: bool
) -> list[str]:
    """Return the parameters of MAIL that this message needs and the next hop offers.

    A parameter that is declared but not needed is left out (RFC 6152 section 3). Raises
    ``smtplib.SMTPDataError`` if a needed one is not offered: 8-bit data or addresses would be
    changed on the way.
    """
    declared = {option.upper() for option in mail_options}
    options = []
    for option in declared & _CANNOT_KEEP.keys():
        raise smtplib.SMTPDataError(*_CANNOT_KEEP[option])
    if "BODY=8BITMIME" in declared:
        if _offers(client, "8bitmime"):
            options.append("BODY=8BITMIME")
        elif not data.isascii():
            raise smtplib.SMTPDataError(*NO_8BIT)
    if "SMTPUTF8" in declared or not plain_paths:
        headers = data.partition(b"\r\n\r\n")[0]
        if _offers(client, "smtputf8"):
            options.append("SMTPUTF8")
        elif not plain_paths:
            raise smtplib.SMTPDataError(*NO_UTF8_ADDRESS)
        elif not headers.isascii():
            raise smtplib.SMTPDataError(*NO_UTF8_HEADER)
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
def own_name() -> str:
    """Return the name that this host gives in EHLO."""
    # Cached: smtplib would look the name up for each message, which may be slow.
    name = socket.getfqdn()
    return name if "." in name else "[127.0.0.1]"
