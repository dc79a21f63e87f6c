"""The test helpers that programs for 1.4 import."""

import asyncio
import inspect
import os
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import aiosmtpd.smtp
from aiosmtpd.smtp import SMTP, Envelope, Session
from aiosmtpd.testing import statuscodes
from aiosmtpd.testing.helpers import (
    ASYNCIO_CATCHUP_DELAY,
    ReceivingHandler,
    catchup_delay,
    reset_connection,
    send_recv,
)
from aiosmtpd.testing.statuscodes import SMTP_STATUS_CODES, StatusCode
from tests.client import PATIENCE, Client
from tests.net.support import serving
from tests.rows import each_row

DIFFERS = pytest.mark.skipif(
    aiosmtpd.smtp.__version__.startswith("1.4"), reason="a deliberate difference"
)

CODES = {
    "S220_READY_TLS": (220, b"Ready to start TLS"),
    "S221_BYE": (221, b"Bye"),
    "S235_AUTH_SUCCESS": (235, b"2.7.0 Authentication successful"),
    "S250_OK": (250, b"OK"),
    "S250_SUPPCMD_LMTP": (
        250,
        b"Supported commands: AUTH DATA HELP LHLO MAIL NOOP QUIT RCPT RSET VRFY",
    ),
    "S250_SUPPCMD_NOTLS": (
        250,
        b"Supported commands: AUTH DATA EHLO HELO HELP MAIL NOOP QUIT RCPT RSET VRFY",
    ),
    "S250_SUPPCMD_TLS": (
        250,
        b"Supported commands: AUTH DATA EHLO HELO HELP MAIL NOOP QUIT RCPT RSET STARTTLS VRFY",
    ),
    "S250_SYNTAX_AUTH": (250, b"Syntax: AUTH <mechanism>"),
    "S250_SYNTAX_DATA": (250, b"Syntax: DATA"),
    "S250_SYNTAX_EHLO": (250, b"Syntax: EHLO hostname"),
    "S250_SYNTAX_HELO": (250, b"Syntax: HELO hostname"),
    "S250_SYNTAX_MAIL": (250, b"Syntax: MAIL FROM: <address>"),
    "S250_SYNTAX_NOOP": (250, b"Syntax: NOOP [ignored]"),
    "S250_SYNTAX_QUIT": (250, b"Syntax: QUIT"),
    "S250_SYNTAX_RCPT": (250, b"Syntax: RCPT TO: <address>"),
    "S250_SYNTAX_RSET": (250, b"Syntax: RSET"),
    "S250_SYNTAX_STARTTLS": (250, b"Syntax: STARTTLS"),
    "S250_SYNTAX_VRFY": (250, b"Syntax: VRFY <address>"),
    "S250_SYNTAX_MAIL_E": (250, b"Syntax: MAIL FROM: <address> [SP <mail-parameters>]"),
    "S250_SYNTAX_RCPT_E": (250, b"Syntax: RCPT TO: <address> [SP <mail-parameters>]"),
    "S252_CANNOT_VRFY": (252, b"Cannot VRFY user, but will accept message and attempt delivery"),
    "S334_AUTH_EMPTYPROMPT": (334, b""),
    "S334_AUTH_USERNAME": (334, b"VXNlciBOYW1lAA=="),
    "S334_AUTH_PASSWORD": (334, b"UGFzc3dvcmQA"),
    "S354_DATA_ENDWITH": (354, b"End data with <CR><LF>.<CR><LF>"),
    "S421_TOO_MANY": (421, b"4.7.0 %b sent too many times"),
    "S450_DEST_GREYLIST": (450, b"4.2.0 Recipient address rejected: Greylisted"),
    "S450_SERVICE_UNAVAIL": (450, b"4.3.2 Service currently unavailable"),
    "S452_TOO_MANY_CONN": (452, b"4.7.0 Too many connections"),
    "S454_TLS_NA": (454, b"TLS not available"),
    "S500_BAD_SYNTAX": (500, b"Error: bad syntax"),
    "S500_CMD_TOO_LONG": (500, b"Command line too long"),
    "S500_DATALINE_TOO_LONG": (500, b"Line too long (see RFC5321 4.5.3.1.6)"),
    "S500_STRICT_ASCII": (500, b"Error: strict ASCII mode"),
    "S500_CMD_UNRECOG": (500, b'Error: command "%b" not recognized'),
    "S500_AUTH_UNRECOG": (500, b"Error: command 'AUTH' not recognized"),
    "S501_AUTH_ABORTED": (501, b"5.7.0 Auth aborted"),
    "S501_AUTH_NOTB64": (501, b"5.5.2 Can't decode base64"),
    "S501_AUTH_CANTSPLIT": (501, b"5.5.2 Can't split auth value"),
    "S501_MAIL_BODY": (501, b"Error: BODY can only be one of 7BIT, 8BITMIME"),
    "S501_SMTPUTF8_DISABLED": (501, b"Error: SMTPUTF8 disabled"),
    "S501_SMTPUTF8_NOARG": (501, b"Error: SMTPUTF8 takes no arguments"),
    "S501_SUPPCMD_NOTLS": (
        501,
        b"Supported commands: AUTH DATA EHLO HELO HELP MAIL NOOP QUIT RCPT RSET VRFY",
    ),
    "S501_SYNTAX_DATA": (501, b"Syntax: DATA"),
    "S501_SYNTAX_EHLO": (501, b"Syntax: EHLO hostname"),
    "S501_SYNTAX_HELO": (501, b"Syntax: HELO hostname"),
    "S501_SYNTAX_MAIL": (501, b"Syntax: MAIL FROM: <address>"),
    "S501_SYNTAX_MAIL_E": (501, b"Syntax: MAIL FROM: <address> [SP <mail-parameters>]"),
    "S501_SYNTAX_QUIT": (501, b"Syntax: QUIT"),
    "S501_SYNTAX_RCPT": (501, b"Syntax: RCPT TO: <address>"),
    "S501_SYNTAX_RCPT_E": (501, b"Syntax: RCPT TO: <address> [SP <mail-parameters>]"),
    "S501_SYNTAX_RSET": (501, b"Syntax: RSET"),
    "S501_SYNTAX_STARTTLS": (501, b"Syntax: STARTTLS"),
    "S501_SYNTAX_VRFY": (501, b"Syntax: VRFY <address>"),
    "S501_TOO_FEW": (501, b"Not enough value"),
    "S501_TOO_MANY": (501, b"Too many values"),
    "S502_EXPN_NOTIMPL": (502, b"EXPN not implemented"),
    "S502_VRFY_COULDNT": (502, b"Could not VRFY %b"),
    "S502_TOO_MANY_UNRECOG": (502, b"5.5.1 Too many unrecognized commands, goodbye."),
    "S503_ALREADY_AUTH": (503, b"Already authenticated"),
    "S503_EHLO_FIRST": (503, b"Error: send EHLO first"),
    "S503_HELO_FIRST": (503, b"Error: send HELO first"),
    "S503_MAIL_NEEDED": (503, b"Error: need MAIL command"),
    "S503_MAIL_NESTED": (503, b"Error: nested MAIL command"),
    "S503_RCPT_NEEDED": (503, b"Error: need RCPT command"),
    "S504_AUTH_UNRECOG": (504, b"5.5.4 Unrecognized authentication type"),
    "S530_STARTTLS_FIRST": (530, b"Must issue a STARTTLS command first"),
    "S530_AUTH_REQUIRED": (530, b"5.7.0 Authentication required"),
    "S535_AUTH_INVALID": (535, b"5.7.8 Authentication credentials invalid"),
    "S538_AUTH_ENCRYPTREQ": (
        538,
        b"5.7.11 Encryption required for requested authentication mechanism",
    ),
    "S550_DEST_UNKNOWN": (550, b"5.1.1 Recipient address rejected: User unknown"),
    "S550_NO_RELAY": (550, b"5.7.1 Unable to relay"),
    "S552_EXCEED_SIZE": (552, b"Error: message size exceeds fixed maximum message size"),
    "S552_DATA_TOO_MUCH": (552, b"Error: Too much mail data"),
    "S553_MALFORMED": (553, b"5.1.3 Error: malformed address"),
    "S554_LACK_SECURITY": (554, b"Command refused due to lack of security"),
    "S555_MAIL_PARAMS_UNRECOG": (555, b"MAIL FROM parameters not recognized or not implemented"),
    "S555_RCPT_PARAMS_UNRECOG": (555, b"RCPT TO parameters not recognized or not implemented"),
}
"""The replies of 1.4.6, except the one that contains the host name."""


