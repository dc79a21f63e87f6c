"""The outlet of a next hop, against hops that refuse, hang, break off and lie."""

import asyncio
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from aiosmtpd.delivery.item import Item, Later, Never, Results
from aiosmtpd.delivery.outlets import make_outlet
from tests.conftest import Certificates
from tests.delivery.hops import CLOSE, HANG, RESET, Script, item_of, scripted
from tests.net.support import free_port

WAIT = 0.15
"""Seconds that the outlet waits for a reply that does not come."""
HURRY: dict[str, Any] = {"reply_timeout": WAIT, "final_timeout": WAIT}


async def deliver(
    script: Script, item: Item | None = None, scheme: str = "smtp", **options: Any
) -> Results:
    async with scripted(script) as place:
        outlet = make_outlet(f"{scheme}://{place}", **options)
        await outlet.open()
        try:
            return await outlet.put(item or item_of("a@example.com", "b@example.com"))
        finally:
            await outlet.close()


def kinds(results: Results) -> dict[str, tuple[type[Exception], str]]:
    return {to.partition("@")[0]: (type(why), str(why)) for to, why in (results or {}).items()}


STEPS = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", [HANG, CLOSE, RESET], ids=["hang", "close", "reset"])
async def test_trouble_with_the_connection_is_later(step: str, fault: object) -> None:
    begin = time.monotonic()
    with pytest.raises(Later, match=r"^smtp://127\.0\.0\.1:\d+: .+"):
        await deliver(Script(**{step: fault}), **HURRY)
    assert time.monotonic() - begin < WAIT + 2


@pytest.mark.parametrize("step", STEPS)
async def test_421_is_later_at_each_step(step: str) -> None:
    with pytest.raises(Later, match=r"421 4\.3\.2 Going down"):
        await deliver(Script(**{step: "421 4.3.2 Going down"}))


@pytest.mark.parametrize("step", ["greeting", "EHLO"])
async def test_a_refused_session_is_later(step: str) -> None:
    with pytest.raises(Later, match=r"554 5\.7\.1 Go away"):
        await deliver(Script(**{step: "554 5.7.1 Go away", "HELO": "554 5.7.1 Go away"}))


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize(("reply", "kind"), [("550 5.7.1 No", Never), ("450 4.7.1 Wait", Later)])
async def test_the_first_digit_says_when(step: str, reply: str, kind: type[Exception]) -> None:
    results = await deliver(Script(**{step: reply}))
    assert kinds(results) == {"a": (kind, reply), "b": (kind, reply)}


@pytest.mark.parametrize("step", ["RCPT", "DATA", "."])
async def test_a_hop_that_wants_a_login_is_later(step: str) -> None:
    reply = "530 5.7.0 Authentication required"
    with pytest.raises(Later, match=reply):
        await deliver(Script(MAIL=reply))
    assert kinds(await deliver(Script(**{step: reply}))) == {
        "a": (Later, reply),
        "b": (Later, reply),
    }


@pytest.mark.parametrize("reply", ["999 what", "hello", "\x01\x02", "2", "250-never\r\nended"])
async def test_a_reply_that_is_not_smtp_is_later(reply: str) -> None:
    found = kinds(await deliver(Script(MAIL=reply)))
    assert {kind for kind, _ in found.values()} == {Later}


@pytest.mark.parametrize("scheme", ["smtp", "lmtp"])
@pytest.mark.parametrize(
    "steps", [{"DATA": "250 OK"}, {"RCPT": "250 OK\r\n250 OK"}], ids=["DATA", "RCPT"]
)
async def test_success_without_the_message_is_later(scheme: str, steps: dict[str, Any]) -> None:
    script = Script(**steps)
    found = kinds(await deliver(script, scheme=scheme))
    assert found == {"a": (Later, "250 OK"), "b": (Later, "250 OK")}
    # A hop that is one reply ahead takes the next command for mail data.
    assert script.message in (b"", b"QUIT\r\n")


async def test_a_hop_without_esmtp_gets_helo() -> None:
    script = Script(EHLO="502 no", HELO="250 hello")
    assert await deliver(script) is None
    assert script.commands[2] == "MAIL FROM:<sender@example.com>"


async def test_lmtp_has_no_helo() -> None:
    script = Script(LHLO="502 no", HELO="250 hello")
    with pytest.raises(Later, match="LHLO: 502 no"):
        await deliver(script, scheme="lmtp")
    assert [line.split()[0] for line in script.commands] == ["LHLO", "QUIT"]


