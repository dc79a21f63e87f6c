"""``aiosmtpd serve --check --show``: all values in force, with their sources, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiosmtpd.delivery.outlets import shown as shown_url
from aiosmtpd.runner import kinds, outlets
from aiosmtpd.runner.config import PLACES, Place
from aiosmtpd.runner.environment import SECRET_KEYS, Sources
from aiosmtpd.runner.faults import LOGIN
from aiosmtpd.runner.lines import Path
from aiosmtpd.runner.load import Loaded
from aiosmtpd.runner.tables import RouteTable

MASK = "***"


def show(loaded: Loaded) -> Iterator[str]:
    """Yield the lines of a configuration as a TOML file; secrets are masked."""
    yield from _table(loaded, loaded.config, ())
    if settings := loaded.config.handler_settings:
        yield from ("", "# Settings of the handler:")
        for name, value in settings.items():
            yield f"# {name} = {_masked(('handler', name), value, loaded.sources)}"


def _table(loaded: Loaded, table: Any, path: Path) -> Iterator[str]:
    inner: list[tuple[str, kinds.Kind, Any]] = []
    for name, field in kinds.keys_of(type(table)).items():
        kind, value = field.metadata["kind"], getattr(table, name)
        if kind.table is not None:
            inner.append((name, kind, value))
        elif value is not None:
            text = _masked((*path, name), _plain(kind, value), loaded.sources)
            yield f"{name} = {text}{_source(loaded, (*path, name))}"
    if isinstance(table, RouteTable):
        for name, value in table.options.items():
            yield f"{name} = {_masked((*path, name), value, loaded.sources)}"
    for name, kind, value in inner:
        header = ".".join([*(str(part) for part in path if isinstance(part, str)), name])
        if kind.many:
            for number, one in enumerate(value):
                yield from ("", f"[[{header}]]")
                yield from _table(loaded, one, (*path, name, number))
        elif value is not None:
            yield from ("", f"[{header}]")
            yield from _table(loaded, value, (*path, name))


def _source(loaded: Loaded, path: Path) -> str:
    if (variable := loaded.sources.variables.get(path)) is not None:
        return f"  # {variable}"
    if (line := loaded.lines.get(path)) is not None:
        return f"  # line {line}"
    return "  # preset" if path in loaded.sources.preset else "  # default"


def _plain(kind: kinds.Kind, value: Any) -> Any:
    if kind is PLACES:
        return [spell_place(place) for place in value]
    if kind in (kinds.SECONDS, kinds.PAUSE):
        return kinds.spell_seconds(value)
    if kind is kinds.SIZE and value:
        return kinds.spell_size(value)
    return list(value) if isinstance(value, tuple) else value


def _masked(path: Path, value: Any, sources: Sources) -> str:
    return json.dumps(_without_secrets(path, value, sources), ensure_ascii=False, default=str)


def _without_secrets(path: Path, value: Any, sources: Sources) -> Any:
    if sources.is_secret(path) or path[-1] in SECRET_KEYS | outlets.SECRET:
        return MASK
    if isinstance(value, dict):
        return {name: _without_secrets((*path, name), one, sources) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_secrets((*path, i), one, sources) for i, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    return shown_url(value) if path[-1] in ("to", "bounce") else LOGIN.sub(f"{MASK}@", value)


def spell_place(place: Place) -> str:
    """Return a place as a file writes it."""
    scheme = f"{place.scheme}://" if place.scheme else ""
    if place.systemd is not None:
        return f"{scheme}systemd{':' if place.systemd else ''}{place.systemd}"
    if place.path is not None:
        return f"{scheme}unix:{place.path}"
    if place.fd is not None:
        return f"{scheme}fd:{place.fd}"
    host = place.host or ""
    return f"{scheme}[{host}]:{place.port}" if ":" in host else f"{scheme}{host}:{place.port}"
