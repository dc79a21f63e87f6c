"""The shapes in which envelopes, sessions and refused attempts are kept in the database."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

from aiosmtpd.inbox import wire
from aiosmtpd.inbox.records import Attempt, Line, Received, SessionLog
from aiosmtpd.inbox.search import folded

_DECODER = json.JSONDecoder()
_RECIPIENTS = '"recipients":'
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def local(milliseconds: int) -> datetime:
    """Return a time of the store in the local zone."""
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    try:
        return moment.astimezone()
    except (OverflowError, OSError, ValueError):
        return moment


def packed_envelope(received: Received, id: str) -> str:
    """Return all that is known of a message beside its content, as JSON."""
    return wire.dump(
        {
            "id": id,
            "sender": received.sender,
            "recipients": list(received.recipients),
            "session": received.session,
            "host_name": received.host_name,
            "client": received.client,
            "protocol": received.protocol,
            "username": received.username,
            "tls": received.tls,
            "created": received.created and received.created.isoformat(),
            # Whole numbers take less time: units of 0.1 ms.
            "lines": [[int(at * 10_000), *line] for at, *line in received.transaction],
            "trace": received.trace,
        }
    )


def addressed(envelope: str) -> str:
    """Return the members that rows of our own API have for an envelope that was kept.

    *envelope* is the text that :func:`packed_envelope` returned.
    """
    # A quote in a text is escaped: this is the name of the member. The dialogue is not read.
    begin = envelope.index(_RECIPIENTS) + len(_RECIPIENTS)
    recipients, _ = _DECODER.raw_decode(envelope, begin)
    first = recipients[0] if recipients else ""
    return f'"Recipient":{wire.dump(first)},"Recipients":{len(recipients)}'


def read_envelope(envelope: str, content: bytes) -> tuple[str, Received]:
    """Return the id of a message that was kept, and the message."""
    kept = json.loads(envelope)
    id = kept.pop("id")
    kept["created"] = datetime.fromisoformat(kept["created"])
    kept["transaction"] = read_lines(kept.pop("lines"))
    return id, Received(content, **kept)


def read_lines(lines: list[list[Any]]) -> list[Line]:
    """Return the lines of an envelope that was kept."""
    return [Line(at / 10_000, who, text) for at, who, text in lines]


def packed_log(session: SessionLog) -> bytes:
    """Return a session as it is kept."""
    kept = {
        "client": session.client,
        "began": session.began and session.began.timestamp(),
        "ended": session.ended and session.ended.timestamp(),
        "tls": session.tls,
        "user": session.user,
        # A copy first: the session may grow in another thread.
        "lines": list(session.lines),
        "cut": session.cut,
    }
    return zlib.compress(json.dumps(kept).encode(), 1)


def read_log(number: int, blob: bytes) -> SessionLog:
    """Return a session that was kept."""
    kept = json.loads(zlib.decompress(blob))
    return SessionLog(
        number,
        kept["client"],
        local(round(kept["began"] * 1000)) if kept["began"] else None,
        local(round(kept["ended"] * 1000)) if kept["ended"] else None,
        (kept["tls"][0], kept["tls"][1]) if kept["tls"] else None,
        kept["user"],
        [Line(*line) for line in kept["lines"]],
        kept["cut"],
    )


_KEPT = (
    *("session", "stage", "sender", "recipient", "reply", "fault", "client", "tls", "user"),
    *("line", "recipients"),
)


def packed_attempt(attempt: Attempt) -> tuple[str, str]:
    """Return the words of an attempt, and the attempt as it is kept."""
    kept = [getattr(attempt, name) for name in _KEPT]
    return folded(" ".join(map(str, kept[1:-2]))), json.dumps(kept)


def read_attempt(number: int, at: int, details: str) -> Attempt:
    """Return an attempt that was kept."""
    # Older stores have no number of recipients.
    kept = dict(zip(_KEPT, json.loads(details), strict=False))
    return Attempt(**kept, at=local(at), number=number)
