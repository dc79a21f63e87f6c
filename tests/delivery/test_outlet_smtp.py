"""The outlet of a next hop, against our own server."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.delivery.item import Item, Later, Misconfigured, Never, Results, TooLarge
from aiosmtpd.delivery.outlets import make_outlet
from aiosmtpd.smtp import AuthResult, LoginPassword
from tests.conftest import Certificates
from tests.delivery.hops import SENDER, Taking, item_of, serving


async def deliver(url: str, item: Item, **options: Any) -> Results:
    """Open an outlet, deliver one message, close it."""
    outlet = make_outlet(url, **options)
    await outlet.open()
    try:
        return await outlet.put(item)
    finally:
        await outlet.close()


async def test_a_message_arrives_with_its_envelope() -> None:
    hop = Taking()
    async with serving(hop) as place:
        item = item_of("one@example.com", "two@example.com")
        assert await deliver(f"smtp://{place}", item) is None
    assert hop.envelope.mail_from == SENDER
    assert hop.envelope.rcpt_tos == ["one@example.com", "two@example.com"]
    assert hop.content == item.content


async def test_the_null_sender_is_sent_as_such() -> None:
    hop = Taking()
    async with serving(hop) as place:
        assert await deliver(f"smtp://{place}", item_of(sender="<>")) is None
    assert hop.envelope.mail_from == "<>"


async def test_the_name_in_ehlo_may_be_chosen() -> None:
    hop = Taking()
    async with serving(hop) as place:
        await deliver(f"smtp://{place}", item_of(), hostname="mx1.example.com")
    assert hop.sessions[0].host_name == "mx1.example.com"


MESSAGES = {
    "dots": (b"a: b\r\n\r\n.\r\n..\r\n.x\r\n", None),
    "a dot at the begin": (b".a\r\n", None),
    "bare newlines": (b"a: b\n\nx\ry\r\r\nz\n", b"a: b\r\n\r\nx\r\ny\r\n\r\nz\r\n"),
    "a smuggled end": (b"a: b\r\n\r\nx\n.\nMAIL FROM:<x>\r.\r", None),
    "no end of line": (b"a: b\r\n\r\nx", b"a: b\r\n\r\nx\r\n"),
    "only a CR at the end": (b"a: b\r\n\r\nx\r", b"a: b\r\n\r\nx\r\n"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("in_file", [False, True])
async def test_each_kind_of_message_arrives(name: str, in_file: bool, tmp_path: Path) -> None:
    sent, expected = MESSAGES[name]
    if expected is None:
        lines = sent.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        expected = lines.replace(b"\n", b"\r\n")
    path = tmp_path / "message"
    path.write_bytes(sent)
    hop = Taking()
    async with serving(hop) as place:
        item = item_of(content=path if in_file else sent)
        assert await deliver(f"smtp://{place}", item) is None
    assert hop.content == expected


@pytest.mark.parametrize(
    ("front", "rest"),
    [
        (b"Return-Path: <a@example.com>\r\n", b"Received: x\r\n\r\nbody\r\n"),
        (b"return-path:\r\n <a@example.com>\r\n", b"Return-Path: <theirs>\r\n\r\nbody\r\n"),
        (b"", b"Received: x\r\nReturn-Path: <theirs>\r\n\r\nbody\r\n"),
    ],
)
async def test_the_return_path_in_front_is_not_relayed(front: bytes, rest: bytes) -> None:
    hop = Taking()
    async with serving(hop) as place:
        await deliver(f"smtp://{place}", item_of(content=front + rest))
    assert hop.content == rest
    assert hop.envelope.mail_options == [f"SIZE={len(rest)}"]


@pytest.mark.parametrize("shift", range(4))
async def test_a_large_message_in_a_file_arrives(shift: int, tmp_path: Path) -> None:
    # Line ends and dots at each place of the border between two pieces.
    content = b"a: b\r\n\r\n" + b"x" * shift + b"\r\n.\r\n" * 60_000 + b"end\r\n"
    path = tmp_path / "message"
    path.write_bytes(content)
    hop = Taking()
    async with serving(hop) as place:
        assert await deliver(f"smtp://{place}", item_of(content=path)) is None
    assert hop.content == content


async def test_a_refused_recipient_does_not_stop_the_others() -> None:
    hop = Taking({"no@example.com": "550 5.1.1 No such user", "full@example.com": "452 4.2.2 Full"})
    async with serving(hop) as place:
        item = item_of("no@example.com", "yes@example.com", "full@example.com")
        results = await deliver(f"smtp://{place}", item)
    assert hop.envelope.rcpt_tos == ["yes@example.com"]
    assert results is not None
    assert {*results} == {"no@example.com", "full@example.com"}
    assert isinstance(never := results["no@example.com"], Never)
    assert never.reply == "550 5.1.1 No such user"
    assert isinstance(later := results["full@example.com"], Later)
    assert str(later) == "452 4.2.2 Full"


async def test_without_recipients_nothing_is_sent() -> None:
    hop = Taking({"no@example.com": "550 5.1.1 No such user"})
    async with serving(hop) as place:
        results = await deliver(f"smtp://{place}", item_of("no@example.com"))
    assert results is not None
    assert not hop.envelopes


@pytest.mark.parametrize(
    ("reply", "kind"), [("550 5.7.1 Spam", Never), ("451 4.7.1 Greylisted", Later)]
)
async def test_a_refused_message_is_refused_for_all(reply: str, kind: type[Exception]) -> None:
    hop = Taking({"no@example.com": "550 5.1.1 No such user"}, reply)
    async with serving(hop) as place:
        item = item_of("a@example.com", "no@example.com", "b@example.com")
        results = await deliver(f"smtp://{place}", item)
    assert results is not None
    assert str(results["a@example.com"]) == str(results["b@example.com"]) == reply
    assert type(results["a@example.com"]) is kind
    assert str(results["no@example.com"]) == "550 5.1.1 No such user"


async def test_each_recipient_has_a_reply_in_lmtp() -> None:
    replies = ["250 OK", "452 4.2.2 Full", "550 5.2.1 Gone"]
    hop = Taking({"no@example.com": "550 5.1.1 No such user"}, replies)
    async with serving(hop, "lmtp") as place:
        people = [f"{name}@example.com" for name in ("a", "no", "b", "c")]
        results = await deliver(f"lmtp://{place}", item_of(*people))
    assert results is not None
    assert {to: (type(why), str(why)) for to, why in results.items()} == {
        "no@example.com": (Never, "550 5.1.1 No such user"),
        "b@example.com": (Later, "452 4.2.2 Full"),
        "c@example.com": (Never, "550 5.2.1 Gone"),
    }


@pytest.mark.parametrize("begin", ["lmtp://", "lmtp://unix:"])
async def test_lmtp_over_a_unix_socket(begin: str, tmp_path: Path) -> None:
    hop = Taking()
    path = tmp_path / "lmtp"
    async with serving_unix(hop, path):
        assert await deliver(f"{begin}{path}", item_of("a@example.com")) is None
    assert hop.envelope.rcpt_tos == ["a@example.com"]


@asynccontextmanager
async def serving_unix(hop: Taking, path: Path) -> AsyncIterator[None]:
    from aiosmtpd.server import Server

    async with Server(hop, listen=f"lmtp://unix:{path}"):
        yield


async def test_a_message_over_the_limit_is_not_sent() -> None:
    hop = Taking()
    async with serving(hop, data_size_limit=1000) as place:
        with pytest.raises(TooLarge) as caught:
            await deliver(f"smtp://{place}", item_of(content=b"x\n" * 334))
        assert await deliver(f"smtp://{place}", item_of(content=b"x\n" * 333)) is None
    assert caught.value.limit == 1000
    assert hop.envelope.mail_options == ["SIZE=999"]


async def test_eight_bit_mail_is_declared() -> None:
    hop = Taking()
    async with serving(hop) as place:
        await deliver(f"smtp://{place}", item_of(content="a: b\r\n\r\n\xe9\r\n".encode()))
    assert "BODY=8BITMIME" in hop.envelope.mail_options


async def test_utf8_addresses_pass() -> None:
    hop = Taking()
    async with serving(hop, enable_SMTPUTF8=True) as place:
        item = item_of("j\xf6rg@example.com", sender="\xe9@example.com")
        assert await deliver(f"smtp://{place}", item) is None
    assert hop.envelope.mail_from == "\xe9@example.com"
    assert hop.envelope.rcpt_tos == ["j\xf6rg@example.com"]
    assert "SMTPUTF8" in hop.envelope.mail_options


async def test_a_hop_without_utf8_gets_the_other_recipients() -> None:
    hop = Taking()
    async with serving(hop, enable_SMTPUTF8=False) as place:
        item = item_of("j\xf6rg@example.com", "plain@example.com", mail_options=("SMTPUTF8",))
        results = await deliver(f"smtp://{place}", item)
    assert hop.envelope.rcpt_tos == ["plain@example.com"]
    assert results is not None
    assert isinstance(never := results["j\xf6rg@example.com"], Never)
    assert never.reply.enhanced == "5.6.7"


@pytest.mark.parametrize(
    ("item", "status"),
    [
        (item_of(sender="\xe9@example.com", smtp_utf8=True), "5.6.7"),
        (item_of(content="S: \xe9\r\n\r\n".encode(), mail_options=("SMTPUTF8",)), "5.6.9"),
        (item_of(mail_options=("BODY=BINARYMIME",)), "5.6.1"),
        (item_of(mail_options=("REQUIRETLS",)), "5.7.30"),
    ],
)
async def test_a_promise_that_the_hop_cannot_keep(item: Item, status: str) -> None:
    hop = Taking()
    async with serving(hop, enable_SMTPUTF8=False) as place:
        with pytest.raises(Never) as caught:
            await deliver(f"smtp://{place}", item)
    assert caught.value.reply.enhanced == status
    assert not hop.envelopes


async def test_delivery_status_parameters_are_passed_if_offered() -> None:
    item = item_of(
        mail_options=("RET=HDRS", "ENVID=abc", "SIZE=3"),
        rcpt_options={"one@example.com": ("NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;a@b")},
    )
    hop = Taking()
    async with serving(hop) as place:
        await deliver(f"smtp://{place}", item)
    assert {"RET=HDRS", "ENVID=abc"} < {*hop.envelope.mail_options}
    assert hop.envelope.rcpt_options == ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;a@b"]
    plain = Taking()
    async with serving(plain, extensions=()) as place:
        await deliver(f"smtp://{place}", item)
    assert plain.envelope.rcpt_options == []
    assert "RET=HDRS" not in plain.envelope.mail_options


INJECTIONS = [
    "a@b.org> NOTIFY=NEVER",
    "a@b.org>\r\nRCPT TO:<c@d.org",
    "a@b.org\nDATA",
    "a@b.org\0",
    "a b@c.org",
    "a\tb@c.org",
    "a\u2028b@c.org",
    'a"> NOTIFY=NEVER "@b.org',
    'a"\\> NOTIFY=NEVER"@b.org',
    '"a"> NOTIFY=NEVER "@b.org',
    '"a@b.org> NOTIFY=NEVER',
    '"a\\"@b.org> NOTIFY=NEVER',
    'a\\"> NOTIFY=NEVER "@b.org',
    'a@b"> NOTIFY=NEVER "',
    '"a"@b"> NOTIFY=NEVER "',
    "a\\>@b.org",
    "\ud800@b.org",
]


@pytest.mark.parametrize("address", INJECTIONS)
async def test_an_address_adds_no_command_or_parameter(address: str) -> None:
    hop = Taking()
    async with serving(hop) as place:
        results = await deliver(f"smtp://{place}", item_of(address, "good@example.com"))
        assert hop.envelope.rcpt_tos == ["good@example.com"]
        assert results is not None
        assert isinstance(results[address], Never)
        with pytest.raises(Never):
            await deliver(f"smtp://{place}", item_of(sender=address))
    assert len(hop.envelopes) == 1


async def test_an_option_adds_no_parameter() -> None:
    hop = Taking()
    async with serving(hop) as place:
        item = item_of(
            mail_options=("ENVID=x SMTPUTF8", "RET=FULL\r\nRSET"),
            rcpt_options={"one@example.com": ("NOTIFY=NEVER ORCPT=rfc822;x",)},
        )
        assert await deliver(f"smtp://{place}", item) is None
    assert hop.envelope.mail_options == [f"SIZE={item.size}"]
    assert hop.envelope.rcpt_options == []


async def test_a_quoted_address_passes() -> None:
    hop = Taking()
    quoted = ['"a > b"@example.com', r'"a\" <b\\"@example.com', '"two words"', '"@"@example.com']
    async with serving(hop) as place:
        assert await deliver(f"smtp://{place}", item_of(*quoted, sender=quoted[0])) is None
    assert hop.envelope.rcpt_tos == quoted
    assert hop.envelope.mail_from == quoted[0]


async def test_an_address_with_a_quoted_word_passes() -> None:
    hop = Taking()
    async with serving(hop) as place:
        assert await deliver(f"smtp://{place}", item_of('a."b\\"c".d@example.com')) is None
    assert hop.envelope.rcpt_tos == [r'"a.b\"c.d"@example.com']


class Doorman:
    """Checks one user; keeps the mechanisms that were used."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def __call__(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        self.used.append(mechanism)
        assert isinstance(data, LoginPassword)
        good = (data.login, data.password) == (b"app", "p\xe4ss:/@".encode())
        return AuthResult(success=good, handled=False)


