"""``Delivery.open()`` and ``close()``, called by several servers and cancelled."""

import asyncio
import threading
from pathlib import Path

import pytest

from aiosmtpd.delivery import Delivery
from aiosmtpd.delivery.spool import Spool, SpoolError
from tests.client import PATIENCE
from tests.delivery.support import Place, route


def is_open(folder: Path) -> bool:
    spool = Spool(folder)
    try:
        spool.open()
    except SpoolError:
        return True
    spool.close()
    return False


async def test_a_server_starts_while_another_stops(tmp_path: Path) -> None:
    handler = Delivery(tmp_path, route(Place()))
    await handler.open()
    await asyncio.gather(handler.open(), handler.close())
    assert is_open(tmp_path)
    await handler.close()
    assert not is_open(tmp_path)


async def test_a_cancelled_start_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    open_spool = Spool.open

    def slow(spool: Spool) -> None:
        begun.set()
        go_on.wait(PATIENCE)
        open_spool(spool)

    handler = Delivery(tmp_path, route(Place()))
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "open", slow)
        opening = asyncio.create_task(handler.open())
        await asyncio.to_thread(begun.wait, PATIENCE)
        opening.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert not is_open(tmp_path)
