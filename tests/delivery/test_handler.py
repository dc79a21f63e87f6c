"""``Delivery`` over real sockets: replies, the arrival, and nothing left behind."""

import asyncio
import logging
import os
import smtplib
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.controller import Controller
from aiosmtpd.delivery import Delivery, Item, Later, Never, handler as module
from aiosmtpd.delivery.item import Full, Results, TooLarge
from aiosmtpd.delivery.spool import Spool
from aiosmtpd.server import Server
from aiosmtpd.smtp import AuthResult
from tests.client import Client
from tests.conftest import Certificates
from tests.delivery.support import (
    MESSAGE,
    Hanging,
    Place,
    counts,
    delivering,
    messages,
    route,
    send,
    until,
    until_left,
)
from tests.net.test_streaming import WAYS, Send, begin

LARGE = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 10_000


def large_files(folder: Path) -> list[str]:
    return os.listdir(folder / "spool" / "large")


@WAYS
@pytest.mark.parametrize("content", [b"Subject: x\r\n\r\n.\r\n", b"", LARGE], ids=len)
def test_all_sizes_by_data_and_chunks(tmp_path: Path, send: Send, content: bytes) -> None:
    place = Place()
    with delivering(tmp_path, route(place)) as (handler, controller):
        with Client(controller.port) as client:
            begin(client)
            reply = send(client, content)
            item, stored = place.next()
            assert reply == f"250 2.0.0 OK queued as {item.id}\r\n".encode()
            assert stored.partition(b" +0000\r\n")[2] == content
        until_left(handler, messages=0)
        assert large_files(tmp_path) == []


def test_the_arrival_has_all_facts(tmp_path: Path, certificates: Certificates) -> None:
    def authenticator(*_: Any) -> AuthResult:
        return AuthResult(success=True, auth_data=_[-1])

    place = Place()
    handler = Delivery(tmp_path / "spool", [route(place)])
    with Controller(
        handler,
        "127.0.0.1",
        0,
        server_hostname="mx.test",
        tls_context=certificates.server_context(),
        authenticator=authenticator,
        auth_required=True,
        extensions="all",
    ) as controller:
        with smtplib.SMTP("127.0.0.1", controller.port) as client:
            client.starttls(context=certificates.client_context())
            client.login("anna", "secret")
            client.ehlo("client.test")
            client.mail("ann@a.test", ["ENVID=Q1", "SMTPUTF8"])
            client.rcpt("bo@b.test", ["NOTIFY=NEVER", "ORCPT=rfc822;bo@c.test"])
            client.rcpt("cy@b.test")
            client.data(MESSAGE)
            port = client.sock.getsockname()[1]  # type: ignore[union-attr]
        arrival = place.item().arrival
    assert (arrival.client, arrival.port, arrival.helo) == ("127.0.0.1", port, "client.test")
    assert arrival.tls.startswith("TLSv1.3 TLS_")
    assert (arrival.user, arrival.hostname, arrival.protocol) == ("anna", "mx.test", "UTF8SMTPSA")
    assert arrival.mail_options == ("ENVID=Q1", "SMTPUTF8")
    assert arrival.rcpt_options == {"bo@b.test": ("NOTIFY=NEVER", "ORCPT=rfc822;bo@c.test")}
    assert arrival.smtp_utf8
    assert arrival.time > 1.7e9


def test_a_recipient_without_a_route(tmp_path: Path) -> None:
    routes = route("reject", "*@no.test", "no"), route(Place(), "*@*.test")
    with delivering(tmp_path, *routes) as (_, controller):
        refusal = "550 5.7.1 No mail for this recipient here"
        assert send(controller, "bo@no.test") == refusal
        assert send(controller, "bo@b.example") == refusal
        assert send(controller, "bo@yes.test").startswith("250")


