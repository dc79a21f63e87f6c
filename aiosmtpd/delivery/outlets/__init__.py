"""Places to deliver to, made from a URL; the module of a scheme is imported when a route has it."""

from __future__ import annotations

import difflib
import inspect
import re
from importlib import import_module
from typing import Any

from public import public

from aiosmtpd.delivery.item import Misconfigured, Outlet
from aiosmtpd.delivery.outlets import fragment

_MODULES = {
    "smtp": "smtp",
    "smtp+starttls": "smtp",
    "smtps": "smtp",
    "lmtp": "smtp",
    "maildir": "maildir",
    "python": "python",
    "command": "command",
    "http": "webhook",
    "https": "webhook",
    "nats": "nats",
}

# The package that each of these modules needs, which the extra of the same name installs.
_EXTRAS = {"webhook": "httpx2", "nats": "nats"}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)

# Also of a password with a raw slash, which is not a port: no URL, but an error shows it.
_LOGIN = re.compile(r"(?<=://)(?:[^/\s]*|[^/\s:@\[]*:(?![0-9]{1,5}(?:[/?#]|\Z))\S*)@")
# A password may have a raw / or ? in it. With the schemes of mail and NATS, no path has an @.
_MAIL_LOGIN = re.compile(r"(?<=://)(.*)@", re.DOTALL)
_SECRET_NAME = re.compile(
    r"(?i)([?&#;][^=&#;\s]*(?:token|key|secret|pass|pwd|sig|auth|code|jwt|hook|headers)[^=&#;\s]*=)[^&#;\s]+"
)
# A long part of a path with digits and letters: chat services put their secret there.
_SECRET_PART = re.compile(r"(?<=/)(?=[^/?#\s]*[0-9])(?=[^/?#\s]*[A-Za-z])[A-Za-z0-9_=.-]{20,}")
_MASK = "***"


@public
def make_outlet(url: str, **options: Any) -> Outlet:
    """Return the outlet that *url* and *options* describe.

    A part of the URL after ``#`` has options too: ``#verify=no&cafile=ca.pem``. Raises ValueError,
    with one line, if it cannot be an outlet, and :exc:`Misconfigured` if the package for it is not
    installed.
    """
    scheme = _SCHEME.fullmatch(url)
    name = scheme[1].lower() if scheme else ""
    if name not in _MODULES:
        raise ValueError(f"{_line(shown(url))}: not a place to deliver to{_advice(name)}")
    module_name = _MODULES[name]
    try:
        from_url = import_module(f"{__name__}.{module_name}").from_url
        known = dict(inspect.signature(from_url).parameters)
        del known["url"]
        place, written = fragment.split(url)
        options = {**fragment.options(written, known), **options}
        _check(options, [*known])
        outlet: Outlet = from_url(place, **options)
    except ModuleNotFoundError as error:
        needed = _EXTRAS.get(module_name)
        if needed is None or (error.name or "").partition(".")[0] != needed:
            raise
        line = f'{name}:// needs pip install "aiosmtpd[{module_name}]"'
        raise Misconfigured(line) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_line(shown(url))}: {_line(str(error))}") from None
    return outlet


@public
def shown(url: str) -> str:
    """Return *url* for a log or an error, with its passwords and tokens masked."""
    text = _SECRET_NAME.sub(rf"\1{_MASK}", url)
    scheme = url.partition(":")[0].lower()
    if scheme in {"http", "https"}:
        text = _SECRET_PART.sub(_MASK, text)
        return _LOGIN.sub(f"{_MASK}@", text)
    if scheme == "nats":
        # A name alone is a token there.
        return _MAIL_LOGIN.sub(f"{_MASK}@", text)
    if scheme == "command":
        return _LOGIN.sub(f"{_MASK}@", text)
    return _MAIL_LOGIN.sub(_without_password, text)


def has_secret(url: str) -> bool:
    """Return True if :func:`shown` would mask a part of *url*."""
    return shown(url) != url


def _without_password(found: re.Match[str]) -> str:
    user, colon, _ = found[1].partition(":")
    return f"{user}:{_MASK}@" if colon else f"{user}@"


def _check(options: dict[str, Any], known: list[str]) -> None:
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            has = f"it has {', '.join(known) or 'no options'}"
            advice = f"did you mean {near[0]}?" if near else has
            raise ValueError(f"unknown option {name!r}: {advice}")


def _advice(scheme: str) -> str:
    near = difflib.get_close_matches(scheme, _MODULES, 1, 0.7)
    if near:
        return f": did you mean {near[0]}:?"
    return f" (write {', '.join(f'{name}:' for name in _MODULES)})"


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else "?" for c in text).split())
