"""Any mail data is one message or an error: no part of it is run as a command.

RFC 5321 section 4.1.1.4, RFC 3030 section 2; CVE-2023-51764 and its kin.
"""

import ssl
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aiosmtpd.smtp import SMTP, Envelope, Session

from .conversation import Conversation

POLICIES = ("accept", "normalize", "reject")
BEGIN = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
SMUGGLED = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nsmuggled"

ENDS = [
    b"".join(some) for length in range(3) for some in product((b"\r", b"\n", b"\0"), repeat=length)
]
"""Every string of up to two CRs, LFs and NULs."""


class Keeper:
    """Keeps each delivered message."""

    def __init__(self) -> None:
        self.senders: list[str | None] = []
        self.messages: list[bytes | None] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.senders.append(envelope.mail_from)
        self.messages.append(envelope.original_content)
        return "250 OK"


async def replies_to(keeper: Keeper, script: bytes, cuts: set[int], **keywords: str) -> list[str]:
    """Send it all after EHLO, cut there; return the replies up to the one to QUIT."""
    server = SMTP(keeper, hostname="mx.test", extensions="modern", **keywords)  # type: ignore[arg-type]
    async with Conversation(server) as client:
        assert (await client.ask("EHLO client.test")).startswith("250-")
        positions = [0, *sorted(cut for cut in cuts if cut < len(script)), len(script)]
        for begin, end in pairwise(positions):
            client.send(script[begin:end])
        client.send(b"QUIT\r\n")
        told = []
        while reply := await client.reply():
            told.append(reply[:3])
        return told


@pytest.mark.parametrize("policy", POLICIES)
async def test_no_end_of_data_but_crlf_dot_crlf(policy: str) -> None:
    for before, after in product(ENDS, repeat=2):
        if before == after == b"\r\n":
            continue
        body = b"x" + before + b"." + after + SMUGGLED
        keeper = Keeper()
        script = BEGIN + b"DATA\r\n" + body + b"\r\n.\r\n"
        *told, answer, bye = await replies_to(keeper, script, set(), bare_newline=policy)
        assert told == ["250", "250", "354"], body
        assert answer in ("250", "550") if policy == "reject" else answer == "250", body
        assert bye == "221"
        assert keeper.senders == (["a@b.test"] if answer == "250" else []), body
        assert all(b"smuggled" in (message or b"") for message in keeper.messages)


@pytest.mark.parametrize("policy", POLICIES)
async def test_no_end_of_a_chunk_but_its_count(policy: str) -> None:
    for before, after in product(ENDS, repeat=2):
        body = b"x" + before + b"." + after + SMUGGLED + b"\r\n.\r\nQUIT\r\nBDAT 1 LAST\r\n"
        for half in (1 + len(before), len(body) - 1):
            keeper = Keeper()
            script = BEGIN + b"BDAT %d\r\n" % half + body[:half]
            script += b"BDAT %d LAST\r\n" % (len(body) - half) + body[half:]
            told = await replies_to(keeper, script, set(), bare_newline=policy)
            assert told == ["250", "250", "250", "250", "221"], body
            assert keeper.messages == [body]


@pytest.mark.parametrize(
    "begin",
    [b"", b"MAIL FROM:<a@b.test>\r\n", b"MAIL FROM:<a@b.test>\r\nRCPT TO:<>\r\n"],
    ids=["no sender", "no recipient", "a refused recipient"],
)
async def test_the_bytes_of_a_refused_chunk_are_not_commands(begin: bytes) -> None:
    chunk = b"\r\n.\r\n" + SMUGGLED + b"\r\n.\r\n"
    for last in (b"", b" LAST"):
        keeper = Keeper()
        script = begin + b"BDAT %d%b\r\n" % (len(chunk), last) + chunk
        told = await replies_to(keeper, script, set())
        assert told[-2:] == ["503", "221"]
        assert len(told) == begin.count(b"\n") + 2
        assert keeper.messages == []


OCTETS = st.lists(
    st.sampled_from(
        [
            *(b"\r", b"\n", b"\0", b".", b"\r\n", b"\r\n.\r\n", b"x", b"QUIT", b"DATA", b"RSET"),
            *(b"BDAT 3 LAST", b"BDAT 0", b"MAIL FROM:<evil@x.test>", b"RCPT TO:<c@d.test>"),
        ]
    ),
    max_size=12,
).map(b"".join)


def by_data(body: bytes) -> tuple[bytes, list[str], bytes]:
    wire = (b"\r\n" + body + b"\r\n").replace(b"\r\n.", b"\r\n..")[2:]
    return BEGIN + b"DATA\r\n" + wire + b".\r\n", ["250", "250", "354", "250"], body + b"\r\n"


def by_chunks(chunks: list[bytes]) -> tuple[bytes, list[str], bytes]:
    wire = b"".join(b"BDAT %d\r\n" % len(one) + one for one in chunks) + b"BDAT 0 LAST\r\n"
    return BEGIN + wire, ["250"] * (3 + len(chunks)), b"".join(chunks)


def given_up(chunk: bytes) -> tuple[bytes, list[str], None]:
    """Begin a message, reset, and send a chunk outside of a transaction."""
    wire = BEGIN + b"BDAT %d\r\n" % len(chunk) + chunk + b"DATA\r\nRSET\r\n"
    wire += b"BDAT %d LAST\r\n" % len(chunk) + chunk
    return wire, ["250", "250", "250", "503", "250", "503"], None