def test_parameters_that_cannot_be_kept(tmp_path: Path) -> None:
    with delivering(tmp_path, route(Place())) as (_, controller), Client(controller.port) as client:
        client.ask(b"EHLO client.test")
        for option in b"HOLDFOR=60", b"BY=120;R":
            name = option.partition(b"=")[0]
            reply = client.ask(b"MAIL FROM:<a@b.test> " + option)
            assert reply == b"555 5.5.4 Parameter not supported here: " + name + b"\r\n"
        assert client.ask(b"MAIL FROM:<a@b.test> MT-PRIORITY=3 RET=HDRS")[:3] == b"250"
        option = b"RRVS=2014-04-03T23:01:00Z"
        assert client.ask(b"RCPT TO:<c@d.test> " + option)[:9] == b"555 5.5.4"
        assert client.ask(b"RCPT TO:<c@d.test> NOTIFY=NEVER")[:3] == b"250"


def test_a_recipient_that_a_subclass_lets_in(tmp_path: Path) -> None:
    class Open(Delivery):
        async def handle_RCPT(self, *args: Any) -> str:
            args[2].rcpt_tos.append(args[3])
            return "250 OK"

    with delivering(tmp_path, route(Place(), "*@b.test"), make=Open) as (_, controller):
        assert send(controller, "bo@c.test").startswith("550 5.7.1")
        assert send(controller, "bo@b.test").startswith("250")


@pytest.mark.parametrize("limits", [{"max_bytes": 1000}, {"min_free": 1 << 60}], ids=str)
def test_a_full_spool_says_so_at_mail(tmp_path: Path, limits: dict[str, int]) -> None:
    with delivering(tmp_path, route(Place(Later())), **limits) as (_, controller):
        for _ in range(5):
            with Client(controller.port) as client:
                client.ask(b"EHLO client.test")
                reply = client.ask(b"MAIL FROM:<a@b.test>")
                if reply.startswith(b"452"):
                    break
            send(controller, "bo@b.test", content=MESSAGE + b"x" * 500)
        assert reply == b"452 4.3.1 Insufficient system storage\r\n"


@WAYS
def test_a_client_that_goes_leaves_nothing(tmp_path: Path, send: Send) -> None:
    with delivering(tmp_path, route(Hanging()), grace=0) as (handler, controller):
        with Client(controller.port) as client:
            begin(client)
            if send.__name__ == "by_data":
                client.ask(b"DATA")
                client.send(LARGE)
            else:
                client.send(b"BDAT %d\r\n" % len(LARGE) + LARGE[:-1])
            until(lambda: large_files(tmp_path) != [])
        until(lambda: large_files(tmp_path) == [])
        assert counts(handler).messages == 0


@WAYS
def test_a_refused_message_leaves_nothing(tmp_path: Path, send: Send) -> None:
    handler = Delivery(tmp_path / "spool", [route(Hanging())], grace=0)
    with Controller(
        handler, "127.0.0.1", 0, data_size_limit=400_000, extensions="modern"
    ) as controller:
        for content in LARGE, LARGE[: LARGE.index(b"\n", 400_000) + 1]:
            with Client(controller.port) as client:
                begin(client)
                assert send(client, content)[:3] == b"552"
        assert counts(handler).messages == 0
        assert large_files(tmp_path) == []


def test_a_chunked_message_that_is_given_up(tmp_path: Path) -> None:
    with delivering(tmp_path, route(Hanging()), grace=0) as (handler, controller):
        with Client(controller.port) as client:
            begin(client)
            client.send(b"BDAT %d\r\n" % len(LARGE) + LARGE)
            assert client.reply()[:3] == b"250"
            assert client.ask(b"RSET")[:3] == b"250"
        assert counts(handler).messages == 0
        assert large_files(tmp_path) == []


def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck: list[Any] = []
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(Spool, "put_for", lambda _, receiver, **__: stuck.append(receiver))
    with delivering(tmp_path, route(Place())) as (_, controller):
        assert send(controller, "bo@b.test") == "451 4.3.0 Message not stored, try again later"
    assert [one.set_running_or_notify_cancel() for one in stuck] == [False]


def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[BaseException] = []
    place = Place(Later())
    with delivering(tmp_path, route(place), on_failure=lost.append) as (handler, controller):
        send(controller, "bo@b.test")
        assert handler.failed is None

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("aiosmtpd.delivery.large.sync_file", fail)
        assert send(controller, "bo@b.test", content=LARGE).startswith("451 4.3.0")
        until(lambda: lost != [])
        monkeypatch.undo()
        for _ in range(2):
            with Client(controller.port) as client:
                client.ask(b"EHLO client.test")
                assert client.ask(b"MAIL FROM:<a@b.test>")[:9] == b"451 4.3.0"
    assert len(lost) == 1
    assert handler.failed is not None
    assert messages(caplog).count("The spool has failed, a message is refused") == 2
    assert large_files(tmp_path) == []


