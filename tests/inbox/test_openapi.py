"""The description of the API: it has all routes, and answers have its shapes."""

import json
import re
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.records import Attempt, SessionLog
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store
from aiosmtpd.observers.faults import Faults
from tests.inbox.support import add
from tests.inbox.test_api_message import MIXED
from tests.inbox.web import client_of

TYPES = {"string": str, "integer": int, "boolean": bool}


@pytest.fixture
def web(store: Store) -> httpx.AsyncClient:
    return client_of(store, faults=Faults(), root="/mail/")


async def document(web: httpx.AsyncClient) -> Any:
    answer = await web.get("/mail/api/v1/swagger.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def test_it_has_exactly_the_routes_of_the_application(
    store: Store, web: httpx.AsyncClient
) -> None:
    routes = [one for one in make_app(Services(store)).routes if isinstance(one, Route)]
    expected = {
        (method, re.sub(":path", "", route.path))
        for route in routes
        for method in route.methods or ()
        if method != "HEAD" and re.match(r"/(api/|view/\{id\}\.|livez|readyz)", route.path)
    }
    described = await document(web)
    assert described["basePath"] == "/mail/"
    found = {(method.upper(), path) for path, one in described["paths"].items() for method in one}
    assert found == expected


async def test_it_is_well_formed(web: httpx.AsyncClient) -> None:
    described = await document(web)
    assert described["swagger"] == "2.0"
    names = set(re.findall(r'"#/definitions/(\w+)"', json.dumps(described)))
    assert names <= described["definitions"].keys()
    operations = [one for path in described["paths"].values() for one in path.values()]
    ids = [one["operationId"] for one in operations]
    assert len(set(ids)) == len(ids)
    for path, methods in described["paths"].items():
        for operation in methods.values():
            parameters = operation.get("parameters", [])
            in_path = {one["name"] for one in parameters if one["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            assert all("type" in one or "schema" in one for one in parameters)
            assert operation["responses"]["200"]["description"]


def check(value: Any, schema: Any, described: Any, place: str) -> None:
    """Compare a value with a schema, which names all keys that it may have."""
    if "$ref" in schema:
        schema = described["definitions"][schema["$ref"].rpartition("/")[2]]
    kind = schema.get("type")
    if kind == "array":
        for one in value:
            check(one, schema["items"], described, f"{place}[]")
    elif kind == "object" and "properties" in schema:
        assert value.keys() == schema["properties"].keys(), place
        for name, one in value.items():
            check(one, schema["properties"][name], described, f"{place}.{name}")
    elif kind == "object":
        for one in value.values():
            check(one, schema["additionalProperties"], described, f"{place}.*")
    elif kind == "number":
        assert isinstance(value, int | float), place
    elif kind:
        assert type(value) is TYPES[kind], place


async def test_answers_have_the_shapes(store: Store, web: httpx.AsyncClient) -> None:
    described = await document(web)
    number = store.new_session()
    id = add(store, MIXED, session=number)
    store.set_tags([id], ["a"]).result(30)
    store.add_attempt(Attempt(number, "RCPT", reply="550 no")).result(30)
    store.save_session(SessionLog(number, client="[::1]:1")).result(30)
    places = {"id": id, "part": "2", "session": str(number)}
    count = 0
    for path, methods in described["paths"].items():
        schema = methods.get("get", {}).get("responses", {}).get("200", {}).get("schema", {})
        if "$ref" not in schema or path in ("/api/wait/none", "/api/events"):
            continue
        query = {"query": "pictures"} if path in ("/api/v1/search", "/api/wait") else {}
        answer = await web.get("/mail" + path.format(**places), params=query)
        assert answer.status_code == 200, path
        check(answer.json(), schema, described, path)
        count += 1
    assert count > 15


async def test_a_browser_finds_it(web: httpx.AsyncClient) -> None:
    answer = await web.get("/mail/api/v1/")
    assert answer.headers["location"] == "/mail/api/v1/swagger.json"
