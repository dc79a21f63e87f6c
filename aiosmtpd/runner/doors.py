"""The sockets of ``[admin]``: the master binds them, and the desk serves them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

import attrs

from aiosmtpd.listen import sockets
from aiosmtpd.listen.addresses import Address, explain, parse_listen
from aiosmtpd.process.failure import Failure
from aiosmtpd.runner.slots import patiently
from aiosmtpd.runner.tables import Admin

BACKLOG = 128
"""Clients that may wait for the desk."""

Key = tuple[str, str]
"""The name of a key in ``[admin]``, and its value."""


@attrs.frozen
class _Bound:
    sockets: list[socket.socket]
    path: str | None = None
    file: os.stat_result | None = None

    @property
    def is_lost(self) -> bool:
        """True if the file is gone: no client can connect any more."""
        return self.path is not None and not os.path.lexists(self.path)

    def close(self) -> None:
        """Close the sockets; remove the file, unless another server has replaced it."""
        sockets.close_all(self.sockets)
        if self.path is not None and self.file is not None:
            with suppress(OSError):
                if os.path.samestat(os.stat(self.path), self.file):
                    os.unlink(self.path)


class Doors:
    """The sockets, by the key of ``[admin]`` that names their place."""

    def __init__(self) -> None:
        self._bound: dict[Key, _Bound] = {}

    async def open(self, admin: Admin) -> None:
        """Bind the places that are new or lost, all or nothing; raises Failure with one line."""
        new: dict[Key, _Bound] = {}
        for key in _keys(admin):
            if key in self._bound and not self._bound[key].is_lost:
                continue
            try:
                new[key] = await _bind(*key)
            except (OSError, OverflowError) as error:
                for bound in new.values():
                    bound.close()
                why = explain(error).removeprefix(f"{key[1]}: ")
                raise Failure(f"Cannot listen at {key[1]}: {why}", 1) from error
        for key, bound in new.items():
            if key in self._bound:
                self._bound[key].close()
            self._bound[key] = bound

    def keep(self, admin: Admin) -> None:
        """Close the sockets of all other places."""
        wanted = set(_keys(admin))
        for key in self._bound.keys() - wanted:
            self._bound.pop(key).close()

    def descriptors(self, admin: Admin) -> dict[str, list[int]]:
        """Return the descriptors of ``http`` and of ``ctl``."""
        http, ctl = (
            [sock.fileno() for sock in self._sockets(key, text)]
            for key, text in (("http", admin.http), ("socket", admin.socket))
        )
        return {"http": http, "ctl": ctl}

    def address(self, admin: Admin) -> Address | None:
        """Return the address of the pages, None if there is none."""
        for sock in self._sockets("http", admin.http):
            host, port = sock.getsockname()[:2]
            return host, port
        return None

    def _sockets(self, key: str, text: str | None) -> Iterable[socket.socket]:
        bound = self._bound.get((key, text or ""))
        return bound.sockets if bound is not None else ()


def _keys(admin: Admin) -> Iterator[Key]:
    if admin.http is not None:
        yield "http", admin.http
    if admin.socket is not None:
        yield "socket", admin.socket


async def _bind(key: str, text: str) -> _Bound:
    bind = _bind_tcp if key == "http" else _bind_unix
    bound = await patiently(lambda: bind(text))
    for sock in bound.sockets:
        # From now on clients can wait, also while no desk runs.
        sock.listen(BACKLOG)
    return bound


async def _bind_tcp(text: str) -> _Bound:
    return _Bound(await sockets.bind(parse_listen(text)))


async def _bind_unix(path: str) -> _Bound:
    """Bind a Unix socket for its owner alone; replace that of a server that has gone."""
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.setblocking(False)
        listener.bind(path)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return _Bound([listener], path, os.stat(path))


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
        except BlockingIOError:
            # So many clients wait there that there is no place for one more.
            pass
    raise OSError(errno.EADDRINUSE, "another server listens there", path)