async def test_a_421_for_a_recipient_ends_the_transaction() -> None:
    script = Script(RCPT=["550 5.1.1 No", "421 4.3.2 Going down"])
    with pytest.raises(Later, match="421"):
        await deliver(script)
    assert "DATA" not in script.commands


@pytest.mark.parametrize(
    ("reply", "kind"), [("552 Too many recipients", Later), ("552 5.2.2 Mailbox full", Never)]
)
async def test_552_may_mean_too_many_recipients(reply: str, kind: type[Exception]) -> None:
    results = await deliver(Script(RCPT=["250 OK", reply]))
    assert kinds(results) == {"b": (kind, reply)}


async def test_other_success_codes_are_success() -> None:
    script = Script(MAIL="251 fine", RCPT=["251 will forward", "252 perhaps"], **{".": "252 OK"})
    assert await deliver(script) is None


async def test_a_refusal_is_kept_if_the_last_reply_is_lost() -> None:
    script = Script(RCPT=["550 5.1.1 No", "250 OK"], **{".": CLOSE})
    found = kinds(await deliver(script))
    assert found["a"] == (Never, "550 5.1.1 No")
    assert found["b"][0] is Later


async def test_lost_replies_of_lmtp_are_later() -> None:
    # One reply for two recipients, and then nothing more.
    found = kinds(await deliver(Script(**{".": "250 OK"}), scheme="lmtp", **HURRY))
    assert {*found} == {"b"}
    assert found["b"][0] is Later
    found = kinds(await deliver(Script(**{".": "550 5.2.1 Gone\r\n421 Bye"}), scheme="lmtp"))
    assert found == {"a": (Never, "550 5.2.1 Gone"), "b": (Later, "421 Bye")}


async def test_the_last_reply_may_take_longer() -> None:
    async def slowly() -> str:
        await asyncio.sleep(0.6)
        return "250 OK"

    assert await deliver(Script(**{".": slowly}), reply_timeout=0.5, final_timeout=60.0) is None


