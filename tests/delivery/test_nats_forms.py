"""The form of mail in JetStream: URLs, headers, manifests, rules and answers, without a server."""

import json
import ssl
from typing import Any

import attrs
import pytest
from nats import errors
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import (
    APIError,
    BadRequestError,
    NoStreamResponseError,
    NotFoundError,
    ServiceUnavailableError,
)

from aiosmtpd.delivery.consumer import consume
from aiosmtpd.delivery.item import Arrival, Full, Item, Later, Misconfigured, Never
from aiosmtpd.delivery.jetstream import (
    Address,
    Envelope,
    Manifest,
    Piece,
    digest,
    header_size,
    headers_of,
    letter_to_dead,
    pause_after,
    stream_fault,
    token,
)
from aiosmtpd.delivery.outlets import make_outlet
from aiosmtpd.delivery.outlets.nats import answer_to, from_url
from tests.rows import each_row

ITEM = Item(
    id="7F3A",
    sender="anna@example.org",
    recipients=("zoë@example.com", "bob\udcff@example.com"),
    arrival=Arrival(helo="laptop", rcpt_options={"bob": ("NOTIFY=NEVER",)}, time=1.5),
    size=3,
    content=b"abc",
)


@pytest.mark.parametrize(
    ("url", "servers", "subject", "login"),
    [
        ("nats://host/mail", ["nats://host"], "mail", {}),
        (
            "nats://a:1,b,[::1]:4222/m.in",
            ["nats://a:1", "nats://b", "nats://[::1]:4222"],
            "m.in",
            {},
        ),
        ("nats://u:p%40%2F@h/m", ["nats://h"], "m", {"user": "u", "password": "p@/"}),
        ("nats://u:p:q@h/m", ["nats://h"], "m", {"user": "u", "password": "p:q"}),
        ("nats://t%21@h/m", ["nats://h"], "m", {"token": "t!"}),
    ],
)
def test_a_url_has_servers_a_subject_and_a_login(
    url: str, servers: list[str], subject: str, login: dict[str, str]
) -> None:
    address = Address.parse(url)
    assert address == Address(tuple(servers), subject, login)
    assert str(address) == f"nats://{','.join(server[7:] for server in servers)}/{subject}"
    assert not any(secret in repr(address) for secret in login.values() if len(secret) > 1)


@each_row(
    "url",
    [
        "nats:host/mail",
        "smtp://host/mail",
        "nats:///mail",
        "nats://host",
        "nats://host/",
        "nats://host/mail/in",
        "nats://host/mail.>",
        "nats://host/mail.*",
        "nats://host/mail..in",
        "nats://host/a b",
        "nats://a,,b/mail",
        "nats://host:port/mail",
    ],
)
def test_other_urls_are_refused_in_one_line(url: str) -> None:
    for refusing in (from_url, lambda url: consume(url, durable="app")):
        with pytest.raises(ValueError, match=r"^write nats://host.*$"):
            refusing(url)


def test_headers_are_counted_as_they_are_sent() -> None:
    headers = {"Some": "text", "Other": "é"}
    assert header_size(headers) == len("NATS/1.0\r\nSome: text\r\nOther: é\r\n\r\n".encode())


def test_headers_keep_the_envelope_in_ascii() -> None:
    headers = headers_of(ITEM, "MAIL")
    assert headers["Nats-Msg-Id"] == headers["Aiosmtpd-Id"] == "7F3A"
    assert headers["Nats-Expected-Stream"] == "MAIL"
    assert headers["Aiosmtpd-Envelope"].isascii()
    assert Envelope.from_headers(headers) == Envelope(ITEM.sender, ITEM.recipients, ITEM.arrival)


