"""The routes of Mailpit's API for tags."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiosmtpd.inbox import wire
from aiosmtpd.inbox.answers import Fields, done, json_answer, json_of, ok
from aiosmtpd.inbox.services import Services


def routes(services: Services) -> list[BaseRoute]:
    """Return the routes for tags; a tag in a path may have a slash."""
    store = services.store

    async def names(request: Request) -> Response:
        """Return all tags."""
        return await json_answer(request, lambda: wire.dump(list(store.tags())))

    async def replace(request: Request) -> Response:
        """Replace the tags of messages."""
        body = Fields(await json_of(await request.body()))
        await done(store.set_tags(body.texts("IDs"), body.texts("Tags")))
        return ok()

    async def rename(request: Request) -> Response:
        """Rename a tag on all messages."""
        name = Fields(await json_of(await request.body())).get("Name", str, "")
        try:
            await done(store.rename_tag(request.path_params["tag"], name))
        except (LookupError, ValueError) as error:
            raise HTTPException(400, str(error)) from None
        return ok()

    async def delete(request: Request) -> Response:
        """Take a tag from all messages."""
        try:
            await done(store.delete_tag(request.path_params["tag"]))
        except LookupError as error:
            raise HTTPException(400, str(error)) from None
        return ok()

    return [
        Route("/api/v1/tags", names, methods=["GET"]),
        Route("/api/v1/tags", replace, methods=["PUT"]),
        Route("/api/v1/tags/{tag:path}", rename, methods=["PUT"]),
        Route("/api/v1/tags/{tag:path}", delete, methods=["DELETE"]),
    ]
