"""Any values at all give a configuration or faults, never another exception."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings, strategies as st

from aiosmtpd.runner import kinds, outlets
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.faults import WrongConfiguration
from aiosmtpd.runner.load import Loaded, load, load_values
from aiosmtpd.runner.show import show

TEXTS = st.sampled_from(
    [
        *("", "*", "a@b", "reject", "smtp://a", "http://[", "nats:", "python:a:b", "::1", ":25"),
        *("mx", "relay", "auto", "25M", "5s", "10.0.0.0/8", "${X}", "$$", "file:", "file:gone"),
        *("127.0.0.1:9", "systemd", "fd:3", "lmtp://:25", "unix:x", "\0", "é", "a\nb", "remote"),
    ]
)
SCALARS = st.one_of(
    TEXTS,
    st.integers(-2, 2),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.text(max_size=5),
)
CLASSES: list[type[Any]] = [Config, *outlets.OPTIONS.values()]
KEYS = sorted(
    {
        name
        for cls in CLASSES
        for name, field in kinds.keys_of(cls).items()
        for name in (name, *kinds.keys_of(field.metadata["kind"].table or outlets.NoOptions))
    }
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_values(values: dict[str, Any]) -> None:
    try:
        loaded = load_values("a", values, {})
    except WrongConfiguration as error:
        assert error.faults
        assert all("\n" not in str(fault) for fault in error.faults)
        loaded = error.partial
    look_at(loaded)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), SCALARS, max_size=4),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
)
def test_any_route(route: dict[str, Any], others: dict[str, Any]) -> None:
    values = {"listen": ":25", "spool": {"path": "s"}, **others, "route": [{"to": "reject"}, route]}
    with suppress(WrongConfiguration):
        look_at(load_values("a", values, {}))


PIECES = st.sampled_from(
    [
        *("[", "]", "{", "}", "[[", "]]", "=", ".", ",", "\n", "\r\n", "\r", " ", "#", '"', "'"),
        *('"""', "'''", "\\", "\\u0000", "\0", "\ufeff", "é", "1" * 5000, "0x" + "f" * 5000),
        *("route", "listen", "to", "handler", "use", "limits", "size", "tls", "sni", "inf", "nan"),
        *("2026-13-01", "2026-11-28", "07:00:00", "-", "1e400", "true", '"a:b"', "[" * 2000),
        *('listen = ":1"\n', "[[route]]\n", 'to = "reject"\n', "workers = ", "a.b.c = 1\n"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=20)))
def test_any_text(text: str) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, "a.toml")
        file.write_text(text, encoding="utf-8", errors="replace", newline="")
        with suppress(WrongConfiguration):
            look_at(load(file, {}))


def look_at(loaded: Loaded) -> None:
    """Use a configuration as a server would."""
    config = loaded.config
    assert Config.from_json(config.to_json()) == config
    config.settings()
    assert list(show(loaded))
