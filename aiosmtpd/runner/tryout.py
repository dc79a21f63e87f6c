"""Try what workers will do: write to the spool, make the handler, reach the engines.

``python -m aiosmtpd.runner.tryout`` does it in a process of its own, which becomes the user of the
workers: it imports modules that the file names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from aiosmtpd.delivery.outlets import fragment, place
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.process.rights import Identity
from aiosmtpd.runner import outlets
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.handler import LOADED_LATE, make_handler
from aiosmtpd.runner.tables import RouteTable

Said: TypeAlias = tuple[list[str | int], str, bool]
"""The path of a key, the text, and True for a fault, False for a warning."""

REACH = 5.0
"""Seconds for a connection to a next hop."""

WEB_PORTS = {"http": 80, "https": 443}


def try_out(config: Config, *, online: bool = False, has_master: bool = False) -> list[Said]:
    """Return the faults and warnings of a configuration, for the user of this process.

    With *has_master*, root's master makes the spool for this user.
    """
    said = _try_spool(config, has_master) or _try_maildirs(config)
    try:
        make_handler(config)
    except Failure as failure:
        key, _, text = str(failure).partition(": ")
        path = [int(part) - 1 if part.isdecimal() else part for part in key.split(".")]
        said.append((path, text, True))
    else:
        if online:
            said += asyncio.run(_try_all(config))
    return said


def _try_spool(config: Config, has_master: bool) -> list[Said]:
    if config.spool is None:
        return []
    path: list[str | int] = ["spool", "path"]
    folder = config.spool.path
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return [(path, f"{folder} is not a folder", True)]
    is_made = has_master and folder == os.path.dirname(config.spool.path)
    if not os.access(folder, os.X_OK if is_made else os.W_OK | os.X_OK):
        verb = "written" if folder == config.spool.path else f"made in {folder}"
        return [(path, f"{config.spool.path} cannot be {verb} by {_user()}", True)]
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [(path, f"{folder}: {error.strerror}", True)]
    if free < config.spool.min_free:
        text = f"mail is put off: {folder} has {free >> 20} MiB free, less than min_free"
        return [(["spool", "min_free"], text, False)]
    return []


def _try_maildirs(config: Config) -> list[Said]:
    said: list[Said] = []
    for number, route in enumerate(config.routes):
        if outlets.scheme_of(route.to) != "maildir":
            continue
        folder = os.path.abspath(route.to.partition(":")[2])
        parent = folder if os.path.lexists(folder) else os.path.dirname(folder)
        text = ""
        if not os.path.exists(parent):
            text = f"{_user()} finds no folder {parent}"
        elif not os.path.isdir(parent):
            text = f"{parent} is not a folder"
        elif not os.access(parent, os.W_OK | os.X_OK):
            verb = "written" if parent == folder else f"made in {parent}"
            text = f"{folder} cannot be {verb} by {_user()}"
        if text:
            said.append((["route", number, "to"], text, True))
    return said


def _user() -> str:
    if not hasattr(os, "geteuid"):
        return "this user"
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


async def _try_all(config: Config) -> list[Said]:
    tries = [_try_route(number, route) for number, route in enumerate(config.routes)]
    return [said for each in await asyncio.gather(*tries) for said in each]


async def _try_route(number: int, table: RouteTable) -> list[Said]:
    said: list[Said] = []
    places: list[tuple[str, str]] = [("to", table.to)]
    if table.bounce is not None:
        places.append(("bounce", table.bounce))
    for key, url in places:
        try:
            async with asyncio.timeout(2 * REACH):
                if outlets.scheme_of(url) == "nats" and key == "to":
                    await _open(table)
                else:
                    await _reach(url)
        except Exception as error:
            text = "no answer" if isinstance(error, TimeoutError) else _why(error)
            said.append((["route", number, key], f"cannot be reached: {text}", True))
    return said


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        # The texts of asyncio have no reason in them.
        if error.errno and not isinstance(error, socket.gaierror):
            return os.strerror(error.errno)
        return error.strerror or str(error)
    return str(error) or one_line(error)


async def _open(table: RouteTable) -> None:
    outlet = table.route().outlet
    if outlet is not None:
        try:
            await outlet.open()
        finally:
            await outlet.close()


async def _reach(url: str) -> None:
    """Connect to the server of a URL, if it has one."""
    scheme, (base, _) = outlets.scheme_of(url), fragment.split(url)
    if scheme in WEB_PORTS:
        parts = urlsplit(base)
        host, port, path = parts.hostname or "", parts.port or WEB_PORTS[scheme], ""
    elif scheme in place.PORTS:
        hop = place.parse(base)
        host, port, path = hop.host, hop.port, hop.path
    else:
        return
    async with asyncio.timeout(REACH):
        if path:
            _, writer = await asyncio.open_unix_connection(path)
        else:
            _, writer = await asyncio.open_connection(host, port)
    writer.close()


def main() -> None:
    """Read ``{"config": text, "online": bool}`` from the input; write the list to the output."""
    output = os.dup(1)
    # The modules of the file may print.
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    order: dict[str, Any] = json.load(sys.stdin)
    if order["identity"] is not None:
        # As workers do: Python itself may lie in a folder that only root can read.
        Identity(**order["identity"]).assume(LOADED_LATE)
    said = try_out(
        Config.from_json(order["config"]),
        online=order["online"],
        has_master=order["identity"] is not None,
    )
    with os.fdopen(output, "w", encoding="utf-8") as file:
        json.dump(said, file)
        file.flush()
    # Threads of the modules may go on.
    os._exit(0)


if __name__ == "__main__":
    main()