class TestStatusCodes:
    def test_the_names_and_texts_of_1_4(self) -> None:
        found = {
            name: tuple(value)
            for name, value in vars(SMTP_STATUS_CODES).items()
            if not name.startswith("_")
        }
        assert found.pop("S250_FQDN") == (250, socket.getfqdn().encode())
        assert found == CODES
        assert len(found) == 78

    @each_row("name", [*CODES, "S250_FQDN"])
    def test_code(self, name: str) -> None:
        status = getattr(SMTP_STATUS_CODES, name)
        assert isinstance(status, StatusCode)
        assert name.startswith(f"S{status.code}_")

    def test_commands(self) -> None:
        assert statuscodes.SUPPORTED_COMMANDS_NOTLS == [
            b"AUTH",
            b"DATA",
            b"EHLO",
            b"HELO",
            b"HELP",
            b"MAIL",
            b"NOOP",
            b"QUIT",
            b"RCPT",
            b"RSET",
            b"VRFY",
        ]
        with_tls = sorted([*statuscodes.SUPPORTED_COMMANDS_NOTLS, b"STARTTLS"])
        assert with_tls == statuscodes.SUPPORTED_COMMANDS_TLS
        assert statuscodes.SUPPORTED_COMMANDS_LMTP == [
            b"AUTH",
            b"DATA",
            b"HELP",
            b"LHLO",
            b"MAIL",
            b"NOOP",
            b"QUIT",
            b"RCPT",
            b"RSET",
            b"VRFY",
        ]

    def test_a_status_code_is_a_tuple(self) -> None:
        status = StatusCode(250, b"OK")
        assert status == (250, b"OK")
        assert StatusCode._fields == ("code", "mesg")
        assert (status.code, status.mesg) == (250, b"OK")

    def test_a_template_is_filled_in(self) -> None:
        status = SMTP_STATUS_CODES.S421_TOO_MANY(b"NOOP")
        assert isinstance(status, StatusCode)
        assert status == (421, b"4.7.0 NOOP sent too many times")
        assert StatusCode(250, b"%b and %b")(b"a", b"b") == (250, b"a and b")
        assert SMTP_STATUS_CODES.S250_OK() == (250, b"OK")
        assert SMTP_STATUS_CODES.S421_TOO_MANY.mesg == b"4.7.0 %b sent too many times"

    def test_a_template_with_wrong_arguments_raises(self) -> None:
        with pytest.raises(TypeError):
            SMTP_STATUS_CODES.S250_OK(b"too much")
        with pytest.raises(TypeError):
            SMTP_STATUS_CODES.S421_TOO_MANY()
        with pytest.raises(TypeError):
            SMTP_STATUS_CODES.S421_TOO_MANY("text")  # type: ignore[arg-type]

    def test_a_status_code_as_bytes_and_text(self) -> None:
        status = SMTP_STATUS_CODES.S221_BYE
        assert status.to_bytes() == b"221 Bye"
        assert status.to_bytes(crlf=True) == b"221 Bye\r\n"
        assert status.to_bytes(True) == b"221 Bye\r\n"
        assert status.to_str() == "221 Bye"
        assert status.to_str(crlf=True) == "221 Bye\r\n"
        assert SMTP_STATUS_CODES.S334_AUTH_EMPTYPROMPT.to_bytes(True) == b"334 \r\n"

    def test_texts_are_those_of_the_server(self) -> None:
        with serving(ReceivingHandler()) as controller, Client(controller.port) as client:
            assert client.ask(b"EXPN a") == SMTP_STATUS_CODES.S502_EXPN_NOTIMPL.to_bytes(True)
            status = SMTP_STATUS_CODES.S500_CMD_UNRECOG(b"NONE")
            assert client.ask(b"NONE") == status.to_bytes(crlf=True)
            assert client.ask(b"QUIT") == SMTP_STATUS_CODES.S221_BYE.to_bytes(crlf=True)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    with ours, theirs:
        yield ours, theirs


