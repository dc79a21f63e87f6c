"""``check_outlet``: our outlets pass it, and it finds the faults of others."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery.item import Item, Later, Misconfigured, Never, Results
from aiosmtpd.delivery.outlets import make_outlet
from aiosmtpd.delivery.outlets.python import PythonOutlet
from aiosmtpd.testing import check_outlet
from tests.delivery.hops import Taking, serving
from tests.delivery.webhook_server import receiving


@pytest.mark.parametrize("scheme", ["smtp", "lmtp"])
async def test_a_next_hop_passes(scheme: str) -> None:
    hop = Taking()
    if scheme == "lmtp":
        hop.reply = ["250 OK", "250 OK"]

    def took() -> list[bytes]:
        return [bytes(envelope.original_content or b"") for envelope in hop.envelopes]

    async with serving(hop, scheme) as place:
        outlet = make_outlet(f"{scheme}://{place}")

        def down() -> None:
            hop.refusals = dict.fromkeys(("one@example.com", "two@example.com"), "450 4.3.2 Away")

        def up() -> None:
            hop.refusals = {}

        await check_outlet(outlet, took, down=down, up=up)


async def test_a_maildir_passes(tmp_path: Path) -> None:
    folder = tmp_path / "mail"

    def took() -> list[bytes]:
        return [path.read_bytes() for path in (folder / "new").iterdir()]

    new, away = folder / "new", folder / "away"
    await check_outlet(
        make_outlet(f"maildir:{folder}"),
        took,
        down=lambda: new.rename(away),
        up=lambda: away.rename(new),
    )


async def test_a_function_passes() -> None:
    taken: list[bytes] = []
    await check_outlet(PythonOutlet(lambda mail: taken.append(mail.octets)), lambda: taken)
    taken.clear()
    await check_outlet(PythonOutlet(lambda mail: taken.append(mail.content)), lambda: taken)


async def test_a_command_passes(tmp_path: Path) -> None:
    def took() -> list[bytes]:
        return [path.read_bytes() for path in tmp_path.iterdir()]

    outlet = make_outlet(f"command:cat > {tmp_path}/$SMTP_QUEUE_ID")
    await check_outlet(outlet, took)


async def test_a_webhook_passes() -> None:
    with receiving() as receiver:

        async def took() -> list[bytes]:
            return [request.body for request in receiver.requests]

        def down() -> None:
            receiver.answer = 503

        def up() -> None:
            receiver.answer = 200

        await check_outlet(make_outlet(receiver.url), took, down=down, up=up)


class Good:
    """An outlet that keeps messages in a list."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.works = True
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def put(self, item: Item) -> Results:
        if not self.works:
            raise ConnectionRefusedError
        self.taken.append(await item.body())
        return None

    async def close(self) -> None:
        self.is_open = False

    def switch(self, works: bool) -> Callable[[], None]:
        return lambda: setattr(self, "works", works)


class Loses(Good):
    async def put(self, item: Item) -> Results:
        if item.sender == "<>":
            return None
        return await super().put(item)


class Cuts(Good):
    async def put(self, item: Item) -> Results:
        self.taken.append((await item.body())[:100_000])
        return None


class Blocks(Good):
    def tick(self) -> None:
        for _ in range(40):
            threading.Event().wait(0.01)

    async def put(self, item: Item) -> Results:
        if item.size > 100_000:
            # As slow on a busy machine as the thread that counts.
            ticking = threading.Thread(target=self.tick)
            ticking.start()
            ticking.join()
        return await super().put(item)


class Hangs(Good):
    async def put(self, item: Item) -> Results:
        await asyncio.Event().wait()
        return None


class Stubborn(Good):
    async def put(self, item: Item) -> Results:
        if "cancelled" in item.id:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                await asyncio.sleep(1)
        return await super().put(item)


class GivesUp(Good):
    async def put(self, item: Item) -> Results:
        if not self.works:
            raise Never("550 5.0.0 No")
        return await super().put(item)


class Pretends(Good):
    async def put(self, item: Item) -> Results:
        if not self.works:
            return None
        return await super().put(item)


class TimesOut(Good):
    async def put(self, item: Item) -> Results:
        if not self.works:
            raise TimeoutError
        return await super().put(item)


class Returns(Good):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    async def put(self, item: Item) -> Results:
        await super().put(item)
        result: Results = self.value
        return result


class OpensOnce(Good):
    opened = False

    async def open(self) -> None:
        if self.opened:
            raise Misconfigured("opened before")
        self.opened = True


class Unique(Good):
    """An outlet that refuses an id that it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()

    async def put(self, item: Item) -> Results:
        if item.id in self.ids:
            return dict.fromkeys(item.recipients, Never("550 5.0.0 I have that"))
        self.ids.add(item.id)
        return await super().put(item)


FAULTS: dict[str, tuple[Good, str]] = {
    "loses": (Loses(), "the null sender: put() said that it is delivered, but it is not there"),
    "cuts": (Cuts(), "a large message in a file: put() said"),
    "blocks": (Blocks(), "blocked the event loop for"),
    "hangs": (Hangs(), "a small message: put() did not return in 0.3 seconds"),
    "stubborn": (Stubborn(), "put() does not end when it is cancelled"),
    "gives up": (GivesUp(), "while the place is down: Never"),
    "pretends": (Pretends(), "while the place is down: put() said that it is delivered"),
    "bool": (Returns(True), "put() returned True: return None or a mapping"),
    "stranger": (Returns({"x@y.org": Later()}), "the results name 'x@y.org'"),
    "text": (Returns({"one@example.com": "no"}), "the result 'no' is neither Later nor Never"),
    "refuses": (Returns({"one@example.com": Later()}), "a small message: not delivered"),
    "unique": (Unique(), "comes again with the same id: not delivered"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 40 ticks on a busy machine, half are enough.
    monkeypatch.setattr("aiosmtpd.testing.outlets.BLOCKED", 0.2)
    outlet, said = FAULTS[name]
    with pytest.raises(AssertionError) as caught:
        await check_outlet(
            outlet,
            lambda: outlet.taken,
            down=outlet.switch(False),
            up=outlet.switch(True),
            timeout=0.3,
        )
    assert said in str(caught.value)
    assert (outlet.works, outlet.is_open) == (True, False)


async def test_a_good_outlet_passes() -> None:
    outlet = Good()
    await check_outlet(
        outlet, lambda: outlet.taken, down=outlet.switch(False), up=outlet.switch(True)
    )
    assert len(outlet.taken) > 15


async def test_an_outlet_raises_a_timeout_of_its_own() -> None:
    outlet = TimesOut()
    await check_outlet(
        outlet, lambda: outlet.taken, down=outlet.switch(False), up=outlet.switch(True)
    )


async def test_an_outlet_that_opens_only_once() -> None:
    outlet = OpensOnce()
    with pytest.raises(Misconfigured, match="opened before"):
        await check_outlet(outlet, lambda: outlet.taken)
