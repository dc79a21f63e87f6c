"""From the outlet to ``consume()``, while the server between them is killed again and again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosmtpd.delivery import ConsumedMail, Later, consume
from aiosmtpd.delivery.outlets.nats import NatsOutlet, from_url
from tests.delivery.nats_support import SERVERS, NatsServer, mail, running

KILLS = 4


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
    with running(request.param, tmp_path) as server:
        yield server


class Traffic:
    """Publishers and consumers, and the ids that each of them knows."""

    def __init__(self, server: NatsServer, outlet: NatsOutlet) -> None:
        self.server = server
        self.outlet = outlet
        self.acknowledged: set[str] = set()
        self.consumed: set[str] = set()
        self.ending = False
        self.changed = asyncio.Condition()

    async def publish(self, name: str) -> None:
        number = 0
        while not self.ending:
            queue_id = f"{name}-{number}"
            try:
                await self.outlet.put(mail(queue_id, 600_000 if number % 40 == 39 else 2000))
            except Later:
                await asyncio.sleep(0.02)
                continue
            self.acknowledged.add(queue_id)
            number += 1

    async def consume(self) -> None:
        async def use(one: ConsumedMail) -> None:
            async with one:
                self.consumed.add(one.id)
                async with self.changed:
                    self.changed.notify_all()

        async with asyncio.TaskGroup() as group:
            url = self.server.url
            async for one in consume(url, durable="app", concurrency=10, timeout=1, ack_wait=2):
                group.create_task(use(one))

    async def until(self, count: int) -> None:
        """Wait until so many mails were consumed."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.consumed) >= count)


@pytest.mark.engines
async def test_acknowledged_mail_is_consumed(server: NatsServer) -> None:
    await server.add_stream()
    traffic = Traffic(server, from_url(server.url, reply_timeout=1, large=500_000))
    publishing = [asyncio.create_task(traffic.publish(str(number))) for number in range(5)]
    consuming = [asyncio.create_task(traffic.consume()) for _ in range(2)]
    for _ in range(KILLS):
        async with asyncio.timeout(30):
            await traffic.until(len(traffic.consumed) + 50)
        server.kill()
        server.start()
    traffic.ending = True
    await asyncio.gather(*publishing)
    async with asyncio.timeout(60), traffic.changed:
        await traffic.changed.wait_for(lambda: traffic.acknowledged <= traffic.consumed)
    for task in consuming:
        task.cancel()
    results = await asyncio.gather(*consuming, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    await traffic.outlet.close()
