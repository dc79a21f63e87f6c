"""The application with our own routes, and a client for it without a socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.services import Services
from aiosmtpd.inbox.store import Store

PAGE = (
    b"From: Shop <no-reply@shop.example.org>\r\n"
    b"To: bob@example.org\r\n"
    b"Subject: Reset your password\r\n"
    b"Content-Type: multipart/alternative; boundary=b\r\n"
    b"\r\n"
    b"--b\r\n"
    b"Content-Type: text/plain\r\n"
    b"\r\n"
    b"Go to https://shop.example.org/reset/a1b2c3d4e5 or use 481205.\r\n"
    b"--b\r\n"
    b"Content-Type: text/html\r\n"
    b"\r\n"
    b'<p>Go <a href="https://shop.example.org/reset/a1b2c3d4e5">there</a> or use 481205.</p>\r\n'
    b"--b--\r\n"
)


@asynccontextmanager
async def client_of(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(services)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8025") as client:
        yield client


@asynccontextmanager
async def asking(store: Store, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Services(store, **more)) as client:
        yield client
