"""The handler of a worker: a delivery by the routes of the file, or a class of the user's own.

Workers alone call this: it imports modules that the file names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import isclass
from typing import Any

from aiosmtpd.delivery.events import OnEvent
from aiosmtpd.delivery.handler import Delivery
from aiosmtpd.delivery.route import Route
from aiosmtpd.process.failure import Failure, one_line
from aiosmtpd.protocol import networks
from aiosmtpd.protocol.session import Envelope, Session
from aiosmtpd.runner.config import Config

LOADED_LATE = (
    "aiosmtpd.delivery.consumer",
    "aiosmtpd.delivery.maildir",
    "aiosmtpd.delivery.nexthop",
    "aiosmtpd.delivery.outlets.command",
    "aiosmtpd.delivery.outlets.maildir",
    "aiosmtpd.delivery.outlets.python",
    "aiosmtpd.delivery.outlets.smtp",
    "aiosmtpd.engine.spill",
    "aiosmtpd.engine.tls",
    "aiosmtpd.lmtp",
    "aiosmtpd.process.users",
    "aiosmtpd.proxy_protocol",
    "aiosmtpd.runner.outlets",
)
"""Modules of the package that are imported only when they are needed.

A process that becomes another user imports them before: that user may not read their folder.
"""

OF_HANDLERS = ("handle_", "auth_", "process_message")
"""The names of a handler's hooks begin so."""

NO_RELAY = "550 5.7.1 Relaying denied"


class GuardedDelivery(Delivery):
    """A delivery whose *guarded* routes are only for users, and for hosts of some networks."""

    def __init__(
        self,
        spool: str | os.PathLike[str],
        routes: Iterable[Route],
        *,
        guarded: frozenset[str],
        relay_networks: Iterable[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(spool, routes, **options)
        self._guarded = guarded
        self._trusted = networks.parse(relay_networks)

    async def handle_RCPT(
        self,
        server: Any,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> Any:
        """Refuse a recipient without a route, or whose route is not for this client."""
        route = self._routes.find(address)
        if route is not None and route.name in self._guarded and not self._trusts(session):
            return NO_RELAY
        return await super().handle_RCPT(server, session, envelope, address, rcpt_options)

    def _trusts(self, session: Session) -> bool:
        if session.authenticated:
            return True
        # On a Unix socket there is no address to compare.
        address = session.client_address
        return bool(address[0]) and networks.holds(self._trusted, address)


def make_handler(
    config: Config,
    folder: str = "0",
    *,
    on_failure: Callable[[BaseException], object] | None = None,
    on_event: OnEvent | None = None,
) -> Any:
    """Return the handler of a worker; raises Failure with one line.

    *folder* is the name of its folder in that of the spool. *on_failure* is called with the error
    after which the spool's disk cannot be trusted, *on_event* with each event of a delivery.
    """
    _look_in(os.path.dirname(config.source) if config.source else os.getcwd())
    if config.handler is not None:
        return _own(config.handler, config.handler_settings)
    if config.spool is None:
        raise Failure("no spool: write [spool] with a path, or a handler")
    from aiosmtpd.delivery.item import Misconfigured

    routes, guarded = [], set()
    for number, table in enumerate(config.routes, 1):
        _import_for_route(number, table.to)
        try:
            route = table.route()
        except (ValueError, Misconfigured) as error:
            raise Failure(f"route.{number}: {error}") from error
        routes.append(route)
        if table.is_guarded:
            guarded.add(route.name)
    try:
        return GuardedDelivery(
            os.path.join(config.spool.path, folder),
            routes,
            guarded=frozenset(guarded),
            relay_networks=config.relay_networks,
            min_free=config.spool.min_free,
            max_bytes=config.spool.max_bytes,
            grace=config.drain.grace,
            on_failure=on_failure,
            on_event=on_event,
        )
    except ValueError as error:
        raise Failure(f"route: {error}") from error


def _look_in(folder: str) -> None:
    """Let modules beside the file be imported; they hide no installed module."""
    if folder not in sys.path:
        sys.path.append(folder)


def _import_for_route(number: int, place: str) -> None:
    """Import the module of a ``python:`` place; raises Failure."""
    scheme, _, name = place.partition(":")
    if scheme.lower() == "python":
        name = name.partition(":")[0]
        try:
            import_module(name)
        except BaseException as error:
            text = f"route.{number}: {place}: cannot import {name}: {_text(error, name)}"
            raise Failure(text, _code(error)) from error


def _own(name: str, settings: dict[str, Any]) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        found = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except BaseException as error:
        text = f"handler: cannot import {name}: {_text(error, module_name)}"
        raise Failure(text, _code(error)) from error
    if isclass(found):
        try:
            found = found(**settings)
        except BaseException as error:
            text = f"handler: cannot make {name}: {one_line(error)}"
            raise Failure(text, _code(error)) from error
    elif settings:
        raise Failure(f"handler: {name} is not a class, and takes no settings")
    if not callable(found) and not _has_hooks(found):
        # The server would answer 250 to each message, and lose it.
        raise Failure(f"handler: {name} is not a function, and has no hook such as handle_DATA")
    return found


def _text(error: BaseException, module: str) -> str:
    """Return the reason why a module cannot be imported, and the next step if it is missing."""
    text = one_line(error)
    top = module.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name == top:
        text += f"; put {top}.py beside the configuration, or install it"
    return text


def _code(error: BaseException) -> int:
    """Return the exit code after which systemd tries again (1), or does not (2).

    Code that raises SystemExit, or another exception that is not for errors, is wrong code.
    """
    wrong = (ImportError, SyntaxError, NameError, AttributeError, TypeError)
    return 2 if isinstance(error, wrong) or not isinstance(error, Exception) else 1


def _has_hooks(handler: Any) -> bool:
    is_dynamic = hasattr(type(handler), "__getattr__")
    return is_dynamic or any(name.startswith(OF_HANDLERS) for name in dir(handler))