def test_a_locked_spool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with delivering(tmp_path, route(Place())):
        other = Delivery(tmp_path / "spool", [route(Place())])
        with pytest.raises(Exception, match="is in use by"):
            Controller(other, "127.0.0.1", 0).start()


async def test_the_first_message_starts_it(tmp_path: Path) -> None:
    place = Place()
    handler = Delivery(tmp_path / "spool", [route(place)])

    class Wrapped:
        # A program that wraps a handler and knows nothing of open() and close().
        def __getattr__(self, name: str) -> Any:
            return getattr(handler, name)

        def __dir__(self) -> list[str]:
            return dir(handler)

    with Controller(Wrapped(), "127.0.0.1", 0) as controller:
        assert place.opened == 0
        assert (await asyncio.to_thread(send, controller, "bo@b.test")).startswith("250")
        place.next()
    await handler.close()
    assert (place.opened, place.closed) == (1, 1)


async def test_servers_share_a_handler(tmp_path: Path) -> None:
    place = Place()
    handler = Delivery(tmp_path / "spool", [route(place)])
    async with handler:
        async with Server(handler) as server, Server(handler):
            assert server.addresses[0][0] == "127.0.0.1"
        assert place.closed == 0
        async with Server(handler):
            pass
        assert place.closed == 0
    assert place.closed == 1


def lmtp(handler: Delivery, *recipients: bytes) -> list[bytes]:
    """Send a message by LMTP; return the reply to each recipient."""

    def talk(port: int) -> list[bytes]:
        with Client(port) as client:
            client.ask(b"LHLO client.test")
            client.ask(b"MAIL FROM:<ann@a.test>")
            for recipient in recipients:
                address, _, options = recipient.partition(b" ")
                assert client.ask(b"RCPT TO:<%s> %s" % (address, options))[:3] == b"250"
            client.ask(b"DATA")
            client.send(MESSAGE + b".\r\n")
            return [client.reply() for _ in recipients]

    async def serve() -> list[bytes]:
        async with Server(handler, listen="lmtp://127.0.0.1:0", extensions="all") as server:
            return await asyncio.to_thread(talk, int(server.addresses[0][1]))

    return asyncio.run(serve())


def test_lmtp_clients_get_a_reply_each(tmp_path: Path) -> None:
    place = Place()
    with delivering(tmp_path, route(place)) as (handler, _):
        replies = lmtp(handler, b"bo@b.test", b"cy@b.test")
        assert replies == [f"250 2.0.0 OK queued as {place.item().id}\r\n".encode()] * 2


# Directly.


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (None, "250 2.0.0 OK delivered as "),
        (Never("550 5.1.1 No such user"), "550 5.1.1 No such user"),
        (TooLarge(5), "552 5.3.4 Message too large: the limit is 5 bytes"),
        (Later("busy", reply="451 4.4.1 Soon"), "451 4.4.1 Soon"),
        (Later("busy"), "451 4.3.0 "),
        (Full(), "452 4.3.1 "),
        (OSError("down"), "451 4.4.1 "),
    ],
    ids=repr,
)
@pytest.mark.parametrize("content", [MESSAGE, LARGE], ids=len)
def test_direct_replies(tmp_path: Path, answer: Any, reply: str, content: bytes) -> None:
    one = route(Place(answer), mode="direct", fallback=None)
    with delivering(tmp_path, one) as (handler, controller):
        assert send(controller, "bo@b.test", content=content).startswith(reply)
        assert counts(handler).messages == 0
        assert large_files(tmp_path) == []


@pytest.mark.parametrize("content", [MESSAGE, LARGE], ids=len)
def test_a_direct_route_falls_back(tmp_path: Path, content: bytes) -> None:
    ids: list[str] = []

    def note(item: Item) -> Results:
        ids.append(item.id)
        return dict.fromkeys(item.recipients, Later()) if len(ids) == 1 else None

    place = Place(note)
    with delivering(tmp_path, route(place, mode="direct")) as (_, controller):
        reply = send(controller, "bo@b.test", content=content)
        assert [place.next()[1], place.next()[1]][0].endswith(content)
    assert reply == f"250 2.0.0 OK queued as {ids[0]}"
    assert ids[0] == ids[1]


