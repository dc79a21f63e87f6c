"""``aiosmtpd wait --inbox``: wait for a message in an inbox that is running."""

from __future__ import annotations

import base64
import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import chain, islice
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from aiosmtpd.cli.one_message import Waiter, print_shown
from aiosmtpd.cli.output import complain
from aiosmtpd.cli.parser import INTERRUPTED
from aiosmtpd.mail.message import DecodedMail
from aiosmtpd.process.exit import flush_standard_streams
from aiosmtpd.process.failure import Failure, reason_of
from aiosmtpd.protocol.session import Envelope, Session

LONGEST_WAIT = 60.0
"""Seconds of one request; longer waits are several."""

MARGIN = 10.0
"""Seconds that an answer may take after the wait."""

LISTED = 50
"""Messages that the answer to a wait lists, at most."""

PAGE = 1000
"""Messages that the answer to a request for the list has, at most."""


def ask(parser: ArgumentParser, settings: Namespace) -> int:
    """Print the first message that matches; return the exit code."""
    if settings.listen or settings.ready_file:
        option = "-l" if settings.listen else "--ready-file"
        parser.error(f"--inbox asks a server that is running: leave out {option}")
    waiter = Waiter(settings)
    try:
        inbox = _Inbox(settings.inbox)
        for mail in _coming(inbox, settings):
            if (shown := waiter.shown(mail)) is not None:
                print_shown(shown)
                flush_standard_streams()
                return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Failure as failure:
        complain(f"{parser.prog}: error: {failure}")
        return failure.code
    except (OSError, HTTPException) as error:
        complain(f"{parser.prog}: error: {inbox.shown} does not answer: {reason_of(error)}")
        return 2
    complain(f"{parser.prog}: {waiter.complaint()}")
    return 1


def _coming(inbox: _Inbox, settings: Namespace) -> Iterator[DecodedMail]:
    """Yield the messages that match the patterns: those that are there, newest first, then others.

    It ends when the time is over.
    """
    named = {"to": "to", "from": "sender", "subject": "subject", "text": "text"}
    patterns = {name: getattr(settings, dest) for name, dest in named.items()}
    # The inbox knows no regular expressions: the waiter compares them.
    wanted = {name: one for name, one in patterns.items() if isinstance(one, str)}
    patience = float("inf") if settings.patience is None else settings.patience
    deadline = time.monotonic() + patience
    seen: set[str] = set()
    older, is_behind, since = iter(list[str]()), False, ""
    while True:
        seconds = 0.0 if is_behind else min(deadline - time.monotonic(), LONGEST_WAIT)
        query = {**wanted, **({"since": since} if since else {})}
        ids = inbox.wait(max(seconds, 0.0), query)
        if ids is None:
            # The last message was deleted.
            since = ""
            continue
        if len(ids) >= LISTED:
            # There may be more than the answer lists: the next one would not list them again.
            older, is_behind = chain(inbox.between(since, ids[0]), older), True
        since = ids[0] if ids else since
        if is_behind:
            # Some at a time: a new message does not wait for all of them.
            some = list(islice(older, LISTED))
            ids, is_behind = [*ids, *some], len(some) == LISTED
        for id in ids:
            if id not in seen:
                seen.add(id)
                yield from inbox.message(id)
        if time.monotonic() >= deadline:
            return


class _Inbox:
    """Requests to an inbox at a URL. Raises Failure, OSError and HTTPException."""

    def __init__(self, url: str) -> None:
        parts = _split(url)
        self._host, self._port = cast(str, parts.hostname), parts.port
        self._is_secure = parts.scheme == "https"
        self._root = parts.path.rstrip("/")
        self._headers = {}
        #: The URL without a password.
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._root}/"
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            token = base64.b64encode(pair.encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def wait(self, seconds: float, wanted: dict[str, str]) -> list[str] | None:
        """Return the ids that match, newest first; None if the one to begin after is gone."""
        query = urlencode({**wanted, "timeout": f"{seconds:.3f}"}, errors="surrogateescape")
        status, body = self._get(f"/api/wait?{query}", seconds, 200, 404, 408)
        if status == 404 and "since" in wanted:
            return None
        if status == 404:
            raise self._no_inbox()
        return self._ids_in(body) if status == 200 else []

    def between(self, older: str, newer: str) -> Iterator[str]:
        """Yield the ids of all messages between two ids, newest first; *older* may be empty."""
        has_begun = False
        for id in self._all_ids():
            if id == older:
                return
            has_begun = has_begun or id == newer
            if has_begun:
                yield id

    def _all_ids(self) -> Iterator[str]:
        start, listed = 0, PAGE
        while listed == PAGE:
            _, body = self._get(f"/api/messages?start={start}&limit={PAGE}", 0, 200)
            ids = self._ids_in(body)
            yield from ids
            listed = len(ids)
            start += listed

    def message(self, id: str) -> Iterator[DecodedMail]:
        """Yield a message, unless it was deleted."""
        status, body = self._get(f"/api/message/{id}/smtp", 0, 200, 404)
        if status == 404:
            return
        found = self._value_of("envelope", body)
        status, body = self._get(f"/api/message/{id}/copy?as=eml", 0, 200, 404)
        if status == 404:
            return
        envelope = Envelope()
        envelope.mail_from = found["from"] or "<>"
        envelope.rcpt_tos = found["to"]
        envelope.content = envelope.original_content = body
        # A session without an event loop: the connection is over.
        yield DecodedMail(Session(cast(Any, None)), envelope)

    def _ids_in(self, body: bytes) -> list[str]:
        return [one["ID"] for one in self._value_of("messages", body)]

    def _value_of(self, key: str, body: bytes) -> Any:
        try:
            return json.loads(body)[key]
        except (LookupError, TypeError, ValueError):
            # Some other server, which has an answer for each path.
            raise self._no_inbox() from None

    def _no_inbox(self) -> Failure:
        return Failure(f"{self.shown} is not the address of an inbox")

    def _get(self, path: str, seconds: float, *expected: int) -> tuple[int, bytes]:
        kind = HTTPSConnection if self._is_secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=seconds + MARGIN)
        try:
            connection.request("GET", self._root + path, headers=self._headers)
            answer = connection.getresponse()
            body = answer.read()
        except UnicodeError:
            raise self._no_inbox() from None
        finally:
            connection.close()
        if answer.status not in expected:
            raise Failure(f"{self.shown} answers {answer.status} {answer.reason}")
        return answer.status, body


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; raises Failure if it cannot be that of an inbox."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise Failure(f"{url!r:.60} is not the address of an inbox (write http://127.0.0.1:8025/)")
