"""What we say to the programs that use us: mistakes that would otherwise be silent.

In the log and not by ``warnings``, for many programs run with ``-W error``; once for each class.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from inspect import isclass, signature
from typing import Any
from weakref import WeakKeyDictionary

log = logging.getLogger("mail.log")

HOOKS = (
    "handle_AUTH",
    "handle_BODY",
    "handle_CONNECT",
    "handle_DATA",
    "handle_DISCONNECT",
    "handle_EHLO",
    "handle_EXPN",
    "handle_HELO",
    "handle_MAIL",
    "handle_NOOP",
    "handle_PROXY",
    "handle_QUIT",
    "handle_RCPT",
    "handle_RSET",
    "handle_STARTTLS",
    "handle_VRFY",
    "handle_exception",
)
_BY_LOWER_CASE = {name.lower(): name for name in HOOKS}
_NEIGHBOURS = {"handle_message", "handle_error"}
"""Names that are near to a hook's and mean something else."""


def _closest(name: str, known: Iterable[str], likeness: float) -> str | None:
    from difflib import get_close_matches  # seldom needed

    return next(iter(get_close_matches(name, list(known), 1, likeness)), None)


_said: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


def warn_once(about: type, topic: str, text: str) -> None:
    """Log a WARNING, once for each class and topic."""
    if topic not in (said := _said.setdefault(about, set())):
        said.add(topic)
        log.warning(text)


def look_over(server: Any) -> None:
    """Warn of hooks of the server's handler that nobody will call, once for each class."""
    handler = server.event_handler
    kind = handler if isclass(handler) else type(handler)
    if kind in _said:
        return
    _said[kind] = set()
    if isclass(handler) and any(callable(getattr(handler, name, None)) for name in HOOKS):
        log.warning("the handler is the class %s itself: make an instance of it?", kind.__name__)
    # A server's own commands may have hooks of their own.
    own = {name.replace("smtp_", "handle_", 1) for name in dir(server)}
    for name in dir(kind):
        if not name.lower().startswith("handle") or name in own | {*HOOKS} | _NEIGHBOURS:
            continue
        if near := _closest(name.lower(), _BY_LOWER_CASE, 0.85):
            said = "%s.%s is never called: did you mean %s?"
            log.warning(said, kind.__name__, name, _BY_LOWER_CASE[near])


def warn_of_lacking(handler: type, hook: str, status: Any, line: str) -> None:
    """Say that a hook accepts what nobody keeps."""
    if str(status).startswith("250"):
        warn_once(handler, hook, f"{handler.__name__}.{hook} answered 250 without `{line}`")


def warn_of_blocking(handler: type, hook: str, seconds: float) -> None:
    """Say that a hook keeps the event loop, and every other client, waiting."""
    name = f"{handler.__name__}.{hook}"
    text = f"{name} kept the event loop for {seconds:.1f} s: await, or make it a plain def"
    warn_once(handler, f"slow {hook}", text)


def warn_of_clear_auth() -> None:
    """Warn of passwords that may travel in the clear."""
    text = "Requiring AUTH while not requiring TLS can lead to security vulnerabilities!"
    warnings.warn(text, stacklevel=3)
    log.warning(text)


def warn_of_optional_auth(server: type) -> None:
    """Say that an authenticator alone keeps nobody out."""
    text = "an authenticator is set, and auth_required is not: mail is accepted without AUTH too"
    warn_once(server, "auth_required", text)


def unexpected(function: Any, names: Iterable[str], also: Iterable[str]) -> TypeError:
    """Return the error for keyword arguments that *function*, with those it has *also*, lacks."""
    name = min(names)
    known = [*signature(function).parameters, *also]
    near = _closest(name, known, 0.6)
    hint = f". Did you mean {near!r}?" if near else ""
    return TypeError(f"SMTP.__init__() got an unexpected keyword argument {name!r}{hint}")
