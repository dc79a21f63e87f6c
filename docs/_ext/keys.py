"""The keys of a configuration file of ``aiosmtpd serve``, from the classes of the package."""

from collections.abc import Iterator
from typing import Any

import attrs
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from aiosmtpd.runner import kinds, outlets
from aiosmtpd.runner.config import PLACES, Config
from aiosmtpd.runner.presets import PRESETS
from aiosmtpd.runner.show import spell_place

Field = Any


def lines_of_keys() -> Iterator[str]:
    """Return a list of keys for each table, in reStructuredText."""
    yield from heading("Above the first table")
    yield from keys_of(Config, only_values=True)
    for name, field in kinds.keys_of(Config).items():
        kind = kinds.kind_of(field)
        if kind is not None and kind.table is not None:
            brackets = f"[[{name}]]" if kind.many else f"[{name}]"
            yield from heading(f"``{brackets}``")
            yield from [str(kind.table.__doc__).strip(), ""]
            yield from keys_of(kind.table)
    seen: list[type[Any]] = []
    for scheme, cls in outlets.OPTIONS.items():
        if cls not in seen and kinds.keys_of(cls):
            seen.append(cls)
            yield from heading(f"``[[route]]`` to ``{scheme}:``")
            yield from [str(cls.__doc__).strip(), ""]
            yield from keys_of(cls)


def heading(text: str) -> list[str]:
    """Return the lines of a title inside the page."""
    return [f".. rubric:: {text}", ""]


def keys_of(cls: type[Any], *, only_values: bool = False) -> Iterator[str]:
    """Return the keys of a table, and of the tables in it if *only_values* is False."""
    inner = []
    for name, field in kinds.keys_of(cls).items():
        kind = kinds.kind_of(field)
        if kind is None or (only_values and kind.table is not None):
            continue
        sentence = str(field.metadata["help"])
        if not sentence.endswith(".") or len(sentence) < 10:
            raise ValueError(f"{cls.__name__}.{name} has no sentence: {sentence!r}")
        yield from [f"``{name}``", f"   {sentence} {facts_of(field, kind)}", ""]
        if kind.table is not None:
            inner.append((name, kind))
    for name, kind in inner:
        yield from [f"Keys of ``{name}``:", ""]
        yield from (f"   {line}" if line else "" for line in keys_of(kind.table or cls))


def facts_of(field: Field, kind: kinds.Kind) -> str:
    """Return the kind, the default and the example of a key."""
    facts = [f"Write {kind.wanted}."]
    if field.default is attrs.NOTHING or kind is PLACES:
        facts.append("This key must be there.")
    elif field.default not in (None, (), "") and kind.table is None:
        facts.append(f"Default: ``{written(kind, field.default)}``.")
    if (example := field.metadata["example"]) is not None:
        facts.append(f"Example: ``{field.name} = {written(kind, example)}``")
    return " ".join(facts)


def written(kind: kinds.Kind, value: Any) -> str:
    """Return a value as a file has it."""
    if isinstance(value, str | bool | list | dict):
        return toml(value)
    if kind is PLACES:
        return toml([spell_place(place) for place in value])
    if kind in (kinds.SECONDS, kinds.PAUSE):
        return toml(kinds.spell_seconds(value) or 0)
    if kind is kinds.SIZE:
        return toml(kinds.spell_size(value))
    return toml(list(value) if isinstance(value, tuple) else value)


def toml(value: Any) -> str:
    """Return a value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {toml(one)}' for name, one in value.items())} }}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def lines_of_presets() -> Iterator[str]:
    """Return a list with the keys that each preset sets."""
    for name, tables in PRESETS.items():
        pairs = [
            f"``{table}.{key} = {toml(value)}``"
            for table, keys in tables.items()
            for key, value in keys.items()
        ]
        yield from [f"``{name}``", f"   {', '.join(pairs)}", ""]


class Generated(SphinxDirective):
    """The keys of all tables, or with the argument ``presets`` those of the presets."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the text in place of the directive."""
        lines = lines_of_presets() if self.arguments else lines_of_keys()
        node = nodes.Element()
        self.state.nested_parse(StringList(list(lines), "generated"), self.content_offset, node)
        return list(node.children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("configuration-keys", Generated)
    return {"parallel_read_safe": True}