class TestHelpers:
    @pytest.mark.parametrize(
        ("function", "parameters"),
        [
            (reset_connection, ["client"]),
            (catchup_delay, ["delay"]),
            (send_recv, ["sock", "data", "end", "timeout"]),
            (ReceivingHandler, []),
            (ReceivingHandler.handle_DATA, ["self", "server", "session", "envelope"]),
        ],
    )
    def test_signature(self, function: Any, parameters: list[str]) -> None:
        assert list(inspect.signature(function).parameters) == parameters

    def test_defaults(self) -> None:
        delay = inspect.signature(catchup_delay).parameters["delay"].default
        assert delay == ASYNCIO_CATCHUP_DELAY
        parameters = inspect.signature(send_recv).parameters
        assert parameters["end"].default == b"\r\n"
        assert parameters["timeout"].default == 0.1

    @pytest.mark.parametrize(("setting", "delay"), [(None, 0.1), ("0.7", 0.7)])
    def test_delay_from_the_environment(self, setting: str | None, delay: float) -> None:
        environment = dict(os.environ)
        environment.pop("ASYNCIO_CATCHUP_DELAY", None)
        if setting is not None:
            environment["ASYNCIO_CATCHUP_DELAY"] = setting
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        program = (
            "import sys; from aiosmtpd.testing import helpers, statuscodes;"
            "print(helpers.ASYNCIO_CATCHUP_DELAY, 'pytest' in sys.modules)"
        )
        shown = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout
        assert shown.split() == [str(delay), "False"]

    def test_catchup_delay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        monkeypatch.setattr("time.sleep", slept.append)
        catchup_delay(0.25)
        catchup_delay()
        assert slept == [0.25, ASYNCIO_CATCHUP_DELAY]

    def test_the_box_has_the_envelopes(self) -> None:
        handler = ReceivingHandler()
        assert handler.box == []
        with serving(handler) as controller:
            for body in ("one", "two"):
                with smtplib.SMTP("127.0.0.1", controller.port, timeout=PATIENCE) as client:
                    client.sendmail("a@b.test", ["c@d.test"], body)
        assert [envelope.content for envelope in handler.box] == [b"one\r\n", b"two\r\n"]
        assert handler.box[0].rcpt_tos == ["c@d.test"]
        assert ReceivingHandler().box == []

    async def test_handle_data(self) -> None:
        handler = ReceivingHandler()
        envelope = Envelope()
        session = Session(asyncio.get_running_loop())
        server = SMTP(handler, loop=session.loop)
        assert await handler.handle_DATA(server, session, envelope) == "250 OK"
        assert handler.box == [envelope]

    def test_reset_connection(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(PATIENCE)
            client = smtplib.SMTP(timeout=PATIENCE)
            greeter = threading.Thread(
                target=lambda: client.connect("127.0.0.1", listener.getsockname()[1])
            )
            greeter.start()
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(PATIENCE)
                accepted.sendall(b"220 mx.test\r\n")
                greeter.join(PATIENCE)
                reset_connection(client)
                with pytest.raises(ConnectionResetError):
                    accepted.recv(1)
        assert client.sock is None

    @DIFFERS
    def test_reset_without_a_connection_raises(self) -> None:
        with pytest.raises(smtplib.SMTPServerDisconnected):
            reset_connection(smtplib.SMTP())

    def test_send_recv(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        theirs.sendall(b"250-one\r\n250 two\r\n")
        assert send_recv(ours, b"EHLO a") == b"250-one\r\n250 two\r\n"
        assert theirs.recv(100) == b"EHLO a\r\n"
        assert ours.gettimeout() is None

    def test_send_recv_with_another_end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        assert send_recv(ours, b"body", end=b"\r\n.\r\n", timeout=0.01) == b""
        assert theirs.recv(100) == b"body\r\n.\r\n"

    @DIFFERS
    def test_send_recv_to_the_end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        theirs.sendall(b"221 Bye\r\n")
        theirs.shutdown(socket.SHUT_WR)
        assert send_recv(ours, b"QUIT", timeout=PATIENCE) == b"221 Bye\r\n"

    def test_send_recv_of_a_large_reply(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        theirs.sendall(b"x" * 50000)
        assert send_recv(ours, b"NOOP") == b"x" * 50000

    def test_send_recv_with_a_server(self) -> None:
        with serving(ReceivingHandler()) as controller, Client(controller.port) as client:
            assert send_recv(client.socket, b"NOOP\r\nNOOP") == b"250 OK\r\n" * 2
            assert client.socket.gettimeout() == PATIENCE
