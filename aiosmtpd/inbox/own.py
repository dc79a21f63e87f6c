"""Our own routes below ``/api/``, beside those of Mailpit's API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox import checks, copies, export, heads, links, parts, wire
from aiosmtpd.inbox.answers import json_answer, zone_of
from aiosmtpd.inbox.letter import Letter
from aiosmtpd.inbox.mailboxes import Mailboxes
from aiosmtpd.inbox.message import CLOSED
from aiosmtpd.inbox.own_answers import Wrong, as_json, number, only, refusal, seconds
from aiosmtpd.inbox.paths import base_of
from aiosmtpd.inbox.records import SessionLog, Summary
from aiosmtpd.inbox.search import WrongFilter, check
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.stored import StoredMail
from aiosmtpd.inbox.waiting import NOT_ALL_READ, UnknownMessage, Watch, Wish, now, wait
from aiosmtpd.mail.criteria import Wanted
from aiosmtpd.observers.faults import FaultCount, Faults, parse_fault

LONGEST_WAIT = 300.0
"""Seconds of the longest wait."""

MOST_WAITED_FOR = 1000
"""Messages that one wait can wait for."""

MOST_WAITS = 1000
"""Waits at the same time."""

MOST_ROWS = 1000
"""Rows of one page."""

MOST_FAULTS = 100
"""Faults that can be in force."""

_WISH = ("query", "to", "from", "subject", "text", "since", "count")

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes of our own API."""
    own = _Own(services)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/api/wait", own.wait),
        ("GET", "/api/wait/none", own.wait_none),
        ("GET", "/api/rejected", own.rejected),
        ("DELETE", "/api/rejected", own.delete_rejected),
        ("GET", "/api/sessions/{session}", own.session),
        ("GET", "/api/faults", own.faults),
        ("POST", "/api/faults", own.add_faults),
        ("PUT", "/api/faults", own.replace_faults),
        ("DELETE", "/api/faults", own.clear_faults),
        ("DELETE", "/api/faults/{number}", own.remove_fault),
        ("GET", "/api/messages", own.messages),
        ("GET", "/api/mailboxes", own.mailboxes),
        ("GET", "/api/message/{id}/head", own.head),
        ("GET", "/api/message/{id}/parts", own.parts),
        ("GET", "/api/message/{id}/links", own.links),
        ("GET", "/api/message/{id}/checks", own.checks),
        ("GET", "/api/message/{id}/smtp", own.smtp),
        ("GET", "/api/message/{id}/copy", own.copy),
        ("GET", "/api/export", own.export),
        ("GET", "/api/settings", own.settings),
    ]
    by_path: dict[str, dict[str, Endpoint]] = {}
    for method, path, endpoint in table:
        by_path.setdefault(path, {})[method] = endpoint
    return [Route(path, _one_of(found), methods=[*found]) for path, found in by_path.items()]


