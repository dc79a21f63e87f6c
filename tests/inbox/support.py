"""Messages for the store, and a store that works without the index of words."""

import json
from pathlib import Path
from typing import Any

import pytest

from aiosmtpd.inbox import database
from aiosmtpd.inbox.records import Received
from aiosmtpd.inbox.store import Store


def mail(
    text: str = "hello",
    *,
    sender: str = "Ann <ann@example.org>",
    to: str = "Bob <bob@example.org>",
    subject: str = "Hi",
    more: str = "",
) -> bytes:
    """Return a message as bytes; *more* are header fields, each with its CRLF."""
    head = f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\n{more}"
    return f"{head}\r\n{text}\r\n".encode()


def received(content: bytes | Path, **more: Any) -> Received:
    values: dict[str, Any] = {"sender": "ann@example.org", "recipients": ["bob@example.org"]}
    return Received(content, **{**values, **more})


def add(store: Store, content: bytes | None = None, **more: Any) -> str:
    """Store a message, by default a short one, and return its id."""
    return store.add(received(mail() if content is None else content, **more)).result(30)


def row(store: Store, id: str) -> dict[str, Any]:
    [text] = store.rows([id])
    found: dict[str, Any] = json.loads(text)
    return found


def subjects(store: Store, query: str) -> list[str]:
    """Return the subjects of the messages that match, sorted."""
    return sorted(json.loads(one)["Subject"] for one in store.search(query, limit=1000).rows)


def without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new stores find that SQLite has no FTS5."""
    monkeypatch.setattr(database, "make_index", lambda connection: False)