def test_a_direct_hop_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    one = route(Hanging(), mode="direct", fallback=None)
    with delivering(tmp_path, one, grace=0) as (_, controller):
        assert send(controller, "bo@b.test").startswith("451 4.4.1")


def test_a_direct_hop_that_takes_some(tmp_path: Path) -> None:
    no_user = {"cy@b.test": Never("550 5.1.1 No such user")}
    place = Place(no_user, no_user)
    with delivering(tmp_path, route(place, mode="direct")) as (handler, controller):
        # One reply stands for both: the server is responsible for the one that failed.
        assert send(controller, "bo@b.test", "cy@b.test").startswith("250 2.0.0 OK queued as")
        assert place.item().recipients == ("bo@b.test", "cy@b.test")
        assert place.item().recipients == ("cy@b.test",)
        until_left(handler, dead=1)


def test_lmtp_clients_get_direct_results(tmp_path: Path) -> None:
    failures = {"cy@b.test": Never("550 5.1.1 No such user"), "di@b.test": Later()}
    direct = route(Place(failures), mode="direct", fallback=None)
    handler = Delivery(tmp_path / "spool", [direct])
    replies = lmtp(handler, b"bo@b.test", b"cy@b.test", b"di@b.test")
    assert replies[0].startswith(b"250 2.0.0 OK delivered as")
    assert replies[1:] == [
        b"550 5.1.1 No such user\r\n",
        b"451 4.3.0 Delivery has failed for now, try again later\r\n",
    ]


def test_direct_recipients_come_separately(tmp_path: Path) -> None:
    routes = route(Place(), "*@b.test", "b", mode="direct"), route(Place(), "*", "c")
    with delivering(tmp_path, *routes) as (_, controller):
        assert send(controller, "bo@b.test", "cy@c.test").startswith("452 4.5.3")
        assert send(controller, "cy@c.test", "bo@b.test").startswith("452 4.5.3")
        assert send(controller, "bo@b.test", "di@b.test").startswith("250")


def test_the_log_has_the_queue_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mail.log")
    place = Place()
    with delivering(tmp_path, route(place)) as (handler, controller):
        queue_id = send(controller, "bo@b.test").rpartition(" ")[2]
        content = place.next()[1]
        until_left(handler, messages=0)
    text = messages(caplog, logging.INFO)
    assert f" with ESMTP id {queue_id}\r\n".encode() in content
    assert f"OK queued as {queue_id}" in text
    assert f"{queue_id} delivered by route app to ('bo@b.test',)" in text


def test_a_subclass_lets_two_next_hops_in(tmp_path: Path) -> None:
    class Open(Delivery):
        async def handle_RCPT(self, *args: Any) -> str:
            args[2].rcpt_tos.append(args[3])
            return "250 OK"

    routes = (
        route(Place(Never("550 5.1.1 No such user")), "*@d.test", "direct", mode="direct"),
        route(Place(), "*@s.test", "spool"),
    )
    with delivering(tmp_path, *routes, make=Open) as (handler, controller):
        assert send(controller, "bo@d.test", "cy@s.test").startswith("250")
        # One reply was for both: the spool must have the failure of one.
        until(lambda: counts(handler).routes.keys() == {"direct"})
        assert counts(handler).dead == 1


@pytest.mark.parametrize("mode", ["spool", "direct"])
def test_no_place_sees_recipients_of_another(tmp_path: Path, mode: Any) -> None:
    ours, theirs = Place(), Place()
    routes = route(ours, "*@b.test", "ours", mode=mode), route(theirs, "*@d.test", "theirs")
    with delivering(tmp_path, *routes) as (handler, _):
        lmtp(handler, b"bo@b.test NOTIFY=NEVER", b"cy@d.test NOTIFY=DELAY")
        assert ours.item().arrival.rcpt_options == {"bo@b.test": ("NOTIFY=NEVER",)}
        assert theirs.item().arrival.rcpt_options == {"cy@d.test": ("NOTIFY=DELAY",)}
