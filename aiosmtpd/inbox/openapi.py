"""The description of the API for programs, as Swagger 2.0, which Mailpit's API has, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from aiosmtpd._version import __version__
from aiosmtpd.inbox import wire
from aiosmtpd.inbox.answers import json_answer
from aiosmtpd.inbox.paths import base_of
from aiosmtpd.inbox.schemas import PARAMETERS, SCHEMAS
from aiosmtpd.inbox.services import Services

Schema: TypeAlias = dict[str, Any]

_OPERATIONS = """
GET /api/v1/info AppInfo Numbers of the store and of the process
GET /api/v1/webui WebUI Settings of the page
GET /api/v1/messages MessagesSummary List messages, newest first: start limit before
PUT /api/v1/messages ok Mark messages as read or unread: body=ReadState tz
DELETE /api/v1/messages ok Delete messages with these ids, or all: body=IDs
GET /api/v1/search MessagesSummary Search messages: query! start limit before tz
DELETE /api/v1/search ok Delete the messages that match: query! tz
POST /api/v1/send Sent Put a message into the inbox: body=SendRequest!
GET /api/v1/tags Names List all tags
PUT /api/v1/tags ok Replace the tags of messages: body=Tagged!
PUT /api/v1/tags/{tag} ok Rename a tag: body=Name!
DELETE /api/v1/tags/{tag} ok Take a tag from all messages
GET /api/v1/message/{id} Message Read a message, and mark it as read: query tz
GET /api/v1/message/{id}/headers Headers Read the header fields: query tz
GET /api/v1/message/{id}/raw text Read the source: query tz dl
GET /api/v1/message/{id}/part/{part} bytes Read an attachment or an inline part: query tz
GET /api/v1/message/{id}/part/{part}/thumb image Read a small picture, which is blank: query tz
GET /api/v1/message/{id}/html-check HTMLCheck Check the HTML for mail programs: query tz
GET /api/v1/message/{id}/link-check LinkCheck List the links, maybe check them: query tz follow
POST /api/v1/message/{id}/release ok Send a message on by the relay: query tz body=Release!
GET /api/v1/chaos Chaos Read the triggers of refusals by chance
PUT /api/v1/chaos Chaos Replace the triggers: body=Chaos!
GET /api/v1/swagger.json Any Read this description
GET /api/v1/ text Find this description
GET /api/events events Follow the changes, by SSE or a WebSocket: last envelope
GET /api/wait MessagesSummary Wait for messages: to from subject text query since count timeout
GET /api/wait/none Any Wait that no message comes: to from subject text query since within
GET /api/rejected Attempts List refused attempts: start limit query
DELETE /api/rejected Any Delete all refused attempts
GET /api/sessions/{session} Session Read the dialogue of a session
GET /api/faults Faults List the faults of the SMTP server
POST /api/faults Faults Add faults: body=Rules!
PUT /api/faults Faults Replace all faults: body=Rules!
DELETE /api/faults Faults Remove all faults
DELETE /api/faults/{number} Faults Remove a fault
GET /api/messages OwnSummary List messages with the envelope's recipients: query start limit tz
GET /api/mailboxes Any Count the messages of each recipient and of each login
GET /api/message/{id}/head Any Read all but the texts, and mark it as read: query part
GET /api/message/{id}/parts Any Read the tree of the parts: query
GET /api/message/{id}/links Any List the links with their places: query
GET /api/message/{id}/checks Any Check a message: query
GET /api/message/{id}/smtp Any Read the dialogue that brought a message: query
GET /api/message/{id}/copy text Write a message as a program: as query
GET /api/export bytes Download messages: query ids format
GET /api/settings Any Settings of the SMTP server
GET /view/{id}.html html Read the HTML of a message: query tz embed remote part
GET /view/{id}.txt text Read the text of a message: query tz part
GET /livez nothing Answer
GET /readyz nothing Answer 200 if the store can be read, else 503
"""
_LINE = re.compile(r"(\w+) +(\S+) +(\w+) +([^:]+)(?:: (.+))?")
_TYPES = {
    "ok": "text/plain",
    "text": "text/plain",
    "html": "text/html",
    "bytes": "application/octet-stream",
    "image": "image/jpeg",
    "events": "text/event-stream",
}


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes of the description."""

    async def swagger(request: Request) -> Response:
        """Return the description."""
        base = base_of(request)
        return await json_answer(request, lambda: wire.dump(described(base)))

    async def index(request: Request) -> Response:
        """Send the browser to the description."""
        return RedirectResponse(base_of(request) + "api/v1/swagger.json", 302)

    return [Route("/api/v1/swagger.json", swagger), Route("/api/v1/", index)]


def described(base: str) -> Schema:
    """Return the description of an API that is below *base*."""
    paths: dict[str, Schema] = {}
    for method, path, answer, summary, words in _operations():
        names = re.findall(r"{(\w+)}", path)
        parameters = [
            {**PARAMETERS[name], "name": name, "in": "path", "required": True} for name in names
        ]
        parameters += [_parameter(word) for word in words]
        produces = [] if answer == "nothing" else [_TYPES.get(answer, "application/json")]
        operation: Schema = {
            "summary": summary,
            "operationId": _id_of(method, path),
            "produces": produces,
            "responses": {"200": {"description": summary, **_answer(answer)}},
        }
        if parameters:
            operation["parameters"] = parameters
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "swagger": "2.0",
        "info": {"title": "aiosmtpd inbox", "version": __version__},
        "basePath": base,
        "consumes": ["application/json"],
        "produces": ["application/json", "text/plain"],
        "paths": paths,
        "definitions": {name: _schema(one) for name, one in SCHEMAS.items()},
    }


def _operations() -> Iterator[tuple[str, str, str, str, list[str]]]:
    for line in _OPERATIONS.strip().splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"{line!r} does not describe an operation")
        method, path, answer, summary, words = found.groups()
        yield method, path, answer, summary, (words or "").split()


def _id_of(method: str, path: str) -> str:
    words = re.findall(r"\w+", path.removeprefix("/api"))
    return method.lower() + "".join(word.capitalize() for word in words)


def _parameter(word: str) -> Schema:
    name, is_body, schema = word.removesuffix("!").partition("=")
    required = {"required": True} if word.endswith("!") else {}
    if is_body:
        return {"name": "body", "in": "body", "schema": _reference(schema), **required}
    return {"name": name, "in": "query", **PARAMETERS[name], **required}


def _answer(name: str) -> Schema:
    if name == "nothing":
        return {}
    if name in _TYPES:
        binary = {"format": "binary"} if name in ("bytes", "image") else {}
        return {"schema": {"type": "string", **binary}}
    return {"schema": _reference(name)}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _schema(shape: Any) -> Schema:
    """Return the schema of a shape: see :data:`~aiosmtpd.inbox.schemas.SCHEMAS`."""
    if isinstance(shape, str):
        return _reference(shape)
    if isinstance(shape, list):
        return {"type": "array", "items": _schema(shape[0])}
    if isinstance(shape, dict) and list(shape) == ["*"]:
        return {"type": "object", "additionalProperties": _schema(shape["*"])}
    if isinstance(shape, dict):
        return {
            "type": "object",
            "properties": {name: _schema(one) for name, one in shape.items()},
        }
    names = {str: "string", int: "integer", float: "number", bool: "boolean", object: None}
    return {"type": names[shape]} if names[shape] else {}
