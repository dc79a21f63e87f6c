"""The server of ``soak.py``: one process for plain SMTP, STARTTLS, TLS, and LMTP.

``python soak_server.py PEM FILE`` prints its ports, and at SIGUSR1 the number of its tasks. It
writes the SHA-256 of each accepted message to FILE, and stops at SIGTERM.
"""

import asyncio
import hashlib
import os
import signal
import ssl
import sys
from typing import Any

from aiosmtpd.server import Server
from aiosmtpd.smtp import AuthResult


class Digests:
    """Write the digest of a message before the reply."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        digest = hashlib.sha256(envelope.content).hexdigest()
        os.write(self._file, digest.encode() + b"\n")
        return "250 OK"

    def handle_VRFY(self, server: Any, session: Any, envelope: Any, address: str) -> str:
        """Work in a thread, as plain hooks do."""
        return f"252 {address}"


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data.password == b"pass", handled=False)


async def tell_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    print(sum(not task.done() for task in others), flush=True)


async def serve(pem: str, path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    background = set()

    def tell() -> None:
        task = loop.create_task(tell_tasks())
        background.add(task)
        task.add_done_callback(background.discard)

    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, tell)
    places = [f"{scheme}://127.0.0.1:0" for scheme in ("smtp", "smtps", "lmtp")]
    server = Server(
        Digests(path),
        listen=places,
        ssl_context=context,
        tls_context=context,
        extensions="modern",
        auth_require_tls=False,
        authenticator=authenticate,
        timeout=5,
        hostname="mx.test",
    )
    async with server:
        print(*(address[1] for address in server.addresses), flush=True)
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
