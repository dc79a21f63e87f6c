"""`Server`: its keywords and its settings, and binding before it serves."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd import Server
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, Settings

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


async def greeting(address: Any) -> bytes:
    """Return the first line from a server in this loop."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        return await asyncio.wait_for(reader.readline(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


# Its keywords and settings.


@pytest.mark.parametrize(
    ("name", "near"), [("data_size_limits", "data_size_limit"), ("listn", "listen")]
)
def test_a_misspelt_keyword(name: str, near: str) -> None:
    keywords: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError, match=rf"Server.*argument '{name}'. Did you mean '{near}'\?"):
        Server(Sink(), **keywords)


def test_a_value_that_is_not_allowed() -> None:
    wrong: Any = "mdern"
    with pytest.raises(ValueError, match="extensions"):
        Server(Sink(), extensions=wrong)


async def test_settings_that_were_validated_before() -> None:
    settings = Settings.of({"hostname": "mx.test", "ident": "Mine"})
    async with Server(Sink(), settings=settings) as server:
        assert await greeting(server.addresses[0]) == b"220 mx.test Mine\r\n"
    with pytest.raises(TypeError, match="settings or keywords, not both"):
        Server(Sink(), settings=settings, hostname="mx.test")


async def test_keywords_are_validated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All connections share one value."""
    made: list[SMTP] = []
    init = SMTP.__init__

    def remember(self: SMTP, *args: Any, **keywords: Any) -> None:
        init(self, *args, **keywords)
        made.append(self)

    monkeypatch.setattr(SMTP, "__init__", remember)
    # A dict cannot be remembered by its value: each validation would make settings of its own.
    async with Server(Sink(), command_call_limit={"NOOP": 5}) as server:
        for _ in range(3):
            assert (await greeting(server.addresses[0])).startswith(b"220 ")
    assert len(made) == 4
    assert {id(smtpd.settings) for smtpd in made} == {id(server.settings)}


def test_the_warnings_of_keywords_come_once(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(UserWarning, match="Requiring AUTH while not requiring TLS") as caught:
        Server(Sink(), auth_required=True, auth_require_tls=False)
    assert [warning.filename for warning in caught] == [__file__]
    assert len(caplog.messages) == 1


# Binding.


async def test_bind_before_start() -> None:
    async with Server(Sink()) as other:
        server = Server(Sink(), listen=["127.0.0.1:0", f"127.0.0.1:{other.addresses[0][1]}"])
        with pytest.raises(OSError, match="already in use"):
            await server.bind()
    assert server.addresses == []
    await server.bind()
    address, _ = server.addresses
    with pytest.raises(RuntimeError, match="already running"):
        await server.bind()
    with pytest.raises(ConnectionRefusedError):
        await greeting(address)
    await server.start()
    assert server.addresses[0] == address
    assert (await greeting(address)).startswith(b"220 ")
    await server.stop()


@POSIX
async def test_a_server_that_is_bound_only_can_be_stopped(tmp_path: Path) -> None:
    server = Server(Sink(), listen=f"unix:{tmp_path / 's'}")
    await server.bind()
    assert (tmp_path / "s").exists()
    await server.stop()
    assert server.addresses == []
    assert not (tmp_path / "s").exists()


async def test_a_factory_that_fails_lets_go_of_the_ports() -> None:
    def make() -> SMTP:
        raise ValueError("in the factory")

    server = Server(Sink(), factory=make)
    await server.bind()
    with pytest.raises(ValueError, match="in the factory"):
        await server.start()
    assert server.addresses == []
