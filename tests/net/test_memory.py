"""Memory that messages take: docs/reference/limits, "one copy of a message"."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.client import Client
from tests.conftest import Certificates

MEGABYTE = 2**20
LINES = (b"x" * 76 + b"\r\n") * 13_000

SERVER = """
import asyncio, ssl, sys
from aiosmtpd.smtp import SMTP

class Keeps:
    async def handle_DATA(self, server, session, envelope):
        return f"250 {len(envelope.content)}"

class Streams:
    async def handle_BODY(self, server, session, envelope, body):
        octets = 0
        async for piece in body:
            octets += len(piece)
        return f"250 {octets}"

class Waits:
    async def handle_BODY(self, server, session, envelope, body):
        await asyncio.Event().wait()

async def serve(handler, **keywords):
    loop = asyncio.get_running_loop()
    keywords |= {"hostname": "mx.test", "extensions": "modern", "data_size_limit": None}
    if "tls" in sys.argv:
        keywords["tls_context"] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[-2:])
    server = await loop.create_server(lambda: SMTP(handler, **keywords), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(serve(eval(sys.argv[1])(), decode_data="decoded" in sys.argv))
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells of peaks"
)


class Watched:
    """A server in a process of its own."""

    def __init__(self, pid: int, port: int) -> None:
        self.status = Path(f"/proc/{pid}/status")
        self.peaks = Path(f"/proc/{pid}/clear_refs")
        self.port = port

    def octets(self, field: str) -> int:
        lines = self.status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

    def growth_while(self, work: Callable[[], None]) -> int:
        """Return how many bytes more than before it had at the peak."""
        self.peaks.write_text("5")
        before = self.octets("VmRSS")
        work()
        return self.octets("VmHWM") - before


@contextmanager
def watched(handler: str, *options: str) -> Iterator[Watched]:
    command = [sys.executable, "-c", SERVER, handler, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Watched(process.pid, int(process.stdout.readline()))
        finally:
            process.kill()


def begun(port: int) -> Client:
    client = Client(port)
    client.socket.settimeout(60)
    assert client.ask(b"EHLO client.test")[:3] == b"250"
    assert client.ask(b"MAIL FROM:<a@b.test>")[:3] == b"250"
    assert client.ask(b"RCPT TO:<c@d.test>")[:3] == b"250"
    return client


def by_data(port: int, megabytes: int) -> None:
    with begun(port) as client:
        assert client.ask(b"DATA")[:3] == b"354"
        for _ in range(megabytes):
            client.send(LINES)
        assert client.ask(b".") == b"250 2.0.0 %d\r\n" % (megabytes * len(LINES))


def by_chunks(port: int, megabytes: int) -> None:
    with begun(port) as client:
        for _ in range(megabytes):
            client.send(b"BDAT %d\r\n" % len(LINES) + LINES)
            assert client.reply()[:3] == b"250"
        assert client.ask(b"BDAT 0 LAST") == b"250 2.0.0 %d\r\n" % (megabytes * len(LINES))


WAYS = pytest.mark.parametrize("send", [by_data, by_chunks])


@WAYS
def test_a_streamed_message_takes_no_memory(send: Callable[[int, int], None]) -> None:
    with watched("Streams") as server:
        send(server.port, 5)
        assert server.growth_while(lambda: send(server.port, 100)) < 2 * MEGABYTE


@WAYS
@pytest.mark.parametrize(("options", "times"), [((), 1.5), (("decoded",), 2.5)])
def test_a_message_is_kept_once(
    send: Callable[[int, int], None], options: tuple[str, ...], times: float
) -> None:
    with watched("Keeps", *options) as server:
        send(server.port, 1)
        grown = server.growth_while(lambda: send(server.port, 25))
        assert grown <= times * 25 * len(LINES) + MEGABYTE


def test_a_tls_connection_that_rests_is_small_again(certificates: Certificates) -> None:
    """OpenSSL keeps the room of the largest piece that it got: 175 KB if a read came whole."""

    def send_and_rest() -> None:
        client = ends.enter_context(Client(server.port))
        client.socket.settimeout(60)
        client.ask(b"EHLO client.test")
        client.ask(b"STARTTLS")
        client.start_tls(certificates.client_context())
        client.transaction()
        client.send(LINES)
        assert client.ask(b".")[:3] == b"250"

    files = str(certificates.cert_file), str(certificates.key_file)
    with watched("Keeps", "tls", *files) as server, ExitStack() as ends:
        for _ in range(5):
            send_and_rest()
        before = server.octets("VmRSS")
        for _ in range(40):
            send_and_rest()
        assert server.octets("VmRSS") - before < 40 * 130_000


def test_input_of_clients_that_wait_for_a_slow_hook_is_bounded() -> None:
    """At most 64 KiB and one read of each client: 0.4 MiB."""

    def all_send() -> None:
        for client in clients:
            client.socket.setblocking(False)
            for _ in range(5):
                try:
                    client.socket.send(LINES)
                except BlockingIOError:
                    # The kernel's buffers are full.
                    break
        # When this client is served, the server has read all that it reads of the others.
        with begun(server.port):
            pass

    with watched("Waits") as server:
        clients = [begun(server.port) for _ in range(25)]
        for client in clients:
            assert client.ask(b"DATA")[:3] == b"354"
        assert server.growth_while(all_send) < 25 * 0.4 * MEGABYTE
        for client in clients:
            client.close()
