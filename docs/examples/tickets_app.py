"""An application of FastAPI that gets mail from NATS JetStream while it serves requests."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI

from aiosmtpd.delivery import consume

URL = os.environ.get("MAIL_URL", "nats://127.0.0.1/mail.in")

tickets: dict[str, str] = {}


async def receive() -> None:
    async for mail in consume(URL, durable="tickets"):
        async with mail:
            # The id is the same if a mail comes a second time.
            tickets[mail.id] = str(mail.message["subject"])


def report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logging.error("no more mail is received: %s", task.exception())


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    receiving = asyncio.create_task(receive())
    receiving.add_done_callback(report)
    yield
    receiving.cancel()
    await asyncio.wait([receiving])


app = FastAPI(lifespan=lifespan)


@app.get("/tickets")
def list_tickets() -> dict[str, str]:
    return tickets