def test_an_envelope_of_a_newer_version_can_be_read() -> None:
    headers = headers_of(ITEM, "MAIL")
    facts = json.loads(headers["Aiosmtpd-Envelope"])
    facts["arrival"]["colour"] = "green"
    facts["more"] = 1
    headers["Aiosmtpd-Envelope"] = json.dumps(facts)
    assert Envelope.from_headers(headers).arrival == ITEM.arrival


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Aiosmtpd-Envelope": ""},
        {"Aiosmtpd-Envelope": "[]"},
        {"Aiosmtpd-Envelope": '{"sender": "a"}'},
        {"Aiosmtpd-Envelope": '{"sender": "a", "recipients": [], "arrival": []}'},
        {"Aiosmtpd-Envelope": '{"sender": "a", "recipients": 1, "arrival": {}}'},
    ],
    ids=range(6),
)
def test_a_message_without_an_envelope_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="Aiosmtpd-Envelope cannot be read"):
        Envelope.from_headers(headers)


MANIFEST = Manifest("MAIL", "mail.in.blob.7F3A", 3, digest(b"abc"), (Piece(7, 3, digest(b"abc")),))


def test_a_manifest_comes_back_as_it_was() -> None:
    assert MANIFEST.to_bytes().isascii()
    assert Manifest.from_bytes(MANIFEST.to_bytes()) == MANIFEST


@pytest.mark.parametrize("body", [b"abc", b"abd", b"ab", b"abcd", b""])
def test_only_the_same_bytes_match_a_piece(body: bytes) -> None:
    assert MANIFEST.pieces[0].matches(body) == (body == b"abc")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        MANIFEST.to_bytes().replace(b'"size":3,"sha256":"ba', b'"size":4,"sha256":"ba', 1),
        MANIFEST.to_bytes().replace(b"MAIL", b"MAIL.>"),
        MANIFEST.to_bytes().replace(b'"MAIL"', b"1"),
        MANIFEST.to_bytes().replace(b'"sequence":7', b'"number":7'),
    ],
    ids=range(8),
)
def test_another_text_is_not_a_manifest(body: bytes) -> None:
    with pytest.raises(ValueError, match="a manifest cannot be read"):
        Manifest.from_bytes(body)


def test_a_queue_id_becomes_one_token() -> None:
    assert token("7F3A-b_c") == "7F3A-b_c"
    assert token("a.b>c d*é") == "a_b_c_d__"


SAFE = StreamConfig(
    name="MAIL",
    storage=StorageType.FILE,
    discard=DiscardPolicy.NEW,
    retention=RetentionPolicy.LIMITS,
    num_replicas=1,
)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, None),
        ({"storage": StorageType.MEMORY}, "storage file"),
        ({"discard": DiscardPolicy.OLD}, "discard policy to new"),
        ({"retention": RetentionPolicy.INTEREST}, "retention workqueue"),
        ({"retention": RetentionPolicy.WORK_QUEUE}, None),
        ({"max_msgs_per_subject": 1}, "remove max_msgs_per_subject"),
        ({"max_msgs_per_subject": 1, "discard_new_per_subject": True}, None),
        ({"no_ack": True}, "no_ack to false"),
        ({"persist_mode": "async"}, "persist_mode default"),
    ],
    ids=range(9),
)
def test_a_stream_must_keep_what_it_acknowledged(changes: dict[str, Any], text: str | None) -> None:
    fault = stream_fault(SAFE.evolve(**changes), direct=False, fsync=False)
    assert (fault is None) if text is None else (fault is not None and text in fault)
    assert fault is None or ("MAIL" in fault and "\n" not in fault)


@pytest.mark.parametrize(
    ("replicas", "fsync", "safe"),
    [(None, False, False), (1, False, False), (2, False, False), (3, False, True), (1, True, True)],
)
def test_direct_mode_wants_replicas_or_fsync(replicas: int | None, fsync: bool, safe: bool) -> None:
    config = SAFE.evolve(num_replicas=replicas)
    fault = stream_fault(config, direct=True, fsync=fsync)
    assert (fault is None) == safe
    assert safe or "add replicas, or say fsync=True" in str(fault)


