"""An application of FastAPI with a page at /_mail that shows the mail it sends."""

import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI

from aiosmtpd import Server
from aiosmtpd.inbox import Intake, Store, inbox_app

PLACE = os.environ.get("MAIL_PLACE", "127.0.0.1:1025")

store = Store()
intake = Intake(store)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # The intake is the handler and an observer: it stores messages, and what clients said.
    with store:
        async with Server(intake, listen=PLACE, observers=[intake], extensions="modern"):
            yield


app = FastAPI(lifespan=lifespan)
app.mount("/_mail", inbox_app(store))
