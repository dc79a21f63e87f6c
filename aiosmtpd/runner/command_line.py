"""A configuration without a file: ``aiosmtpd serve -l PLACE --spool DIR --deliver URL``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from aiosmtpd.delivery.outlets import fragment
from aiosmtpd.delivery.route import IN_URL
from aiosmtpd.runner import kinds
from aiosmtpd.runner.load import Loaded, load_values

NAME = "command line"

_SPECIFICATION = re.compile(r"(?s)(?:([^:]*)=)?(reject|[a-zA-Z][a-zA-Z0-9+.-]*:.+)")


def load_options(
    listen: Iterable[str], spool: str | None, deliver: Iterable[str], environ: Mapping[str, str]
) -> Loaded:
    """Return the configuration of these options; raises WrongConfiguration."""
    values: dict[str, Any] = {"route": [_route(text) for text in deliver]}
    values["listen"] = list(listen) or [":8025"]
    if spool is not None:
        values["spool"] = {"path": spool}
    return load_values(NAME, values, environ)


def _route(text: str) -> dict[str, Any]:
    """Return the table of a route that is written ``[PATTERN=]URL``."""
    found = _SPECIFICATION.fullmatch(text)
    if found is None:
        # The loader says why.
        return {"to": text}
    place, options = fragment.split(found[2])
    route: dict[str, Any] = {"to": place}
    if found[1]:
        route["match"] = found[1].split(",")
    rest = []
    for part in filter(None, options.split("&")):
        name, _, value = part.partition("=")
        if name == "give_up":
            route["retry"] = {"give_up": unquote(value)}
        elif name in IN_URL:
            route[name] = kinds.number_of(unquote(value))
        else:
            rest.append(part)
    if rest:
        route["to"] = f"{place}#{'&'.join(rest)}"
    return route
