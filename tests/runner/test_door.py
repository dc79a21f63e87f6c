"""A door of the desk, at which an operator's programs knock."""

import asyncio
import socket

from aiosmtpd.runner.door import Door
from tests.client import PATIENCE


class Greeter(Door):
    """Greets each client."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()


async def test_a_client_that_comes_at_the_end_is_answered() -> None:
    door, loop = Greeter(clients=2, longest=100), asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    await door.start([listening])
    with socket.create_connection(listening.getsockname(), PATIENCE) as client:
        # One turn accepts the client, the next one closes the door.
        loop.call_soon(loop.call_soon, door.stop)
        client.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            assert await loop.sock_recv(client, 100) == b"hello\n"
            assert await loop.sock_recv(client, 100) == b""
            await door.idle()


async def test_one_client_too_many_is_disconnected() -> None:
    door, loop = Greeter(clients=0, longest=100), asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    await door.start([listening])
    with socket.create_connection(listening.getsockname(), PATIENCE) as client:
        client.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            assert await loop.sock_recv(client, 100) == b""
    door.stop()
    await door.idle()
