"""``consume()`` against real servers."""

import asyncio
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from nats.aio.subscription import Subscription
from nats.js.api import RetentionPolicy

from aiosmtpd.delivery.consumer import ConsumedMail, consume
from aiosmtpd.delivery.item import Item, Later, Misconfigured, Never
from aiosmtpd.delivery.outlets.nats import NatsOutlet, from_url
from tests.delivery.nats_support import SERVERS, SUBJECT, NatsServer, mail, running


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
    with running(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def outlet(server: NatsServer) -> AsyncIterator[NatsOutlet]:
    await server.add_stream()
    outlet = from_url(server.url, fsync=True)
    yield outlet
    await outlet.close()


def mails(server: NatsServer, **options: Any) -> aclosing[AsyncGenerator[ConsumedMail, None]]:
    return aclosing(consume(server.url, **{"durable": "app", "timeout": 1.0, **options}))


async def first(server: NatsServer, **options: Any) -> ConsumedMail:
    """Return the next mail, acknowledged."""
    async with mails(server, **options) as found:
        async for one in found:
            async with one:
                pass
            return one
    raise AssertionError


async def left(server: NatsServer) -> list[str]:
    """Return the subjects of all messages that the stream still has."""
    return [message.subject for message in await server.stored(">")]


@pytest.mark.parametrize("size", [400, 3_000_000])
async def test_a_mail_comes_as_it_was_put(
    server: NatsServer, outlet: NatsOutlet, size: int
) -> None:
    item = mail(size=size)
    await outlet.put(item)
    one = await first(server)
    assert one.octets == item.content
    assert b"".join([piece async for piece in one.chunks()]) == item.content
    assert (one.id, one.sender, one.recipients) == (item.id, item.sender, item.recipients)
    assert (one.arrival, one.size, one.attempts) == (item.arrival, size, 0)
    assert one.message["Received"] == "from laptop.example.org"
    assert await left(server) == []


async def test_each_mail_in_a_task_of_its_own(server: NatsServer, outlet: NatsOutlet) -> None:
    for number in range(4):
        await outlet.put(mail(str(number)))
    seen = []
    async with asyncio.timeout(10), mails(server) as found:

        async def use_one() -> None:
            async with await anext(found) as one:
                seen.append(one.id)

        await asyncio.create_task(use_one())
        await asyncio.create_task(use_one())
        # In Python 3.11, in a task of its own too.
        for _ in range(2):
            async with await asyncio.wait_for(anext(found), 10) as one:
                seen.append(one.id)
    assert seen == ["0", "1", "2", "3"]


async def test_mails_come_in_order(server: NatsServer, outlet: NatsOutlet) -> None:
    names = [str(number) for number in range(50)]
    for name in names:
        await outlet.put(mail(name))
    seen = []
    async with mails(server, concurrency=7) as found:
        async for one in found:
            async with one:
                seen.append(one.id)
            if len(seen) == len(names):
                break
    assert seen == names
    assert await left(server) == []


async def test_it_waits_for_mail(server: NatsServer, outlet: NatsOutlet) -> None:
    waiting = asyncio.create_task(first(server))
    await asyncio.wait([waiting], timeout=0.2)
    assert not waiting.done()
    await outlet.put(mail())
    assert (await waiting).id == "7F3A"


async def test_no_more_than_concurrency_are_in_work(server: NatsServer, outlet: NatsOutlet) -> None:
    for number in range(30):
        await outlet.put(mail(str(number)))
    open_now = most = done = 0
    finished = asyncio.Event()

    async def work(one: ConsumedMail) -> None:
        nonlocal open_now, most, done
        async with one:
            open_now += 1
            most = max(most, open_now)
            await asyncio.sleep(0.01)
            open_now -= 1
        done += 1
        if done == 30:
            finished.set()

    async def spread() -> None:
        async with mails(server, concurrency=5) as found, asyncio.TaskGroup() as group:
            async for one in found:
                group.create_task(work(one))

    spreading = asyncio.create_task(spread())
    await finished.wait()
    spreading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spreading
    assert most == 5


@pytest.mark.engines
async def test_an_exception_lets_a_mail_come_again(
    server: NatsServer, outlet: NatsOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    await outlet.put(mail())
    attempts = []
    async with mails(server) as found:
        async for one in found:
            async with one:
                attempts.append(one.attempts)
                if len(attempts) == 1:
                    raise ZeroDivisionError
                if len(attempts) == 2:
                    raise Later("busy", after=0.01)
            if len(attempts) == 3:
                break
    assert attempts == [0, 1, 2]
    assert "try 1 failed, the next one comes in 1 s: ZeroDivisionError" in caplog.text
    assert await left(server) == []


async def test_never_makes_a_dead_letter(
    server: NatsServer, outlet: NatsOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    item = mail(size=1_200_000)
    await outlet.put(item)
    await outlet.put(mail("second"))
    async with mails(server) as found:
        async for one in found:
            async with one:
                if one.id != "second":
                    raise Never("550 5.1.1 Kein Empfänger")
            if one.id == "second":
                break
    assert (await left(server)) == [*(f"{SUBJECT}.blob.7F3A.{n}" for n in range(3)), "mail.in.dead"]
    (dead,) = await server.stored("mail.in.dead")
    assert dead.headers["Aiosmtpd-Dead"] == "550 5.1.1 Kein Empf\\xe4nger"
    assert "given up at try 1" in caplog.text
    url = server.url + ".dead"
    async with aclosing(consume(url, durable="dead", dead=None)) as found:
        async for one in found:
            async with one:
                assert one.octets == item.content
                assert one.sender == item.sender
            break
    assert await left(server) == []


async def test_the_last_try_makes_a_dead_letter(server: NatsServer, outlet: NatsOutlet) -> None:
    await outlet.put(mail())
    tries = 0
    async with mails(server, tries=3) as found:
        async for one in found:
            async with one:
                tries += 1
                raise Later("no", after=0.01)
            if tries == 3:
                break
    assert await left(server) == ["mail.in.dead"]


async def test_without_dead_letters_a_mail_is_logged(
    server: NatsServer, outlet: NatsOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    await outlet.put(mail())
    async with mails(server, dead=None) as found:
        async for one in found:
            async with one:
                raise Never
            break
    assert await left(server) == []
    assert "mail 7F3A: given up at try 1" in caplog.text


@pytest.mark.engines
async def test_a_dead_letter_that_finds_no_room_is_kept(
    server: NatsServer, outlet: NatsOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    await outlet.put(mail())
    async with server.jetstream() as jetstream:
        config = (await jetstream.stream_info("MAIL")).config
        await jetstream.update_stream(config.evolve(max_msgs=1))
    attempts = []
    async with mails(server) as found:
        async for one in found:
            async with one:
                attempts.append(one.attempts)
                if len(attempts) == 1:
                    raise Never
            if len(attempts) == 2:
                break
    assert "no dead letter, it comes again" in caplog.text


async def test_a_message_of_another_program_is_a_dead_letter(
    server: NatsServer, outlet: NatsOutlet
) -> None:
    async with server.jetstream() as jetstream:
        await jetstream.publish(SUBJECT, b"hello")
        await jetstream.publish(SUBJECT, b"{", headers={"Aiosmtpd-Envelope": "[]"})
    await outlet.put(mail())
    assert (await first(server)).id == "7F3A"
    dead = await server.stored("mail.in.dead")
    assert [message.data for message in dead] == [b"hello", b"{"]
    assert all("Not a mail of ours" in message.headers["Aiosmtpd-Dead"] for message in dead)


@pytest.mark.parametrize("fault", ["changed", "missing"])
async def test_a_damaged_chunk_is_not_handed_over(
    server: NatsServer, outlet: NatsOutlet, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    await outlet.put(mail(size=1_200_000))
    await outlet.put(mail("second"))
    (stored, _) = await server.stored()
    async with server.jetstream() as jetstream:
        await jetstream.delete_msg("MAIL", 2 if fault == "missing" else stored.seq)
        if fault == "changed":
            chunk = await jetstream.publish(f"{SUBJECT}.blob.7F3A.1", bytes(524288))
            changed = re.sub(b'"sequence":2,', b'"sequence":%d,' % chunk.seq, stored.data)
            headers = {name: text for name, text in stored.headers.items() if name[:4] == "Aios"}
            await jetstream.publish(SUBJECT, changed, headers=headers)
    async with mails(server, tries=1) as found:
        ids = []
        async for one in found:
            async with one:
                ids.append(one.id)
            await outlet.put(mail("third"))
            if one.id == "third":
                break
    assert ids == ["second", "third"]
    assert "given up at try 1: Damaged('chunk 1 " in caplog.text
    assert len(await server.stored("mail.in.dead")) == 1


async def test_chunks_stay_in_a_stream_that_keeps_mail(server: NatsServer) -> None:
    await server.add_stream(retention=RetentionPolicy.LIMITS)
    outlet = from_url(server.url, fsync=True)
    await outlet.put(mail(size=1_200_000))
    await outlet.close()
    for durable in "one", "two":
        assert (await first(server, durable=durable)).size == 1_200_000


@pytest.mark.engines
async def test_the_deadline_is_renewed_inside_the_block(
    server: NatsServer, outlet: NatsOutlet
) -> None:
    await outlet.put(mail())
    seen = []
    async with mails(server, ack_wait=0.6) as found:
        async for one in found:
            async with one:
                seen.append(one.id)
                await asyncio.sleep(1.5)
            await outlet.put(mail("second"))
            if len(seen) == 2:
                break
    assert seen == ["7F3A", "second"]


async def test_a_mail_without_a_block_comes_again(server: NatsServer, outlet: NatsOutlet) -> None:
    await outlet.put(mail())
    attempts = []
    async with mails(server, ack_wait=0.3, concurrency=1) as found:
        async for one in found:
            attempts.append(one.attempts)
            if len(attempts) == 2:
                break
    assert attempts == [0, 1]


async def test_cancellation_gives_mails_back(server: NatsServer, outlet: NatsOutlet) -> None:
    for number in range(3):
        await outlet.put(mail(str(number)))
    inside = asyncio.Event()

    async def work() -> None:
        async for one in consume(server.url, durable="app", ack_wait=60):
            async with one:
                inside.set()
                await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await inside.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    async with asyncio.timeout(10):
        again = [await first(server, concurrency=1) for _ in range(3)]
    assert sorted(one.id for one in again) == ["0", "1", "2"]


async def test_the_last_block_ends_it(
    server: NatsServer, outlet: NatsOutlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py can swallow a cancellation: its ``asyncio.wait_for`` does so in Python 3.11."""
    draining = asyncio.Event()

    async def drain(_: Subscription) -> None:
        draining.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(Subscription, "drain", drain)
    await outlet.put(mail("0"))
    await outlet.put(mail("1"))
    async with asyncio.timeout(10), mails(server) as found:
        one, two = await anext(found), await anext(found)
        async with two:
            async with one:
                await found.aclose()
            await draining.wait()


@pytest.mark.engines
async def test_a_killed_consumer_loses_nothing(server: NatsServer, outlet: NatsOutlet) -> None:
    await outlet.put(mail())
    program = (
        "import asyncio, sys\n"
        "from aiosmtpd.delivery.consumer import consume\n"
        "async def main():\n"
        "    async for mail in consume(sys.argv[1], durable='app', ack_wait=1):\n"
        "        async with mail:\n"
        "            print(mail.id, flush=True)\n"
        "            await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, server.url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"7F3A"
    process.kill()
    await process.wait()
    one = await first(server)
    assert (one.id, one.attempts) == ("7F3A", 1)


async def test_a_restart_of_the_server_is_survived(server: NatsServer, outlet: NatsOutlet) -> None:
    seen: list[str] = []
    stored = asyncio.Event()

    async def work() -> None:
        async with mails(server) as found:
            async for one in found:
                async with one:
                    if not seen:
                        server.kill()
                        server.start()
                    seen.append(one.id)
                if "last" in seen:
                    return

    await outlet.put(mail("first"))
    working = asyncio.create_task(work())
    while not stored.is_set():
        try:
            if seen:
                await outlet.put(mail("last"))
                stored.set()
        except Later:
            pass
        await asyncio.sleep(0.02)
    await working
    assert list(dict.fromkeys(seen)) == ["first", "last"]
    assert await left(server) == []


async def test_it_waits_for_a_server_that_is_away(
    server: NatsServer, outlet: NatsOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    await outlet.put(mail())
    server.kill()
    waiting = asyncio.create_task(first(server))
    await asyncio.wait([waiting], timeout=0.3)
    assert "cannot reach" in caplog.text
    assert ": connection refused" in caplog.text
    server.start()
    assert (await waiting).id == "7F3A"


@pytest.mark.engines
async def test_a_hanging_server_is_replaced(
    server: NatsServer, outlet: NatsOutlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.intake._HEARTBEAT", 0.2)
    monkeypatch.setattr("aiosmtpd.delivery.intake._SILENCE", 0.6)
    await outlet.put(mail("first"))
    seen = []
    async with mails(server) as found:
        async for one in found:
            async with one:
                seen.append(one.id)
            if len(seen) == 2:
                break
            server.stop()
            asyncio.get_running_loop().call_later(1.5, server.go_on)
            asyncio.get_running_loop().call_later(1.6, _put_later, outlet, mail("second"))
    assert seen == ["first", "second"]


_running: set[asyncio.Task[None]] = set()


def _put_later(outlet: NatsOutlet, item: Item) -> None:
    async def put() -> None:
        for _ in range(50):
            try:
                await outlet.put(item)
                return
            except Later:
                await asyncio.sleep(0.05)

    task = asyncio.get_running_loop().create_task(put())
    _running.add(task)
    task.add_done_callback(_running.discard)


async def test_a_consumer_that_was_deleted_is_made_anew(
    server: NatsServer, outlet: NatsOutlet
) -> None:
    await outlet.put(mail("first"))
    async with mails(server) as found:
        async for one in found:
            async with one:
                pass
            if one.id == "second":
                break
            async with server.jetstream() as jetstream:
                await jetstream.delete_consumer("MAIL", "app")
            await outlet.put(mail("second"))
    assert await left(server) == []


async def test_misconfigurations_have_one_line(server: NatsServer) -> None:
    async def fault(url: str = server.url, **options: Any) -> str:
        with pytest.raises(Misconfigured) as refused:
            async for _ in consume(url, **{"durable": "app", **options}):
                pass
        return str(refused.value)

    assert "no stream takes the subject mail.in: nats stream add" in await fault()
    await server.add_stream(subjects=[SUBJECT])
    assert "no stream takes the dead letters at mail.in.dead" in await fault()
    async with server.jetstream() as jetstream:
        await jetstream.add_consumer("MAIL", durable_name="push", deliver_subject="x")
    assert "choose another durable name" in await fault(durable="push", dead=None)
    assert "the consumer app cannot be made: " in await fault(dead=None)
