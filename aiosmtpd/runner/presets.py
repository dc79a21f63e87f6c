"""Presets: the defaults of four kinds of servers, as a file would write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Takes mail from strangers for domains of its own.
    "mx": {
        "smtp": {"bare_newline": "reject"},
        "limits": {
            "size": "25M",
            "recipients": 100,
            "connections_per_host": 20,
            "connection_rate": 60,
            "transactions": 100,
            "errors": 10,
            "junk_commands": 30,
            "session_timeout": "30m",
        },
    },
    # Takes mail from users, who have passwords.
    "submission": {
        "smtp": {"bare_newline": "reject"},
        "tls": {"require": True},
        "auth": {"required": True},
        "limits": {
            "size": "25M",
            "recipients": 100,
            "connections_per_host": 20,
            "connection_rate": 60,
            "auth_failures": 3,
            "errors": 10,
            "session_timeout": "30m",
        },
    },
    # Takes mail from a mail server of one's own.
    "lmtp": {
        "smtp": {"bare_newline": "normalize"},
        "limits": {"size": "64M", "connections_per_host": 0, "recipients": 1000, "errors": 100},
    },
    # Takes mail from hosts of one's own and passes it on.
    "relay": {
        "smtp": {"bare_newline": "normalize"},
        "limits": {"size": "64M", "connections_per_host": 0, "recipients": 1000, "errors": 100},
    },
}
"""The keys that a preset sets. A table that is optional, such as ``[tls]``, only gets them if the
file has that table."""


def with_preset(values: Mapping[str, Any]) -> tuple[dict[str, Any], set[tuple[str, ...]]]:
    """Return the values of a file with those of its preset, and the paths of the latter."""
    found: dict[str, Any] = dict(values)
    preset = values.get("preset")
    paths: set[tuple[str, ...]] = set()
    for name, table in PRESETS.get(preset, {}).items() if isinstance(preset, str) else ():
        own = found.get(name, None if name == "tls" else {})
        if isinstance(own, dict):
            new = {key: value for key, value in table.items() if key not in own}
            found[name] = {**own, **new}
            paths |= {(name, key) for key in new}
    return found, paths
