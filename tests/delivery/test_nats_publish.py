"""The outlet of NATS JetStream against real servers."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

from aiosmtpd.delivery.item import Misconfigured, TooLarge
from aiosmtpd.delivery.jetstream import SPARE, header_size, headers_of
from aiosmtpd.delivery.outlets import make_outlet
from aiosmtpd.delivery.outlets.nats import NatsOutlet, from_url
from aiosmtpd.testing.outlets import check_outlet
from tests.delivery.nats_support import (
    DEBIAN,
    SERVERS,
    SUBJECT,
    NatsServer,
    RealNats,
    mail,
    running,
)

MAX_PAYLOAD = 1 << 20


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
    with running(request.param, tmp_path) as server:
        yield server


@asynccontextmanager
async def outlet_of(server: NatsServer, **options: Any) -> AsyncIterator[NatsOutlet]:
    outlet = from_url(server.url, reply_timeout=2.0, **options)
    await outlet.open()
    try:
        yield outlet
    finally:
        await outlet.close()


def real(folder: Path) -> AbstractContextManager[RealNats]:
    return cast(AbstractContextManager[RealNats], running(DEBIAN, folder))


async def test_a_message_is_stored_as_it_came(server: NatsServer) -> None:
    await server.add_stream()
    item = mail()
    async with outlet_of(server) as outlet:
        assert await outlet.put(item) is None
    (stored,) = await server.stored()
    assert stored.data == item.content
    assert stored.headers["Aiosmtpd-Id"] == stored.headers["Nats-Msg-Id"] == "7F3A"
    assert stored.headers["Nats-Expected-Stream"] == "MAIL"
    envelope = json.loads(stored.headers["Aiosmtpd-Envelope"])
    assert envelope["sender"] == "anna@example.org"
    assert envelope["recipients"] == ["bob@example.com", "zoë@example.com"]
    assert envelope["arrival"]["helo"] == "laptop"
    assert stored.headers["Aiosmtpd-Envelope"].isascii()


async def test_the_same_id_is_stored_once(server: NatsServer) -> None:
    await server.add_stream()
    async with outlet_of(server) as outlet:
        await outlet.put(mail("A"))
        await outlet.put(mail("A"))
        await outlet.put(mail("B"))
    assert [one.headers["Aiosmtpd-Id"] for one in await server.stored()] == ["A", "B"]


async def test_other_recipients_of_an_id(server: NatsServer) -> None:
    await server.add_stream()
    first, second = mail("A"), attrs.evolve(mail("A"), recipients=("cy@example.com",))
    async with outlet_of(server) as outlet:
        # Two routes may lead to one stream: each has some recipients of a message.
        for item in first, second, first, second:
            await outlet.put(item)
    envelopes = [json.loads(one.headers["Aiosmtpd-Envelope"]) for one in await server.stored()]
    recipients = [envelope["recipients"] for envelope in envelopes]
    assert recipients == [list(first.recipients), ["cy@example.com"]]


async def test_two_subjects_of_a_stream(server: NatsServer) -> None:
    await server.add_stream()
    other = from_url(server.url.replace(SUBJECT, "mail.other"), reply_timeout=2.0)
    async with outlet_of(server) as outlet:
        for size in 100, 3_000_000:
            await outlet.put(mail(str(size), size=size))
            await other.put(mail(str(size), size=size))
    await other.close()
    for subject in SUBJECT, "mail.other":
        ids = [one.headers["Aiosmtpd-Id"] for one in await server.stored(subject)]
        assert ids == ["100", "3000000"]


async def test_three_megabytes_are_stored_in_chunks(server: NatsServer) -> None:
    await server.add_stream()
    item = mail(size=3_000_000)
    async with outlet_of(server) as outlet:
        await outlet.put(item)
    everything = await server.stored(">")
    assert b"".join(one.data for one in everything[:-1]) == item.content
    subjects = [one.subject for one in everything]
    assert subjects == [*(f"{SUBJECT}.blob.7F3A.{number}" for number in range(6)), SUBJECT]
    assert max(len(one.data) for one in everything) == 524288
    assert "Aiosmtpd-Blob" in everything[-1].headers
    assert json.loads(everything[-1].data)["size"] == 3_000_000


async def test_chunks_of_a_repeated_message_are_deleted(server: NatsServer) -> None:
    await server.add_stream()
    async with outlet_of(server) as outlet:
        await outlet.put(mail(size=1_200_000))
        await outlet.put(mail(size=1_200_000))
    assert len(await server.stored(">")) == 3 + 1


async def test_chunks_may_have_a_stream_of_their_own(server: NatsServer) -> None:
    await server.add_stream(subjects=[SUBJECT])
    await server.add_stream(name="CHUNKS", subjects=["chunks.>"])
    async with outlet_of(server, blob="chunks") as outlet:
        await outlet.put(mail(size=1_200_000))
    assert len(await server.stored(">")) == 1
    assert len(await server.stored(">", "CHUNKS")) == 3


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_headers_count_into_max_payload(server: NatsServer, more: int) -> None:
    await server.add_stream()
    headers = header_size(headers_of(mail(), "MAIL"))
    item = mail(size=MAX_PAYLOAD - headers - SPARE + more)
    async with outlet_of(server) as outlet:
        await outlet.put(item)
        await outlet.put(mail("next"))
    chunks = 2 if more > 0 else 0
    assert len(await server.stored(">")) == chunks + 2


async def test_without_a_stream_for_chunks_it_is_too_large(server: NatsServer) -> None:
    await server.add_stream(subjects=[SUBJECT])
    async with outlet_of(server) as outlet:
        with pytest.raises(TooLarge) as refused:
            await outlet.put(mail(size=MAX_PAYLOAD))
        assert refused.value.reply.startswith("552 5.3.4")
        await outlet.put(mail(size=refused.value.limit))
        await outlet.put(mail("next"))


async def test_large_sets_the_size_from_which_chunks_are(server: NatsServer) -> None:
    await server.add_stream()
    async with outlet_of(server, large=100_000) as outlet:
        await outlet.put(mail("A", size=100_000))
        await outlet.put(mail("B", size=100_001))
    subjects = [one.subject for one in await server.stored(">")]
    assert subjects == [SUBJECT, f"{SUBJECT}.blob.B.0", SUBJECT]


async def test_a_streams_own_limit_counts_too(server: NatsServer) -> None:
    await server.add_stream(max_msg_size=10_000)
    async with outlet_of(server) as outlet:
        await outlet.put(mail(size=25_000))
    assert len(await server.stored(">")) == 3 + 1


async def test_forty_at_a_time_share_one_connection(server: NatsServer) -> None:
    await server.add_stream()
    outlet = from_url(server.url)
    await asyncio.gather(*(outlet.put(mail(str(number))) for number in range(40)))
    await outlet.close()
    assert len(await server.stored()) == 40


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"subjects": ["other"]}, "no stream takes the subject mail.in: nats stream add"),
        ({"storage": StorageType.MEMORY}, "in memory: make it anew with storage file"),
        ({"discard": DiscardPolicy.OLD}, "set its discard policy to new"),
        ({"retention": RetentionPolicy.INTEREST}, "with retention workqueue"),
        ({"max_msgs_per_subject": 10}, "remove max_msgs_per_subject"),
        ({"no_ack": True}, "set no_ack to false"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_open_refuses_an_unsafe_stream(
    server: NatsServer, changes: dict[str, Any], text: str
) -> None:
    await server.add_stream(**changes)
    outlet = from_url(server.url)
    with pytest.raises(Misconfigured, match=text) as refused:
        await outlet.open()
    assert "\n" not in str(refused.value)
    await outlet.close()


async def test_direct_mode_wants_replicas_or_fsync(server: NatsServer) -> None:
    await server.add_stream()
    outlet = from_url(server.url, mode="direct")
    with pytest.raises(Misconfigured, match=r"needs 3 replicas, stream MAIL has 1: .* fsync=True"):
        await outlet.open()
    await outlet.close()
    async with outlet_of(server, mode="direct", fsync=True) as outlet:
        await outlet.put(mail())


async def test_one_replica_without_fsync_is_warned_of(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    await server.add_stream()
    async with outlet_of(server):
        pass
    assert "a power cut at the server may lose" in caplog.text
    caplog.clear()
    async with outlet_of(server, fsync=True):
        pass
    assert caplog.text == ""


@pytest.mark.engines
async def test_open_says_that_jetstream_is_missing(tmp_path: Path) -> None:
    with real(tmp_path) as server:
        text = server.config.read_text()
        server.kill()
        server.config.write_text(text[: text.index("jetstream")])
        server.start()
        outlet = from_url(server.url)
        with pytest.raises(Misconfigured, match="no JetStream: start it with --jetstream"):
            await outlet.open()
        await outlet.close()


@pytest.mark.engines
async def test_user_and_password_of_the_url_are_used(tmp_path: Path) -> None:
    with real(tmp_path) as server:
        await server.add_stream()
        server.kill()
        users = 'authorization { user: "mail", password: "se:cret" }\n'
        server.config.write_text(users + server.config.read_text())
        server.start()
        url = server.url.replace("//", "//mail:se%3Acret@")
        outlet = from_url(url)
        await outlet.open()
        assert await outlet.put(mail()) is None
        assert "cret" not in repr(outlet)
        await outlet.close()
        outlet = from_url(server.url.replace("//", "//mail:wrong@"))
        with pytest.raises(
            ConnectionError, match=r"Authorization Violation|reset by peer"
        ) as refused:
            await outlet.open()
        assert "wrong" not in str(refused.value)
        await outlet.close()


async def test_it_keeps_the_contract_of_outlets(server: NatsServer) -> None:
    await server.add_stream()

    async def took() -> list[bytes]:
        return [await _whole(server, one) for one in await server.stored()]

    await check_outlet(
        make_outlet(f"{server.url}#reply_timeout=1&fsync=yes"),
        took,
        down=server.kill,
        up=server.start,
        timeout=2,
    )


async def _whole(server: NatsServer, message: Any) -> bytes:
    if "Aiosmtpd-Blob" not in message.headers:
        return bytes(message.data or b"")
    pieces = json.loads(message.data)["pieces"]
    async with server.jetstream() as jetstream:
        chunks = [await jetstream.get_msg("MAIL", piece["sequence"]) for piece in pieces]
    return b"".join(chunk.data or b"" for chunk in chunks)
