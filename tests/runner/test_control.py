"""The channel between the master and a worker."""

import asyncio
import json
from typing import Any

from aiosmtpd.runner.control import Channel, descriptor_pair


async def channels() -> tuple[Channel, Channel]:
    ours, theirs = descriptor_pair()
    return await Channel.of(ours), await Channel.of(theirs)


async def test_messages_arrive_in_order() -> None:
    one, other = await channels()
    messages: list[dict[str, Any]] = [{"beat": {"n": number}} for number in range(3)]
    for message in messages:
        one.send(message)
    assert [await other.receive() for _ in messages] == messages
    one.close()
    assert await other.receive() is None
    other.close()


async def test_a_large_message_arrives_whole() -> None:
    one, other = await channels()
    message = {"config": "x" * 5_000_000}
    one.send(message)
    assert await other.receive() == message
    one.close()
    other.close()


async def test_half_a_message_is_an_end() -> None:
    ours, theirs = descriptor_pair()
    channel = await Channel.of(ours)
    theirs.send(json.dumps({"ready": 1}).encode())
    theirs.close()
    assert await channel.receive() is None
    channel.close()


async def test_other_bytes_are_an_end() -> None:
    ours, theirs = descriptor_pair()
    channel = await Channel.of(ours)
    theirs.send(b"\xff\n[]\n")
    assert await channel.receive() is None
    assert await channel.receive() is None
    theirs.close()
    channel.close()


async def test_a_message_after_the_end_is_dropped() -> None:
    one, other = await channels()
    other.close()
    assert await one.receive() is None
    for _ in range(3):
        one.send({"beat": {}})
        await asyncio.sleep(0)
    await one.flush()
    one.close()
