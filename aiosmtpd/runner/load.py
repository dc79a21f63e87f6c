"""Read a configuration file: TOML, the environment and secrets become a :class:`Config`.

All faults are found in one run, each with its line.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import attrs

from aiosmtpd.runner import kinds, outlets
from aiosmtpd.runner.config import PLACES, Config, Place
from aiosmtpd.runner.environment import (
    TOO_DEEP,
    TOO_LONG,
    UNKNOWN,
    Sources,
    expand,
    from_environment,
)
from aiosmtpd.runner.faults import Fault, WrongConfiguration, advice, in_order, shown, spelled
from aiosmtpd.runner.judge import judge
from aiosmtpd.runner.lines import Path, line_of, lines_of
from aiosmtpd.runner.presets import with_preset
from aiosmtpd.runner.tables import RouteTable
from aiosmtpd.runner.userfile import read_users

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")
_LONG_NUMBER = re.compile(r"[0-9A-Fa-f_]{4000}")
_LISTS = (PLACES, kinds.NETWORKS, kinds.TEXTS)
_BAD = object()
_DATES = (datetime.date, datetime.time)


@attrs.frozen(kw_only=True)
class Loaded:
    """A configuration, with its warnings and the sources of its values."""

    config: Config
    warnings: tuple[Fault, ...]
    sources: Sources
    name: str
    lines: Mapping[Path, int]

    def fault(self, path: Path, text: str) -> Fault:
        """Return a fault, or a warning, of a key."""
        variable = self.sources.variable_of(path)
        if variable is not None:
            return Fault(variable, None, "", text)
        return Fault(self.name, line_of(self.lines, path), spelled(path), text)


def load(
    path: str | os.PathLike[str],
    environ: Mapping[str, str] = os.environ,
    *,
    outside: bool = False,
) -> Loaded:
    """Return the configuration of a file; raises WrongConfiguration with all its faults.

    With *outside*, credentials of systemd are not read if it has not started this process.
    """
    name = os.fspath(path)
    try:
        text = _read(name)
        loader = _Loader(name, os.path.abspath(name), lines_of(text), environ, outside)
        return loader.load(tomllib.loads(text))
    except RecursionError:
        raise WrongConfiguration([Fault(name, None, "", TOO_DEEP)]) from None


def load_values(name: str, values: dict[str, Any], environ: Mapping[str, str]) -> Loaded:
    """Return the configuration of some values, as a file would have them; *name* is in faults."""
    return _Loader(name, None, {}, environ, False).load(values)


def _read(name: str) -> str:
    """Return the text of a file that is TOML; raises WrongConfiguration."""
    try:
        content = FilePath(name).read_bytes()
        text = content.decode("utf-8-sig")
        tomllib.loads(text)
    except OSError as error:
        raise WrongConfiguration([Fault(name, None, "", error.strerror or str(error))]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise WrongConfiguration([Fault(name, line, "", "expected text in UTF-8")]) from error
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        last = text.count("\n") + (not text.endswith("\n"))
        line = int(found[1]) if found and found[1] else max(last, 1)
        why = _POSITION.sub("", str(error))
        raise WrongConfiguration([Fault(name, line, "", f"not TOML: {why}")]) from error
    except ValueError:
        # Python reads no number with thousands of digits, and names no line.
        number = _LONG_NUMBER.search(text)
        where = text.count("\n", 0, number.start()) + 1 if number else None
        raise WrongConfiguration([Fault(name, where, "", TOO_LONG)]) from None
    return text


class _Loader:
    def __init__(
        self,
        name: str,
        file: str | None,
        lines: Mapping[Path, int],
        environ: Mapping[str, str],
        outside: bool,
    ) -> None:
        self._name = name
        self._file = file
        self._lines = lines
        self._environ = environ
        self._outside = outside
        self._folder = os.path.dirname(file) if file is not None else os.getcwd()
        self._faults: list[Fault] = []
        self._sources = Sources()

    def load(self, raw: dict[str, Any]) -> Loaded:
        values = from_environment(raw, self._environ, self._sources, self._faults)
        values = expand(
            values,
            self._environ,
            self._folder,
            self._sources,
            self._say,
            outside=self._outside,
        )
        values, self._sources.preset = with_preset(values)
        settings = self._take_handler_settings(values)
        config = attrs.evolve(
            self._table(Config, values, ()), handler_settings=settings, source=self._file
        )
        config = self._with_users(config)
        warnings: list[Fault] = []
        self._judge(config, values, warnings)
        loaded = Loaded(
            config=config,
            warnings=tuple(warnings),
            sources=self._sources,
            name=self._name,
            lines=self._lines,
        )
        if self._faults:
            raise WrongConfiguration(in_order(self._faults), in_order(warnings), loaded)
        return loaded

    def _judge(self, config: Config, values: dict[str, Any], warnings: list[Fault]) -> None:
        reported = {(fault.place, fault.key) for fault in self._faults}

        def say(path: Path, text: str) -> None:
            # One fault of a key is enough.
            if (self._name, spelled(path)) not in reported:
                self._say(path, text)

        judge(config, values, say, lambda *said: warnings.append(self._fault(*said)))

    def _fault(self, path: Path, text: str) -> Fault:
        variable = self._sources.variable_of(path)
        if variable is not None:
            return Fault(variable, None, "", text)
        return Fault(self._name, line_of(self._lines, path), spelled(path), text)

    def _say(self, path: Path, text: str) -> None:
        self._faults.append(self._fault(path, text))

    def _take_handler_settings(self, values: dict[str, Any]) -> dict[str, Any]:
        """Take the table ``[handler]`` apart into its name and its settings."""
        table = values.get("handler")
        if not isinstance(table, dict):
            return {}
        others = {name: value for name, value in table.items() if name != "use"}
        settings: dict[str, Any] = self._without_faults(others, ("handler",))
        if "use" in table:
            values["handler"] = table["use"]
        else:
            del values["handler"]
            self._say(("handler", "use"), 'missing: write a text such as "module:Class"')
        return settings

    def _without_faults(self, value: Any, path: Path) -> Any:
        """Return a value with None in place of each value with a fault.

        Report each date and time: the settings go to the workers as JSON, which has none.
        """
        if value is UNKNOWN:
            return None
        if isinstance(value, _DATES):
            self._say(path, f"expected a text such as {shown(value)}: write it in quotes")
            return None
        if isinstance(value, dict):
            return {name: self._without_faults(one, (*path, name)) for name, one in value.items()}
        if isinstance(value, list):
            return [self._without_faults(one, (*path, at)) for at, one in enumerate(value)]
        return value

    def _table(self, cls: type[Any], values: Mapping[str, Any], path: Path) -> Any:
        """Return an object of a class; None if there is a fault in its table."""
        is_whole = True
        known = kinds.keys_of(cls)
        found: dict[str, Any] = {}
        others = {name: value for name, value in values.items() if name not in known}
        if cls is RouteTable:
            found["options"] = self._options(values.get("to"), others, path)
        else:
            self._refuse(cls, others, known, path)
        for name, field in known.items():
            if name in values:
                value = self._value(field.metadata["kind"], values[name], (*path, name))
                if value is not _BAD:
                    found[name] = self._in_folder(value) if name == "to" else value
                elif field.default is attrs.NOTHING:
                    is_whole = False
                elif field.metadata["kind"] in _LISTS:
                    found[name] = ()
            elif field.default is attrs.NOTHING:
                is_whole = False
                self._missing(field, path)
            elif cls is Config and name == "listen":
                self._missing(field, path)
        if not is_whole:
            return None
        # A key that is wrong keeps its default, so that the rest can be judged.
        return cls(**{name: value for name, value in found.items() if value is not None})

    def _place_in_folder(self, place: Place) -> Place:
        if place.path is None:
            return place
        return attrs.evolve(place, path=os.path.join(self._folder, place.path))

    def _in_folder(self, url: str) -> str:
        """Return the URL of a Maildir with its whole path; other URLs stay."""
        scheme, colon, path = url.partition(":")
        if scheme.lower() != "maildir" or path.startswith("/") or not path:
            return url
        return f"{scheme}{colon}{os.path.join(self._folder, path)}"

    def _missing(self, field: attrs.Attribute[Any], path: Path) -> None:
        wanted = field.metadata["kind"].wanted
        if field.metadata["kind"] is kinds.TEXT:
            wanted += f" such as {json.dumps(field.metadata['example'])}"
        self._say((*path, field.name), f"missing: write {wanted}")

    def _refuse(
        self, cls: type[Any], names: Mapping[str, Any], known: Mapping[str, Any], path: Path
    ) -> None:
        for name in names:
            text = f"unknown key: {advice(name, known)}"
            if path and name in kinds.keys_of(Config):
                text = f"unknown key: write {name} above the first [table]"
            elif not path and (tables := _tables_with(name)):
                text = f"unknown key: did you mean {tables[0]}.{name}?"
            self._say((*path, name), text)

    def _value(self, kind: kinds.Kind, value: Any, path: Path) -> Any:
        if value is UNKNOWN:
            return _BAD
        if kind.table is not None and isinstance(value, str) and value in kind.words:
            return kind.words[value]
        if kind.many and kind.table is not None:
            if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                return self._bad(kind, value, path)
            each = [self._table(kind.table, one, (*path, i)) for i, one in enumerate(value)]
            return _BAD if None in each else tuple(each)
        if kind.table is not None:
            if not isinstance(value, dict):
                return self._bad(kind, value, path)
            table = self._table(kind.table, value, path)
            return _BAD if table is None else table
        if kind in _LISTS and isinstance(value, list) and value:
            each = [self._single(kind, [one], (*path, i), one) for i, one in enumerate(value)]
            return _BAD if _BAD in each else tuple(item for one in each for item in one)
        return self._single(kind, value, path, value)

    def _single(self, kind: kinds.Kind, value: Any, path: Path, said: Any) -> Any:
        if said is UNKNOWN:
            return _BAD
        try:
            found = kind.read(value)
        except ValueError as error:
            return self._bad(kind, said, path, str(error))
        if kind.is_path:
            return os.path.join(self._folder, found)
        if kind is PLACES:
            return tuple(map(self._place_in_folder, found))
        return found

    def _bad(self, kind: kinds.Kind, value: Any, path: Path, text: str = "") -> Any:
        secret = self._sources.is_secret(path)
        seen = "the secret that is given" if secret else shown(value)
        if secret or not text:
            text = f"expected {kind.wanted}, not {seen}"
        self._say(path, text)
        return _BAD

    def _options(self, to: Any, others: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Return the options of a route's outlet."""
        if not isinstance(to, str):
            # Its options cannot be known: the place itself is reported.
            return {}
        scheme = outlets.scheme_of(to)
        cls = outlets.OPTIONS.get(scheme, outlets.NoOptions)
        known = kinds.keys_of(cls)
        found = {}
        for name, value in others.items():
            if name not in known:
                self._say((*path, name), self._why_no_option(name, known, scheme))
                continue
            read = self._value(known[name].metadata["kind"], value, (*path, name))
            if read is not _BAD:
                found[name] = list(read) if isinstance(read, tuple) else read
        return found

    def _why_no_option(self, name: str, known: Mapping[str, Any], scheme: str) -> str:
        if name in kinds.keys_of(Config):
            return f"unknown key: write {name} above the first [table]"
        for other, cls in outlets.OPTIONS.items():
            if name in kinds.keys_of(cls):
                here = f"{scheme}:" if scheme else "this place"
                return f"unknown key: {name} is for {other}:, not for {here}"
        return f"unknown key: {advice(name, [*kinds.keys_of(RouteTable), *known])}"

    def _with_users(self, config: Config) -> Config:
        """Return the configuration with the pairs of the users file."""
        if config.auth.users is None or ("auth", "users") in self._sources.unseen:
            return config
        try:
            pairs = read_users(config.auth.users)
        except ValueError as error:
            self._say(("auth", "users"), str(error))
            return config
        return attrs.evolve(config, auth=attrs.evolve(config.auth, pairs=pairs))


def _tables_with(name: str) -> list[str]:
    """Return the tables that have a key."""
    found = []
    for table, field in kinds.keys_of(Config).items():
        cls = field.metadata["kind"].table
        if cls is not None and not field.metadata["kind"].many and name in kinds.keys_of(cls):
            found.append(table)
    return found