def test_a_dead_letter_keeps_the_mail_and_has_the_reason() -> None:
    headers = {**headers_of(ITEM, "MAIL"), "Aiosmtpd-Blob": "1"}
    dead = letter_to_dead(headers, "MAIL", 9, Never("550 5.1.1 Kein\r\n Empfänger"))
    assert dead.pop("Aiosmtpd-Dead") == r"550 5.1.1 Kein Empf\xe4nger"
    assert dead.pop("Nats-Msg-Id") == "MAIL.9.dead"
    assert dead == {name: text for name, text in headers.items() if name[:4] == "Aios"}
    assert letter_to_dead({}, "MAIL", 9, KeyError())["Aiosmtpd-Dead"] == "KeyError()"
    assert len(letter_to_dead({}, "MAIL", 9, Never("550 " + "é" * 999))["Aiosmtpd-Dead"]) == 500


def test_pauses_double_up_to_five_minutes() -> None:
    assert [pause_after(number) for number in (1, 2, 3, 9, 10, 9999)] == [1, 2, 4, 256, 300, 300]


@each_row(
    ("error", "kind", "reply"),
    [
        (NoStreamResponseError(), Later, "451 4.3.0"),
        (ServiceUnavailableError(503, "maximum bytes exceeded", 10077), Full, "452 4.3.1"),
        (ServiceUnavailableError(503, "insufficient resources", 10023), Full, "452 4.3.1"),
        (APIError(500, "insufficient storage", 10047), Full, "452 4.3.1"),
        (ServiceUnavailableError(503, "temporarily unavailable", 10008), Later, "451 4.3.0"),
        (BadRequestError(400, "expected stream does not match", 10060), Later, "451 4.3.0"),
        (NotFoundError(404, "stream not found", 10059), Later, "451 4.3.0"),
        (errors.TimeoutError(), Later, "451 4.4.1"),
        (TimeoutError(), Later, "451 4.4.1"),
        (errors.OutboundBufferLimitError(), Later, "451 4.4.1"),
        (errors.ConnectionClosedError(), Later, "451 4.4.1"),
        (errors.StaleConnectionError(), Later, "451 4.4.1"),
        (errors.MaxPayloadError(), Later, "451 4.4.1"),
        (ConnectionRefusedError(), Later, "451 4.4.1"),
        (errors.BadSubjectError(), Later, "451 4.3.0"),
        (Misconfigured("stream MAIL ..."), Later, "451 4.3.0"),
        (ZeroDivisionError("a mistake"), Later, "451 4.3.0"),
    ],
)
def test_each_error_has_its_answer(error: Exception, kind: type, reply: str) -> None:
    answer = answer_to(error)
    assert type(answer) is kind
    assert answer.reply.startswith(reply)
    assert "\n" not in str(answer)
    assert str(answer)


def test_a_lost_connection_is_not_a_slow_one() -> None:
    assert str(answer_to(TimeoutError(), lost=True)) == "NATS: the connection was lost"
    assert str(answer_to(TimeoutError())) == "NATS: no answer in time"


def test_a_timeout_is_positive() -> None:
    with pytest.raises(ValueError, match="a timeout is more than 0 seconds"):
        make_outlet("nats://nats1/mail.in#reply_timeout=0")


def test_authorities_are_given_once() -> None:
    with pytest.raises(ValueError, match="give tls or cafile, not both"):
        from_url("nats://nats1/mail.in", tls=ssl.create_default_context(), cafile="ca.pem")


def test_a_mode_is_spool_or_direct() -> None:
    with pytest.raises(ValueError, match="mode is spool or direct, not fast"):
        from_url("nats://host/mail", mode="fast")


@pytest.mark.parametrize("wrong", [{"durable": "a.b"}, {"durable": ""}, {"tries": 0}])
def test_consume_refuses_wrong_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"durable is a name|at least 1"):
        consume("nats://host/mail", **{"durable": "app", **wrong})


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiosmtpd.delivery.outlets.nats.find_spec", lambda name: None)
    monkeypatch.setattr("aiosmtpd.delivery.consumer.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as missing:
        from_url("nats://host/mail")
    assert missing.value.name == "nats"
    with pytest.raises(Misconfigured, match=r'needs pip install "aiosmtpd\[nats\]"'):
        consume("nats://host/mail", durable="app")


def test_arrival_is_kept_whole() -> None:
    headers = headers_of(attrs.evolve(ITEM, arrival=Arrival()), "MAIL")
    assert Envelope.from_headers(headers).arrival == Arrival()
