"""The form of mail in NATS JetStream: URLs, headers, claim checks, and rules for streams.

An outlet and a consumer share it. Free of asyncio, of sockets and of nats-py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import attrs

from aiosmtpd.delivery.item import Arrival, Item

ID = "Aiosmtpd-Id"
ENVELOPE = "Aiosmtpd-Envelope"
BLOB = "Aiosmtpd-Blob"
"""Marks a claim check: the body is a :class:`Manifest`, the message is in another stream."""
DEAD = "Aiosmtpd-Dead"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"

SPARE = 64
"""Bytes of ``max_payload`` that are left free beside headers and body."""

PIECE = 524288
"""Bytes of a message that go into one chunk."""

SAFE_REPLICAS = 3

_SUBJECT = re.compile(r"[^\s.*>/]+(?:\.[^\s.*>/]+)*")
_SERVER = re.compile(r"(?:[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SCHEME = "nats://"
_STREAM = re.compile(r"[^\s.*>/\\]+")
_LONGEST_PAUSE = 300.0
_LONGEST_REASON = 500


@attrs.frozen
class Address:
    """The servers and the subject of ``nats://[user:password@]host[:port][,host…]/subject``."""

    servers: tuple[str, ...]
    subject: str
    login: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """nats-py's arguments for a user and a password, or for a token."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the parts of *url*; raises ValueError, with one line that has no secrets."""
        place, _, subject = url.removeprefix(_SCHEME).partition("/")
        secrets, _, hosts = place.rpartition("@")
        servers = hosts.split(",")
        if not url.startswith(_SCHEME) or not all(map(_SERVER.fullmatch, servers)):
            raise ValueError("write nats://host[:port][,host[:port]]/subject")
        if not _SUBJECT.fullmatch(subject):
            raise ValueError("write nats://host/subject, with a subject such as mail.in")
        return cls(tuple(_SCHEME + server for server in servers), subject, _login(secrets))

    def __str__(self) -> str:
        hosts = ",".join(server.removeprefix(_SCHEME) for server in self.servers)
        return f"{_SCHEME}{hosts}/{self.subject}"


def _login(secrets: str) -> dict[str, str]:
    if not secrets:
        return {}
    user, colon, password = secrets.partition(":")
    if not colon:
        return {"token": unquote(user)}
    return {"user": unquote(user), "password": unquote(password)}


# Made once: json.dumps() would make an encoder for each message.
_compact = json.JSONEncoder(separators=(",", ":")).encode


def headers_of(item: Item, stream: str) -> dict[str, str]:
    """Return the headers with which *item* is published."""
    envelope = {
        "sender": item.sender,
        "recipients": item.recipients,
        "arrival": item.arrival.facts(),
    }
    return {
        ID: item.id,
        MESSAGE_ID: item.id,
        EXPECTED_STREAM: stream,
        ENVELOPE: _compact(envelope),
    }


def header_size(headers: Mapping[str, str]) -> int:
    """Return the bytes of *headers* on the wire; the server counts them into ``max_payload``."""
    fields = sum(len(name) + len(text.encode()) + 4 for name, text in headers.items())
    return len("NATS/1.0\r\n\r\n") + fields


@attrs.frozen
class Envelope:
    """The facts of :data:`ENVELOPE`."""

    sender: str
    recipients: tuple[str, ...]
    arrival: Arrival

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Envelope:
        """Return the facts that :func:`headers_of` wrote; raises ValueError without them."""
        try:
            facts = json.loads(headers[ENVELOPE])
            known = {field.name for field in attrs.fields(Arrival)}
            arrival = {name: fact for name, fact in facts["arrival"].items() if name in known}
            return cls(
                str(facts["sender"]),
                tuple(map(str, facts["recipients"])),
                Arrival.from_json(json.dumps(arrival)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{ENVELOPE} cannot be read: {error!r}") from None


@attrs.frozen
class Piece:
    """One chunk: its sequence number in the stream, its size in bytes and its digest."""

    sequence: int
    size: int
    sha256: str

    def matches(self, body: bytes) -> bool:
        """Return True if *body* is this chunk."""
        return len(body) == self.size and digest(body) == self.sha256


@attrs.frozen
class Manifest:
    """A message in chunks: the stream, the subject without the chunk's number, size and digest."""

    stream: str
    subject: str
    size: int
    sha256: str
    pieces: tuple[Piece, ...]

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON, in ASCII."""
        return _compact(attrs.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> Manifest:
        """Return the manifest that :meth:`to_bytes` wrote; raises ValueError for another text."""
        try:
            facts: dict[str, Any] = json.loads(body)
            pieces = tuple(Piece(**piece) for piece in facts.pop("pieces"))
            manifest = cls(**facts, pieces=pieces)
            if not _STREAM.fullmatch(manifest.stream):
                raise ValueError("its stream is not a name")
            if sum(piece.size for piece in pieces) != manifest.size:
                raise ValueError("its sizes do not add up")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a manifest cannot be read: {error!r}") from None
        return manifest


def digest(body: bytes) -> str:
    """Return the SHA-256 of *body*, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def token(queue_id: str) -> str:
    """Return *queue_id* as one token of a subject."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", queue_id)


def letter_to_dead(
    headers: Mapping[str, str], stream: str, sequence: int, reason: BaseException
) -> dict[str, str]:
    """Return the headers of a dead letter: those of the mail, and the reason."""
    text = " ".join(str(reason).split()) or repr(reason)
    kept = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
    return {
        **kept,
        MESSAGE_ID: f"{stream}.{sequence}.dead",
        DEAD: text.encode("ascii", "backslashreplace").decode()[:_LONGEST_REASON],
    }


def pause_after(number: int) -> float:
    """Return the seconds from try *number* to the next one: 1, 2, 4 … 300."""
    return min(2.0 ** min(number - 1, 30), _LONGEST_PAUSE)


def stream_fault(config: Any, *, direct: bool, fsync: bool) -> str | None:
    """Return what a stream's configuration must change so that a 250 is kept, or None.

    *config* is nats-py's ``StreamConfig``. With *direct*, the client gets its 250 for the stream's
    acknowledgement alone; *fsync* says that the operator has ``sync_interval: always``.
    """
    name = config.name
    if config.storage != "file":
        return f"stream {name} keeps mail in memory: make it anew with storage file"
    if config.discard != "new":
        return f"stream {name} deletes old mail when it is full: set its discard policy to new"
    if config.retention == "interest":
        return f"stream {name} drops mail without a consumer: make it anew with retention workqueue"
    if (config.max_msgs_per_subject or -1) > 0 and not config.discard_new_per_subject:
        return f"stream {name} deletes old mail: remove max_msgs_per_subject"
    if config.no_ack:
        return f"stream {name} does not acknowledge mail: set no_ack to false"
    if config.persist_mode == "async":
        return (
            f"stream {name} acknowledges before it writes: make it anew with persist_mode default"
        )
    if direct and not is_synced(config, fsync=fsync):
        return (
            f'mode="direct" needs {SAFE_REPLICAS} replicas, stream {name} has'
            f" {config.num_replicas or 1}: add replicas, or say fsync=True (#fsync=yes) if the"
            " server has sync_interval: always"
        )
    return None


def is_synced(config: Any, *, fsync: bool) -> bool:
    """Return True if a power cut at one server loses no acknowledged message."""
    return fsync or (config.num_replicas or 1) >= SAFE_REPLICAS
