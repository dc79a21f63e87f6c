"""Attributes of a connection that are made late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class OnDemand:
    """An attribute that is made when it is first asked for: nothing in an idle connection.

    It is then an attribute of the instance, found without this descriptor.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, connection: Any, kind: type | None = None) -> Any:
        if connection is None or connection.session is None:
            return None
        made = self._make(connection)
        setattr(connection, self._name, made)
        return made
