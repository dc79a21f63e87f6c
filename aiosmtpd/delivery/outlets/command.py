"""Deliver to a shell command: ``command:cat >> messages``."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress

from public import public

from aiosmtpd.delivery.command import LAST, LINE_END, TEMPORARY, kill, output, without_nul
from aiosmtpd.delivery.item import Item, Later, Never, Results


def from_url(url: str) -> CommandOutlet:
    """Return the outlet of a ``command:`` URL; raises ValueError without a command."""
    command = url.partition(":")[2].strip()
    if not command or "\0" in command:
        raise ValueError("write command:COMMAND")
    return CommandOutlet(command)


@public
class CommandOutlet:
    """Runs *command* with the shell for each message, as ``--on-message`` does.

    The command reads the message, with the system's line ends, from its standard input and the
    envelope from its environment. The exit code 0 means delivered; 75, 126, 127 and the end by a
    signal are Later, other codes are Never. The command is killed when the route's timeout ends.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    async def open(self) -> None:
        """Do nothing: the shell finds the command at each message."""

    async def put(self, item: Item) -> Results:
        """Run the command."""
        try:
            code = await self._run(item)
        except OSError as error:
            raise Later(f"cannot run the command: {error}") from error
        if code == 0:
            return None
        if code in TEMPORARY or not 0 <= code <= LAST:
            raise Later(f"the command ended with exit code {code}")
        raise Never(f"554 5.3.0 The command ended with exit code {code}")

    async def close(self) -> None:
        """Do nothing: each put() ends its command."""

    async def _run(self, item: Item) -> int:
        target = output()
        process = await asyncio.create_subprocess_shell(
            self.command,
            stdin=subprocess.PIPE,
            stdout=target,
            stderr=target,
            env={**os.environ, **environment(item)},
            # A process group of its own: kill() ends its children too, and Ctrl-C ends only us.
            start_new_session=os.name == "posix",
        )
        try:
            if process.stdin is not None:
                # A command need not read all of the message.
                with suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
                    await _feed(process.stdin, item)
                with suppress(BrokenPipeError, ConnectionResetError):
                    process.stdin.close()
            return await process.wait()
        finally:
            if process.returncode is None:
                kill(process)
                await process.wait()


async def _feed(stdin: asyncio.StreamWriter, item: Item) -> None:
    rest = b""
    async for piece in item.chunks():
        piece = rest + piece
        rest = b"\r" if piece.endswith(b"\r") else b""
        # Filters expect the line ends of the system.
        stdin.write(piece.removesuffix(b"\r").replace(b"\r\n", LINE_END))
        await stdin.drain()
    stdin.write(rest)
    await stdin.drain()


def environment(item: Item) -> dict[str, str]:
    """Return the environment variables that describe a message to the command."""
    arrival = item.arrival
    values = {
        "SMTP_QUEUE_ID": item.id,
        "SMTP_MAIL_FROM": "" if item.sender == "<>" else item.sender,
        "SMTP_RCPT_TO": "\n".join(item.recipients),
        "SMTP_HELO": arrival.helo,
        "SMTP_PEER": arrival.client,
        "SMTP_PEER_PORT": str(arrival.port),
        "SMTP_USER": arrival.user,
        "SMTP_TLS": arrival.tls.partition(" ")[0],
        "SMTP_SIZE": str(item.size),
    }
    return without_nul(values)
