"""Routes: the place to which a recipient's mail goes, and how hard to try."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from inspect import isclass
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import attrs
from public import public

from aiosmtpd.delivery.breaker import Breaker
from aiosmtpd.delivery.item import Outlet, checked
from aiosmtpd.delivery.schedule import RetryLike, retry_of, seconds

REJECT = "reject"
"""The place that refuses its recipients: 550 5.7.1 at RCPT."""

TIMEOUT = 600.0
"""Seconds for one try; RFC 5321 section 4.5.3.2.6 gives ten minutes to the end of the data."""

_SPECIFICATION = r"(?s)(?:([^:]*)=)?(reject|[a-zA-Z][a-zA-Z0-9+.-]*:.+)"
LONGEST_NAME = 93
"""Characters of a name that is made; ``:bounce`` after it makes 100."""

IN_URL = {
    "name",
    "retry",
    "give_up",
    "concurrency",
    "timeout",
    "dead",
    "bounce",
    "mode",
    "fallback",
}
"""Keywords of a route that may be in its URL on the command line."""

_QUOTED = r'"(?:\\.|[^"\\])*"'
_COMMA = r',(?=(?:[^"]*"[^"]*")*[^"]*\Z)'
_NAME = r"(?a)[\w.@*+-][\w.@*+:-]{0,99}"


@public
class Route:
    """The way of a recipient's mail: to an outlet, by a pattern of the address.

    *to* is a URL, an outlet object, a function that gets each ``Mail``, or ``"reject"``, which
    refuses the recipients. *match* is a
    pattern or several (``*@example.com``; ``*`` and ``?`` as for files; the domain in any case).
    *name* is stored with each message, and its meaning is looked up at each try; give routes names
    that stay. It is made of *to* and *match* if there is none.

    *retry* is ``"local"``, ``"remote"``, a :class:`Retry` or its fields. At most *concurrency*
    tries run at the same time, each for at most *timeout* seconds. *dead* says what happens to a
    message that cannot be delivered: ``"keep"`` keeps it until an operator acts, ``"drop"`` removes
    it after a report. *bounce* is the URL or the outlet through which reports go to the sender;
    without it, the message is kept and the log has an ERROR.

    With ``mode="direct"``, the 250 waits for the outlet. If the outlet cannot take the message now,
    ``fallback="spool"`` stores it, and None lets the client keep it (451). Other keywords are
    options of the outlet. Raises ValueError, and :exc:`Misconfigured` if an extra is missing.
    """

    def __init__(
        self,
        to: str | Outlet | Callable[[Any], Any],
        match: str | Sequence[str] = "*",
        name: str | None = None,
        *,
        retry: RetryLike = "local",
        concurrency: int = 10,
        timeout: float | str = TIMEOUT,
        dead: Literal["keep", "drop"] = "keep",
        bounce: str | Outlet | None = None,
        mode: Literal["spool", "direct"] = "spool",
        fallback: Literal["spool"] | None = "spool",
        **options: Any,
    ) -> None:
        self.to = to
        self.patterns = (match,) if isinstance(match, str) else tuple(match)
        for pattern in self.patterns:
            _check_pattern(pattern)
        if found := {"pattern", "patterns"} & options.keys():
            raise ValueError(f"route: write match=..., not {min(found)}=...")
        self.name = _default_name(to, self.patterns) if name is None else name
        if not re.fullmatch(_NAME, self.name):
            raise ValueError(f"route: {self.name!r} is not a name of letters, digits and .@*+:-_")
        try:
            self.retry = retry_of(retry)
            self.timeout = seconds(timeout, "timeout")
        except ValueError as error:
            raise ValueError(f"route {self.name}: {error}") from None
        if isinstance(concurrency, bool) or not 1 <= concurrency <= 10_000:
            raise ValueError(f"route {self.name}: concurrency must be from 1 to 10000")
        self.concurrency = concurrency
        _one_of(self.name, "dead", dead, ("keep", "drop"))
        _one_of(self.name, "mode", mode, ("spool", "direct"))
        _one_of(self.name, "fallback", fallback, ("spool", None))
        self.dead = dead
        self.mode = mode
        self.fallback = fallback
        self.rejects = to == REJECT
        if self.rejects and options:
            raise ValueError(f"route {self.name}: reject takes no option {min(options)!r}")
        if dead == "drop" and bounce is None:
            raise ValueError(
                f"route {self.name}: dead='drop' needs a bounce, or mail would be lost"
            )
        self.outlet: Outlet | None = None if self.rejects else _outlet(to, mode, options)
        self.breaker = Breaker(self.retry)
        self.bounce: Route | None = None
        if bounce is not None:
            self.bounce = Route(bounce, (), f"{self.name}:bounce", retry="remote")
        self._match = _matcher(self.patterns)

    def __repr__(self) -> str:
        return f"<Route {self.name} {_shown(self.to)}>"

    @property
    def is_relay(self) -> bool:
        """True if mail to any address at all goes to another mail server."""
        is_hop = isinstance(self.to, str) and self.to.lower().startswith("smtp")
        # RFC 2606: no domain has this name. A pattern for some domains does not match it.
        return is_hop and self.matches("any@any.invalid")

    def matches(self, address: str) -> bool:
        """Return True if mail to this address takes this route."""
        return self._match(address)


RouteLike: TypeAlias = Route | str | Outlet | Callable[[Any], Any]
"""A :class:`Route`, or a URL, an outlet or a function, which is a route for all recipients."""


def route_of(value: RouteLike) -> Route:
    """Return the route that *value* stands for; raises ValueError and Misconfigured."""
    return value if isinstance(value, Route) else Route(value)


def parse_route(text: str, **keywords: Any) -> Route:
    """Return the route for ``[PATTERN=]URL``; raises ValueError and Misconfigured.

    Some keywords of the route may be in the URL, beside the options of its outlet:
    ``smtp://relay.test#retry=remote&give_up=2d``.
    """
    found = re.fullmatch(_SPECIFICATION, text)
    if found is None:
        raise ValueError(f"{_shown(text)!r} is not [PATTERN=]URL")
    patterns = re.split(_COMMA, found[1] or "*")
    try:
        url, options = _options_of(found[2])
        return Route(url, patterns, **{**options, **keywords})
    except ValueError as error:
        place, line = _shown(found[2]), str(error)
        raise ValueError(
            line if line.startswith(place.partition("#")[0]) else f"{place}: {line}"
        ) from None


def _options_of(url: str) -> tuple[str, dict[str, Any]]:
    """Return a URL without the keywords of a route, and these keywords."""
    from aiosmtpd.delivery.outlets import fragment

    place, written = fragment.split(url)
    if not written:
        # A folder, a function or a command has no options, but its route has.
        place, _, written = url.rpartition("#")
        if not all(part.partition("=")[0] in IN_URL for part in written.split("&")):
            scheme = place.partition(":")[0].lower()
            if scheme in {"maildir", "python"} and re.match(r"\w+=", written):
                raise ValueError(f"{scheme}: has no options, found #{written}")
            return url, {}
    options: dict[str, Any] = {}
    rest = []
    for part in filter(None, written.split("&")):
        name, mark, value = part.partition("=")
        if mark and name in IN_URL:
            options[name] = unquote(value)
        else:
            rest.append(part)
    if "concurrency" in options:
        options["concurrency"] = _number(options["concurrency"])
    if options.get("fallback") == "none":
        options["fallback"] = None
    if "give_up" in options:
        retry = retry_of(options.get("retry", "local"))
        options["retry"] = attrs.evolve(retry, give_up=options.pop("give_up"))
    return f"{place}#{'&'.join(rest)}" if rest else place, options


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text):
        raise ValueError(f"concurrency is a number, not {text!r}")
    return int(text)


class Routes:
    """Several routes; the first that matches counts. Raises ValueError for equal names."""

    def __init__(self, routes: Iterable[RouteLike]) -> None:
        self.all = tuple(map(route_of, routes))
        if not self.all:
            raise ValueError("no route: mail would go nowhere")
        self.by_name: dict[str, Route] = {}
        for route in self.all:
            self._add(route)
            if route.bounce is not None:
                self._add(route.bounce)

    def _add(self, route: Route) -> None:
        if route.name in self.by_name:
            raise ValueError(
                f"two routes are called {route.name!r}: give one another name "
                "(name=NAME, on the command line #name=NAME)"
            )
        self.by_name[route.name] = route

    def find(self, address: str) -> Route | None:
        """Return the route for an address, or None."""
        for route in self.all:
            if route.matches(address):
                return route
        return None


def _default_name(to: object, patterns: Sequence[str]) -> str:
    if isinstance(to, str):
        place = to.partition(":")[0]
    else:
        place = getattr(to, "__name__", type(to).__name__)
    text = "+".join((place.lower(), *(one for one in patterns if one != "*")))
    return re.sub(r"(?a)[^\w.@*+-]", "-", text)[:LONGEST_NAME]


def _one_of(name: str, keyword: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        words = " or ".join(map(repr, known))
        raise ValueError(f"route {name}: {keyword} must be {words}, not {value!r}")


def _outlet(to: Any, mode: str, options: dict[str, Any]) -> Outlet:
    if isinstance(to, str):
        from aiosmtpd.delivery.outlets import make_outlet

        if (found := re.fullmatch(_SPECIFICATION, to)) and found[1] and "@" in found[1]:
            raise ValueError(f"write Route({_shown(found[2])!r}, match={found[1]!r})")
        if to.lower().startswith("nats:"):
            # It checks whether the stream keeps what a 250 would promise.
            options = {**options, "mode": mode}
        return make_outlet(to, **options)
    if options:
        name = getattr(to, "__name__", type(to).__name__)
        raise ValueError(f"route to {name}: unknown option {min(options)!r}")
    outlet: Outlet
    if callable(getattr(to, "put", None)) and not isclass(to):
        outlet = checked(to)
    elif callable(to) and not isclass(to):
        from aiosmtpd.delivery.outlets.python import PythonOutlet

        outlet = PythonOutlet(to)
    else:
        raise ValueError(f"{to!r} is neither a URL, an outlet nor a function")
    return outlet


def _shown(to: object) -> str:
    """Return a place for people, with its password masked."""
    if not isinstance(to, str):
        return type(to).__name__
    from aiosmtpd.delivery.outlets import shown

    return shown(to)


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    if "*" in patterns:
        return lambda _: True
    compiled = [_compile(pattern) for pattern in patterns]

    def matches(address: str) -> bool:
        address = _in_one_case(address)
        return any(pattern.match(address) for pattern in compiled)

    return matches


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for a pattern that no address matches."""
    plain = re.sub(_QUOTED, "", pattern)
    advice = f"not {pattern!r}"
    if "," in plain:
        raise ValueError(f"write several patterns as a list, {advice}")
    if re.search(r"\s", plain):
        raise ValueError(f"a pattern has no spaces, {advice}")
    if "@" not in pattern and "*" not in pattern and pattern.lower() != "postmaster":
        raise ValueError(f"a pattern has an @, such as '*@example.com', {advice}")
    if re.search(r"@\[[^\]]*$", plain):
        raise ValueError(f"a pattern for an address has both brackets: *@[192.0.2.1], {advice}")


def _compile(pattern: str) -> re.Pattern[str]:
    # Brackets are those of an address literal (user@[192.0.2.1]).
    return re.compile(translate(_in_one_case(pattern).replace("[", "[[]")))


def _in_one_case(address: str) -> str:
    """Return an address with its domain in lower case: RFC 5321 section 2.4."""
    local, mark, domain = address.rpartition("@")
    if local.lower() == "postmaster":
        # The one local part that has no case: RFC 5321 section 4.5.1.
        local = "postmaster"
    return f"{local}{mark}{domain.lower()}"