TRANSACTIONS = st.lists(
    OCTETS.map(by_data) | st.lists(OCTETS, max_size=3).map(by_chunks) | OCTETS.map(given_up),
    min_size=1,
    max_size=4,
)


@given(TRANSACTIONS, st.sets(st.integers(1, 400), max_size=6))
@settings(deadline=None)
async def test_messages_arrive_as_they_were_sent(
    transactions: list[tuple[bytes, list[str], bytes | None]], cuts: set[int]
) -> None:
    """All in one burst, however it is cut: as many messages as were sent, and the same."""
    keeper = Keeper()
    script = b"".join(wire for wire, _, _ in transactions)
    told = await replies_to(keeper, script, cuts)
    assert told == [code for _, codes, _ in transactions for code in codes] + ["221"]
    assert keeper.messages == [body for _, _, body in transactions if body is not None]
    assert set(keeper.senders) <= {"a@b.test"}


# Wrong counts.

COUNTS = [
    *("", "-1", "+1", "1.5", "1e3", "0x10", "1,0", "one", "\u0663", "\u00b2", "'5'"),
    *("LAST", "LAST 5", "5LAST", "5 LASTLAST", "5 LAST 5", "5 5", "5, LAST", "5\tLAST"),
    *("5 first", "5\x00", "9" * 19, "9" * 400, "1_0", "5 \u00a0LAST"),
]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "begin",
    [b"", BEGIN, BEGIN + b"BDAT 2\r\nhi"],
    ids=["no transaction", "a transaction", "between chunks"],
)
async def test_a_wrong_count_ends_the_session(begin: bytes, count: str) -> None:
    """The length of the chunk is unknown: no byte of it may be taken for a command."""
    keeper = Keeper()
    server = SMTP(keeper, hostname="mx.test", extensions="modern", enable_SMTPUTF8=True)
    async with Conversation(server) as client:
        await client.ask("EHLO client.test")
        client.send(begin + b"BDAT " + count.encode() + b"\r\n" + SMUGGLED + b"\r\n.\r\n")
        *ready, refusal = (await client.rest()).decode().splitlines()
    assert [line[:3] for line in ready] == ["250"] * (begin.count(b"\n"))
    assert refusal == "501 5.5.4 Syntax: BDAT <octets> [LAST]"
    assert keeper.messages == []


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"BDAT \xd9\xa3", "500 5.6.7 Error: strict ASCII mode"),
        (b"bdat 5" + b" " * 600 + b"LAST", "500 5.5.6 Command line too long"),
    ],
    ids=["not ASCII", "too long"],
)
async def test_a_line_of_bdat_that_is_not_read_ends_the_session(line: bytes, refusal: str) -> None:
    keeper = Keeper()
    async with Conversation(SMTP(keeper, extensions="modern")) as client:
        await client.ask("EHLO client.test")
        client.send(line + b"\r\n" + SMUGGLED + b"\r\n.\r\n")
        assert (await client.rest()).decode().splitlines() == [refusal]
    assert keeper.messages == []


async def test_a_chunk_before_starttls_ends_the_session() -> None:
    """CHUNKING is not offered yet: a client that sends one all the same counts on nothing."""
    keeper = Keeper()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings: dict[str, Any] = {"tls_context": context, "require_starttls": True}
    async with Conversation(SMTP(keeper, extensions="modern", **settings)) as client:
        assert "CHUNKING" not in await client.ask("EHLO client.test")
        client.send(b"BDAT 6\r\nNOOP\r\n")
        assert await client.rest() == b"530 5.7.0 Must issue a STARTTLS command first\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"BDAT 5\r\n", b"BDAT 5\r\nhi", b"BDAT 2\r\nhi", b"BDAT 5 LAST\r\nhi", b"BDAT 2\r\nhiBDAT 2"],
    ids=["no octet", "half a chunk", "a chunk", "half the last chunk", "half a command"],
)
@pytest.mark.parametrize("begin", [BEGIN, b""], ids=["a message", "a refused chunk"])
async def test_silence_after_bdat(begin: bytes, sent: bytes) -> None:
    """RFC 5321 section 4.5.3.2: the client gets a reply, and half a message is dropped."""
    keeper = Keeper()
    async with Conversation(SMTP(keeper, extensions="modern", timeout=0.05)) as client:
        await client.ask("EHLO client.test")
        client.send(begin + sent)
        assert (await client.rest()).splitlines()[-1].startswith(b"421 4.4.2 ")
    assert keeper.messages == []


async def test_a_huge_chunk_is_not_made_room_for() -> None:
    keeper = Keeper()
    server = SMTP(keeper, extensions="modern", data_size_limit=None)
    async with Conversation(server) as client:
        await client.ask("EHLO client.test")
        client.send(BEGIN + b"BDAT %d LAST\r\n" % (10**18 - 1) + b"x" * 1000)
        assert [await client.reply() for _ in range(2)] == ["250 2.1.0 OK", "250 2.1.5 OK"]
        client.transport.reset()
        assert await client.rest() == b""
    assert keeper.messages == []
