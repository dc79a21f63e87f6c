"""Three NATS servers with a stream of three replicas, whose leader is killed again and again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import nats
import pytest
from nats.js.api import DiscardPolicy, StorageType, StreamConfig, StreamInfo

from aiosmtpd.delivery.item import Later
from aiosmtpd.delivery.outlets.nats import NatsOutlet, from_url
from tests.delivery.nats_support import REAL, SUBJECT, NatsServer, mail, running
from tests.net.support import free_port

pytestmark = pytest.mark.engines

KILLS = 2
SERVERS = 3
PATIENCE = 60


@pytest.fixture(params=REAL)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, NatsServer]]:
    """Return three servers by name."""
    ports = [free_port() for _ in range(SERVERS)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = {}
    with ExitStack() as stack:
        for number, port in enumerate(ports):
            name = f"n{number}"
            (tmp_path / name).mkdir()
            block = f'{{name: c, listen: "127.0.0.1:{port}", routes: [{routes}]}}'
            lines = {"server_name": name, "cluster": block}
            servers[name] = stack.enter_context(running(request.param, tmp_path / name, **lines))
        yield servers


def url_of(servers: dict[str, NatsServer]) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers.values())
    return f"nats://{hosts}/{SUBJECT}"


async def stream(servers: dict[str, NatsServer]) -> StreamInfo:
    """Return the state of the stream, made if it is missing, when it has a leader."""
    config = StreamConfig(
        name="MAIL",
        subjects=["mail.>"],
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        num_replicas=SERVERS,
    )
    client = await nats.connect([f"nats://127.0.0.1:{one.port}" for one in servers.values()])
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    info = await client.jetstream().add_stream(config)
                    if info.cluster is not None and info.cluster.leader:
                        return info
                except (nats.errors.Error, nats.js.errors.Error):
                    # The cluster elects its leaders.
                    await asyncio.sleep(0.1)
    finally:
        await client.close()


@pytest.fixture
async def outlet(cluster: dict[str, NatsServer]) -> AsyncIterator[NatsOutlet]:
    await stream(cluster)
    outlet = from_url(url_of(cluster), mode="direct", reply_timeout=2)
    yield outlet
    await outlet.close()


class Publishers:
    """Tasks that publish one message after another; each is tried until it is acknowledged."""

    def __init__(self, outlet: NatsOutlet) -> None:
        self.outlet = outlet
        self.acknowledged: set[str] = set()
        self.ending = False
        self.changed = asyncio.Condition()

    async def run(self, name: str) -> None:
        number = 0
        while not self.ending:
            try:
                await self.outlet.put(mail(f"{name}-{number}", 2000))
            except Later:
                await asyncio.sleep(0.05)
                continue
            self.acknowledged.add(f"{name}-{number}")
            number += 1
            async with self.changed:
                self.changed.notify_all()

    async def until_more(self, count: int) -> None:
        enough = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE):
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.acknowledged) >= enough)


async def test_a_killed_leader_loses_nothing(
    cluster: dict[str, NatsServer], outlet: NatsOutlet
) -> None:
    publishers = Publishers(outlet)
    running = [asyncio.create_task(publishers.run(str(number))) for number in range(10)]
    for _ in range(KILLS):
        await publishers.until_more(200)
        info = await stream(cluster)
        assert info.cluster is not None
        leader = cluster[str(info.cluster.leader)]
        leader.kill()
        # The two others elect another one, and go on.
        await publishers.until_more(200)
        leader.start()
    publishers.ending = True
    await asyncio.gather(*running)
    await stream(cluster)
    stored = {one.headers["Aiosmtpd-Id"] for one in await cluster["n0"].stored()}
    print(f"{len(publishers.acknowledged)} acknowledged, {len(stored)} stored")
    assert publishers.acknowledged <= stored