@pytest.mark.parametrize("excluded", [[], ["PLAIN"]])
async def test_auth_over_tls(certificates: Certificates, excluded: list[str]) -> None:
    hop, door = Taking(), Doorman()
    keywords: dict[str, Any] = {
        "authenticator": door,
        "auth_required": True,
        "auth_exclude_mechanism": excluded,
        "ssl_context": certificates.server_context(),
    }
    async with serving(hop, "smtps", **keywords) as place:
        url = f"smtps://app:p%C3%A4ss%3A%2F%40@{place}"
        assert await deliver(url, item_of(), cafile=certificates.ca_file) is None
        options = {"user": "app", "password": "p\xe4ss:/@", "cafile": certificates.ca_file}
        assert await deliver(f"smtps://{place}", item_of(), **options) is None
        with pytest.raises(Later, match=r"^smtps://127.*: AUTH: 535"):
            await deliver(f"smtps://app:no@{place}", item_of(), cafile=certificates.ca_file)
    assert {*door.used} == ({"PLAIN"} if not excluded else {"LOGIN"})
    assert len(hop.envelopes) == 2


async def test_auth_in_plain_text_must_be_asked_for() -> None:
    hop, door = Taking(), Doorman()
    keywords: dict[str, Any] = {"authenticator": door, "auth_require_tls": False}
    async with serving(hop, **keywords) as place:
        url = f"smtp://app:p%C3%A4ss%3A%2F%40@{place}"
        with pytest.raises(ValueError, match="plain text: write smtps://"):
            make_outlet(url)
        assert await deliver(url, item_of(), plain_auth=True) is None
    assert door.used


