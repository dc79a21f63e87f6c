"""The URL of a next hop, in its parts."""

from __future__ import annotations

import re
from urllib.parse import unquote

import attrs

PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465, "lmtp": 24}

_URL = re.compile(r"([a-z+]+)://(?:(.*)@)?([^@]*)", re.DOTALL)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^\s:/\[\]?#]+))(?::([0-9]{1,5}))?/?")


@attrs.frozen(kw_only=True)
class Place:
    """A next hop: its host and port, or the path of its Unix socket."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    user: str = ""
    password: str = attrs.field(default="", repr=False)

    def __str__(self) -> str:
        if self.path:
            return f"{self.scheme}://unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(url: str) -> Place:
    """Return the next hop that *url* names; raises ValueError with one line."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    found = _URL.fullmatch(f"{scheme}://{rest}")
    if found is None or scheme not in PORTS:
        raise ValueError("write smtp://HOST:PORT or lmtp:///path/of/the/socket")
    user, _, password = (found[2] or "").partition(":")
    user, password = unquote(user), unquote(password)
    if path := _socket_path(found[3]):
        if scheme != "lmtp":
            raise ValueError("only lmtp:// goes to a Unix socket")
        return Place(scheme=scheme, path=path, user=user, password=password)
    place = _HOST.fullmatch(found[3])
    if place is None:
        raise ValueError(f"write {scheme}://HOST or {scheme}://HOST:PORT, and nothing after it")
    port = int(place[3] or PORTS[scheme])
    if not 0 < port < 65536:
        raise ValueError(f"invalid port: {port} (write 1 to 65535)")
    host = place[1] or place[2]
    return Place(scheme=scheme, host=host, port=port, user=user, password=password)


def _socket_path(text: str) -> str:
    path = text.removeprefix("unix:")
    return unquote(path.removeprefix("//") if path != text else path) if path[:1] == "/" else ""
