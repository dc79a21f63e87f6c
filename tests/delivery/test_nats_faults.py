"""The outlet of NATS JetStream while its server is down, hangs, is killed or is full."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client

from aiosmtpd.delivery import Route
from aiosmtpd.delivery.item import Full, Later
from aiosmtpd.delivery.link import Link
from aiosmtpd.delivery.outlets.nats import NatsOutlet, from_url
from aiosmtpd.delivery.route import parse_route
from tests.delivery.nats_support import SERVERS, NatsServer, mail, running

TIMEOUT = 0.5


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
    with running(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def outlet(server: NatsServer) -> AsyncIterator[NatsOutlet]:
    """An outlet that has stored one message."""
    await server.add_stream()
    outlet = from_url(server.url, reply_timeout=TIMEOUT)
    await outlet.open()
    await outlet.put(mail("first"))
    yield outlet
    async with asyncio.timeout(TIMEOUT + 0.2):
        await outlet.close()


async def test_a_server_that_is_down(server: NatsServer, outlet: NatsOutlet) -> None:
    server.kill()
    begin = time.monotonic()
    for number in range(3):
        with pytest.raises(Later) as later:
            await outlet.put(mail(str(number)))
        assert later.value.reply.startswith("451 4.4.1")
    assert time.monotonic() - begin < TIMEOUT
    server.start()
    await outlet.put(mail("last"))
    assert [one.headers["Aiosmtpd-Id"] for one in await server.stored()] == ["first", "last"]


async def test_open_without_a_server_fails_at_once(server: NatsServer) -> None:
    server.kill()
    outlet = from_url(server.url, reply_timeout=30)
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match=r"cannot reach nats://127.*: connection refused"):
        await outlet.open()
    assert time.monotonic() - begin < 5
    await outlet.close()


async def test_another_server_of_the_url_is_used(server: NatsServer) -> None:
    await server.add_stream()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        dead = listening.getsockname()[1]
    outlet = from_url(server.url.replace("//", f"//127.0.0.1:{dead},"), reply_timeout=5)
    await outlet.open()
    assert await outlet.put(mail()) is None
    await outlet.close()


async def test_forty_messages_wait_for_one_dead_server(
    server: NatsServer, outlet: NatsOutlet
) -> None:
    server.kill()
    begin = time.monotonic()
    puts = (outlet.put(mail(str(number))) for number in range(40))
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert time.monotonic() - begin < TIMEOUT
    assert {type(result) for result in results} == {Later}


@pytest.mark.engines
@pytest.mark.parametrize("size", [400, 900_000, 20_000_000])
async def test_a_server_that_hangs(server: NatsServer, outlet: NatsOutlet, size: int) -> None:
    item = mail("second", size)
    server.stop()
    begin = time.monotonic()
    with pytest.raises(Later) as later:
        await outlet.put(item)
    assert time.monotonic() - begin < TIMEOUT + 0.2
    assert later.value.reply.startswith("451 4.4.1")
    # The next connection gets no greeting.
    with pytest.raises(Later):
        await outlet.put(item)
    assert time.monotonic() - begin < 2 * (TIMEOUT + 0.2)
    server.go_on()
    await outlet.put(item)
    assert [one.headers["Aiosmtpd-Id"] for one in await server.stored()] == ["first", "second"]


async def test_a_route_has_a_timeout_of_its_own(server: NatsServer) -> None:
    await server.add_stream()
    for one in (
        parse_route(f"{server.url}#reply_timeout=0.1&timeout=1m"),
        Route(server.url, reply_timeout=0.1),
    ):
        assert one.outlet is not None
        await one.outlet.open()
        server.stop()
        begin = time.monotonic()
        with pytest.raises(Later):
            await one.outlet.put(mail())
        assert 0.05 < time.monotonic() - begin < 2
        server.go_on()
        await one.outlet.close()


async def test_a_hanging_server_does_not_hold_close(server: NatsServer, outlet: NatsOutlet) -> None:
    server.stop()
    put = asyncio.create_task(outlet.put(mail("second", 20_000_000)))
    await asyncio.wait([put], timeout=0.1)
    await outlet.close()
    with pytest.raises(Later):
        await put
    server.go_on()


async def test_a_publication_notices_the_end_of_its_server(
    server: NatsServer, outlet: NatsOutlet
) -> None:
    slow = from_url(server.url, reply_timeout=60)
    await slow.open()
    server.stop()
    begin = time.monotonic()
    put = asyncio.create_task(slow.put(mail("second")))
    await asyncio.wait([put], timeout=0.1)
    server.kill()
    with pytest.raises(Later, match="the connection was lost"):
        await put
    assert time.monotonic() - begin < 10
    await slow.close()


@pytest.mark.engines
async def test_acknowledged_messages_survive_kills(server: NatsServer, outlet: NatsOutlet) -> None:
    acknowledged: set[str] = set()
    enough = asyncio.Event()
    target = 200

    async def publish(name: str) -> None:
        number = 0
        while len(acknowledged) < 4 * target:
            queue_id = f"{name}-{number}"
            try:
                await outlet.put(mail(queue_id, 4096))
            except Later:
                await asyncio.sleep(0.01)
                continue
            acknowledged.add(queue_id)
            number += 1
            if len(acknowledged) >= target:
                enough.set()

    publishers = [asyncio.create_task(publish(str(number))) for number in range(20)]
    for _ in range(3):
        await enough.wait()
        enough.clear()
        server.kill()
        server.start()
        target += 200
    await asyncio.gather(*publishers)
    stored = [one.headers["Aiosmtpd-Id"] for one in await server.stored()]
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))


async def test_a_full_stream_says_full(server: NatsServer) -> None:
    await server.add_stream(max_msgs=1)
    outlet = from_url(server.url, reply_timeout=TIMEOUT)
    await outlet.put(mail("A"))
    for queue_id in "BC":
        with pytest.raises(Full, match="maximum messages exceeded") as full:
            await outlet.put(mail(queue_id))
        assert full.value.reply.startswith("452 4.3.1")
    async with server.jetstream() as jetstream:
        await jetstream.purge_stream("MAIL")
    await outlet.put(mail("D"))
    await outlet.close()


async def test_chunks_that_find_no_room_say_full(server: NatsServer) -> None:
    await server.add_stream(max_bytes=2_000_000)
    outlet = from_url(server.url, reply_timeout=TIMEOUT)
    with pytest.raises(Full):
        await outlet.put(mail(size=9_000_000))
    await outlet.close()


async def test_a_stream_that_is_gone(
    server: NatsServer, outlet: NatsOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.jetstream() as jetstream:
        await jetstream.delete_stream("MAIL")
    caplog.set_level(logging.ERROR)
    with pytest.raises(Later, match="no stream takes the subject") as later:
        await outlet.put(mail())
    assert later.value.reply.startswith("451 4.3.0")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_stream_of_another_name_is_looked_at_anew(
    server: NatsServer, outlet: NatsOutlet
) -> None:
    async with server.jetstream() as jetstream:
        await jetstream.delete_stream("MAIL")
    await server.add_stream(name="POST")
    with pytest.raises(Later, match="expected stream does not match"):
        await outlet.put(mail())
    assert await outlet.put(mail()) is None


async def test_a_stream_that_became_unsafe_takes_nothing(
    server: NatsServer, outlet: NatsOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    from nats.js.api import DiscardPolicy

    async with server.jetstream() as jetstream:
        config = (await jetstream.stream_info("MAIL")).config
        await jetstream.update_stream(config.evolve(discard=DiscardPolicy.OLD))
    server.kill()
    server.start()
    caplog.set_level(logging.ERROR)
    puts = [await asyncio.gather(outlet.put(mail()), return_exceptions=True) for _ in range(2)]
    assert [type(result) for (result,) in puts] == [Later, Later]
    assert "set its discard policy to new" in caplog.text


async def test_a_new_max_payload_is_obeyed(server: NatsServer, outlet: NatsOutlet) -> None:
    server.kill()
    server.limit_payload(100_000)
    server.start()
    item = mail("second", 250_000)
    puts = [await asyncio.gather(outlet.put(item), return_exceptions=True) for _ in range(2)]
    assert puts[1][0] is None
    assert len(await server.stored(">")) == 1 + 3 + 1


async def test_a_server_without_a_greeting_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outlet = from_url(
            f"nats://127.0.0.1:{silent.getsockname()[1]}/mail.in", reply_timeout=TIMEOUT
        )
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            await outlet.open()
        with pytest.raises(Later) as later:
            await outlet.put(mail())
        assert time.monotonic() - begin < 2 * (TIMEOUT + 0.2)
        assert later.value.reply.startswith("451 4.4.1")
        await outlet.close()


async def test_a_connection_ends_with_a_time_limit() -> None:
    """All that wait hear of the end, also if one of them has a time-out in the same turn."""
    told: list[bool] = []
    link = Link(Client(), TIMEOUT, lambda: told.append(True))
    deadlines: list[asyncio.Timeout] = []

    async def wait(seconds: float) -> None:
        async with asyncio.timeout(seconds) as deadline:
            deadlines.append(deadline)
            with link.used_until(deadline):
                await asyncio.Event().wait()

    waiting = [asyncio.create_task(wait(seconds)) for seconds in (60, 0)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert deadlines[1].expired()
    assert not waiting[1].done()
    await link.on_disconnect()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError, TimeoutError]
    assert told == [True]
    await link.end()
