"""The server side of a benchmark: ``python server.py WHAT LOOP``, the same in each venv.

WHAT is ``smtp``, ``hooks``, ``thread``, ``starttls``, ``smtps``, ``modern`` or ``stream``; LOOP
``asyncio`` or ``uvloop``. A third argument may be ``limited`` or ``unlimited``: this server with
the limits of the command line, or without limits; or ``floor``: the floor in its place. Prints the
port, serves until it is killed.
"""

import asyncio
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


class Handler:
    """Look at the content, as any handler does."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK" if len(envelope.content) >= 0 else "550 never"


class HooksHandler(Handler):
    """A handler with a hook on every step."""

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return responses

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        return "250 OK"


class PlainHandler:
    """A plain function as the hook, which this server runs in a worker thread."""

    def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK" if len(envelope.content) >= 0 else "550 never"


class StreamHandler:
    """Read a message while it arrives, and drop it."""

    async def handle_BODY(self, server: Any, session: Any, envelope: Any, body: Any) -> str:
        octets = 0
        async for piece in body:
            octets += len(piece)
        return "250 OK" if octets else "550 never"


def limits(all_of_them: bool) -> dict[str, Any]:
    """Return limits: those of the command line, raised for the load, or none."""
    import attrs

    from aiosmtpd.smtp import Limits, Registry

    registry = Registry()
    if not all_of_them:
        return {"registry": registry, **dict.fromkeys(one.name for one in attrs.fields(Limits))}
    counted = "max_junk_commands", "max_connections_per_host", "max_connection_rate"
    return {"registry": registry, **dict.fromkeys(counted, 10**9)}


def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["BENCHMARK_PEM"])
    return context


def floor(what: str) -> Callable[[], asyncio.Protocol]:
    if what not in ("starttls", "smtps"):
        from floor import Floor

        return Floor
    from floor_tls import TLSFloor

    context = tls_context()
    return lambda: TLSFloor(context, from_start=what == "smtps")


def factory(what: str, limited: str = "") -> Callable[[], asyncio.Protocol]:
    if limited == "floor":
        return floor(what)
    import aiosmtpd
    from aiosmtpd.smtp import SMTP

    context = tls_context() if what == "starttls" else None
    kinds = {"hooks": HooksHandler, "stream": StreamHandler, "thread": PlainHandler}
    if aiosmtpd.__version__ == "1.4.6":
        # 1.4.6 awaits the result of each hook, so it supports only coroutines.
        del kinds["thread"]
    handler = kinds.get(what, Handler)()
    keywords: dict[str, Any] = {"hostname": "mx.test", "tls_context": context}
    if what in ("modern", "stream"):
        keywords |= {"extensions": "modern", "data_size_limit": None}
    if limited:
        keywords |= limits(limited == "limited")
    return lambda: SMTP(handler, **keywords)


async def serve(what: str, *limited: str) -> None:
    if what == "smtps" and not limited and await serve_smtps():
        return
    loop = asyncio.get_running_loop()
    context = tls_context() if what == "smtps" and not limited else None
    server = await loop.create_server(
        factory(what, *limited), "127.0.0.1", 0, backlog=1024, ssl=context
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def serve_smtps() -> bool:
    """Serve TLS from the start; return False if this version leaves that to the event loop."""
    try:
        from aiosmtpd.server import Server
    except ImportError:
        return False
    context = tls_context()
    server = Server(
        Handler(), listen="smtps://127.0.0.1:0", ssl_context=context, hostname="mx.test"
    )
    await server.start()
    print(server.addresses[0][1], flush=True)
    await server.serve_forever()
    return True


if __name__ == "__main__":
    what, loop_name, *limited = sys.argv[1:]
    if loop_name == "uvloop":
        import uvloop

        uvloop.run(serve(what, *limited))
    else:
        asyncio.run(serve(what, *limited))
