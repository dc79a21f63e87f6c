"""The web side of the inbox for tests: in the test's loop, or served on a port of loopback."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from attrs import define

from aiosmtpd.controller import Controller
from aiosmtpd.inbox.app import make_app
from aiosmtpd.inbox.intake import Intake
from aiosmtpd.inbox.services import Services, WebOptions
from aiosmtpd.inbox.store import Store
from aiosmtpd.observers.faults import Faults

HOST = "localhost:8025"


def client_of(store: Store, *, faults: Faults | None = None, **options: Any) -> httpx.AsyncClient:
    """Return a client of the application, without a socket."""
    app = make_app(Services(store, WebOptions(**options), faults))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=f"http://{HOST}")


def scope_of(method: str, path: str) -> dict[str, Any]:
    """Return the scope of a request, for tests that are the ASGI server themselves."""
    place = {"scheme": "http", "path": path, "query_string": b"", "client": ("127.0.0.1", 1)}
    return {"type": "http", "method": method, "headers": [], **place}


@define
class Box:
    """A whole inbox that runs: SMTP and web."""

    services: Services
    port: int
    smtp_port: int
    on_loop: Callable[..., object]
    web: httpx.Client

    @property
    def store(self) -> Store:
        return self.services.store

    @property
    def url(self) -> str:
        """The address of the page, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}{self.services.options.root}"


class _Server(uvicorn.Server):
    """Tells when it listens, without a look at it again and again."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.listens.set()


@contextmanager
def serving(**options: Any) -> Iterator[Box]:
    """Run an inbox with these options of the web side."""
    with Store() as store:
        faults = Faults()
        services = Services(store, WebOptions(**options), faults)
        intake = Intake(store)
        smtp = Controller(
            intake,
            hostname="127.0.0.1",
            port=0,
            observers=[faults, intake],
            extensions="modern",
        )
        config = uvicorn.Config(
            make_app(services),
            host="127.0.0.1",
            port=0,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="wsproto",
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run)
        smtp.start()
        thread.start()
        try:
            assert server.listens.wait(30)
            assert server.loop is not None
            port = server.servers[0].sockets[0].getsockname()[1]
            # Without certificates, whose loading takes time.
            with httpx.Client(verify=False, timeout=30) as web:
                yield Box(services, port, smtp.port, server.loop.call_soon_threadsafe, web)
        finally:
            if server.loop is not None:
                server.loop.call_soon_threadsafe(services.stopping.set)
            server.should_exit = True
            thread.join(30)
            smtp.stop()
