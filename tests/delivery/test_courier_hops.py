"""The courier with next hops over real sockets: hanging, dead, refusing, back again."""

from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery import Delivery, Route
from aiosmtpd.server import Server
from tests.delivery.hops import HANG, Script, Taking, scripted, serving
from tests.delivery.support import QUICK, counts, send, until as wait_until
from tests.net.support import aside, free_port, until

pytestmark = pytest.mark.asyncio


def route(url: str, match: str = "*", **options: Any) -> Route:
    return Route(url, match, **{"retry": QUICK, **options})


class Front:
    """The server under test, as :func:`send` wants it."""

    def __init__(self, server: Server) -> None:
        address = server.addresses[0]
        self.hostname, self.port = address[0], int(address[1])

    async def send(self, *recipients: str, **keywords: Any) -> str:
        return await aside(send, self, *recipients, **keywords)


async def test_a_hanging_hop_delays_no_other(tmp_path: Path) -> None:
    hop, script = Taking(), Script(MAIL=HANG)
    async with scripted(script) as slow, serving(hop) as good:
        routes = (
            route(f"smtp://{slow}", "*@slow.test", name="slow", concurrency=3),
            route(f"smtp://{good}", name="good"),
        )
        handler = Delivery(tmp_path / "spool", routes, grace=0.1)
        async with Server(handler) as server:
            front = Front(server)
            for _ in range(20):
                assert (await front.send("bo@slow.test")).startswith("250 2.0.0 OK queued")
            for _ in range(20):
                await front.send("bo@good.test")
            await until(lambda: len(hop.envelopes) == 20)
            assert (await aside(counts, handler)).routes["slow"].waiting == 20
            assert sum(command.startswith("MAIL") for command in script.commands) <= 3


async def test_a_hop_that_comes_back(tmp_path: Path) -> None:
    port = free_port()
    handler = Delivery(tmp_path / "spool", [route(f"smtp://127.0.0.1:{port}")])
    hop = Taking()
    async with Server(handler) as server:
        for number in range(8):
            await Front(server).send(f"bo-{number}@b.test")
        async with Server(hop, listen=f"127.0.0.1:{port}", extensions="all"):
            await until(lambda: len(hop.envelopes) == 8)
    assert {envelope.rcpt_tos[0] for envelope in hop.envelopes} == {
        f"bo-{number}@b.test" for number in range(8)
    }


async def test_a_mailbox_server_refuses_one(tmp_path: Path) -> None:
    refusals = {"cy@b.test": "550 5.1.1 No such user", "di@b.test": "450 4.2.2 Mailbox full"}
    hop, post = Taking(refusals), Taking()
    async with serving(hop, "lmtp") as place, serving(post) as relay:
        one = route(f"lmtp://{place}", bounce=f"smtp://{relay}", name="box")
        handler = Delivery(tmp_path / "spool", [one])
        async with Server(handler) as server:
            await Front(server).send("bo@b.test", "cy@b.test", "di@b.test")
            await until(lambda: bool(hop.envelopes and post.envelopes))
            del hop.refusals["di@b.test"]  # type: ignore[attr-defined]
            await until(lambda: len(hop.envelopes) == 2)
            assert (await aside(counts, handler)).dead == 1
    assert [envelope.rcpt_tos for envelope in hop.envelopes] == [["bo@b.test"], ["di@b.test"]]
    assert (post.envelope.mail_from, post.envelope.rcpt_tos) == ("<>", ["ann@a.test"])
    assert b"rfc822; cy@b.test" in post.content
    assert b"550 5.1.1 No such user" in post.content


async def test_the_envelope_reaches_the_next_hop(tmp_path: Path) -> None:
    hop = Taking()
    content = "Subject: grüße\r\n\r\n.\r\nx\r\n".encode()
    async with serving(hop) as place:
        handler = Delivery(tmp_path / "spool", [route(f"smtp://{place}")])
        async with Server(handler, extensions="all") as server:
            options = ["BODY=8BITMIME", "SMTPUTF8", "ENVID=Q1"]
            await Front(server).send(
                "bo@b.test", content=content, options=options, rcpt_options=["NOTIFY=FAILURE"]
            )
            await until(lambda: bool(hop.envelopes))
    assert {"BODY=8BITMIME", "SMTPUTF8", "ENVID=Q1"} <= set(hop.envelope.mail_options)
    assert "NOTIFY=FAILURE" in hop.envelope.rcpt_options
    assert hop.content.startswith(b"Received: from client.test ")
    assert hop.content.endswith(content)


async def test_direct_replies_of_a_real_hop(tmp_path: Path) -> None:
    hop = Taking({"cy@b.test": "550 5.1.1 No such user"})
    async with serving(hop) as place:
        one = route(f"smtp://{place}", mode="direct", fallback=None)
        async with Server(Delivery(tmp_path / "spool", [one])) as server:
            front = Front(server)
            assert (await front.send("bo@b.test")).startswith("250 2.0.0 OK delivered as")
            assert await front.send("cy@b.test") == "550 5.1.1 No such user"
    assert hop.envelope.rcpt_tos == ["bo@b.test"]


async def test_two_servers_in_a_circle_stop(tmp_path: Path) -> None:
    port = free_port()
    one = route(f"smtp://127.0.0.1:{port}")
    handler = Delivery(tmp_path / "spool", [one])
    async with Server(handler, listen=f"127.0.0.1:{port}", max_hops=10) as server:
        await Front(server).send("bo@b.test")
        await aside(wait_until, lambda: counts(handler).dead == 1)
        assert (await aside(counts, handler)).messages == 1
