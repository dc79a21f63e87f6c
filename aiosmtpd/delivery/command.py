"""``--on-message``: a command of the shell gets each message."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from aiosmtpd.protocol.session import Envelope, Session

TEMPORARY = {75, 126, 127}
"""Exit codes for which the client is to try again: EX_TEMPFAIL, and the shell's for no command."""

LAST = 128
"""The largest exit code that a command gives; those above, and negative ones, tell of signals."""

TAKEN = "250 2.0.0 OK"
LATER = "451 4.3.0 Message not taken, try again later"
NEVER = "554 5.3.0 Message refused"

LINE_END = os.linesep.encode()

log = logging.getLogger("mail.log")


class OnMessage:
    """A handler that runs a command for each message, for at most *timeout* seconds.

    The message is on the command's standard input, with the system's line ends, the envelope in
    its environment; what it prints goes to our standard error.
    """

    def __init__(self, command: str, timeout: float) -> None:
        self.command = command
        self.timeout = timeout

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Answer 250 for exit code 0, 451 for 75 or where it did not run to its end, else 554."""
        try:
            code = await self._run(session, envelope)
        except TimeoutError:
            log.error("--on-message: killed after %g seconds", self.timeout)
            return LATER
        except OSError as error:
            log.error("--on-message: cannot be run: %s", error)
            return LATER
        if code == 0:
            return TAKEN
        log.error("--on-message: exit code %d", code)
        return LATER if code in TEMPORARY or not 0 <= code <= LAST else NEVER

    async def _run(self, session: Session, envelope: Envelope) -> int:
        output = _output()
        process = await asyncio.create_subprocess_shell(
            self.command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment(session, envelope)},
            # A group of its own: what it has started goes with it, and Ctrl-C is ours.
            start_new_session=os.name == "posix",
        )
        try:
            async with asyncio.timeout(self.timeout):
                # With the line ends that the system's filters expect.
                message = (envelope.original_content or b"").replace(b"\r\n", LINE_END)
                try:
                    await process.communicate(message)
                except RuntimeError:
                    # uvloop's word for a command that ended before it was told the message.
                    await process.wait()
        finally:
            if process.returncode is None:
                _kill(process)
                await process.wait()
        return process.returncode if process.returncode is not None else -1


def environment(session: Session, envelope: Envelope) -> dict[str, str]:
    """Return what a command is told of a message."""
    peer = session.client_address
    cipher = (session.ssl or {}).get("cipher")
    login = getattr(session.auth_data, "login", b"")
    told = {
        "SMTP_MAIL_FROM": "" if envelope.mail_from == "<>" else envelope.mail_from,
        "SMTP_RCPT_TO": "\n".join(envelope.rcpt_tos),
        "SMTP_HELO": session.host_name,
        "SMTP_PEER": peer[0],
        "SMTP_PEER_PORT": str(peer[1]),
        "SMTP_USER": login.decode("utf-8", "surrogateescape"),
        "SMTP_TLS": cipher[1] if cipher else "",
        "SMTP_SIZE": str(len(envelope.original_content or b"")),
    }
    return {name: (value or "").replace("\0", "") for name, value in told.items()}


def _output() -> int:
    try:
        sys.stderr.flush()
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return subprocess.DEVNULL


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