async def test_a_hop_without_auth_is_later(certificates: Certificates) -> None:
    context = certificates.server_context()
    async with serving(Taking(), "smtps", ssl_context=context) as place:
        with pytest.raises(Later, match="offers none of AUTH"):
            await deliver(f"smtps://a:b@{place}", item_of(), cafile=certificates.ca_file)


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_tls_is_verified_by_default(certificates: Certificates, scheme: str) -> None:
    hop = Taking()
    context = certificates.server_context()
    keyword = "ssl_context" if scheme == "smtps" else "tls_context"
    async with serving(hop, scheme.partition("+")[0], **{keyword: context}) as place:
        url = f"{scheme}://{place}"
        with pytest.raises(Later, match="certificate: "):
            await deliver(url, item_of())
        assert not hop.envelopes
        assert await deliver(url, item_of(), cafile=certificates.ca_file) is None
        assert await deliver(url, item_of(), verify=False) is None
        assert await deliver(url, item_of(), context=certificates.client_context()) is None
    assert all(session.ssl for session in hop.sessions)
    assert len(hop.sessions) == 3


async def test_starttls_is_required() -> None:
    hop = Taking()
    async with serving(hop) as place:
        with pytest.raises(Later, match="offers no STARTTLS"):
            await deliver(f"smtp+starttls://{place}", item_of())
    assert not hop.envelopes


