"""The server of ``aiosmtpd ctl``: one line of JSON in, one line of JSON out, on a Unix socket."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiosmtpd.process.failure import one_line

REQUEST = 65536
"""Bytes of a request, at most."""

PATIENCE = 5.0
"""Seconds that a client has for its request."""

Command = Callable[[dict[str, Any]], Awaitable[Any]]
"""Gets the request; returns a value of JSON, or raises ValueError with one line."""


class Ctl:
    """Serves *commands* by name at a Unix socket, for its owner alone."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._server: asyncio.AbstractServer | None = None
        self._path = ""
        self._made: os.stat_result | None = None

    async def start(self, path: str) -> None:
        """Listen at *path*; replaces the socket of a server that has gone. Raises OSError."""
        _make_way(path)
        listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(mask)
        self._path, self._made = path, os.stat(path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=REQUEST)

    async def stop(self) -> None:
        """Listen no longer; remove the socket, unless another server has replaced it."""
        if self._server is None or self._made is None:
            return
        self._server.close()
        self._server = None
        with suppress(OSError):
            if os.path.samestat(os.stat(self._path), self._made):
                os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    line = await reader.readline()
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except ValueError:
            # Longer than the limit.
            writer.write(b'{"error": "the request is too long"}\n')
        finally:
            writer.close()

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


def _make_way(path: str) -> None:
    """Remove the socket of a server that has gone; raises OSError if one is there that answers."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "not a socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another server listens there", path)
