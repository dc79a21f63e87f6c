"""Judge a configuration as a whole: keys that do not fit together, and weakenings."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from aiosmtpd.listen.addresses import LOOPBACKS, Listen, parse_listen
from aiosmtpd.runner import outlets
from aiosmtpd.runner.config import HAS_WORKERS, Config
from aiosmtpd.runner.lines import Path
from aiosmtpd.runner.tables import RouteTable

Say: TypeAlias = Callable[[Path, str], None]

NO_LIMIT = (
    "size",
    "recipients",
    "hops",
    "connections_per_host",
    "auth_failures",
    "errors",
    "junk_commands",
    "min_data_rate",
    "data_timeout",
    "handshake_timeout",
)
"""Limits without which one client can do harm; 0 for one of them is a weakening."""

NO_DESK = "not served: on this system the server is one process, without [admin]"

SMUGGLING = "lets clients smuggle messages past the checks of the next server"


def judge(config: Config, values: Mapping[str, Any], say: Say, warn: Say) -> None:
    """Report keys that do not fit together by *say*, and weakenings by *warn*.

    *values* are the values as the file, its preset and the environment have them.
    """
    _judge_places(config, say, warn)
    _judge_handler(config, values, say)
    _judge_users(config, values, say, warn)
    _judge_relay(config, values, say, warn)
    _judge_routes(config, say, warn)
    _judge_protocol(config, say, warn)
    _judge_limits(config, values, warn)


def is_local(place: Listen) -> bool:
    """Return True if only this machine can reach a place."""
    if place.path is not None or place.host == "localhost":
        return True
    if place.fd is not None or getattr(place, "systemd", None) is not None:
        return False
    if place.host is None:
        return True
    try:
        return ipaddress.ip_address(place.host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _hosts(place: Listen) -> set[str]:
    """Return the addresses of a place, with the loopback for a place of all addresses."""
    loopbacks = {"0.0.0.0": ["127.0.0.1"], "::": ["::1"]}  # noqa: S104 - compared, not bound
    if place.host in (None, "localhost", "*"):
        return {*LOOPBACKS}
    return {str(place.host).lower(), *loopbacks.get(str(place.host), ())}


def _has(values: Mapping[str, Any], table: str, key: str) -> bool:
    found = values.get(table)
    return isinstance(found, dict) and key in found


def _is_public(config: Config) -> bool:
    return not all(map(is_local, config.listen))


def _judge_places(config: Config, say: Say, warn: Say) -> None:
    seen: dict[tuple[Any, ...], int] = {}
    for number, place in enumerate(config.listen):
        path = ("listen", number)
        if place.scheme == "smtps" and config.tls is None:
            say(path, "smtps:// needs a certificate: write [tls] with cert and key")
        if place.scheme == "lmtp" and place.port == 25:
            say(path, "LMTP must not use port 25 (RFC 2033): use another one, or unix:PATH")
        if place.scheme == "lmtp" and not is_local(place):
            warn(path, "LMTP is for servers of your own: let a firewall keep others away")
        same = (place.host, place.port, place.path, place.fd, place.systemd)
        if place.port != 0 and same in seen:
            say(path, f"this place is listen.{seen[same] + 1} too")
        seen[same] = number
        if place.systemd and any(one.systemd == "" for one in config.listen):
            say(path, '"systemd" without a name has these sockets too: name those of each place')
    _judge_doors(config, say, warn)


def _judge_doors(config: Config, say: Say, warn: Say) -> None:
    for name in "http", "socket":
        if not HAS_WORKERS and getattr(config.admin, name) is not None:
            warn(("admin", name), NO_DESK)
    files = [place.path for place in config.listen]
    if config.admin.socket is not None and config.admin.socket in files:
        say(("admin", "socket"), f"this is listen.{files.index(config.admin.socket) + 1} too")
    if (address := config.admin.http) is not None:
        try:
            door = parse_listen(address)
        except ValueError as error:
            say(("admin", "http"), str(error))
            return
        if door.port is None or door.path is not None or door.scheme is not None:
            say(("admin", "http"), f'expected "HOST:PORT", not "{address}"')
            return
        for number, place in enumerate(config.listen):
            if place.port == door.port != 0 and _hosts(place) & _hosts(door):
                say(("admin", "http"), f"this is listen.{number + 1} too")
        if not is_local(door):
            warn(("admin", "http"), "every host that reaches this address can read the metrics")


def _judge_handler(config: Config, values: Mapping[str, Any], say: Say) -> None:
    if config.handler is not None:
        module, colon, name = config.handler.partition(":")
        if not (module and colon and name) or "/" in module or module.endswith(".py"):
            say(("handler",), f'expected "module:Class", not "{config.handler}"')
        for table in "route", "spool":
            if values.get(table):
                say((table,), f"a handler takes the place of [{table}]: leave out one of them")
        return
    if not values.get("route"):
        if "handler" not in values:
            say((), "nothing takes the mail: write [[route]] with to, or handler")
        return
    if not values.get("spool"):
        say(("spool",), "missing: write [spool] with path; mail is there until it is delivered")


def _judge_users(config: Config, values: Mapping[str, Any], say: Say, warn: Say) -> None:
    auth = config.auth
    if auth.users is None:
        has_users = _has(values, "auth", "users") or values.get("handler") is not None
        if auth.required and not has_users:
            text = "no client could send mail: name a file with users in auth.users"
            say(("auth", "required"), text)
        return
    if auth.require_tls and config.tls is None:
        if "tls" not in values:
            say(("auth", "users"), "AUTH is only offered over TLS: write [tls] with cert and key")
    elif not auth.require_tls:
        warn(("auth", "require_tls"), "passwords may be sent in the clear")


def _judge_relay(config: Config, values: Mapping[str, Any], say: Say, warn: Say) -> None:
    # If the value of one of these keys is wrong, only that is reported.
    has_trusted = bool(values.get("relay_networks")) or _has(values, "auth", "users")
    for number, text in enumerate(config.relay_networks):
        network = ipaddress.ip_network(text)
        if network.prefixlen < (8 if network.version == 4 else 16):
            warn(("relay_networks", number), f"open relay: {text} holds hosts of strangers")
    for number, text in enumerate(config.proxy.trusted):
        if ipaddress.ip_network(text).prefixlen == 0:
            warn(("proxy", "trusted", number), "every host can pretend to be another client")
    for number, route in enumerate(config.route):
        path = ("route", number)
        if route.is_guarded and not has_trusted:
            text = "no client may use this route: name hosts in relay_networks, or auth.users"
            say((*path, "clients" if route.clients else "to"), text)
        if route.is_relay and not route.is_guarded and not config.auth.required:
            warn((*path, "clients"), "open relay: any client can send mail to any address")


def _judge_routes(config: Config, say: Say, warn: Say) -> None:
    names: dict[str, int] = {}
    all_taken: int | None = None
    is_open = config.preset in (None, "mx") and _is_public(config)
    for number, route in enumerate(config.route):
        path: Path = ("route", number)
        if all_taken is not None:
            warn(path, f"no mail comes here: route.{all_taken + 1} takes all recipients")
        elif "*" in route.match:
            all_taken = number
        for key, text in faults_of_route(route):
            say((*path, *key), text)
        if (name := route.name) is not None:
            if name in names:
                say((*path, "name"), f"route.{names[name] + 1} has this name too")
            names[name] = number
        is_catch_all = route.takes_any_domain and not route.is_relay and route.to != "reject"
        if is_catch_all and not route.is_guarded and is_open:
            warn((*path, "match"), "mail to any address at all comes here")
        _judge_weak_options(route, path, warn)


def _judge_weak_options(route: RouteTable, path: Path, warn: Say) -> None:
    written = route.to.partition("#")[2].split("&")
    if route.options.get("verify") is False or {"verify=no", "verify=false"} & {*written}:
        warn((*path, "verify"), "a stranger can answer in place of this server")
    if route.options.get("plain_auth") is True or "plain_auth=yes" in written:
        warn((*path, "plain_auth"), "the password is sent in the clear")


def faults_of_route(route: RouteTable) -> Iterator[tuple[Path, str]]:
    """Yield the faults of a route, each with the path of its key in the route."""
    from aiosmtpd.delivery.route import Route

    if (text := _why_no_place(route.to)) is not None:
        yield ("to",), text
    if route.bounce is not None and outlets.scheme_of(route.bounce) not in (
        *outlets.RELAYS,
        "lmtp",
    ):
        yield ("bounce",), 'expected the URL of a mail server, such as "smtp://127.0.0.1"'
    if route.dead == "drop" and route.bounce is None:
        yield ("dead",), '"drop" needs bounce, or mail would be lost without a word'
    if route.retry.first > route.retry.max:
        yield ("retry", "first"), "expected a time of at most retry.max"
    for number, pattern in enumerate(route.match):
        try:
            Route("reject", pattern)
        except ValueError as error:
            yield ("match", number), str(error)
    try:
        Route("reject", (), route.name)
    except ValueError as error:
        yield ("name",), str(error).removeprefix("route: ")


def _why_no_place(url: str) -> str | None:
    """Return the fault of a URL that is not a place to deliver to, else None."""
    if url == "reject":
        return None
    scheme = outlets.scheme_of(url)
    if scheme not in outlets.OPTIONS:
        from aiosmtpd.delivery.outlets import shown

        known = [*outlets.OPTIONS, "reject"]
        near = get_close_matches(scheme or url, known, 1, 0.7)
        more = f"did you mean {near[0]}?" if near else f"write {', '.join(known)}"
        return f'"{shown(url)}" is not a place to deliver to: {more}'
    rest = url.partition(":")[2]
    if scheme == "python" and (":" not in rest or not all(rest.split(":"))):
        return "write python:MODULE:FUNCTION"
    if scheme not in ("python", "command", "maildir") and not rest.startswith("//"):
        return f"write {scheme}://HOST"
    return None if rest.strip("/ ") else f"write more after {scheme}:"


def _judge_protocol(config: Config, say: Say, warn: Say) -> None:
    value = config.smtp.bare_newline
    if value == "accept" or (value != "reject" and config.preset in ("mx", "submission")):
        warn(("smtp", "bare_newline"), f'"{value}" {SMUGGLING}; "reject" is safe')
    if config.preset == "submission" and config.tls is not None and not config.tls.require:
        warn(("tls", "require"), "users may send mail without TLS")
    if config.preset in ("mx", "submission") and config.tls is None and _is_public(config):
        warn((), "no TLS: mail comes in the clear; write [tls] with cert and key")
    if config.user == "root":
        warn(("user",), "workers have the rights of root")


def _judge_limits(config: Config, values: Mapping[str, Any], warn: Say) -> None:
    table = values.get("limits")
    inside = config.preset in ("lmtp", "relay")
    for name in NO_LIMIT:
        is_written = isinstance(table, dict) and name in table
        is_usual = inside and name == "connections_per_host"
        if is_written and not is_usual and not getattr(config.limits, name):
            warn(("limits", name), "no limit: one client can do as much as it likes")
    if config.limits.command_timeout > 60 * 60:
        warn(("limits", "command_timeout"), "idle clients hold their connections for long")
