"""A large message passes through an outlet in pieces."""

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery.outlets import make_outlet
from tests.delivery.hops import Script, item_of, scripted

SIZE = 24 << 20
MOST = 8 << 20


class Discarding(Script):
    """A hop that counts the bytes of a message."""

    size = 0

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, "data")
        end = b""
        while end != b"\r\n.\r\n":
            piece = await reader.read(65536)
            assert piece
            self.size += len(piece)
            end = (end + piece)[-5:]
        await self._say(writer, ".")


@pytest.mark.parametrize("kind", ["smtp", "lmtp", "maildir", "command"])
async def test_a_large_message_is_not_read_into_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large"
    line = b"0123456789" * 7 + b"\r\n"
    path.write_bytes(line * (SIZE // len(line)))
    hop = Discarding()
    async with scripted(hop) as place:
        urls: dict[str, Any] = {
            "smtp": f"smtp://{place}",
            "lmtp": f"lmtp://{place}",
            "maildir": f"maildir:{tmp_path}/mail",
            "command": "command:cat >/dev/null",
        }
        outlet = make_outlet(urls[kind])
        await outlet.open()
        tracemalloc.start()
        try:
            assert await outlet.put(item_of(content=path)) is None
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await outlet.close()
    assert peak < MOST
    if kind in {"smtp", "lmtp"}:
        assert hop.size == path.stat().st_size + 3
