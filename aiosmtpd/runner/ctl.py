"""The server of ``aiosmtpd ctl``: one line of JSON in, one line of JSON out, on a Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiosmtpd.process.failure import one_line
from aiosmtpd.runner.door import PATIENCE, Door

REQUEST = 32768
"""Bytes of a request, at most."""

CLIENTS = 16
"""Clients at the same time, at most."""

Command = Callable[[dict[str, Any]], Awaitable[Any]]
"""Gets the request; returns a value of JSON, or raises ValueError with one line."""


class Ctl(Door):
    """Serves *commands* by name."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        super().__init__(CLIENTS, REQUEST)
        self._commands = commands

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See Door."""
        try:
            async with asyncio.timeout(PATIENCE):
                line = await reader.readline()
        except ValueError:
            # Longer than the limit.
            answer: dict[str, Any] = {"error": "the request is too long"}
        else:
            answer = await self._answer(line)
        writer.write(json.dumps(answer).encode() + b"\n")

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (ValueError, KeyError, TypeError):
            return {"error": f"the commands are {', '.join(self._commands)}"}
        try:
            return {"value": await command(request)}
        except Exception as error:
            return {"error": str(error) if isinstance(error, ValueError) else one_line(error)}