def _one_of(endpoints: dict[str, Endpoint]) -> Endpoint:
    """Return the endpoint of a path, which answers errors as JSON."""

    async def answer(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        try:
            return await endpoints[method](request)
        except Wrong as error:
            return await refusal(request, error)

    return answer


class _Own:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.store
        self._waits = 0
        self._mailboxes = Mailboxes(services.store)

    # Waiting.

    async def wait(self, request: Request) -> Response:
        only(request, *_WISH, "timeout")
        patience = seconds(request, "timeout", 10.0, LONGEST_WAIT)
        began = now()
        watch = await self._watched(request, patience)
        if watch.is_enough:
            return as_json((await asyncio.to_thread(watch.summary)).json())
        return as_json(await asyncio.to_thread(watch.complaint, patience, began), 408)

    async def wait_none(self, request: Request) -> Response:
        only(request, *_WISH, "within")
        watch = await self._watched(request, seconds(request, "within", 1.0, LONGEST_WAIT))
        if not watch.is_enough:
            if not watch.is_complete:
                raise Wrong(503, NOT_ALL_READ, "give it more time, or add a query")
            return as_json("{}")
        rows = await asyncio.to_thread(self._store.rows, list(watch.found))
        error = f"a {watch.wish} came"
        text = wire.dump({"error": error})
        return as_json(f'{text[:-1]},"came":[{",".join(rows[:MOST_ROWS])}]}}', 409)

    async def _watched(self, request: Request, patience: float) -> Watch:
        """Wait as the request asks; raises Wrong, also if the client goes or the server stops."""
        wish, stopping = _wish(request), self._services.stopping
        if self._waits >= MOST_WAITS:
            raise Wrong(503, f"{MOST_WAITS} clients wait already")
        self._waits += 1
        waiting = asyncio.create_task(wait(self._store, wish, patience, stopping))
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise Wrong(503, "the client has gone")
            watch = waiting.result()
        except UnknownMessage as error:
            raise Wrong(404, f"no message {str(error)!r:.60}", "since=now needs no id") from None
        finally:
            self._waits -= 1
            waiting.cancel()
            gone.cancel()
        if stopping.is_set() and not watch.is_enough:
            raise Wrong(503, "the inbox is stopping")
        return watch

    # Refused attempts and sessions.

    async def rejected(self, request: Request) -> Response:
        only(request, "start", "limit", "query")
        page = await asyncio.to_thread(
            self._store.attempts,
            start=number(request, "start", 0, 1 << 30),
            limit=number(request, "limit", 50, MOST_ROWS),
            query=request.query_params.get("query", ""),
        )
        attempts = ",".join(one.json() for one in page.attempts)
        return as_json(f'{{"total":{page.total},"attempts":[{attempts}]}}')

    async def delete_rejected(self, request: Request) -> Response:
        count = await asyncio.wrap_future(self._store.delete_attempts())
        return as_json({"deleted": count})

    async def session(self, request: Request) -> Response:
        text = request.path_params["session"]
        log = None
        if text.isascii() and text.isdecimal() and len(text) < 16:
            log = await asyncio.to_thread(self._store.session, int(text))
        if log is None:
            raise Wrong(404, f"no session {text!r:.40}")
        return as_json(log.json())

    async def smtp(self, request: Request) -> Response:
        return as_json(await asyncio.to_thread(self._smtp, request))

    def _smtp(self, request: Request) -> dict[str, Any]:
        mail = self._message(request)
        log = self._store.session(mail.session_number) if mail.session_number else None
        if log is None:
            # It came by the API, or its session was deleted with the other messages.
            log = SessionLog(mail.session_number, mail.client, lines=list(mail.transaction))
            log.messages = (mail.id,)
        found: dict[str, Any] = json.loads(log.json())
        found["transaction"] = _place_of(mail, log)
        found["envelope"] = {"from": mail.sender, "to": mail.recipients}
        return found

    # Faults.

    async def faults(self, request: Request) -> Response:
        return as_json({"faults": [_fault_as_json(one) for one in self._faults().counts()]})

    async def add_faults(self, request: Request) -> Response:
        faults, rules = self._faults(), await _rules(request)
        if not rules:
            raise Wrong(400, "no fault", 'write {"rule": "rcpt: 450 4.2.1 busy x2"}')
        if len(rules) + len(faults.counts()) > MOST_FAULTS:
            raise Wrong(400, f"more than {MOST_FAULTS} faults")
        before = [one.number for one in faults.counts()]
        try:
            # None is added if one is wrong.
            for fault in [parse_fault(rule) for rule in rules]:
                faults.add(fault)
        except ValueError as error:
            raise Wrong(400, str(error)) from None
        new = [one for one in faults.counts() if one.number not in before]
        return as_json({"faults": [_fault_as_json(one) for one in new]})

    async def replace_faults(self, request: Request) -> Response:
        faults, rules = self._faults(), await _rules(request)
        if len(rules) > MOST_FAULTS:
            raise Wrong(400, f"more than {MOST_FAULTS} faults")
        try:
            faults.replace(rules)
        except ValueError as error:
            raise Wrong(400, str(error)) from None
        return await self.faults(request)

    async def clear_faults(self, request: Request) -> Response:
        self._faults().clear()
        return await self.faults(request)

    async def remove_fault(self, request: Request) -> Response:
        text, faults = request.path_params["number"], self._faults()
        is_number = text.isascii() and text.isdecimal() and len(text) < 10
        if not is_number or not faults.remove(int(text)):
            raise Wrong(404, f"no fault {text!r:.40}")
        return await self.faults(request)

    def _faults(self) -> Faults:
        if self._services.faults is None:
            raise Wrong(404, "this inbox has no server that could fail on purpose")
        return self._services.faults

    # One message.

    async def head(self, request: Request) -> Response:
        only(request, "part", "query")
        mail = await asyncio.to_thread(self._message, request)
        number = request.query_params.get("part", "")

        def made() -> dict[str, Any]:
            inside = heads.inner(mail, number) if number else None
            if number and inside is None:
                raise Wrong(404, f"the part {number!r:.40} is not a message")
            return heads.head_of(mail, inside)

        async with self._services.turn(mail.size):
            answer = as_json(await asyncio.to_thread(made))
        if not mail.read:
            await asyncio.wrap_future(self._store.set_read([mail.id], True))
        return answer

    async def parts(self, request: Request) -> Response:
        return as_json(await self._of(request, lambda letter: parts.tree_of(letter.root)))

    async def links(self, request: Request) -> Response:
        found = await self._of(request, lambda letter: [one.json() for one in links.find(letter)])
        return as_json({"links": found})

    async def checks(self, request: Request) -> Response:
        return as_json(
            await self._of(request, lambda letter: [one.json() for one in checks.check(letter)])
        )

    async def copy(self, request: Request) -> Response:
        only(request, "as", "query")
        kind = request.query_params.get("as", "pytest")
        if kind == "eml":
            return await self._source(request)
        if kind not in copies.kinds():
            known = ", ".join([*copies.kinds(), "eml"])
            raise Wrong(400, f"unknown kind of copy {kind!r:.40}", f"there are {known}")
        places = self._places(request)
        text = await self._of(request, lambda letter: copies.copy(letter, kind, places))
        octets = text.encode("utf-8", "backslashreplace")
        return Response(octets, media_type="text/plain; charset=utf-8")

    async def _source(self, request: Request) -> Response:
        mail = await asyncio.to_thread(self._message, request)
        file = await asyncio.to_thread(mail.open)

        def pieces() -> Iterator[bytes]:
            with file:
                while piece := file.read(1 << 18):
                    yield piece

        headers = {
            "Content-Disposition": f'attachment; filename="{mail.id}.eml"',
            "Content-Security-Policy": CLOSED,
        }
        return StreamingResponse(pieces(), media_type="message/rfc822", headers=headers)

    async def _of(self, request: Request, make: Callable[[Letter], Any]) -> Any:
        """Return the value that *make* finds in the message of a request."""
        mail = await asyncio.to_thread(self._message, request)
        async with self._services.turn(mail.size):
            return await asyncio.to_thread(lambda: make(Letter(mail)))

    def _message(self, request: Request) -> StoredMail:
        """Return the message of a request, by its id or as the latest; raises Wrong."""
        id = request.path_params["id"]
        if id == "latest":
            id = self._store.newest(_query(request)) or id
        mail = self._store.message(id)
        if mail is None:
            raise Wrong(404, f"no message {id!r:.60}")
        return mail

    def _places(self, request: Request) -> copies.Places:
        smtp = self._services.smtp
        host, port = smtp.get("host") or "127.0.0.1", smtp.get("port") or 1025
        where = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
        netloc = request.headers.get("host") or "127.0.0.1:8025"
        return copies.Places(where, f"{request.url.scheme}://{netloc}{base_of(request)}")

    # All messages.

    async def messages(self, request: Request) -> Response:
        only(request, "query", "start", "limit", "tz")
        query = request.query_params.get("query", "")
        start = number(request, "start", 0, 1 << 30)
        limit = number(request, "limit", 50, MOST_ROWS)
        page: Callable[..., Summary] = self._store.summary
        if query.strip():
            page = partial(self._store.search, query, zone=zone_of(request))
        return await json_answer(
            request, lambda: page(start=start, limit=limit, envelope=True).json()
        )

    async def mailboxes(self, request: Request) -> Response:
        return as_json(await asyncio.to_thread(self._mailboxes.counts))

    async def export(self, request: Request) -> Response:
        only(request, "query", "format", "ids")
        kind = request.query_params.get("format", "mbox")
        if kind not in export.FORMATS:
            known = ", ".join(export.FORMATS)
            raise Wrong(400, f"unknown format {kind!r:.40}", f"there are {known}")
        if "ids" in request.query_params:
            ids = [id for id in request.query_params["ids"].split(",") if id]
        else:
            query = request.query_params.get("query", "")
            ids = await asyncio.to_thread(self._store.find, query)
        pieces = self._until_stopped(export.exported(self._store, ids, kind))
        name = f'attachment; filename="inbox.{kind}"'
        return StreamingResponse(
            pieces, media_type=export.TYPES[kind], headers={"Content-Disposition": name}
        )

    def _until_stopped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield pieces until the server stops: the client sees that the rest is missing."""
        for piece in pieces:
            if self._services.stopping.is_set():
                raise ConnectionAbortedError("the inbox is stopping")
            yield piece

    async def settings(self, request: Request) -> Response:
        return as_json(await asyncio.to_thread(self._settings))

    def _settings(self) -> dict[str, Any]:
        store, options = self._store, self._services.options
        gone = [
            {"at": wire.time(one.at), "count": one.count, "why": one.why} for one in store.gone()
        ]
        return {
            **self._services.smtp,
            "retention": {"keep": str(store.keep), "gone": gone},
            "delete_all": options.delete_all,
            "remote_images": options.remote_images,
            "link_check": options.link_check,
        }


async def _disconnected(request: Request) -> None:
    with suppress(RuntimeError):
        while (await request.receive())["type"] != "http.disconnect":
            pass


def _wish(request: Request) -> Wish:
    values = request.query_params
    count = number(request, "count", 1, MOST_WAITED_FOR)
    if not count:
        raise Wrong(400, "count is to be 1 or more", "/api/wait/none waits for no message")
    patterns = [values.get(name) for name in ("to", "from", "subject", "text")]
    if any(pattern is not None and len(pattern) > 500 for pattern in patterns):
        raise Wrong(400, "a pattern has more than 500 characters")
    wanted = Wanted(*[pattern or None for pattern in patterns])
    return Wish(_query(request), wanted, values.get("since", ""), count)


def _query(request: Request) -> str:
    """Return the query of a request; raises Wrong if one of its filters does not exist."""
    text = request.query_params.get("query", "").strip()
    try:
        check(text)
    except WrongFilter as error:
        raise Wrong(400, str(error), error.hint) from None
    return text


def _place_of(mail: StoredMail, log: SessionLog) -> list[int]:
    """Return the first line of a message in its session and the one after its last line."""
    lines = [(line.at, line.text) for line in log.lines]
    wanted = [(line.at, line.text) for line in mail.transaction]
    for begin, line in enumerate(lines):
        if wanted and line[1] == wanted[0][1] and abs(line[0] - wanted[0][0]) < 0.001:
            return [begin, min(begin + len(wanted), len(lines))]
    return [0, 0]


def _fault_as_json(one: FaultCount) -> dict[str, Any]:
    return {
        "id": one.number,
        "rule": str(one.fault),
        "struck": one.struck,
        "met": one.met,
        "mark": one.mark,
    }


async def _rules(request: Request) -> list[str]:
    """Return the texts of faults in a body: JSON, or a fault in each line; raises Wrong."""
    body = await request.body()
    try:
        text = body.decode()
        if not text.lstrip().startswith(("{", "[", '"')):
            return [line.strip() for line in text.splitlines() if line.strip()]
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Wrong(400, "the body is not JSON and not text in UTF-8") from None
    if isinstance(value, dict):
        value = value.get("faults", value.get("rule"))
    values = value if isinstance(value, list) else [value]
    rules = [one.get("rule") if isinstance(one, dict) else one for one in values]
    texts = [rule for rule in rules if isinstance(rule, str)]
    if len(texts) < len(rules):
        raise Wrong(400, "a fault is a text", 'write {"rule": "rcpt: 450 4.2.1 busy x2"}')
    return texts