async def test_a_reply_that_drips_has_one_deadline() -> None:
    async def drip() -> Any:
        for _ in range(100):
            writers[0].write(b"250-x\r\n")
            await asyncio.sleep(WAIT / 10)
        return HANG

    writers: list[asyncio.StreamWriter] = []

    class Dripping(Script):
        async def serve(self, reader: Any, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await super().serve(reader, writer)

    begin = time.monotonic()
    with pytest.raises(Later, match=r"no reply in time|timed out"):
        await deliver(Dripping(EHLO=drip), **HURRY)
    assert time.monotonic() - begin < 8 * WAIT


async def test_a_reply_without_an_end_is_not_kept() -> None:
    with pytest.raises(Later, match=r"without an end|Line too long"):
        await deliver(Script(EHLO=b"250-x\r\n" * 100_000))
    with pytest.raises(Later, match=r"without an end|Line too long"):
        await deliver(Script(EHLO=b"250-" + b"x" * 1_000_000), reply_timeout=30.0)


@pytest.mark.parametrize(
    ("reply", "kind"), [("552 5.3.4 Too large", Never), ("452 4.3.1 No room", Later)]
)
async def test_a_refusal_amid_the_message_counts(
    reply: str, kind: type[Exception], tmp_path: Path
) -> None:
    class Impatient(Script):
        async def _take(self, reader: Any, writer: asyncio.StreamWriter) -> None:
            # Reply and stop reading: the outlet can write no more.
            writer.write(f"{reply}\r\n".encode())
            await writer.drain()
            await reader.read(1000)
            writer.write_eof()
            await asyncio.Event().wait()

    path = tmp_path / "large"
    path.write_bytes(b"x" * 70 + b"\r\n" + b"y\r\n" * 4_000_000)
    item = item_of("a@example.com", content=path)
    found = kinds(await deliver(Impatient(), item, **HURRY))
    assert found == {"a": (kind, reply)}


async def test_the_text_of_a_reply_is_one_safe_line() -> None:
    script = Script(MAIL=b"550-5.7.1 first\r\n550 5.7.1 \x1b[31msecond\xff \x00\r\n")
    found = kinds(await deliver(script))
    assert found["a"] == (Never, "550 5.7.1 first 5.7.1 ?[31msecond\ufffd ?")


async def test_eight_bit_mail_that_the_hop_cannot_take() -> None:
    content = "a: b\r\n\r\n\xe9\r\n".encode()
    declared = item_of("a@example.com", content=content, mail_options=("BODY=8BITMIME",))
    with pytest.raises(Never, match=r"5\.6\.3"):
        await deliver(Script(), declared)
    # A client that did not declare it gets no promise: it goes on as it came.
    script = Script()
    assert await deliver(script, item_of("a@example.com", content=content)) is None
    assert "\xe9".encode() in script.message


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999"])
async def test_a_size_without_a_limit(size: str) -> None:
    script = Script(EHLO=f"250-hop\r\n250 {size}")
    assert await deliver(script) is None
    assert "SIZE=" in script.commands[1]


async def test_bytes_after_the_reply_to_starttls(certificates: Certificates) -> None:
    script = Script(
        EHLO="250-hop\r\n250 STARTTLS", STARTTLS=b"220 go\r\n250-injected\r\n250 AUTH PLAIN\r\n"
    )
    with pytest.raises(Later, match="bytes after the reply to STARTTLS"):
        await deliver(script, scheme="smtp+starttls", cafile=certificates.ca_file)


async def test_a_refused_starttls_sends_nothing(certificates: Certificates) -> None:
    script = Script(EHLO="250-hop\r\n250 STARTTLS", STARTTLS="454 not now")
    with pytest.raises(Later, match="STARTTLS: 454 not now"):
        await deliver(script, scheme="smtp+starttls", cafile=certificates.ca_file)
    assert [line.split()[0] for line in script.commands] == ["EHLO", "STARTTLS", "QUIT"]


async def test_a_hop_that_is_down_is_later() -> None:
    port = free_port()
    outlet = make_outlet(f"smtp://127.0.0.1:{port}")
    with pytest.raises(Later, match=rf"^smtp://127\.0\.0\.1:{port}: .*refused"):
        await outlet.put(item_of())
    with pytest.raises(Later, match=r"^lmtp://unix:/nowhere/lmtp: .*No such file"):
        await make_outlet("lmtp:///nowhere/lmtp").put(item_of())
    with pytest.raises(Later, match=r"smtp://host\.invalid:25: "):
        await make_outlet("smtp://host.invalid").put(item_of())


async def test_a_hop_without_tls_is_later() -> None:
    with pytest.raises(Later, match=r"^smtps://127\.0\.0\.1:\d+: TLS: WRONG_VERSION_NUMBER$"):
        await deliver(Script(), scheme="smtps")


async def test_a_cancelled_try_ends_its_connection() -> None:
    script = Script(MAIL=HANG)
    async with scripted(script) as place:
        outlet = make_outlet(f"smtp://{place}", reply_timeout=600.0)
        task = asyncio.create_task(outlet.put(item_of()))
        await script.until("MAIL")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        script.steps["MAIL"] = "250 OK"
        assert await outlet.put(item_of()) is None
        await outlet.close()


async def test_close_ends_what_hangs() -> None:
    script = Script(MAIL=HANG)
    async with scripted(script) as place:
        outlet = make_outlet(f"smtp://{place}", reply_timeout=600.0)
        task = asyncio.create_task(outlet.put(item_of()))
        await script.until("MAIL")
        await outlet.close()
        with pytest.raises(Later):
            await task


async def test_a_message_that_cannot_be_read_is_not_sent(tmp_path: Path) -> None:
    item = item_of(content=b"")
    script = Script()

    def broken() -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise OSError("disk error")
        return (tmp_path / "x").open("w+b")

    calls: list[int] = []
    with pytest.raises(Later, match="disk error"):
        await deliver(script, attrs.evolve(item, content=broken))
    assert script.message == b""


async def test_a_hanging_hop_takes_no_thread_of_another() -> None:
    hanging, good = Script(MAIL=HANG), Script()
    async with scripted(hanging) as one, scripted(good) as two:
        stuck = make_outlet(f"smtp://{one}", reply_timeout=600.0)
        tasks = [asyncio.create_task(stuck.put(item_of())) for _ in range(50)]
        await hanging.until("MAIL", 50)
        other = make_outlet(f"smtp://{two}")
        async with asyncio.timeout(30):
            assert await other.put(item_of()) is None
        for outlet in stuck, other:
            await outlet.close()
        await asyncio.gather(*tasks, return_exceptions=True)