async def test_requiretls_needs_a_verified_certificate(certificates: Certificates) -> None:
    hop = Taking()
    item = item_of(mail_options=("REQUIRETLS",))
    context = certificates.server_context()
    async with serving(hop, "smtps", ssl_context=context) as place:
        with pytest.raises(Never, match=r"5\.7\.30"):
            await deliver(f"smtps://{place}", item, verify=False)
        assert await deliver(f"smtps://{place}", item, cafile=certificates.ca_file) is None
    assert "REQUIRETLS" in hop.envelope.mail_options
    async with serving(hop, "smtps", ssl_context=context, extensions=()) as place:
        with pytest.raises(Never, match=r"5\.7\.30"):
            await deliver(f"smtps://{place}", item, cafile=certificates.ca_file)


async def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        with pytest.raises(Misconfigured, match="cafile: "):
            await make_outlet("smtps://localhost", cafile=path).open()
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(Misconfigured):
        await make_outlet("smtps://localhost", cafile=tmp_path / "empty.pem").open()


async def test_several_messages_at_a_time() -> None:
    hop = Taking()
    async with serving(hop) as place:
        outlet = make_outlet(f"smtp://{place}")
        await outlet.open()
        items = [item_of(id=f"id-{number}") for number in range(20)]
        assert await asyncio.gather(*map(outlet.put, items)) == [None] * 20
        await outlet.close()
    assert len(hop.envelopes) == 20


def test_a_context_needs_a_scheme_with_tls() -> None:
    with pytest.raises(ValueError, match="are for smtps"):
        make_outlet("smtp://localhost", context=ssl.create_default_context())
