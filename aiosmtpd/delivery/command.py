"""``--on-message``: run a shell command for each message."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from aiosmtpd.protocol.session import Envelope, Session

TEMPORARY = {75, 126, 127}
"""Exit codes after which the client should try again: EX_TEMPFAIL (75), and those with which the
shell says that it cannot run or find the command."""

LAST = 128
"""The largest exit code of a command; larger and negative ones mean that a signal ended it."""

TAKEN = "250 2.0.0 OK"
LATER = "451 4.3.0 Message not taken, try again later"
NEVER = "554 5.3.0 Message refused"

LINE_END = os.linesep.encode()

log = logging.getLogger("mail.log")


class OnMessage:
    """A handler that runs *command* for each message, for at most *timeout* seconds.

    The command reads the message, with the system's line ends, from its standard input and the
    envelope from its environment. Its output goes to the server's standard error.
    """

    def __init__(self, command: str, timeout: float) -> None:
        self.command = command
        self.timeout = timeout

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Reply 250 for exit code 0, 451 for 75 or if the command was not found or was killed.

        The reply to other exit codes is 554.
        """
        try:
            code = await self._run(session, envelope)
        except TimeoutError:
            log.error("--on-message: killed after %g seconds", self.timeout)
            return LATER
        except OSError as error:
            log.error("--on-message: cannot run the command: %s", error)
            return LATER
        if code == 0:
            return TAKEN
        log.error("--on-message: exit code %d", code)
        return LATER if code in TEMPORARY or not 0 <= code <= LAST else NEVER

    async def _run(self, session: Session, envelope: Envelope) -> int:
        target = output()
        process = await asyncio.create_subprocess_shell(
            self.command,
            stdin=subprocess.PIPE,
            stdout=target,
            stderr=target,
            env={**os.environ, **environment(session, envelope)},
            # A process group of its own: kill() ends its children too, and Ctrl-C ends only us.
            start_new_session=os.name == "posix",
        )
        try:
            async with asyncio.timeout(self.timeout):
                # Filters expect the line ends of the system.
                message = (envelope.original_content or b"").replace(b"\r\n", LINE_END)
                try:
                    await process.communicate(message)
                except RuntimeError:
                    # uvloop raises this if the command ended before it read the message.
                    await process.wait()
        finally:
            if process.returncode is None:
                kill(process)
                await process.wait()
        return process.returncode if process.returncode is not None else -1


def environment(session: Session, envelope: Envelope) -> dict[str, str]:
    """Return the environment variables that describe a message to the command."""
    peer = session.client_address
    cipher = (session.ssl or {}).get("cipher")
    login = getattr(session.auth_data, "login", b"")
    values = {
        "SMTP_MAIL_FROM": "" if envelope.mail_from == "<>" else envelope.mail_from,
        "SMTP_RCPT_TO": "\n".join(envelope.rcpt_tos),
        "SMTP_HELO": session.host_name,
        "SMTP_PEER": peer[0],
        "SMTP_PEER_PORT": str(peer[1]),
        "SMTP_USER": login.decode("utf-8", "surrogateescape"),
        "SMTP_TLS": cipher[1] if cipher else "",
        "SMTP_SIZE": str(len(envelope.original_content or b"")),
    }
    return without_nul(values)


def without_nul(values: Mapping[str, str | None]) -> dict[str, str]:
    """Return values as the environment takes them."""
    return {name: (value or "").replace("\0", "") for name, value in values.items()}


def output() -> int:
    """Return the file descriptor to which commands print: the server's standard error."""
    try:
        sys.stderr.flush()
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return subprocess.DEVNULL


def kill(process: asyncio.subprocess.Process | subprocess.Popen[bytes]) -> None:
    """End a command and its children."""
    with suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
