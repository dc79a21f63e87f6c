"""Log warnings about likely mistakes in handlers and subclasses, once for each class.

They go to the log and not to ``warnings``: many programs run with ``-W error``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from inspect import Parameter, Signature, isclass, signature
from typing import Any
from weakref import WeakKeyDictionary, ref

from aiosmtpd.engine import observer
from aiosmtpd.protocol.limits import DEFAULT_LIMITS
from aiosmtpd.protocol.settings import DEFAULT_SETTINGS, NAMES, Settings

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
"""Names that are close to a hook's and mean something else."""


def _closest(name: str, known: Iterable[str], likeness: float) -> str | None:
    from difflib import get_close_matches  # seldom needed

    return next(iter(get_close_matches(name, list(known), 1, likeness)), None)


_said: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


latest: Callable[[], type | None]
"""The last kind of handler that was looked over, as a weak reference: most programs have one."""
latest = ref(type(None))


def warn_once(about: type, topic: str, text: str) -> None:
    """Log a WARNING, once for each class and topic."""
    if topic not in (said := _said.setdefault(about, set())):
        said.add(topic)
        log.warning(text)


def look_over(server: Any) -> None:
    """Warn of methods of the handler that look like hooks and are never called."""
    global latest
    handler = server.event_handler
    kind = handler if isclass(handler) else type(handler)
    latest = ref(kind)
    if kind in _said:
        return
    _said[kind] = set()
    if isclass(handler) and any(callable(getattr(handler, name, None)) for name in HOOKS):
        log.warning("the handler is the class %s itself: make an instance of it?", kind.__name__)
    # The commands of a subclass may have hooks of their own.
    own = {name.replace("smtp_", "handle_", 1) for name in dir(server)}
    for name in dir(kind):
        if not name.lower().startswith("handle") or name in own | {*HOOKS} | _NEIGHBOURS:
            continue
        if near := _closest(name.lower(), _BY_LOWER_CASE, 0.85):
            said = "%s.%s is never called: did you mean %s?"
            log.warning(said, kind.__name__, name, _BY_LOWER_CASE[near])


def warn_of_lacking(handler: type, hook: str, status: Any, line: str) -> None:
    """Warn of a hook that accepts an address and does not keep it."""
    if str(status).startswith("250"):
        warn_once(handler, hook, f"{handler.__name__}.{hook} answered 250 without `{line}`")


def warn_of_blocking(handler: type, hook: str, seconds: float) -> None:
    """Warn of a hook that blocks the event loop, and so every other client."""
    name = f"{handler.__name__}.{hook}"
    text = f"{name} blocked the event loop for {seconds:.1f} s"
    if not handler.__module__.startswith("aiosmtpd."):
        # A handler of this package blocks only on a busy machine.
        text += ": await, or make it a plain def"
    warn_once(handler, f"slow {hook}", text)


def look_at_settings(server: type, settings: Settings) -> None:
    """Warn of passwords in the clear, and of an authenticator that rejects no mail.

    Raises TypeError for an observer that does not have its methods.
    """
    if settings.observers:
        observer.check(settings.observers)
    if settings.auth_required and not settings.auth_require_tls:
        text = "Requiring AUTH while not requiring TLS can lead to security vulnerabilities!"
        warnings.warn(text, stacklevel=3)
        log.warning(text)
    elif (settings.authenticator or settings.auth_callback) and not settings.auth_required:
        text = "an authenticator is set but not auth_required: mail is accepted without AUTH too"
        warn_once(server, "auth_required", text)


def _default(name: str) -> Any:
    return getattr(DEFAULT_SETTINGS, name, getattr(DEFAULT_LIMITS, name, None))


def signature_of(constructor: Callable[..., Any]) -> Signature:
    """Return a signature that lists the keywords of the settings with their defaults."""
    known = signature(constructor).parameters
    shown = {"auth_exclude_mechanism": None, "extensions": "classic", "ident": None}
    keywords = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=shown.get(name, _default(name)))
        for name in NAMES
    ]
    before = [one for one in known.values() if one.kind is not Parameter.VAR_KEYWORD]
    return Signature([*before, *keywords])
